"""Has what tests ask for over and over computed once, to the last bit the same.

scikit-learn reads the digits from a table of numbers each time.
"""

import functools

from sklearn import datasets


def install() -> None:
    """Has it remembered from now on, in this process and those forked from it."""
    datasets.load_digits = functools.cache(datasets.load_digits)
