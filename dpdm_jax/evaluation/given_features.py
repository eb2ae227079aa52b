"""Features of a network of one's own: a function, an exported one, or DINOv2's weights.

An exported function is a file of ``jax.export``, which holds a program and no Python,
so that it is read in any environment, without the code that made it. Before it stands
its digest: JAX crashes at a program that is damaged.
"""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export

from dpdm_jax import files
from dpdm_jax.data.transforms import format_shape
from dpdm_jax.errors import InputError, reason
from dpdm_jax.evaluation import cache, dinov2, features

#: ``features(images)``, of uint8 [n, h, w, c], returns floats [n, d].
Function = Callable[[np.ndarray], Any]
_WEIGHTS = (".pth", ".pt", ".safetensors")
_ALLOWED = (
    "a function uint8 [n, h, w, c] -> float [n, d] as "
    "dpdm_jax.evaluation.given_features.export_features writes it, or the weights of "
    "DINOv2 (.pth, .safetensors)"
)
_CAVEAT = (
    "figures on {name}'s features compare only with others on the same features, "
    "prepared alike"
)
_BATCH_SIZE = 256
_HEAD = b"dpdm_jax features 1\n"


class GivenFeatures:
    """Features of a function of arrays.

    Attributes: see ``features.Extractor``. An empty fingerprint stands for features
    that are not known to be the same next time.
    """

    def __init__(
        self,
        function: Function,
        num_features: int,
        *,
        name: str = "function",
        fingerprint: str = "",
        settings: dict[str, Any] | None = None,
        batch_size: int = _BATCH_SIZE,
    ):
        """Keeps a function.

        Args:
            function: of any number of images.
            num_features: d.
            name: for people.
            fingerprint: equal ones give equal features.
            settings: as JSON has values.
            batch_size: images in a call.
        """
        self._function = function
        self.name = name
        self.num_features = num_features
        self.fingerprint = fingerprint
        self.settings = {"features": name} | (settings or {})
        self.caveats: tuple[str, ...] = (_CAVEAT.format(name=name),)
        self.batch_size = batch_size

    def __call__(self, images: np.ndarray) -> jax.Array:
        """Computes features; see ``features.Extractor``.

        Raises:
            InputError: they are no finite floats [n, d].
        """
        found = np.asarray(self._function(images))
        wanted = (len(images), self.num_features)
        if found.shape != wanted or not np.issubdtype(found.dtype, np.floating):
            raise InputError(
                f"The features of {self.name} are {found.dtype} {list(found.shape)}; "
                f"allowed: floats {list(wanted)}."
            )
        if not np.isfinite(found).all():
            raise InputError(
                f"The features of {self.name} are not all finite; allowed: finite ones."
            )
        return jax.numpy.asarray(found, np.float32)


def load(given: str | pathlib.Path | Function, images: np.ndarray) -> GivenFeatures:
    """Makes an extractor of what was given as features.

    Args:
        given: a file, or a function of one's own.
        images: uint8 [n, h, w, c], n >= 1, such as it is for.

    Returns:
        The extractor.

    Raises:
        InputError: the file is missing, damaged, of another kind or for images of other
            shapes, or the function's features are no floats [n, d].
    """
    if callable(given):
        found = np.asarray(given(images[:1]))
        if found.ndim != 2 or len(found) != 1:
            raise InputError(
                f"The function given as features returns {list(found.shape)} of one "
                "image; allowed: [1, d]."
            )
        name = getattr(given, "__name__", type(given).__name__)
        return GivenFeatures(given, found.shape[1], name=name)
    path = pathlib.Path(given).expanduser()
    if not path.is_file():
        raise InputError(f"features is {str(given)!r}, no file; allowed: {_ALLOWED}.")
    digest = files.sha256(path)
    if path.suffix in _WEIGHTS:
        network = dinov2.load(path)
        params = features.on_every_device(network.params)
        compute = jax.jit(dinov2.features, static_argnums=1)
        return GivenFeatures(
            lambda x: compute(params, network.num_heads, features.over_devices(x)),
            network.num_features,
            name="DINOv2",
            fingerprint=cache.checksum(dinov2.PREPROCESSING, digest),
            settings={
                "preprocessing": dinov2.PREPROCESSING,
                "width": network.num_features,
                "weights_sha256": digest,
            },
            batch_size=16 * jax.local_device_count(),
        )
    exported = _read_exported(path, images.shape[1:])
    (inputs,), (outputs,) = exported.in_avals, exported.out_avals
    size = inputs.shape[0] if isinstance(inputs.shape[0], int) else 0
    call = jax.jit(exported.call)
    return GivenFeatures(
        (lambda x: _in_batches(call, x, size)) if size else call,
        outputs.shape[1],
        name=path.name,
        fingerprint=cache.checksum("exported", digest),
        settings={"sha256": digest},
        batch_size=size or _BATCH_SIZE,
    )


