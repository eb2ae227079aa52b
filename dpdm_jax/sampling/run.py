"""Sampling from a run's checkpoint into files, resumable.

With several processes each makes its share of every batch, and process 0 writes.
"""

import logging
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from dpdm_jax import files, json_values, processes, rooms, run_dir, validate
from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion import from_config
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import build_model
from dpdm_jax.progress import progress_bar
from dpdm_jax.sampling import images, prompts
from dpdm_jax.sampling.generate import Generate, make_generator
from dpdm_jax.training import rngs
from dpdm_jax.training.checkpoints import Checkpoints

_log = logging.getLogger(__name__)

ARCHIVE = "samples.npz"
GRID = "grid.png"
SETTINGS = "settings.json"
_PARTS = "parts"
# Images in one part file: what an interruption can cost.
_PART_SIZE = 1000
_GRID_PER_CLASS = 10


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Makes images from a checkpoint.

    Writes ``samples.npz`` (images uint8 [n, h, w, c], labels int32 [n] or, of a model
    that reads text, prompts, strings [n]), ``grid.png`` and, if asked, a PNG file an
    image, in <workdir>/samples/<sample.name>/. Called again after an interruption it
    goes on; with more images it adds to them.

    Args:
        config: the whole config; reads ``sample`` and ``sampler``.
        workdir: a run directory with a checkpoint.

    Returns:
        The folder that was written.

    Raises:
        InputError: a field is out of range, there is no fitting checkpoint, or the
            folder holds images of other settings.
    """
    settings = config.sample
    folder = workdir / run_dir.SAMPLES / settings.name
    with processes.together():
        rooms.check(config)
        _check(settings)
    checkpoints = Checkpoints(workdir)
    try:
        with processes.together():  # what Orbax reads, all read alike
            model = build_model(config, *checkpoints.stored_problem(settings.step))
            params, step = checkpoints.restore_weights(
                model, settings.weights, settings.step
            )
    finally:
        checkpoints.close()
    with processes.together():
        asked, shown = _asked(config, model.condition)
        sampler_config = from_config.with_preset(config)
        generate = make_generator(
            model,
            from_config.sampler(sampler_config),
            rngs.stream(settings.seed, "sample"),
            guidance_scale=sampler_config.guidance,
            batch_size=settings.batch_size,
        )
    described = {
        "step": step,
        "weights": settings.weights,
        "weights_sha256": digest(params),
        "sampler": sampler_config.to_dict(),
        "labels": settings.labels,
        "labels_sha256": digest(asked) if settings.labels[-4:] == ".npy" else "",
        "prompts": shown.prompts,
        "seed": settings.seed,
        "rounding": settings.rounding,
    }

    processes.from_first(lambda: _claim(folder, described))
    if _is_there(folder / ARCHIVE, settings.num_images):
        _log.debug("%s already holds these images.", folder)
    else:
        paths = _make_parts(folder, generate, params, asked, settings)
        processes.from_first(lambda: _join_parts(folder, paths, shown))
    processes.from_first(lambda: shutil.rmtree(folder / _PARTS, ignore_errors=True))
    if settings.png:
        processes.from_first(lambda: _write_png_files(folder))
    return folder


class _Shown(NamedTuple):
    """What was asked for, as people see it.

    Attributes:
        rows: int32 [n], the row of each image in a picture: its class, or the number of
            its prompt; None for images that have neither.
        num_rows: how many there are.
        prompts: the prompts, if rows are of such; else None.
    """

    rows: np.ndarray | None
    num_rows: int
    prompts: tuple[str, ...] | None = None

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each image; None if rows are no classes."""
        return self.rows if self.prompts is None else None

    @property
    def texts(self) -> np.ndarray | None:
        """The prompt of each image; None if rows are no prompts."""
        if self.prompts is None or self.rows is None:
            return None
        return np.array(self.prompts)[self.rows]


def _asked(
    config: ml_collections.ConfigDict, condition: Condition
) -> tuple[Any, _Shown]:
    """Returns the conditions that images are asked for by."""
    settings = config.sample
    count = settings.num_images
    found = prompts.of_model(config, condition)
    if found is not None:
        rows = found.of_images(count)
        return found.tokens[rows], _Shown(rows, len(found.texts), found.texts)
    asked = condition.choose(settings.labels, count, settings.seed)
    num_classes = condition.num_classes or 0
    return asked, _Shown(asked if num_classes else None, num_classes)


