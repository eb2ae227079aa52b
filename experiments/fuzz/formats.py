"""What is fuzzed: undamaged files of every format, and the product's reader of each."""

import dataclasses
import functools
import gzip
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from dpdm_jax import data, devices, json_values, planning, run_dir
from dpdm_jax.configs import base
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import image_sets
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import read_ledger
from dpdm_jax.release import bundle
from dpdm_jax.release.build import release
from dpdm_jax.release.model import load_release
from dpdm_jax.release.verify import verify
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training import checkpoints, loop
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.secrets import fixed_secrets
from dpdm_jax.training.state import create_state
from experiments.faults import job
from experiments.fuzz import damage

_SHAPE = (10, 6, 5)
_STEPS = 2


class GarbageError(Exception):
    """A reader returned what none may return."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format and its reader.

    Attributes:
        name: for people.
        folder: of the undamaged files.
        files: those of them to damage, by the start of their path; all if empty.
        read: reads the folder; returns what can be compared. Raises GarbageError.
        forgeries: by the end of a file's name; "" for all files.
        sealed: what checksums must give away: "files", damage to what is in a file;
            "folder", also that one is missing; "" nothing.
        weight: its share of the files.
    """

    name: str
    folder: str
    read: Callable[[pathlib.Path], Any]
    forgeries: dict[str, damage.Maker]
    files: str = ""
    sealed: str = "folder"
    weight: int = 1


def formats(bomb_size: int) -> list[Format]:
    """Returns all formats.

    Args:
        bomb_size: bytes that bombs unpack to.
    """
    npz = {"": damage.forge_npz(bomb_size)}
    idx_gz = {"": damage.forge_idx_gz(bomb_size)}
    released = {".json": damage.forge_json(), ".safetensors": damage.forge_safetensors}
    return [
        Format("npz", "npz", _read_npz, npz, weight=3),
        Format("npz, stored", "npz_stored", _read_npz, npz, weight=2),
        Format("npz of floats", "npz_floats", _read_floats, npz),
        Format("IDX", "idx", _read_idx, {"": damage.forge_idx}, sealed="", weight=2),
        Format("IDX, gzip", "idx_gz", _read_idx, idx_gz, weight=2),
        Format(
            "PNG",
            "png",
            _read_png,
            {"": damage.forge_png(bomb_size)},
            sealed="files",
            weight=4,
        ),
        Format(
            "checkpoint",
            "run",
            _read_checkpoint,
            {"metadata": damage.forge_json(_seal_checkpoint)},
            files=f"checkpoints/{_STEPS}/",
            weight=4,
        ),
        Format(
            "ledger",
            "run",
            _read_ledger,
            {"": damage.forge_json(_seal_ledger)},
            files="privacy.json",
        ),
        Format("release", "release", _read_release, released, weight=3),
    ]


def make_files(folder: pathlib.Path) -> None:
    """Makes the undamaged files, trains a tiny model for it, and releases it."""
    dice = np.random.default_rng(0)
    grey = dice.integers(0, 256, _SHAPE, np.uint8)
    colour = dice.integers(0, 256, (*_SHAPE, 3), np.uint8)
    labels = np.arange(len(grey)) % 3
    for name, save in (("npz", np.savez_compressed), ("npz_stored", np.savez)):
        (folder / name).mkdir(parents=True)
        save(folder / name / "train.npz", images=colour, labels=labels)
    (folder / "npz_floats").mkdir()
    np.savez(folder / "npz_floats" / "train.npz", images=colour / 255, labels=labels)
    _write_idx(folder, grey, labels)
    _write_png(folder / "png", colour)
    config, workdir = _run_config(), folder / "run"
    loop.train(config, workdir)
    sampling_run.sample(config, workdir)
    release(config, workdir).rename(folder / "release")


