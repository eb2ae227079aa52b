"""The training of an autoencoder: from a config to weights that a codec reads."""

import contextlib
import dataclasses
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dpdm_jax import (
    data,
    devices,
    files,
    processes,
    rngs,
    rooms,
    run_dir,
    stored_config,
)
from dpdm_jax.autoencoding import perceptual_weights
from dpdm_jax.autoencoding.checkpoints import SCALE, Checkpoints
from dpdm_jax.autoencoding.step import State, Training, make_training
from dpdm_jax.errors import InputError, Interrupted
from dpdm_jax.images import pixels
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.networks import Params, discriminator, perceptual
from dpdm_jax.networks.codecs import build_codec
from dpdm_jax.networks.codecs.autoencoder import AutoencoderCodec
from dpdm_jax.networks.codecs.registry import TRAINING
from dpdm_jax.networks.codecs.training import Settings
from dpdm_jax.progress import progress_bar
from dpdm_jax.training import divergence
from dpdm_jax.training.interrupts import deferred_interrupts
from dpdm_jax.training.metrics import MetricsLog

_log = logging.getLogger(__name__)
# Images that are encoded at once to be measured.
_AT_ONCE = 100

#: ``picture(images, made, step)`` looks at images and their reconstructions.
Picture = Callable[[np.ndarray, np.ndarray, int], None]


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a training is made of."""

    config: ml_collections.ConfigDict
    folder: pathlib.Path
    source: data.Source
    settings: Settings
    codec: AutoencoderCodec[Any]
    training: Training
    perceptual: Params
    checkpoints: Checkpoints
    meta: dict[str, Any]


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    picture: Picture | None = None,
) -> pathlib.Path:
    """Trains the autoencoder that a config describes, or goes on with it.

    What is trained in the same steps gives the same weights, however often it was
    interrupted.

    Args:
        config: the whole config; its data must be public.
        workdir: the run directory; everything lies in its ``run_dir.AUTOENCODER``.
        picture: called every ``log.snapshot_every_steps`` steps, and at the end.

    Returns:
        The folder, for ``codec.weights``.

    Raises:
        InputError: a field is out of range, the data is not stated to be public, or
            the folder holds another training.
    """
    with processes.together():
        settings = _checked(config)
        source, content = data.bind(data.load_source(config.data, "train"))
        codec = build_codec(config.codec, source.spec["image"].shape)
        assert isinstance(codec, AutoencoderCodec)  # as those with settings are
        _check_sizes(settings, codec)
        known = perceptual_weights.read(settings)
    if not known:
        _log.info(
            "The error of reconstructions has no perceptual term; see "
            "codec.training.perceptual_weights."
        )
    mesh = devices.data_mesh()
    everywhere = devices.replicated(mesh)
    folder = workdir / run_dir.AUTOENCODER
    with contextlib.ExitStack() as resources:
        processes.from_first(lambda: _claim(folder, resources))
        checkpoints = Checkpoints(folder, keep=config.checkpoint.keep)
        resources.callback(checkpoints.close)
        training = make_training(codec, settings, mesh)
        state = training.init(rngs.stream(config.seed, "autoencoder"))
        state = devices.place(processes.same_arrays(state), everywhere)
        job = _Job(
            config=config,
            folder=folder,
            source=source,
            settings=settings,
            codec=codec,
            training=training,
            perceptual=devices.place(known, everywhere),
            checkpoints=checkpoints,
            meta={
                "public": config.data.public,
                "data": content.hex(),
                "seed": config.seed,
                "settings": dataclasses.asdict(settings),
                "parameters": {
                    name: list(leaf.shape)
                    for name, leaf in named_leaves(state.params).items()
                },
            },
        )
        state = _resumed(job, state)
        values = stored_config.to_values(config)
        path = folder / run_dir.CONFIG
        processes.from_first(lambda: files.write_json(path, values, private=True))
        _take_steps(job, state, picture)
    return folder


def is_wanted(config: ml_collections.ConfigDict) -> bool:
    """Whether a run's own public data is what its autoencoder would be trained on."""
    codec, initial = config.codec, config.initial
    is_given = codec.weights or initial.weights or initial.parent
    return bool(TRAINING.build(codec) and config.data.public and not is_given)


