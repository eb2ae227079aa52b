"""A released model: what anyone can do with a release."""

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Int32, UInt8
from numpy.typing import ArrayLike

from dpdm_jax import (
    devices,
    files,
    jax_settings,
    processes,
    rngs,
    run_dir,
    stored_config,
    validate,
)
from dpdm_jax.conditions import class_names
from dpdm_jax.diffusion import from_config
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import Model, build_model, signature
from dpdm_jax.release import bundle
from dpdm_jax.sampling import images
from dpdm_jax.sampling.generate import Generate, make_generator
from dpdm_jax.sampling.prompts import is_text, tokenized
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.user_paths import user_path


class ReleasedModel:
    """A model to draw images from; made by ``load_release``.

    Attributes:
        config: the released config.
        model: the network and its diffusion process.
        params: nested dict of float32 arrays.
        privacy: the contents of PRIVACY.json.
        manifest: the contents of MANIFEST.json.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        model: Model,
        params: Any,
        privacy: dict[str, Any],
        manifest: dict[str, Any],
    ):
        self.config = config
        self.model = model
        self.params = params
        self.privacy = privacy
        self.manifest = manifest
        self._generators: dict[tuple[str | None, int], Generate] = {}

    @jax_settings.pinned()
    def sample(
        self,
        num_images: int,
        labels: str | ArrayLike | None = None,
        seed: int = 0,
        preset: str | None = None,
        batch_size: int | None = None,
        prompts: str | Sequence[str] | None = None,
    ) -> tuple[
        UInt8[np.ndarray, " {num_images} h w c"],
        Int32[np.ndarray, " {num_images}"] | None,
    ]:
        """Makes images. They cost no privacy, however many there are.

        The same call gives the same images, those of ``--mode=sample`` with these
        settings; fewer images are a prefix of more (the last bits of float arithmetic
        aside, if ``batch_size`` differs).

        Args:
            num_images: how many, >= 1.
            labels: "uniform" (random classes), "balanced" (0, 1, 2, ... in turn), one
                class as 3, "3" or by its name, or an integer for each image; None for
                what the release prefers. A model without classes ignores it.
            seed: >= 0.
            preset: the name of one of the release's sampler presets; None for its
                default sampler.
            batch_size: images per compiled call, >= 1; None for the release's, or
                ``num_images`` if that is less.
            prompts: of a model that reads text, what to ask for: images take turns. The
                file of its vocabulary, if it has one, is no part of the release: set
                ``config.data.captions.vocabulary`` first.

        Returns:
            Images and their labels, or None for a model without classes.

        Raises:
            InputError: an argument is out of range.
        """
        num_images = validate.integer("num_images", num_images, minimum=1)
        seed = validate.seed("seed", seed)
        settings = self.config.sample
        if batch_size is None:
            batch_size = min(num_images, settings.batch_size)
        batch_size = validate.integer("batch_size", batch_size, minimum=1)
        condition = self.model.condition
        if prompts is not None or (is_text(condition) and labels is None):
            chosen = self._tokens(prompts, num_images)
        else:
            wanted = settings.labels if labels is None else labels
            wanted = class_names.label_of(self.config.data.class_names, wanted)
            chosen = condition.choose(wanted, num_images, seed)
        generate = self._generator(preset, batch_size)
        key = rngs.stream(seed, "sample")
        made = generate(key, self.params, np.arange(num_images), chosen)
        pixels = images.to_uint8(made, settings.rounding)
        return pixels, chosen if condition.num_classes else None

    def _tokens(
        self, prompts: str | Sequence[str] | None, num_images: int
    ) -> Int32[np.ndarray, "n length"]:
        """Returns the prompt of each image."""
        condition = self.model.condition
        texts = [prompts] if isinstance(prompts, str) else list(prompts or ())
        if not texts or not is_text(condition):
            raise InputError(
                f"prompts is {prompts!r} and the model was trained on {condition}; "
                "allowed: a text or several for captions, None for others."
            )
        asked = tokenized(self.config, texts, condition)
        return asked.tokens[asked.of_images(num_images)]

    def _generator(self, preset: str | None, batch_size: int) -> Generate:
        """Returns a compiled sampler, kept for the next call."""
        wanted = (preset, batch_size)
        if wanted not in self._generators:
            config = self.config.copy_and_resolve_references()
            if preset is not None:
                config.sampler.preset = preset
            sampler = from_config.with_preset(config)
            self._generators[wanted] = make_generator(
                self.model,
                from_config.sampler(sampler),
                guidance_scale=sampler.guidance,
                batch_size=batch_size,
            )
        return self._generators[wanted]


@jax_settings.pinned()
def load_release(path: str | os.PathLike[str]) -> ReleasedModel:
    """Reads a release.

    Checks the sums of its files and that the parameters fit, whatever lies beside;
    ``python -m dpdm_jax.release verify`` also recomputes epsilon, and refuses others.

    Args:
        path: the folder.

    Returns:
        The model, to sample from.

    Raises:
        InputError: the release is damaged, or of another version.
    """
    folder = user_path("the release", path)
    bundle.check_loads(folder)
    manifest = bundle.read_manifest(folder)
    config = bundle.read_config(folder)
    model = bundle.read_model(folder, config, manifest)
    validate.one_of("the release's dtype", manifest.get("dtype"), bundle.DTYPES)
    return ReleasedModel(
        config=config,
        model=model,
        params=bundle.read_parameters(folder, model, manifest["dtype"]),
        privacy=bundle.read_json(folder, bundle.PRIVACY),
        manifest=manifest,
    )


def open_as_run(
    path: pathlib.Path, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
    """Makes a run directory of a release, to sample from and to evaluate.

    Args:
        path: the release.
        config: a whole config of the released model; see configs/released.py.
        workdir: a new run directory, or one made from the same release.

    Raises:
        InputError: the release is damaged, the config is of another model, or the
            directory holds something else.
    """
    with processes.together():
        released = load_release(path)
        model = build_model(
            config, released.model.sample_shape, released.model.condition
        )
        if signature(model) != signature(released.model):
            raise InputError(
                f"The config is of another model than the release {path}; allowed: "
                "network and diffusion as released."
            )
    origin = {"release": released.manifest["name"], "sha256": bundle.identity(path)}
    with contextlib.ExitStack() as resources:
        if not _is_open(path, workdir, origin):
            processes.from_first(lambda: _wait(workdir, resources))
            if not _is_open(path, workdir, origin):
                _open(released, model, config, workdir, origin)


def _wait(workdir: pathlib.Path, resources: contextlib.ExitStack) -> None:
    """Waits for other jobs that open a release in the directory, or train in it."""
    resources.enter_context(run_dir.alone_in(workdir))


def _is_open(path: pathlib.Path, workdir: pathlib.Path, origin: dict[str, Any]) -> bool:
    """Whether a run directory is that of a release; InputError if of another thing."""
    existing = Checkpoints(workdir)
    try:
        with processes.together():
            if existing.steps():
                if existing.description().get("origin") != origin:
                    raise InputError(
                        f"{workdir} holds other checkpoints than those of the release "
                        f"{path}; allowed: a new --workdir."
                    )
                return True
            return False
    finally:
        existing.close()


def _open(
    released: ReleasedModel,
    model: Model,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    origin: dict[str, Any],
) -> None:
    """Writes the checkpoint and the config of a release."""
    values = stored_config.to_values(config)
    checkpoints = Checkpoints(workdir, keep=1)
    params = devices.place(released.params, devices.replicated(devices.data_mesh()))
    try:
        checkpoints.save_imported(
            model,
            released.manifest["step"],
            params,
            params,
            config=values,
            origin=origin,
        )
    finally:
        checkpoints.close()
    path = workdir / run_dir.CONFIG
    processes.from_first(lambda: files.write_json(path, values, private=True))