def _write_idx(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
    for name, array in (
        ("images-idx3", images),
        ("labels-idx1", labels.astype(np.uint8)),
    ):
        content = bytes((0, 0, 8, array.ndim))
        content += np.array(array.shape, ">u4").tobytes() + array.tobytes()
        for sub, end, packed in (
            ("idx", "", content),
            ("idx_gz", ".gz", gzip.compress(content, mtime=0)),
        ):
            path = folder / sub / f"train-{name}-ubyte{end}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(packed)


def _write_png(folder: pathlib.Path, images: np.ndarray) -> None:
    modes = ("RGB", "L", "P", "RGBA", "1", "LA")
    for index, (image, mode) in enumerate(zip(images, modes, strict=False)):
        path = folder / f"class_{index % 2}" / f"{mode}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(path)


def _run_config() -> ml_collections.ConfigDict:
    config = job.make_config()
    config.train.num_steps = _STEPS
    config.checkpoint.every_steps = 1
    config.sample.num_images = 4
    config.sample.batch_size = 4
    return config


def _described(source: data.Source) -> str:
    """Returns a digest of images and labels, after a look at both."""
    examples = source.examples(np.arange(len(source)))
    images, labels = examples["image"], examples["condition"]
    shape = source.spec["image"].shape
    if images.dtype != np.uint8 or images.shape != (len(source), *shape):
        raise GarbageError(f"images are {images.dtype} of shape {images.shape}")
    if images.size == 0 or shape[-1] not in (1, 3):
        raise GarbageError(f"images are of shape {images.shape}")
    if labels.dtype != np.int32 or labels.shape != (len(source),):
        raise GarbageError(f"labels are {labels.dtype} of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= max(1, source.condition.num_classes):
        raise GarbageError(
            f"labels are {labels} of {source.condition.num_classes} classes"
        )
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return f"{images.shape} {source.condition.num_classes} {found}"


def _read_source(kind: str, path: pathlib.Path, **fields: Any) -> str:
    config = base.get_config().data
    config.update({"source": kind, "path": str(path)} | fields)
    return _described(data.load_source(config, "train"))


def _read_npz(folder: pathlib.Path) -> str:
    return _read_source("npz", folder)


def _read_idx(folder: pathlib.Path) -> str:
    return _read_source("idx", folder)


def _read_png(folder: pathlib.Path) -> str:
    return _read_source("image_folder", folder, channels=3)


def _read_floats(folder: pathlib.Path) -> str:
    found = image_sets.load(str(folder / "train.npz"), float_range="0,1")
    source = data.ArraySource(found.images, found.labels, found.num_classes)
    return _described(source)


@functools.cache
def _training():
    """What a checkpoint is restored into: a model, and a state of its shapes."""
    config = _run_config()
    problem = planning.public_problem(config)
    model = build_model(config, problem.image_shape, problem.condition)
    plan = planning.privacy_plan(config, problem.num_examples, model)
    key, loss = fixed_secrets(0).noise_key, model.trained_loss()
    training = build_training(config, plan, loss, key, devices.data_mesh())
    params, fixed = model.split(model.init(jax.random.key(0)))
    return model, create_state(params, training.optimizer, training.noise), fixed


def _read_checkpoint(workdir: pathlib.Path) -> Any:
    model, *template = _training()
    opened = checkpoints.Checkpoints(workdir)
    try:
        described = opened.description()
        restored = opened.restore(
            described["step"], model, *template, lambda meta: None
        )
    finally:
        opened.close()
    arrays = (
        restored.state.params,
        restored.state.ema_params,
        restored.state.opt_state,
    )
    return described, restored.secrets.to_dict(), [digest(tree) for tree in arrays]


def _read_ledger(workdir: pathlib.Path) -> Any:
    return read_ledger(workdir / run_dir.LEDGER).to_dict()


def _read_release(folder: pathlib.Path) -> Any:
    outcome = verify(folder)
    for sentence in outcome.failures:
        if "\n" in sentence or not sentence.endswith("."):
            raise GarbageError(f"verify says {sentence!r}")
    released = load_release(folder)
    # Loading reads all files but the card.
    if outcome.failures and all(s.startswith(bundle.CARD) for s in outcome.failures):
        raise InputError(outcome.failures[0])
    config = json_values.encode(released.config.to_dict())
    return outcome.ok, digest(released.params), config, released.privacy


def _seal_checkpoint(value: Any) -> Any:
    if isinstance(value, dict) and "checksum" in value:
        del value["checksum"]
        value["checksum"] = checkpoints.checksum(value)
    return value


def _seal_ledger(value: Any) -> Any:
    if isinstance(value, dict):
        value.pop("checksum", None)
        content = json.dumps(value, sort_keys=True).encode()
        value["checksum"] = hashlib.sha256(content).hexdigest()
    return value


def seal_folder(folder: pathlib.Path) -> None:
    """Makes the checksums of a release's files anew, if it is one."""
    if (folder / bundle.CHECKSUMS).is_file():
        bundle.write_checksums(folder)
