"""The files of a release, and how they are read without being believed."""

import hashlib
import json
import pathlib
import re
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy

from dpdm_jax import run_dir
from dpdm_jax.errors import InputError, reason
from dpdm_jax.model import Model, build_model, named_leaves, signature

FORMAT = "dpdm_jax release 1"

CONFIG = "config.json"
MANIFEST = "MANIFEST.json"
PARAMETERS = "params.safetensors"
PRIVACY = "PRIVACY.json"
PRIVACY_TEXT = "PRIVACY.md"
CHECKSUMS = "SHA256SUMS"
SAMPLES = "samples.npz"
METRICS = run_dir.EVALUATION

#: What every release has.
REQUIRED = (CHECKSUMS, CONFIG, MANIFEST, PARAMETERS, PRIVACY, PRIVACY_TEXT)
#: How parameters may be stored; they are computed with in float32.
DTYPES = ("float32", "float16")

#: What reading values of unexpected types and sizes raises.
MALFORMED = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def is_bundle(folder: pathlib.Path) -> bool:
    """Whether a folder is a release, intact or not."""
    return (folder / MANIFEST).is_file() and (folder / CHECKSUMS).is_file()


def file_names(folder: pathlib.Path) -> list[str]:
    """Returns what is in a folder and below, folders aside, in order."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def write_checksums(folder: pathlib.Path) -> None:
    """Writes the checksums of all files, as ``sha256sum -c`` reads them."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in file_names(folder)]
    (folder / CHECKSUMS).write_text("".join(lines))


def file_failures(folder: pathlib.Path) -> list[str]:
    """Returns a sentence for each file that is not as ``SHA256SUMS`` has it."""
    if not folder.is_dir():
        return [f"{folder} is not a folder."]
    found = file_names(folder)
    failures = [f"{name} is missing." for name in REQUIRED if name not in found]
    if CHECKSUMS not in found:
        return failures
    listed, failure = _read_checksums(folder)
    if failure:
        return [*failures, failure]
    failures += [
        f"{name} is missing, and {CHECKSUMS} lists it."
        for name in listed
        if name not in found and name not in REQUIRED
    ]
    for name in found:
        if name == CHECKSUMS:
            continue
        if (folder / name).is_symlink() or not (folder / name).is_file():
            failures.append(f"{name} is not a regular file.")
        elif name not in listed:
            failures.append(f"{name} is extra: {CHECKSUMS} does not list it.")
        elif _sha256(folder / name) != listed[name]:
            failures.append(f"{name} differs from its checksum.")
    return failures


def identity(folder: pathlib.Path) -> str:
    """Returns the checksum of all checksums: one name for all that is in a release."""
    return _sha256(folder / CHECKSUMS)


