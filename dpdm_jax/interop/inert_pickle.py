"""Pickles of tensors among other objects, of which nothing is made and no code is run.

Checkpoints of training frameworks hold callbacks and settings beside the weights, whose
classes need not be installed. The module has what ``torch.load`` asks of a
``pickle_module``.
"""

import pickle
from typing import IO, Any

# What tensors and their dictionaries are made by. PyTorch looks storages up itself.
_TENSORS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
}


class Nothing:
    """Stands for an object of any other class; whatever is done to it is forgotten."""

    def __new__(cls, *args: Any, **options: Any) -> "Nothing":
        del args, options
        return object.__new__(cls)

    def __init__(self, *args: Any, **options: Any): ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, name: Any, value: Any) -> None: ...
    def __call__(self, *args: Any, **options: Any) -> "Nothing":
        return self

    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...


class Unpickler(pickle.Unpickler):
    """Makes tensors and plain values alone."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a pickle calls, or what does nothing in its place."""
        if (module, name) in _TENSORS:
            return super().find_class(module, name)
        return Nothing


def load(file: IO[bytes], **options: Any) -> Any:
    """Reads a pickle."""
    return Unpickler(file, **options).load()
