"""Captions of figures by public wordings: of digits by hand, and of those in fonts."""

from collections.abc import Iterable, Sequence

import numpy as np

#: The figures in words.
WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
#: How captions speak of a digit, by its word or its figure.
WORDINGS = (
    "a handwritten {word}",
    "a handwritten {figure}",
    "the digit {word}",
    "the digit {figure}",
    "the number {word}",
    "a scan of the number {figure}",
    "{word}, written by hand",
    "a small picture of the digit {word}",
)


def drawn(number: int, seed: int) -> np.ndarray:
    """Draws a wording for each of some images, the same on every machine.

    Args:
        number: of images, whose classes the draw does not know.
        seed: of the draw.

    Returns:
        int [number], places in ``WORDINGS``.
    """
    # RandomState is frozen by NumPy, unlike Generator.
    return np.random.RandomState(seed).randint(len(WORDINGS), size=number)


def written(wordings: Iterable[int], figures: Sequence[int]) -> list[str]:
    """Returns captions, such as "the digit three".

    Args:
        wordings: places in ``WORDINGS``, one for each image.
        figures: 0 to 9, likewise.
    """
    return [
        WORDINGS[wording].format(word=WORDS[figure], figure=figure)
        for wording, figure in zip(wordings, figures, strict=True)
    ]