def _check(settings: ml_collections.ConfigDict) -> None:
    validate.integer("sample.num_images", settings.num_images, minimum=1)
    validate.integer("sample.batch_size", settings.batch_size, minimum=1)
    validate.one_of("sample.weights", settings.weights, ("ema", "raw"))
    validate.one_of("sample.rounding", settings.rounding, pixels.ROUNDINGS)
    validate.integer("sample.step", settings.step, minimum=-1)
    validate.seed("sample.seed", settings.seed)
    name = settings.name
    if not name or pathlib.PurePath(name).name != name or name == "..":
        raise InputError(
            f"sample.name is {settings.name!r}; allowed: the name of one folder."
        )


def _claim(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Writes the settings of the images, or checks that those there are the same."""
    settings = json_values.encode(settings)
    path = folder / SETTINGS
    if path.exists():
        try:
            stored = json_values.loads(path.read_text())
            changed = [k for k in settings if stored.get(k) != settings[k]]
        except (ValueError, AttributeError):
            raise InputError(
                f"{path} is damaged; allowed: another sample.name, or removing "
                f"{folder}."
            ) from None
        if changed:
            raise InputError(
                f"{folder} holds images of other settings ({', '.join(changed)}); "
                "allowed: the same settings, another sample.name, or removing it."
            )
    else:
        files.write_json(path, settings)


def _make_parts(
    folder: pathlib.Path,
    generate: Generate,
    params: Any,
    asked: Any,
    settings: ml_collections.ConfigDict,
) -> list[pathlib.Path]:
    """Makes the images in parts that survive an interruption; returns their files."""
    paths = []
    total = settings.num_images
    with progress_bar("sampling", total, shown=processes.is_first()) as progress:
        for start in range(0, total, _PART_SIZE):
            indices = np.arange(start, min(start + _PART_SIZE, total))
            path = folder / _PARTS / f"{indices[0]:07d}_{indices[-1]:07d}.npz"
            paths.append(path)
            if _is_there(path, len(indices)):
                progress.update(len(indices))
                continue
            batches = []
            for at in range(0, len(indices), settings.batch_size):
                chosen = indices[at : at + settings.batch_size]
                wanted = jax.tree.map(lambda x, chosen=chosen: x[chosen], asked)
                batches.append(
                    images.to_uint8(generate(params, chosen, wanted), settings.rounding)
                )
                progress.update(len(chosen))
            _write_part(path, np.concatenate(batches))
    return paths


def _is_there(path: pathlib.Path, count: int) -> bool:
    return processes.from_first(lambda: _read_images(path, count) is not None)


def _write_part(path: pathlib.Path, made: np.ndarray) -> None:
    def write() -> None:
        files.make_folder(path.parent)
        images.write_npz(path, made, None)

    processes.from_first(write)


def _join_parts(
    folder: pathlib.Path,
    paths: list[pathlib.Path],
    shown: _Shown,
) -> None:
    parts = []
    for path in paths:
        with np.load(path) as archive:
            parts.append(archive["images"])
    made = np.concatenate(parts)
    images.write_png(folder / GRID, _picture(made, shown))
    # Last: once it is there, nothing is made again.
    images.write_npz(folder / ARCHIVE, made, shown.labels, shown.texts)


def _read_images(path: pathlib.Path, count: int) -> np.ndarray | None:
    """Reads images that an earlier call made; None if there are not just as many."""
    try:
        with np.load(path) as archive:
            found = archive["images"]
    except FileNotFoundError:
        return None
    except Exception as e:  # a damaged zip raises many kinds
        _log.warning("%s cannot be read (%s) and is made anew.", path, e)
        return None
    return found if len(found) == count else None


def _picture(made: np.ndarray, shown: _Shown) -> np.ndarray:
    if shown.rows is None:
        return images.grid(made[: _GRID_PER_CLASS**2])
    # More rows than a person can look at help nobody.
    rows = min(shown.num_rows, 2 * _GRID_PER_CLASS)
    return images.class_grid(made, shown.rows, rows, _GRID_PER_CLASS)


def _write_png_files(folder: pathlib.Path) -> None:
    """Writes png/<class or prompt>/<index>.png, or png/<index>.png without either."""
    with np.load(folder / ARCHIVE) as archive:
        made = archive["images"]
        labels, texts = archive.get("labels"), archive.get("prompts")
    names = None if labels is None else [str(label) for label in labels]
    if texts is not None:
        # In order of the prompts, which may have signs that no file system takes.
        number = {text: i for i, text in enumerate(dict.fromkeys(texts.tolist()))}
        names = [f"{number[t]:04d}_{_plain(t)}" for t in texts.tolist()]
    for index, image in enumerate(made):
        target = folder / "png"
        if names is not None:
            target = target / names[index]
        files.make_folder(target)
        images.write_png(target / f"{index:07d}.png", image)


def _plain(text: str) -> str:
    """Returns what of a text a folder may be called."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)[:60].strip("_")
