"""Columns of tables: what a data set says of each of its images, beside label."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, overload

Value = TypeVar("Value")


class Column(NamedTuple):
    """The values of a column, one an image, in the order of the images.

    Attributes:
        values: of which captions want texts, and groups texts or integers; None where
            there is nothing.
        names: what messages call the images.
        where: the column is, for messages.
    """

    values: Sequence[object]
    names: Sequence[str]
    where: str


class Made(Sequence[Value]):
    """A sequence whose members are made as they are asked for, such as names of rows.

    A million of them would take more memory than what they are names of.
    """

    def __init__(self, count: int, make: Callable[[int], Value]):
        """Keeps how they are made.

        Args:
            count: of them.
            make: of a number in [0, count).
        """
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | list[Value]:
        chosen = range(self._count)[index]
        if isinstance(chosen, int):
            return self._make(chosen)
        return [self._make(i) for i in chosen]