def export_features(
    function: Function | export.Exported,
    image_shape: tuple[int, int, int],
    path: str | pathlib.Path,
) -> None:
    """Writes a function as a file for ``--features`` and ``evaluate.features``.

    Args:
        function: ``features(images)`` of uint8 [n, h, w, c], which returns floats
            [n, d], written with JAX and for any n. What it closes over, such as
            weights, is in the file. Or what ``jax.export`` made of one.
        image_shape: (h, w, c).
        path: of the file.

    Raises:
        InputError: the function returns something else.
    """
    if isinstance(function, export.Exported):
        exported = function
    else:
        shape = export.symbolic_shape(f"n, {', '.join(map(str, image_shape))}")
        exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(
            jax.ShapeDtypeStruct(shape, np.uint8)
        )
    _check_exported(exported, "The function", image_shape)
    program = bytes(exported.serialize())
    with files.replacing(pathlib.Path(path)) as temporary:
        temporary.write_bytes(_HEAD + hashlib.sha256(program).digest() + program)


def _read_exported(path: pathlib.Path, image_shape: tuple[int, ...]) -> Any:
    content = path.read_bytes()
    digest, program = content[len(_HEAD) :][:32], content[len(_HEAD) + 32 :]
    if not content.startswith(_HEAD) or hashlib.sha256(program).digest() != digest:
        raise InputError(
            f"features is {str(path)!r}, which is damaged or of another kind; allowed: "
            f"{_ALLOWED}."
        )
    try:
        exported = export.deserialize(bytearray(program))
        _check_exported(exported, f"features is {str(path)!r}, which", image_shape)
    except InputError:
        raise
    except Exception as e:  # of a version that JAX no longer reads, for example
        raise InputError(
            f"features is {str(path)!r}, which JAX cannot read ({reason(e)}); allowed: "
            f"{_ALLOWED}."
        ) from None
    return exported


def _check_exported(
    exported: export.Exported, what: str, image_shape: tuple[int, ...]
) -> None:
    inputs, outputs = exported.in_avals, exported.out_avals
    takes = [inputs[0].dtype, *inputs[0].shape[1:]] if len(inputs) == 1 else inputs
    if takes != [np.dtype(np.uint8), *image_shape]:
        raise InputError(
            f"{what} takes {', '.join(map(str, inputs))}; allowed: uint8 images "
            f"{format_shape(image_shape)}, as many as are given."
        )
    is_vector = len(outputs) == 1 and len(outputs[0].shape) == 2
    if not is_vector or not np.issubdtype(outputs[0].dtype, np.floating):
        raise InputError(
            f"{what} returns {', '.join(map(str, outputs))}; allowed: floats [n, d]."
        )


def _in_batches(call: Function, images: np.ndarray, size: int) -> np.ndarray:
    """Calls a function that takes one number of images alone."""
    parts = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = np.resize(part, (size, *part.shape[1:]))
        parts.append(np.asarray(call(filled))[: len(part)])
    return np.concatenate(parts)
