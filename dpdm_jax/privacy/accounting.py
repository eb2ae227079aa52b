"""Epsilon of Poisson-subsampled Gaussian mechanisms, and the noise for a target."""

import contextlib
import functools
import importlib.metadata
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.optimize

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy.batch_selection import PoissonSampling
from dpdm_jax.privacy.exact import bounds

if TYPE_CHECKING:
    import dp_accounting

ACCOUNTANTS = ("pld", "rdp")
# What is promised is "zero-out": N, q, T and the divisor are public constants, and one
# example's record is replaced by nothing, so that it adds nothing to any sum. To a
# clipped sum over a Poisson sample that is the same as its absence: the accountant's
# relation is this one, with sensitivity C and these constants fixed.
RELATION = "add_or_remove_one"

# dp-accounting's default Renyi orders have a gap above 63, where the best order lies
# for epsilon <= 0.2 and the usual deltas, and end at 1024, too early below 0.02.
_RDP_ORDERS = (
    *(1 + i / 10 for i in range(1, 100)),
    *range(11, 64),
    *range(64, 128, 4),
    *(round(128 * 2 ** (i / 2)) for i in range(11)),
)

# Every so many of them are tried, then fewer around the best; see
# ``_rdp_epsilon``.
_STRIDES = (27, 9, 3, 1)

# dp-accounting composes privacy loss distributions by raising a Fourier transform to
# the power T, whose rounding error grows with T and would understate epsilon for small
# deltas (against the exact Gaussian curve: by 0.03 % at delta 1e-11, T = 10,000). This
# much of delta per composed step is set aside for it, over ten times what was observed.
_ROUNDING_DELTA_PER_STEP = 2.0**-51

# Of delta 2 to the minus so many is set aside for errors of the arithmetic: the first
# that is enough, since any share gives a bound.
_SET_ASIDE = (20, 10)

# Noise below this protects nobody. Infinity is a bound that needs no arithmetic at the
# end of the floating-point range.
_NO_NOISE = 1e-6

# Below this noise the guarantee means nothing; calibration never returns less.
_MIN_NOISE_MULTIPLIER = 2.0**-6

# Beyond this ratio of noise to sampling probability the moments of a step's loss come
# near the resolution of floating-point numbers (relative error 3e-6 at the ratio). More
# noise is accounted for as this much, which overstates epsilon.
_MAX_NOISE_PER_PROBABILITY = 1e6


class Event(NamedTuple):
    """A private query of the data: ``num_steps`` steps of one subsampled Gaussian.

    Attributes:
        sampling: which examples enter each step; a single query of the full data is
            ``PoissonSampling(1.0, 1)``.
        noise_multiplier: sigma, noise standard deviation over L2 sensitivity, >= 0.
        num_steps: the steps that count, 0 to ``sampling.num_steps``.
        coordinates: numbers in each noised sum, at most, >= 1, where the arithmetic is
            exact: its share (``exact.bounds``) is in every epsilon. None leaves out
            what the arithmetic does.
    """

    sampling: PoissonSampling
    noise_multiplier: float
    num_steps: int
    coordinates: int | None = None


def accountant_version() -> str:
    """Returns the library behind the figures and its version, for statements."""
    return f"dp-accounting {importlib.metadata.version('dp-accounting')}"


def dp_event(
    sampling: PoissonSampling, noise_multiplier: float, num_steps: int | None = None
) -> "dp_accounting.DpEvent":
    """Returns the mechanism as a dp-accounting event.

    Args:
        sampling: the sampler that the training loop runs.
        noise_multiplier: sigma, noise standard deviation over the clipping bound, >= 0.
        num_steps: steps taken, 0 to ``sampling.num_steps``; None means all.

    Raises:
        InputError: if a value is out of range.
    """
    import dp_accounting

    event = _event(sampling, noise_multiplier, num_steps)
    if event.num_steps == 0:
        return dp_accounting.NoOpDpEvent()
    if event.noise_multiplier == 0:
        return dp_accounting.NonPrivateDpEvent()
    step = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    if sampling.sampling_probability < 1:
        step = dp_accounting.PoissonSampledDpEvent(sampling.sampling_probability, step)
    return dp_accounting.SelfComposedDpEvent(step, event.num_steps)


