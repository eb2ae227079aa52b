"""Reader of PyTorch's files (``.pth``), those of the official DPDM code above all."""

import dataclasses
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors

from dpdm_jax import tensors
from dpdm_jax.errors import InputError, reason
from dpdm_jax.interop import inert_pickle

# The official code saves the network inside a denoiser inside a parallel wrapper.
_PREFIX = "module.model."


@dataclasses.dataclass(frozen=True)
class OfficialCheckpoint:
    """What we use of an official checkpoint.

    Attributes:
        model: the trained weights in PyTorch layout, by official name
            (``all_modules.0.weight`` and so on).
        ema: their exponential moving average, with the same names.
        step: value of the official step counter, which counts micro-batches.
    """

    model: dict[str, np.ndarray]
    ema: dict[str, np.ndarray]
    step: int


def read_official_checkpoint(path: str | os.PathLike[str]) -> OfficialCheckpoint:
    """Reads a checkpoint of the official code, on the CPU; no code in it is run.

    Args:
        path: the ``.pth`` file.

    Returns:
        Its weights, raw and averaged, and its step.

    Raises:
        InputError: PyTorch is not installed, or the file is missing, damaged or of
            another kind.
    """
    content = load(path, lambda reason: _foreign(path, reason))
    for keys in (("model",), ("ema", "shadow_params"), ("step",)):
        node = content
        for key in keys:
            if not isinstance(node, Mapping) or key not in node:
                raise _foreign(path, f"it has no entry {'.'.join(keys)}")
            node = node[key]
    model, averages = content["model"], content["ema"]["shadow_params"]
    if not isinstance(model, Mapping) or not all(
        isinstance(name, str) and name.startswith(_PREFIX) for name in model
    ):
        raise _foreign(path, f"its model's names don't all start with {_PREFIX}")
    if not isinstance(content["step"], int):
        raise _foreign(path, "its step is not an integer")
    if not isinstance(averages, Sequence):
        raise _foreign(path, "its averaged weights are not tensors in a list")
    torch = import_torch()
    tensors = [*model.values(), *averages]
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise _foreign(path, "some of its weights are not tensors")
    if [t.shape for t in model.values()] != [t.shape for t in averages]:
        raise _foreign(path, "its averaged weights differ in shape from its model's")

    names = [name.removeprefix(_PREFIX) for name in model]
    arrays = [tensor.detach().to(torch.float32).numpy() for tensor in tensors]
    return OfficialCheckpoint(
        model=dict(zip(names, arrays[: len(names)], strict=True)),
        ema=dict(zip(names, arrays[len(names) :], strict=True)),
        step=content["step"],
    )


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a file of named tensors, as public code publishes its weights.

    Args:
        path: a file .safetensors; or one of PyTorch's, of whose ``state_dict`` entry
            the tensors are if it has one. Of a file .ckpt, which training frameworks
            write, other objects are passed over; no code in a file is run.

    Returns:
        Float32 arrays by name.

    Raises:
        InputError: PyTorch is needed and not installed, or it is no such file.
    """

    def foreign(why: str) -> InputError:
        return InputError(
            f"{path} is no file of weights: {why}; allowed: named tensors, as "
            "torch.save writes a model's state_dict."
        )

    if os.fspath(path).endswith(".safetensors"):
        try:
            arrays = tensors.read(pathlib.Path(path).read_bytes())
        except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
            raise foreign(f"safetensors can't read it ({reason(error)})") from error
        return {name: array.astype(np.float32) for name, array in arrays.items()}
    is_of_framework = os.fspath(path).endswith(".ckpt")
    content = load(path, foreign, passing_over_objects=is_of_framework)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    torch = import_torch()
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise foreign("it holds something else than named tensors")
    return {
        name: tensor.detach().to(torch.float32).numpy()
        for name, tensor in content.items()
    }


def import_torch() -> Any:
    """Returns the module ``torch``.

    Raises:
        InputError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            "Reading a PyTorch checkpoint needs PyTorch, which is not installed; "
            "install it with: pip install 'dpdm_jax[torch]'."
        ) from None
    return torch


def load(
    path: str | os.PathLike[str],
    foreign: Callable[[str], InputError],
    *,
    passing_over_objects: bool = False,
) -> Any:
    """Reads the tensors and plain values of a file, on the CPU; no code in it is run.

    Args:
        path: the file.
        foreign: makes the error of a file that is no such thing, from the reason.
        passing_over_objects: whether other objects are passed over, and not refused.

    Returns:
        What was saved.

    Raises:
        InputError: PyTorch is not installed, the file is missing, or it can't be read.
    """
    torch = import_torch()
    if not os.path.isfile(path):
        raise InputError(f"The checkpoint is {path}; allowed: an existing file.")
    if passing_over_objects and _is_program(path):
        raise foreign("it holds a program")
    options: dict[str, Any] = {"weights_only": True}
    if passing_over_objects:
        options = {"weights_only": False, "pickle_module": inert_pickle}
    try:
        return torch.load(path, map_location="cpu", **options)
    except (OSError, EOFError, ValueError, RuntimeError, KeyError) as error:
        raise foreign("PyTorch can't read it") from error
    except pickle.UnpicklingError as error:
        raise foreign("it holds more than tensors and plain values") from error


def _is_program(path: str | os.PathLike[str]) -> bool:
    """Whether PyTorch would take a file for TorchScript, and load that."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _foreign(path: Any, reason: str) -> InputError:
    return InputError(
        f"{path} is not a checkpoint of the official DPDM code: {reason}; allowed: a "
        "file with the entries model, ema, optimizer and step."
    )
