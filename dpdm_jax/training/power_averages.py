"""Averages of the weights whose length is chosen after training.

Karras et al. 2024 (arXiv 2312.02696), section 3 and appendix C. An average whose
weights grow with a power of the step,

    average(t) = sum over i <= t of (i^(g+1) - (i-1)^(g+1)) / t^(g+1) * weights(i),

forgets at a rate that falls with the run: its length is a fraction of it. Two of them
are kept while a run trains, and copies of both every so many steps (snapshots). Any
other average, a shorter or a longer one, or one at an earlier step, is then close to a
linear combination of the snapshots, whose coefficients are found by least squares
between the profiles (what each average gives to the steps).

All of it is made of weights that the mechanism has released: it is post-processing, and
costs no epsilon. Choosing a length by results on the private images does.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.training import ema

#: Lengths that averages may have: the standard deviation of an average's profile, in
#: shares of the run. 12^-0.5 would be the plain mean of all weights.
SHORTEST, LONGEST = 0.01, 0.25
_WEIGHTS = re.compile(r"ema|average=(0\.\d{1,20})")
#: How many snapshots a run keeps at least, unless told how often.
NUM_SNAPSHOTS = 40


def interval(every_steps: int, num_steps: int) -> int:
    """Returns how many steps lie between snapshots.

    Args:
        every_steps: as the config has it; 0 leaves it to the number of steps.
        num_steps: of the run's plan.
    """
    return every_steps or max(1, num_steps // NUM_SNAPSHOTS)


class Snapshot(NamedTuple):
    """Which average a copy of the weights is.

    Attributes:
        step: t, after which it was taken, >= 1.
        length: of the average; see ``exponent_of``.
    """

    step: int
    length: float


def check_lengths(name: str, lengths: Sequence[float]) -> None:
    """Checks what a config asks for.

    Args:
        name: of the field.
        lengths: of the averages to keep.

    Raises:
        InputError: one is out of range, or there is one alone, or two are equal.
    """
    for length in lengths:
        validate.real(name, length, minimum=SHORTEST, maximum=LONGEST)
    if len(set(lengths)) != len(lengths) or len(lengths) == 1:
        raise InputError(
            f"{name} is {tuple(lengths)!r}; allowed: (), or two or more lengths, each "
            "another one."
        )


def check_average(name: str, length: float) -> None:
    """Checks the length of an average to rebuild; 0 stands for none.

    Raises:
        InputError: it is out of range.
    """
    if length != 0:
        validate.real(name, length, minimum=SHORTEST, maximum=LONGEST)


def weights_name(weights: str, average: float) -> str:
    """Says which weights were chosen, for settings of samples and for releases.

    Args:
        weights: "ema" or "raw".
        average: length of an average in their place; 0 for none.

    Returns:
        "ema" or "raw", or "average=0.05".
    """
    return f"average={float(average)!r}" if average else weights


def check_weights_name(name: str, weights: object) -> None:
    """Checks what a release says its weights are.

    Args:
        name: of the field.
        weights: as of ``weights_name``, of averaged ones.

    Raises:
        InputError: it is something else.
    """
    in_words = f"ema, or average=LENGTH, {SHORTEST} to {LONGEST}"
    validate.text(name, weights, _WEIGHTS, in_words)
    length = str(weights).partition("=")[2]
    if length:
        check_average(name, float(length))


def name_of(length: float) -> str:
    """Returns the name of an average among those of a state."""
    return f"power_{float(length)!r}"


def exponent_of(length: float) -> float:
    """Returns the power that a profile grows with.

    Its standard deviation, in shares of the run, is (g+1)^(1/2) (g+2)^-1 (g+3)^-(1/2)
    (section 3.1, equation 5), which falls with g.

    Args:
        length: from ``SHORTEST`` to ``LONGEST``.

    Returns:
        g >= 0.
    """
    # (g+2)^2 (g+3) = (g+1) / length^2, the only root that is no negative one.
    inverse = length**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(np.max(roots.real[np.isreal(roots)]))


def decay_at(step: jax.Array, exponent: float) -> jax.Array:
    """Returns the decay of an average's n-th update, (1 - 1/n)^(g+1) (equation 3).

    Args:
        step: n = 1, 2, ..., int32 []. The first update forgets what was there.
        exponent: g.

    Returns:
        float32 [].
    """
    n = jnp.asarray(step, jnp.float32)
    # log1p(-1/n) keeps the digits that 1 - 1/n has not; at n = 1 it is -infinity.
    return jnp.exp((exponent + 1.0) * jnp.log1p(-1.0 / n))


def decays(
    ema_decay: float, lengths: Sequence[float]
) -> Mapping[str, Callable[[jax.Array], jax.Array]]:
    """Returns the decay at a step of each average that a state has, under its name.

    Args:
        ema_decay: of the exponential moving average.
        lengths: of the others.
    """
    power = {
        name_of(length): functools.partial(decay_at, exponent=exponent_of(length))
        for length in lengths
    }
    return {ema.NAME: functools.partial(ema.decay_at, decay=ema_decay)} | power


def coefficients(
    snapshots: Sequence[Snapshot], wanted: Snapshot
) -> tuple[np.ndarray, float]:
    """Finds the combination of snapshots that is nearest to an average.

    Least squares between profiles as functions of time (appendix C.2, algorithm 3),
    among the combinations whose coefficients add up to one: what all weights have in
    common is then kept as it is, which the paper leaves to the fit.

    Args:
        snapshots: n >= 1.
        wanted: the average.

    Returns:
        float64 [n], exact where the average is a snapshot; and how far the
        combination's profile is from the average's: root of the integrated square of
        the difference, relative to the average's.
    """
    if wanted in snapshots:
        return np.eye(len(snapshots))[list(snapshots).index(wanted)], 0.0
    steps = np.array([each.step for each in snapshots], np.float64)
    exponents = np.array([exponent_of(each.length) for each in snapshots])
    step, exponent = np.array(wanted.step), np.array(exponent_of(wanted.length))
    products = _inner_products(steps[:, None], exponents[:, None], steps, exponents)
    towards = _inner_products(steps, exponents, step, exponent)
    size = float(_inner_products(step, exponent, step, exponent))
    # Rows and columns of one length, for the solver's sake.
    scale = np.sqrt(np.diag(products))
    n = len(snapshots)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = products / np.outer(scale, scale)
    system[:n, n] = system[n, :n] = 1 / scale / np.max(1 / scale)
    system[n, n] = 0.0
    right = np.append(towards / scale, np.sqrt(size))
    right[n] = 1 / np.max(1 / scale)
    # Profiles of neighbouring steps are nearly alike: of many solutions the smallest.
    found = np.linalg.lstsq(system, right, rcond=1e-12)[0][:n] / scale
    error = size - 2 * found @ towards + found @ products @ found
    return found, float(np.sqrt(max(error, 0.0) / size))


def _inner_products(
    steps: np.ndarray,
    exponents: np.ndarray,
    others: np.ndarray,
    other_exponents: np.ndarray,
) -> np.ndarray:
    """Returns integrals of products of profiles (g+1) s^g / t^(g+1), 0 < s <= t."""
    ratio = np.minimum(steps, others) / np.maximum(steps, others)
    # As far as the earlier profile reaches, the other one is a power of the step.
    later = np.where(steps < others, other_exponents, exponents)
    product = (exponents + 1) * (other_exponents + 1) * ratio**later
    return product / ((exponents + other_exponents + 1) * np.maximum(steps, others))
