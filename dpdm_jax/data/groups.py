"""Whose an image is: groups of images that the guarantee takes for one unit."""

import dataclasses
import functools
import hashlib
import json
import unicodedata
from collections.abc import Sequence

import numpy as np

from dpdm_jax.errors import InputError, listed

# How programs write that there is no value. A group of such images would be of several
# people, who would be protected less than the statement says.
_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>"})


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a source's images. Private, but for their number.

    Attributes:
        names: of the groups, which differ; in the order in which images are first
            theirs.
        owners: int64 [images], the number of each image's group. A group without images
            contributes nothing.
    """

    names: tuple[str, ...]
    owners: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, values: Sequence[str]) -> "Groups":
        """Makes groups of what a column says of each image.

            >>> groups = Groups.of(["anna", "berta", "anna"])
            >>> len(groups), groups.owners.tolist(), groups.members(0).tolist()
            (2, [0, 1, 0], [0, 2])

        Args:
            values: of the images, in their order; see ``complete_groups``.
        """
        numbers: dict[str, int] = {}
        owners = [numbers.setdefault(value, len(numbers)) for value in values]
        return cls(tuple(numbers), np.array(owners, np.int64))

    @property
    def sizes(self) -> np.ndarray:
        """How many images each group has, int64 [groups]."""
        return np.diff(self._starts)

    @property
    def shares(self) -> np.ndarray:
        """What each image is of its group's mean, float64 [images]: 1 / its size."""
        shares: np.ndarray = 1.0 / self.sizes[self.owners]
        return shares

    def members(self, group: int) -> np.ndarray:
        """Returns the images of a group, increasing int64.

        Args:
            group: its number.
        """
        return self._order[self._starts[group] : self._starts[group + 1]]

    def and_singles(self, count: int) -> "Groups":
        """Returns these groups and, behind their images, some that are alone.

        Args:
            count: of the further images.
        """
        # Names of other lengths than any there is: none can be the same.
        longest = max(map(len, self.names))
        names = tuple(f"{i:0{longest + 1}d}" for i in range(count))
        owners = np.append(self.owners, len(self) + np.arange(count))
        return Groups((*self.names, *names), owners)

    def digest(self) -> bytes:
        """Returns 32 bytes that differ if a name or an image's group does."""
        whole = hashlib.sha256(json.dumps(self.names).encode())
        whole.update(self.owners.astype("<i8").tobytes())
        return whole.digest()

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.owners, kind="stable").astype(np.int64)

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        sizes = np.bincount(self.owners, minlength=len(self.names))
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def complete_groups(
    values: Sequence[object], names: Sequence[str], column: str, where: str
) -> list[str]:
    """Returns the group of each image, if every image has one.

    Blanks around a value are no part of it, nor is which of its equivalent spellings
    Unicode has it in, such as an umlaut in one character or in two: they would make two
    people of one.

    Args:
        values: texts or integers; None, or what programs write in its place, where
            there is none.
        names: what messages call the images.
        column: of the values.
        where: they are looked for, for messages.

    Raises:
        InputError: some are missing, which says how many and names them; or one is
            neither a text nor an integer.
    """
    found, missing = [], []
    for name, value in zip(names, values, strict=True):
        if value is not None and (
            not isinstance(value, str | int) or isinstance(value, bool)
        ):
            raise InputError(
                f"{name} has the {column} {str(value)[:80]!r} in {where}; allowed: a "
                "text or an integer that says whose it is."
            )
        text = "" if value is None else str(value)
        text = unicodedata.normalize("NFC", text).strip()
        found.append(text)
        if text.casefold() in _MISSING:
            missing.append(name)
    if missing:
        raise InputError(
            f"{len(missing)} of {len(values)} images have no {column} in {where} "
            f"({listed(missing)}); allowed: one for each, as data.group is {column!r}."
        )
    return found