def read_json(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        value = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(
            f"{folder / name} cannot be read ({type(e).__name__}); allowed: a file of "
            "an undamaged release."
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{folder / name} is no JSON object; allowed: one.")
    return value


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the manifest.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    manifest = read_json(folder, MANIFEST)
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{folder / MANIFEST} states the format {manifest.get('format')!r}; "
            f"allowed: {FORMAT}."
        )
    return manifest


def read_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the config, as values of the types that it was written with."""
    values = run_dir.from_json_values(read_json(folder, CONFIG))
    return ml_collections.ConfigDict(values)


def read_model(
    folder: pathlib.Path, config: ml_collections.ConfigDict, manifest: dict[str, Any]
) -> Model:
    """Builds the model that a release is of.

    Args:
        folder: the release.
        config: its config.
        manifest: its manifest.

    Raises:
        InputError: config and manifest do not describe one model of this software.
    """
    try:
        stated = manifest["model"]
        shape = tuple(int(n) for n in stated["image_shape"])
        model = build_model(config, shape, int(stated["num_classes"]))
        built = signature(model)
    except MALFORMED as e:
        raise InputError(
            f"{folder} does not describe a model of this version of dpdm_jax "
            f"({reason(e)}); allowed: an undamaged release."
        ) from None
    for field in built:
        if built[field] != stated.get(field):
            raise InputError(
                f"{folder / MANIFEST} states another {field} than {CONFIG} gives; "
                "allowed: files of one release."
            )
    return model


def write_parameters(path: pathlib.Path, params: Any, dtype: str) -> None:
    """Writes parameters.

    Args:
        path: the file.
        params: nested dict of float32 arrays.
        dtype: one of ``DTYPES``.

    Raises:
        InputError: a number is not finite, as it is or as ``dtype``.
    """
    arrays = {}
    for name, leaf in named_leaves(params).items():
        with np.errstate(over="ignore"):
            arrays[name] = np.array(leaf, dtype, order="C")
        if not np.isfinite(arrays[name]).all():
            raise InputError(
                f"The weights {name} are not finite as release.dtype={dtype!r}; "
                "allowed: finite weights, in float16 up to 65504."
            )
    path.write_bytes(safetensors.numpy.save(arrays))


def read_parameters(folder: pathlib.Path, model: Model, dtype: str) -> Any:
    """Reads parameters.

    Args:
        folder: the release.
        model: what they must fit.
        dtype: what they must be stored as.

    Returns:
        Nested dict of float32 NumPy arrays.

    Raises:
        InputError: the file is damaged, or names, shapes, dtypes or values are not as
            they must be.
    """
    path = folder / PARAMETERS
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as e:
        raise InputError(
            f"{path} cannot be read ({type(e).__name__}); allowed: an undamaged file."
        ) from None
    shapes = jax.eval_shape(model.network.init, jax.random.key(0))
    wanted = named_leaves(shapes)
    for name in sorted({*wanted, *arrays}):
        if name not in arrays or name not in wanted:
            state = "lacks" if name in wanted else "has the unknown"
            raise InputError(
                f"{path} {state} weights {name}; allowed: the {len(wanted)} arrays of "
                "the config's network."
            )
        found, shape = arrays[name], wanted[name].shape
        if found.shape != shape or found.dtype != dtype:
            raise InputError(
                f"{path}: {name} is {found.dtype} of shape {found.shape}; allowed: "
                f"{dtype} of shape {shape}."
            )
        if not np.isfinite(found).all():
            raise InputError(
                f"{path}: {name} has values that are not finite; allowed: finite ones."
            )
    leaves = [arrays[name].astype(np.float32) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def sample_failures(
    folder: pathlib.Path, model: Model, manifest: dict[str, Any]
) -> list[str]:
    """Returns a sentence if the samples are not those that the manifest describes."""
    path = folder / SAMPLES
    described = manifest["samples"]
    if described is None:
        return [f"{MANIFEST} does not mention {SAMPLES}."] if path.exists() else []
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = sorted(archive)
            shape, dtype = archive["images"].shape, archive["images"].dtype
    except Exception as e:  # a damaged zip raises many kinds
        return [f"{SAMPLES} cannot be read ({type(e).__name__})."]
    wanted = (described["num_images"], *model.network.image_shape)
    if shape != wanted or dtype != np.uint8 or not {*names} <= {"images", "labels"}:
        return [f"{SAMPLES} does not hold uint8 images of shape {wanted} alone."]
    return []


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_checksums(folder: pathlib.Path) -> tuple[dict[str, str], str | None]:
    listed: dict[str, str] = {}
    try:
        *lines, rest = (folder / CHECKSUMS).read_text().split("\n")
    except (OSError, ValueError) as e:
        return {}, f"{CHECKSUMS} cannot be read ({type(e).__name__})."
    if rest:
        return {}, f"{CHECKSUMS} is damaged: it does not end with a line."
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[2] in listed:
            return {}, f"{CHECKSUMS} is damaged: {line[:80]!r} is not one file's line."
        listed[match[2]] = match[1]
    return listed, None
