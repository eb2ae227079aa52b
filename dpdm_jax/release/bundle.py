"""The files of a release, and how they are read without being believed."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy

from dpdm_jax import (
    conditions,
    files,
    json_values,
    run_dir,
    stored_config,
    tensors,
    validate,
)
from dpdm_jax.errors import InputError, reason
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import Model, build_model, signature
from dpdm_jax.release import published
from dpdm_jax.training.power_averages import check_weights_name

#: The second binds every file to the privacy statement by its digest.
FORMATS = ("dpdm_jax release 1", "dpdm_jax release 2")
FORMAT = FORMATS[-1]

CONFIG = "config.json"
MANIFEST = run_dir.MANIFEST
PARAMETERS = "params.safetensors"
PRIVACY = "PRIVACY.json"
PRIVACY_TEXT = "PRIVACY.md"
CHECKSUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
SAMPLES = "samples.npz"
CARD = "README.md"
SAMPLER = "sampler.npz"
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

_MANIFEST_FIELDS = {
    "format",
    "name",
    "run_id",
    "step",
    "weights",
    "dtype",
    "num_parameters",
    "model",
    "samples",
    "emptied_in_config",
}
_MODEL_FIELDS = {"image_shape", "num_classes", "parameterization", "parameters"}
# Of models whose condition is no class, and of those of latents.
_OPTIONAL = frozenset({"condition", "codec"})
_OF_SAMPLES = frozenset({"prompts"})  # of images asked for by texts
_CLASS_NAMES = "class_names"  # of classes whose names the config states
_SAMPLES_FIELDS = {
    "num_images",
    "labels",
    "labels_from_file",
    "sampler",
    "seed",
    "rounding",
}

# Format 1 took any name; one that goes over lines could pass for a part of a statement.
_OLD_NAME = (
    re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}"),
    "one line of up to 200 characters",
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
    lines = [f"{digest}  {name}\n" for name, digest in digests(folder).items()]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def load_failures(folder: pathlib.Path) -> list[str]:
    """Returns a sentence for each listed file that is not as ``SHA256SUMS`` has it.

    For those who read a release and publish nothing. Links are followed, of which a
    cache of downloads is made, and what is not listed is not looked at: what version
    control or an operating system puts beside. Nor is the model card, which hubs let
    people edit.

    Args:
        folder: the release.
    """
    if not folder.is_dir():
        return [f"{folder} is not a folder."]
    if not (folder / CHECKSUMS).is_file():
        return [f"{CHECKSUMS} is missing."]
    listed, failure = _read_checksums(folder)
    if failure:
        return [failure]
    unlisted = [name for name in REQUIRED if name not in {CHECKSUMS, *listed}]
    failures = [f"{name} is missing in {CHECKSUMS}." for name in unlisted]
    for name, expected in listed.items():
        if name == CARD:
            continue
        if not (folder / name).is_file():
            failures.append(f"{name} is missing, and {CHECKSUMS} lists it.")
        elif files.sha256(folder / name) != expected:
            failures.append(f"{name} differs from its checksum.")
    return failures


def check_loads(folder: pathlib.Path) -> None:
    """Refuses a release that ``load_failures`` finds fault with.

    Raises:
        InputError: there is a fault.
    """
    if failures := load_failures(folder):
        raise InputError(
            f"{folder} is no intact release ({failures[0].rstrip('.')}); allowed: a "
            "folder as --mode=release writes it."
        )


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of each file, sums and signature aside, in order."""
    return {
        name: files.sha256(folder / name)
        for name in file_names(folder)
        if name not in (CHECKSUMS, SIGNATURE) and (folder / name).is_file()
    }


def stated_files(digests: Mapping[str, str]) -> dict[str, str]:
    """Returns those of ``digests`` that the privacy statement names.

    All but itself, and the model card that sums it up.
    """
    own = (PRIVACY, PRIVACY_TEXT, CARD)
    return {name: digest for name, digest in digests.items() if name not in own}


def file_failures(
    folder: pathlib.Path, digests_found: Mapping[str, str] | None = None
) -> list[str]:
    """Returns a sentence for each file that is not as ``SHA256SUMS`` has it.

    Args:
        folder: the release.
        digests_found: its ``digests``; None computes them.
    """
    if not folder.is_dir():
        return [f"{folder} is not a folder."]
    found = file_names(folder)
    if digests_found is None:
        digests_found = digests(folder)
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
        if (folder / name).is_symlink() or not (folder / name).is_file():
            failures.append(f"{name} is not a regular file.")
        elif name in (CHECKSUMS, SIGNATURE):
            continue
        elif name not in listed:
            failures.append(f"{name} is extra: {CHECKSUMS} does not list it.")
        elif digests_found[name] != listed[name]:
            failures.append(f"{name} differs from its checksum.")
    return failures