def epsilon(
    sampling: PoissonSampling,
    noise_multiplier: float,
    delta: float,
    accountant: str = "pld",
    num_steps: int | None = None,
    coordinates: int | None = None,
) -> float:
    """Returns an upper bound on epsilon after ``num_steps`` steps.

    Args:
        sampling: the sampler that the training loop runs.
        noise_multiplier: sigma, noise standard deviation over the clipping bound, >= 0;
            below 1e-6 gives infinity.
        delta: in (0, 1).
        accountant: "pld" (privacy loss distributions; tight to about 0.1 %) or "rdp"
            (Renyi, as in the papers; looser).
        num_steps: steps taken, 0 to ``sampling.num_steps``; None means all.
        coordinates: see ``Event``.

    Raises:
        InputError: if a value is out of range.

    Sources: Mironov, Talwar, Zhang 2019 (arXiv 1908.10530) for "rdp"; Doroshenko et al.
    2022 (arXiv 2207.04380) for "pld".
    """
    event = _event(sampling, noise_multiplier, num_steps, coordinates)
    return epsilon_of_events([event], delta, accountant)


def epsilon_of_events(
    events: Iterable[Event], delta: float, accountant: str = "pld"
) -> float:
    """Returns an upper bound on the epsilon of several private queries together.

    The queries may be adaptive: each may depend on the results of those before.

    Args:
        events: each query.
        delta: in (0, 1), of the composition.
        accountant: "pld" or "rdp".

    Raises:
        InputError: if a value is out of range.
    """
    validate.real("delta", delta, above=0, below=1)
    validate.one_of("accountant", accountant, ACCOUNTANTS)
    active = _active(events)
    if not active:
        return 0.0
    if is_boundless(active):
        return math.inf
    of_reals = _rdp_epsilon if accountant == "rdp" else _pld_epsilon
    ideal = _within_range(active)
    return _with_errors(lambda delta: of_reals(ideal, delta), _errors(active), delta)


def epsilon_of_selection(
    candidate: Iterable[Event],
    mean: float,
    shape: float,
    delta: float,
    others: Iterable[Event] = (),
) -> float:
    """Returns an upper bound on the epsilon of the best of a random number of runs.

    Each run is a fresh execution of one mechanism, whose output includes the score that
    it is chosen by; only the best run is published. What that asks of the user is in
    ``tuning.Selection``.

    Args:
        candidate: the private queries of one run.
        mean: expected number of runs, >= 1.
        shape: of their number's distribution: infinity is Poisson, 1 geometric, 0
            logarithmic, else truncated negative binomial.
        delta: in (0, 1), of everything.
        others: private queries beside the selection, which compose with it.

    Raises:
        InputError: if a value is out of range.

    Source: Papernot, Steinke 2022 (arXiv 2110.03620), theorems 2 and 6, as
    dp-accounting has them. They are about Renyi divergences; there is no "pld" figure.
    """
    validate.real("delta", delta, above=0, below=1)
    validate.real("mean", mean, minimum=1)
    validate.real("shape", shape, minimum=0, allow_inf=True)
    once, beside = _active(candidate), _active(others)
    if not once:
        return epsilon_of_events(beside, delta, "rdp")
    if is_boundless(once + beside):
        return math.inf
    of_runs = _errors(once).times(bounds.most_runs(mean, shape))
    # The number of runs is larger with a probability of 2^-100.
    unlikely = bounds.Errors(0.0, 2.0**-100 if of_runs.epsilon else 0.0)
    arguments = (
        _within_range(once),
        float(mean),
        float(shape),
        _within_range(beside),
    )
    return _with_errors(
        lambda delta: _selection_epsilon(*arguments, delta),
        of_runs + unlikely + _errors(beside),
        delta,
    )


def is_boundless(events: Iterable[Event]) -> bool:
    """Whether a query has too little noise for any guarantee: epsilon is infinite.

    Args:
        events: (sampling, noise_multiplier, num_steps) of each query.
    """
    return any(
        event.num_steps > 0 and event.noise_multiplier < _NO_NOISE for event in events
    )


