import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import files, processes, rngs, run_dir
from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion import from_config
from dpdm_jax.models.model import Model
from dpdm_jax.sampling import images, prompts
from dpdm_jax.sampling.generate import Generate, make_generator

FOLDER = run_dir.SNAPSHOTS
# More rows than a person can look at help nobody.
_MAX_PROMPTS = 20


class ReconstructionWriter:
    """Draws public images, and below each what an autoencoder makes of it."""

    def __init__(self, workdir: pathlib.Path):
        """Prepares the pictures of a run, which go where ``SnapshotWriter``'s do."""
        self._folder = workdir / run_dir.SAMPLES / FOLDER

    def __call__(self, shown: np.ndarray, made: np.ndarray, step: int) -> None:
        """Writes the picture of one step; arguments uint8 [n, h, w, c]."""
        if not processes.is_first():
            return
        files.make_folder(self._folder)
        both = np.concatenate([shown, made])
        picture = images.grid(both, columns=len(shown))
        images.write_png(self._folder / f"autoencoder_{step:07d}.png", picture)


class SnapshotWriter:
    """Draws the same few noise seeds again and again while a model is trained."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
        """Prepares the pictures of a run.

        Args:
            config: the whole config; reads ``sampler`` and ``log``.
            workdir: the run directory; pictures go to samples/snapshots/.
        """
        self._config = config
        self._folder = workdir / run_dir.SAMPLES / FOLDER
        self._generate: Generate | None = None
        # Before hours of training, should they be missing.
        with processes.together():
            self._prompts = prompts.read(config.sample)

    def __call__(self, model: Model, params: Any, step: int) -> None:
        """Writes the picture of one step."""
        values, rows = self._asked_for(model.condition)
        count = rows * self._config.log.snapshot_per_class
        if count == 0:
            return
        if self._generate is None:
            sampler = from_config.with_preset(self._config)
            self._generate = make_generator(
                model,
                from_config.sampler(sampler),
                guidance_scale=sampler.guidance,
                batch_size=min(count, self._config.sample.batch_size),
            )
        asked = jax.tree.map(lambda x: x[np.arange(count) % rows], values)
        key = rngs.stream(self._config.seed, "snapshot")
        made = images.to_uint8(self._generate(key, params, np.arange(count), asked))
        if not processes.is_first():
            return
        files.make_folder(self._folder)
        per_class = self._config.log.snapshot_per_class
        picture = images.class_grid(made, np.arange(count) % rows, rows, per_class)
        images.write_png(self._folder / f"step_{step:07d}.png", picture)

    def _asked_for(self, condition: Condition) -> tuple[Any, int]:
        """Returns what each row of the picture is asked for by, and how many there are.

        Captions are private: pictures are asked for by the prompts of the samples, or
        by none.
        """
        if not prompts.is_text(condition):
            rows = condition.num_classes or 1
            return condition.in_turn(rows), rows
        if not self._prompts:
            return jax.tree.map(lambda x: x[None], condition.null), 1
        shown = self._prompts[:_MAX_PROMPTS]
        return prompts.tokenized(self._config, shown, condition).tokens, len(shown)
