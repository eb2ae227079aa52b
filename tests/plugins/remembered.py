"""Has what tests ask for over and over computed once, to the last bit the same.

dp-accounting computes the same binomials for every noise that a calibration tries.
scikit-learn reads the digits from a table of numbers each time.
"""

import functools
from typing import Any

from dp_accounting.rdp import rdp_privacy_accountant
from sklearn import datasets


def install() -> None:
    """Has it remembered from now on, in this process and those forked from it.

    Where dp-accounting has no such function inside, tests only take longer.
    """
    for module, name in (
        (rdp_privacy_accountant, "_log_comb"),
        (datasets, "load_digits"),
    ):
        _remember(module, name)


def _remember(module: Any, name: str) -> None:
    function = getattr(module, name, None)
    if function is not None:
        setattr(module, name, functools.cache(function))
