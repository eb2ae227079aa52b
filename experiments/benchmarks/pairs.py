"""Timing of alternatives side by side, for machines whose speed drifts."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def interleaved(
    sides: dict[str, Callable[[], Any]], num_pairs: int, *, steady: bool = False
) -> dict[str, list[float]]:
    """Times each side once a round, in turn, after one untimed call of each.

    Args:
        sides: name -> function whose result is waited for.
        num_pairs: rounds, >= 1.
        steady: whether an untimed call of the same side also precedes every timed one,
            as steps follow steps in training. A process that waited finds its memory
            and caches taken.

    Returns:
        Name -> seconds of each round.
    """
    for run in sides.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(num_pairs):
        for name, run in sides.items():
            if steady:
                jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def repeated(
    sides: dict[str, Callable[[], Any]],
    num_rounds: int,
    *,
    wait: Callable[[Any], Any] = jax.block_until_ready,
    round_seconds: float = 0.3,
) -> dict[str, list[float]]:
    """Seconds of a call, for sides too short to be timed one call at a time.

    In its turn a side is called so often that the host's wait for the device is no part
    of the figure.

    Args:
        sides: name -> function that starts work on a device.
        num_rounds: see ``interleaved``.
        wait: waits for the work behind a function's result.
        round_seconds: that a turn takes at least.

    Returns:
        Name -> seconds of a call, of each round.
    """

    def often(run: Callable[[], Any], count: int) -> Callable[[], Any]:
        def turn() -> Any:
            for _ in range(count - 1):
                run()
            return wait(run())

        return turn

    counts = {}
    for name, run in sides.items():
        wait(run())  # the first call may load and choose programs
        start = time.perf_counter()
        wait(run())
        taken = time.perf_counter() - start
        counts[name] = max(1, math.ceil(round_seconds / taken))
    turns = {name: often(run, counts[name]) for name, run in sides.items()}
    seconds = interleaved(turns, num_rounds)
    return {name: [s / counts[name] for s in found] for name, found in seconds.items()}


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Median and range of the rounds' ratios; a round's two sides met like conditions.

    Args:
        numerator: seconds of one side by round.
        denominator: seconds of the other.
    """
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def in_words(values: dict[str, float]) -> str:
    """A ``spread`` as "1.04 (0.96 to 1.12)"."""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"
