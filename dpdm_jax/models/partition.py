"""Which of a model's parameters are trained.

Under differential privacy it is not enough to leave a parameter as it is: a gradient by
it would eat the clip norm, be noised and be exchanged. What is fixed is never
differentiated: a step clips, noises, updates and averages the trained part alone.
"""

from collections.abc import Callable
from typing import Any

#: Nested dictionary of arrays.
Params = Any


def split(
    params: Params, is_trained: Callable[[str], bool], prefix: str = ""
) -> tuple[Params, Params]:
    """Takes parameters apart.

    Args:
        params: nested dictionary of arrays.
        is_trained: says of a path, such as "block_0/weight", whether it is trained.
        prefix: of the paths, with its last "/".

    Returns:
        The trained ones and the fixed ones: dictionaries with those entries alone.
    """
    trained: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, value in params.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            parts = split(value, is_trained, f"{path}/")
            for kept, part in zip((trained, fixed), parts, strict=True):
                if part:
                    kept[name] = part
        else:
            (trained if is_trained(path) else fixed)[name] = value
    return trained, fixed


def join(trained: Params, fixed: Params) -> Params:
    """Undoes ``split``."""
    if not fixed:
        return trained
    joined = {**trained, **fixed}
    for name in trained.keys() & fixed.keys():
        joined[name] = join(trained[name], fixed[name])
    return joined