def calibrate_noise_multiplier(
    sampling: PoissonSampling,
    target_epsilon: float,
    target_delta: float,
    accountant: str = "pld",
    before: Iterable[Event] = (),
    coordinates: int | None = None,
) -> float:
    """Returns the least noise multiplier whose epsilon is at most the target.

    The result is rounded up to six significant digits and then checked with
    ``epsilon``, so that the guarantee holds for the very number returned.

    Args:
        sampling: the sampler that the training loop runs, for all its steps.
        target_epsilon: > 0; infinity gives 0 (no noise, NOT PRIVATE).
        target_delta: in (0, 1).
        accountant: "pld" or "rdp".
        before: private queries whose composition with these steps is to meet the
            target.
        coordinates: of the steps, see ``Event``.

    Returns:
        sigma, noise standard deviation over the clipping bound; 0 only for an infinite
        target, else at least 1/64.

    Raises:
        InputError: if a value is out of range, or no noise reaches the target.
    """
    validate.real("epsilon", target_epsilon, above=0, allow_inf=True)
    validate.real("delta", target_delta, above=0, below=1)
    validate.one_of("accountant", accountant, ACCOUNTANTS)
    if math.isinf(target_epsilon):
        return 0.0

    before = tuple(before)

    def excess(noise_multiplier: float) -> float:
        steps = _event(sampling, noise_multiplier, None, coordinates)
        spent = epsilon_of_events([*before, steps], target_delta, accountant)
        return spent - target_epsilon

    noise = _least(excess, _max_noise(sampling))
    digits = 5 - math.floor(math.log10(noise))
    unit = 10.0**-digits
    noise = round(math.ceil(noise / unit) * unit, digits)
    while excess(noise) > 0:
        noise = round(noise + unit, digits)
        unit *= 2
    return noise


def _event(
    sampling: PoissonSampling,
    noise_multiplier: float,
    num_steps: int | None,
    coordinates: int | None = None,
) -> Event:
    """Returns the checked event; all steps of the sampler if ``num_steps`` is None."""
    if not isinstance(sampling, PoissonSampling):
        raise InputError(
            f"sampling is {sampling!r}; allowed: a PoissonSampling, the object that "
            "the training loop samples with."
        )
    validate.real("noise_multiplier", noise_multiplier, minimum=0)
    if num_steps is None:
        num_steps = sampling.num_steps
    num_steps = validate.integer("num_steps", num_steps, minimum=0)
    if num_steps > sampling.num_steps:
        raise InputError(
            f"num_steps is {num_steps}; allowed: at most {sampling.num_steps}, the "
            "steps of the sampler."
        )
    if coordinates is not None:
        coordinates = validate.integer("coordinates", coordinates, minimum=1)
    return Event(sampling, float(noise_multiplier), num_steps, coordinates)


def _active(events: Iterable[Event]) -> tuple[Event, ...]:
    """Returns the queries that take place, checked."""
    checked = [_event(*event) for event in events]
    return tuple(event for event in checked if event.num_steps > 0)