def planned(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the training of an autoencoder that comes before a run, for its plan.

    Args:
        config: the whole config.

    Returns:
        {"autoencoder": steps, images of a step, and whether the perceptual distance is
        part of the error}, or {} if none ``is_wanted``.
    """
    if not is_wanted(config):
        return {}
    settings: Settings = TRAINING.build(config.codec)
    return {
        "autoencoder": {
            "num_steps": settings.num_steps,
            "batch_size": settings.batch_size,
            "perceptual_term": bool(settings.perceptual_weights),
        }
    }


def is_finished(workdir: pathlib.Path) -> bool:
    """Whether a run directory has an autoencoder that is trained to its end."""
    checkpoints = Checkpoints(workdir / run_dir.AUTOENCODER)
    try:
        step = checkpoints.newest()
        return step is not None and SCALE in checkpoints.read_meta(step)
    finally:
        checkpoints.close()


def _checked(config: ml_collections.ConfigDict) -> Settings:
    rooms.check(config)
    settings: Settings | None = TRAINING.build(config.codec)
    if settings is None:
        raise InputError(
            f"codec.name is {config.codec.name!r}, of which nothing is trained; "
            "allowed for --mode=autoencoder: a codec with weights."
        )
    if not config.data.public:
        raise InputError(
            "data.public is '' and an autoencoder is trained without protection; "
            "allowed: the name of the public data, if that is what it is."
        )
    if settings.batch_size % jax.device_count():
        raise InputError(
            f"codec.training.batch_size is {settings.batch_size}; allowed: a multiple "
            f"of the {jax.device_count()} devices."
        )
    return settings


def _check_sizes(settings: Settings, codec: AutoencoderCodec[Any]) -> None:
    side = min(codec.sample_shape[:2])
    smallest = discriminator.smallest_side(settings.discriminator_layers)
    if settings.has_discriminator and side < smallest:
        raise InputError(
            f"codec.training.discriminator_layers is "
            f"{settings.discriminator_layers}, for sides of {smallest} pixels and more;"
            f" allowed with images of {side}: fewer, or adversarial_weight=0."
        )
    if settings.perceptual_weights and side < perceptual.SMALLEST_SIDE:
        raise InputError(
            f"codec.training.perceptual_weights is set with images of {side} pixels; "
            f"allowed: sides of {perceptual.SMALLEST_SIDE} and more, or ''."
        )


def _claim(folder: pathlib.Path, resources: contextlib.ExitStack) -> None:
    files.make_folder(folder)
    resources.enter_context(run_dir.locked(folder))


def _resumed(job: _Job, state: State) -> State:
    """Returns the state of the newest checkpoint, if it is one of this training."""
    step = job.checkpoints.newest()
    if step is None:
        return state
    with processes.together():
        found = job.checkpoints.read_meta(step)
        for name, now in job.meta.items():
            was = found.get(name)
            if was != now:
                if isinstance(was, dict) and isinstance(now, dict):
                    name = next(f"{name}.{k}" for k in now if was.get(k) != now[k])
                raise InputError(
                    f"{job.folder} holds a training with another {name}; allowed: the "
                    "same, or another run directory."
                )
        state = job.checkpoints.restore(step, state)
    if step < job.settings.num_steps:
        _log.info("Resuming %s after step %d.", job.folder, step)
    return state


def _take_steps(job: _Job, state: State, picture: Picture | None) -> None:
    config, settings = job.config, job.settings
    done = int(state.step)
    if done == settings.num_steps:
        return
    order = _Order(len(job.source), settings.batch_size, config.seed)
    metrics = MetricsLog(job.folder, tensorboard=config.log.tensorboard)
    progress = progress_bar(
        "autoencoder", settings.num_steps, done=done, shown=processes.is_first()
    )
    divided = devices.divided(devices.data_mesh())
    try:
        with deferred_interrupts() as stop_if_asked:
            while done < settings.num_steps:
                with processes.together():
                    stop_if_asked()
                    images = job.source.examples(order.batch(done))["image"]
                key = rngs.stream(config.seed, "autoencoder_step", done)
                take = job.training.step_at(done, settings.adversarial_start)
                state, numbers = take(
                    state, job.perceptual, devices.place(images, divided), key
                )
                done += 1
                progress.update()
                is_last = done == settings.num_steps
                if processes.is_first() and (
                    is_last or done % config.log.every_steps == 0
                ):
                    said = {name: float(x) for name, x in numbers.items()}
                    metrics.write(done, said)
                    progress.set_postfix_str(f"error {said['error']:.4g}")
                every = config.log.snapshot_every_steps
                if picture is not None and (is_last or (every and done % every == 0)):
                    picture(*_reconstructed(job, state), done)
                is_kept = is_last or done % config.checkpoint.every_steps == 0
                if is_kept:
                    with processes.together():
                        divergence.check(state.params, done, settings.path)
                if is_last:
                    _finish(job, state)
                elif is_kept:
                    job.checkpoints.save(job.codec, state, job.meta)
    except Interrupted:
        if job.checkpoints.newest() != done:
            job.checkpoints.save(job.codec, state, job.meta)
        raise
    finally:
        progress.close()
        metrics.close()


class _Order:
    """In which order images come: each once, then each again in another order."""

    def __init__(self, num_images: int, batch_size: int, seed: int):
        self._num_images, self._batch_size, self._seed = num_images, batch_size, seed
        self._rounds: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> np.ndarray:
        """Returns the indices of a step's images, int [batch_size]."""
        positions = step * self._batch_size + np.arange(self._batch_size)
        turns, places = np.divmod(positions, self._num_images)
        needed = set(turns.tolist())
        self._rounds = {turn: self._round(turn) for turn in needed}
        return np.array(
            [
                self._rounds[turn][place]
                for turn, place in zip(turns.tolist(), places.tolist(), strict=True)
            ]
        )

    def _round(self, turn: int) -> np.ndarray:
        found = self._rounds.get(turn)
        if found is None:
            found = np.random.default_rng((self._seed, turn)).permutation(
                self._num_images
            )
        return found


def _finish(job: _Job, state: State) -> None:
    """Scales the latents, once and for all, and keeps the weights."""
    std = _latents_std(job, state.params)
    if not (math.isfinite(std) and std > 0):
        raise InputError(
            f"the latents of public images have the standard deviation {std!r}, and "
            "cannot be scaled; allowed: an autoencoder that tells images apart (train "
            "it longer or otherwise), or codec.training.scale_images=0."
        )
    params = job.codec.rescaled(state.params, 1.0 / std)
    params = devices.place(
        processes.same_arrays(jax.device_get(params)),
        devices.replicated(devices.data_mesh()),
    )
    meta = job.meta | {SCALE: 1.0 / std}
    job.checkpoints.save(job.codec, dataclasses.replace(state, params=params), meta)


def _latents_std(job: _Job, params: Params) -> float:
    """Measures the standard deviation of public images' latents, all of them together.

    Returns:
        1.0 if none are to be measured.
    """
    count = min(job.settings.scale_images, len(job.source))
    if count == 0:
        return 1.0
    encode = jax.jit(jax.vmap(job.codec.encode, in_axes=(None, 0, 0)))
    key = rngs.stream(job.config.seed, "autoencoder_scale")
    params = jax.device_get(params)
    total = np.zeros(2)
    for start in range(0, count, _AT_ONCE):
        # The last ones twice, for one shape.
        rows = np.minimum(np.arange(start, start + _AT_ONCE), count - 1)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows))
        with processes.together():
            images = job.source.examples(rows)["image"]
        latents = np.asarray(encode(params, images, keys), np.float64)
        latents = latents[: count - start]
        total += latents.sum() / count, (latents**2).sum() / count
    mean, square = total / np.prod(job.codec.latent_shape)
    return float(np.sqrt(square - mean**2))


def _reconstructed(job: _Job, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Returns some images and what becomes of them, uint8."""
    count = min(16, len(job.source))
    images = job.source.examples(np.arange(count))["image"]
    params = jax.device_get(state.params)
    noise = np.zeros((count, *job.codec.latent_shape), np.float32)
    made = jax.jit(job.codec.reconstruct)(params, pixels.to_float(images), noise)
    return images, pixels.to_uint8(np.asarray(made.images), "nearest")
