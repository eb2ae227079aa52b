"""The images that a config asks of a run's checkpoint, made by their indices."""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from dpdm_jax import files, json_values, processes, rngs, rooms, run_dir, validate
from dpdm_jax.conditions import Condition, class_names, is_file
from dpdm_jax.diffusion import from_config
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.sampling import images, prompts
from dpdm_jax.sampling.formats import registry
from dpdm_jax.sampling.generate import Generate, guided, make_generator
from dpdm_jax.sampling.prompts import Prompts
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.power_averages import check_average, weights_name

#: In a folder of images, what they were made with.
SETTINGS = run_dir.SETTINGS
#: In settings that are published, in place of a file of labels.
FROM_FILE = "from a file"


class Asked(NamedTuple):
    """Images that a config asks for.

    Attributes:
        image_shape: (h, w, c).
        condition: what images are asked for by.
        values: of all images, [n, ...].
        prompts: that images are asked for by in turn; None where they are not.
        class_names: of the labels, in order; () where they are not stated.
    """

    image_shape: tuple[int, int, int]
    condition: Condition
    values: Any
    prompts: Prompts | None = None
    class_names: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """N."""
        return len(jax.tree.leaves(self.values)[0])

    @property
    def rows(self) -> np.ndarray | None:
        """Each image's row in a picture, int [n]: its class, or its prompt's number.

        None for images that have neither.
        """
        if self.prompts is not None:
            return self.prompts.of_images(self.num_images)
        return self.values if self.condition.num_classes else None

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        if self.prompts is not None:
            return len(self.prompts.texts)
        return self.condition.num_classes or 0

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each image; None where they have none."""
        return self.rows if self.prompts is None else None

    @property
    def texts(self) -> np.ndarray | None:
        """The prompt of each image; None where they have none."""
        if self.prompts is None:
            return None
        return np.array(self.prompts.texts)[self.prompts.of_images(self.num_images)]


@dataclasses.dataclass(frozen=True)
class Maker:
    """What makes images; see ``open_maker``.

    Attributes:
        asked: the images.
        described: all that they depend on, as JSON has values.
        generate: makes images of given indices.
        key: typed PRNG key, for ``generate``.
        params: for ``generate``.
        batch_size: images at once.
        rounding: to uint8.
    """

    asked: Asked
    described: dict[str, Any]
    generate: Generate
    key: jax.Array
    params: Any
    batch_size: int
    rounding: str

    def make(
        self, indices: np.ndarray, on_batch: Callable[[int], object]
    ) -> np.ndarray:
        """Makes images; several processes call it together.

        Args:
            indices: int [n], n >= 1, below the number of images asked for. An image
                depends on its own alone.
            on_batch: called with the number of images of each batch that is made.

        Returns:
            uint8 [n, h, w, c].

        Raises:
            InputError: a pixel is not finite.
        """
        batches = []
        for at in range(0, len(indices), self.batch_size):
            chosen = indices[at : at + self.batch_size]
            wanted = jax.tree.map(lambda x, chosen=chosen: x[chosen], self.asked.values)
            made = self.generate(self.key, self.params, chosen, wanted)
            batches.append(images.to_uint8(made, self.rounding))
            on_batch(len(chosen))
        return np.concatenate(batches)


def read_asked(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, num_images: int
) -> Asked:
    """Says which images a config asks for, without making any.

    Args:
        config: the whole config; reads ``sample``, ``sampler`` and, for prompts,
            ``data``.
        workdir: a run directory with a checkpoint.
        num_images: how many.

    Returns:
        The images. Those of fewer are a prefix of those of more.

    Raises:
        InputError: a field is out of range, or there is no such checkpoint.
    """
    with processes.together():
        rooms.check(config)
        _check(config.sample)
    checkpoints = Checkpoints(workdir)
    try:
        with processes.together():  # what Orbax reads, all read alike
            image_shape, condition = checkpoints.stored_problem(config.sample.step)
    finally:
        checkpoints.close()
    with processes.together():
        return _asked(config, image_shape, condition, num_images)


def check_ahead(config: ml_collections.ConfigDict, model: Model) -> Asked:
    """Refuses, before a model is trained, what it could not be asked for afterwards.

    Args:
        config: the whole config; reads ``sample``, ``sampler`` and, for prompts,
            ``data``.
        model: the model.

    Returns:
        The images that will be asked for.

    Raises:
        InputError: a field is out of range, or the sampler does not fit the model.
    """
    _check(config.sample)
    asked = _asked(
        config, model.sample_shape, model.condition, config.sample.num_images
    )
    sampler_config = from_config.with_preset(config)
    from_config.sampler(sampler_config)
    guided(model, sampler_config.guidance)
    _warn_of_guidance(config, sampler_config.guidance)
    return asked


def _asked(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    condition: Condition,
    num_images: int,
) -> Asked:
    found = prompts.of_model(config, condition)
    if found is not None:
        values = found.tokens[found.of_images(num_images)]
    else:
        wanted = class_names.label_of(config.data.class_names, config.sample.labels)
        values = condition.choose(wanted, num_images, config.sample.seed)
    names = tuple(config.data.class_names) if condition.num_classes else ()
    if names:
        class_names.check(names, condition.num_classes or 0)
    return Asked(image_shape, condition, values, found, names)


def _warn_of_guidance(config: ml_collections.ConfigDict, scale: float) -> None:
    """Warns of guidance by a condition that training never left out."""
    if scale > 0 and config.diffusion.label_dropout == 0:
        warnings.warn(
            f"sampler.guidance is {scale} and diffusion.label_dropout 0: what the "
            "network says without a condition, which guidance goes by, is not trained.",
            stacklevel=1,  # said from one place, it is shown once
        )


def open_maker(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, asked: Asked
) -> Maker:
    """Prepares to make the images that a config asks for.

    Args:
        config: the whole config; reads ``sample`` and ``sampler``.
        workdir: a run directory with a checkpoint.
        asked: what ``read_asked`` returned for them.

    Returns:
        What makes them.

    Raises:
        InputError: the checkpoint is of another model or damaged, or the sampler does
            not fit it.
    """
    settings = config.sample
    checkpoints = Checkpoints(workdir)
    try:
        with processes.together():
            model = build_model(config, asked.image_shape, asked.condition)
            params, step = checkpoints.restore_weights(
                model, settings.weights, settings.step, settings.average
            )
    finally:
        checkpoints.close()
    with processes.together():
        sampler_config = from_config.with_preset(config)
        _warn_of_guidance(config, sampler_config.guidance)
        generate = make_generator(
            model,
            from_config.sampler(sampler_config),
            guidance_scale=sampler_config.guidance,
            batch_size=settings.batch_size,
        )
    described = {
        "step": step,
        "weights": weights_name(settings.weights, settings.average),
        "weights_sha256": digest(params),
        "sampler": sampler_config.to_dict(),
        "labels": settings.labels,
        "labels_sha256": (digest(asked.values) if is_file(settings.labels) else ""),
        "prompts": None if asked.prompts is None else asked.prompts.texts,
        "seed": settings.seed,
        "rounding": settings.rounding,
    }
    return Maker(
        asked,
        json_values.encode(described),
        generate,
        rngs.stream(settings.seed, "sample"),
        params,
        settings.batch_size,
        settings.rounding,
    )


def without_labels_file(described: dict[str, Any]) -> dict[str, Any]:
    """Returns settings without the file of labels and its digest, for publication.

    Whoever guesses labels could confirm them by the digest.

    Args:
        described: see ``Maker``.
    """
    public = {k: v for k, v in described.items() if k != "labels_sha256"}
    if is_file(public.get("labels")):
        public["labels"] = FROM_FILE
    return public


def claim(
    folder: pathlib.Path, described: dict[str, Any], resources: contextlib.ExitStack
) -> None:
    """Keeps a folder for images; several processes call it together.

    It has their settings, or those that it has must be the same. Jobs that make images
    in one folder take turns.

    Args:
        folder: of the images; it is made.
        described: see ``Maker``.
        resources: ends the turn.

    Raises:
        InputError: the folder holds images of other settings.
    """

    def take() -> None:
        _claim(folder, described)  # refused before it waits, and again behind others
        resources.enter_context(run_dir.alone_in(folder))
        _claim(folder, described)

    processes.from_first(take)


def _claim(folder: pathlib.Path, described: dict[str, Any]) -> None:
    """Writes the settings of images, or checks that those there are the same."""
    path = folder / SETTINGS
    if not path.exists():
        files.write_json(path, described)
        return
    try:
        stored = json_values.loads(path.read_text())
        changed = [k for k in described if stored.get(k) != described[k]]
    except (ValueError, AttributeError):
        raise InputError(
            f"{path} is damaged; allowed: another sample.name, or removing {folder}."
        ) from None
    if changed:
        raise InputError(
            f"{folder} holds images of other settings ({', '.join(changed)}); "
            "allowed: the same settings, another sample.name, or removing it."
        )


def wanted_formats(settings: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the formats beside the archive that ``config.sample`` asks for.

    Raises:
        InputError: see ``registry.chosen``.
    """
    return registry.chosen(settings.formats + (",png" if settings.png else ""))


def _check(settings: ml_collections.ConfigDict) -> None:
    wanted_formats(settings)
    validate.integer("sample.num_images", settings.num_images, minimum=1)
    validate.integer("sample.batch_size", settings.batch_size, minimum=1)
    validate.one_of("sample.weights", settings.weights, ("ema", "raw"))
    check_average("sample.average", settings.average)
    if settings.average and settings.weights != "ema":
        raise InputError(
            f"sample.average is {settings.average!r} and sample.weights is "
            f"{settings.weights!r}; allowed: 0, or ema, in whose place it is."
        )
    validate.one_of("sample.rounding", settings.rounding, pixels.ROUNDINGS)
    validate.integer("sample.step", settings.step, minimum=-1)
    validate.seed("sample.seed", settings.seed)
    validate.folder_name("sample.name", settings.name)