def _within_range(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Returns the queries as the accountants take them: of real numbers."""
    return tuple(
        event._replace(
            noise_multiplier=min(event.noise_multiplier, _max_noise(event.sampling)),
            coordinates=None,
        )
        for event in events
    )


def _errors(events: tuple[Event, ...]) -> bounds.Errors:
    return bounds.errors(
        (event.noise_multiplier, event.coordinates, event.num_steps)
        for event in events
        if event.coordinates is not None
    )


def _with_errors(
    epsilon_at: Callable[[float], float], errors: bounds.Errors, delta: float
) -> float:
    """Returns the epsilon of the mechanism that a program runs.

    A millionth of delta is set aside for its errors. That is far more than they need
    unless epsilon is very large (above 15 at least): then a thousandth is, and where
    that is not enough either, there is no bound.

    Args:
        epsilon_at: of the mechanism of real numbers, by delta.
        errors: see ``bounds.Errors``.
        delta: of the program's mechanism.
    """
    if errors == bounds.NO_ERRORS:
        return epsilon_at(delta)
    for bits in _SET_ASIDE:
        usable = delta * math.exp(-errors.epsilon) * (1 - 2.0**-bits)
        if usable == 0:
            return math.inf
        ideal = epsilon_at(usable)
        # In logarithms, since e^epsilon overflows.
        exponent = ideal + errors.epsilon
        spent = math.log(errors.delta) + math.log1p(math.exp(-exponent)) + exponent
        if spent <= math.log(delta) - bits * math.log(2):
            return exponent
    return math.inf


@functools.lru_cache(maxsize=4096)
def _rdp_epsilon(events: tuple[Event, ...], delta: float) -> float:
    """Returns the least epsilon of all orders, of queries that compose.

    Every order gives a valid bound, and the bounds fall to one minimum and rise again,
    so that those around the best of a few are enough. A fractional order takes
    dp-accounting as long as the composition of a privacy loss distribution.
    """
    from dp_accounting import rdp

    def least(orders: Iterable[float]) -> tuple[float, float]:
        tried = np.array(tuple(orders), np.float64)
        spent = np.array([_composed_divergence(events, order) for order in tried])
        return rdp.compute_epsilon(tried, spent, delta)

    with _quiet():
        epsilon, order = least((*_RDP_ORDERS[:: _STRIDES[0]], _RDP_ORDERS[-1]))
        for wide, stride in itertools.pairwise(_STRIDES):
            at = _RDP_ORDERS.index(order)
            around = range(max(at % stride, at - wide), at + wide + 1, stride)
            epsilon, order = least(
                _RDP_ORDERS[i] for i in around if i < len(_RDP_ORDERS)
            )
    return float(epsilon)


def _composed_divergence(events: tuple[Event, ...], order: float) -> float:
    """Returns the Renyi divergence of queries that compose: the sum of their steps'."""
    total = 0.0
    for event in events:
        of_step = _step_divergence(
            event.sampling.sampling_probability, event.noise_multiplier, float(order)
        )
        total += event.num_steps * of_step
    return total


@functools.lru_cache(maxsize=2**14)
def _step_divergence(
    sampling_probability: float, noise_multiplier: float, order: float
) -> float:
    """Returns the Renyi divergence of one step.

    A run asks for its epsilon after each step that it logs, always of the same step;
    dp-accounting would compute it anew for every number of steps.
    """
    from dp_accounting import rdp

    step = dp_event(PoissonSampling(sampling_probability, 1), noise_multiplier)
    accountant = rdp.RdpAccountant((order,), _relation())
    return float(accountant.compose(step).rdp[0])


@functools.lru_cache(maxsize=4096)
def _selection_epsilon(
    candidate: tuple[Event, ...],
    mean: float,
    shape: float,
    others: tuple[Event, ...],
    delta: float,
) -> float:
    import dp_accounting
    from dp_accounting import rdp

    run = dp_accounting.ComposedDpEvent([dp_event(*event[:3]) for event in candidate])
    # A selection's bound of one order is made of the run's of all.
    accountant = rdp.RdpAccountant(_RDP_ORDERS, _relation())
    with _quiet():
        accountant.compose(
            # Not among the names that the package itself exports.
            dp_accounting.dp_event.RepeatAndSelectDpEvent(run, mean, shape)
        )
        for event in others:
            accountant.compose(dp_event(*event[:3]))
        return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=4096)
def _pld_epsilon(events: tuple[Event, ...], delta: float) -> float:
    from dp_accounting import pld

    num_steps = sum(event.num_steps for event in events)
    usable = delta - _ROUNDING_DELTA_PER_STEP * num_steps
    if usable <= 0:
        raise InputError(
            f"delta is {delta!r}; allowed: at least {2 * (delta - usable):.1g} for so "
            "many steps with the pld accountant, any with the rdp accountant."
        )
    scale = _rdp_epsilon(events, delta)
    if not 1e-6 < scale < 1e6:
        # Out of the range of useful guarantees Renyi accounting's bound will do.
        return scale
    # Losses are rounded to multiples of an interval. Its square times the number of
    # steps is about what that adds to epsilon (measured, for epsilon of 0.2 to 10), so
    # this rule keeps it below 0.1 % at a cost that hardly depends on the mechanism.
    interval = min(0.005 * scale / math.sqrt(num_steps), 0.01)
    interval = max(interval, 1e-6 * scale)
    accountant = pld.PLDAccountant(_relation(), value_discretization_interval=interval)
    for event in events:
        accountant.compose(dp_event(*event[:3]))
    return float(accountant.get_epsilon(usable))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back dp-accounting's warnings about orders it leaves out.

    An order whose series does not converge only loosens the bound; the search for the
    noise passes through such values every time.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _relation() -> "dp_accounting.NeighboringRelation":
    import dp_accounting

    return dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE


def _max_noise(sampling: PoissonSampling) -> float:
    return _MAX_NOISE_PER_PROBABILITY * sampling.sampling_probability


def _least(excess: Callable[[float], float], maximum: float) -> float:
    """Returns where ``excess``, epsilon minus its target by noise, crosses 0."""
    low = high = min(1.0, maximum)
    while excess(high) > 0:
        if high == maximum:
            raise InputError(
                f"epsilon is too small: a noise multiplier of {maximum:g} does not "
                "reach it; allowed: a larger epsilon or delta, or fewer steps."
            )
        low, high = high, min(2 * high, maximum)
    while excess(low) <= 0:
        if low <= _MIN_NOISE_MULTIPLIER:
            return low
        low, high = low / 2, low
    return scipy.optimize.brentq(excess, low, high, xtol=1e-6 * low, rtol=1e-6)