def identity(folder: pathlib.Path) -> str:
    """Returns the checksum of all checksums: one name for all that is in a release."""
    return files.sha256(folder / CHECKSUMS)


def read_json(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: it is missing, damaged or ambiguous.
    """
    try:
        value = json_values.loads((folder / name).read_bytes())
    except (OSError, ValueError) as e:
        raise InputError(
            f"{folder / name} cannot be read ({reason(e)}); allowed: a file of an "
            "undamaged release."
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{folder / name} is no JSON object; allowed: one.")
    return value


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the manifest.

    Raises:
        InputError: it is missing, damaged or of another format, or has a field that
            is unknown or out of range.
    """
    manifest = read_json(folder, MANIFEST)
    path = folder / MANIFEST
    if manifest.get("format") not in FORMATS:
        raise InputError(
            f"{path} states the format {manifest.get('format')!r}; allowed: "
            f"{' or '.join(FORMATS)}."
        )
    _check_fields(path, "", manifest, _MANIFEST_FIELDS, frozenset({_CLASS_NAMES}))
    _check_fields(path, "model.", manifest["model"], _MODEL_FIELDS, _OPTIONAL)
    if manifest["samples"] is not None:
        fields = manifest["samples"]
        _check_fields(path, "samples.", fields, _SAMPLES_FIELDS, _OF_SAMPLES)
    named = published.NAME if manifest["format"] == FORMAT else _OLD_NAME
    validate.text(f"{path}: name", manifest["name"], *named)
    check_weights_name(f"{path}: weights", manifest["weights"])
    for name, minimum in ("step", 0), ("num_parameters", 1):
        validate.integer(
            f"{path}: {name}",
            manifest[name],
            minimum=minimum,
            maximum=validate.MAX_COUNT,
        )
    return manifest


def class_names(manifest: Mapping[str, Any]) -> list[str]:
    """Returns the names of the classes in order of the labels; [] if not stated."""
    names: list[str] = manifest.get(_CLASS_NAMES, [])
    return names


def _check_fields(
    path: pathlib.Path,
    prefix: str,
    value: Any,
    wanted: set[str],
    optional: frozenset[str] = frozenset(),
) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {prefix}* is no object; allowed: one.")
    for name in sorted(({*value} ^ wanted) - optional):
        state = "lacks" if name in wanted else "has the unknown"
        raise InputError(
            f"{path} {state} field {f'{prefix}{name}'[:80]!r}; allowed: "
            f"{', '.join(sorted(wanted))}."
        )


def read_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the config; what is not published has its default.

    Raises:
        InputError: it is missing or damaged, or has a field that no release has.
    """
    path, values = folder / CONFIG, read_json(folder, CONFIG)
    for name in published.unknown_fields(stored_config.upgraded(values, path)):
        raise InputError(
            f"{path} has the unknown field {name[:80]!r}; allowed: the settings that "
            "this version of dpdm_jax publishes."
        )
    return stored_config.read(values, path)


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
        height, width, channels = map(int, stated["image_shape"])
        shape = height, width, channels
        model = build_model(config, shape, conditions.from_dict(stated))
        built = signature(model)
    except MALFORMED as e:
        raise InputError(
            f"{folder} does not describe a model of this version of dpdm_jax "
            f"({reason(e)}); allowed: an undamaged release."
        ) from None
    for field in {**built, **stated}:
        if built.get(field) != stated.get(field):
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
        arrays = tensors.read(path.read_bytes())
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as e:
        raise InputError(
            f"{path} cannot be read ({type(e).__name__}); allowed: an undamaged file."
        ) from None
    shapes = model.shapes
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
            of_classes = archive.get(_CLASS_NAMES)
            shape, dtype = archive["images"].shape, archive["images"].dtype
    except Exception as e:  # a damaged zip raises many kinds
        return [f"{SAMPLES} cannot be read ({type(e).__name__})."]
    wanted = (described["num_images"], *model.sample_shape)
    allowed = {"images", "labels", *_OF_SAMPLES.intersection(described)}
    if of_classes is not None and of_classes.tolist() == class_names(manifest):
        allowed.add(_CLASS_NAMES)
    if shape != wanted or dtype != np.uint8 or not {*names} <= allowed:
        return [f"{SAMPLES} does not hold uint8 images of shape {wanted} alone."]
    return []


def _read_checksums(folder: pathlib.Path) -> tuple[dict[str, str], str | None]:
    listed: dict[str, str] = {}
    try:
        *lines, rest = (folder / CHECKSUMS).read_text(encoding="utf-8").split("\n")
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
