"""Tuning: composition, and private selection against the paper's own formulas."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting
from dpdm_jax.privacy.batch_selection import PoissonSampling
from dpdm_jax.privacy.ledger import LedgerEvent, LedgerRecord
from dpdm_jax.privacy.plan import PrivacyConfig, make_plan
from dpdm_jax.privacy.statements import statement_fields, statement_of
from dpdm_jax.privacy.tuning import NO_TUNING, Selection, Tuning
from dpdm_jax.privacy.units import Group

CONFIG = PrivacyConfig(
    num_examples=1500, batch_size=256, epsilon=3, delta=1e-4, epochs=10
)
DELTA = 1e-5
ONCE = PoissonSampling(1.0, 1)
SHAPES = [0.0, 0.5, 1.0, 3.0, math.inf]


@pytest.fixture(scope="module")
def plan():
    return make_plan(CONFIG)


def record_of(plan, name="a", steps=None, fixed_keys=False):
    steps = plan.num_steps if steps is None else steps
    event = LedgerEvent("training", plan.sampling, plan.noise_multiplier, steps)
    return LedgerRecord(name, plan, (event,), fixed_keys, {})


@pytest.mark.slow
def test_candidate_runs_compose_exactly(plan):
    other = make_plan(dataclasses.replace(CONFIG, batch_size=100, epsilon=1))
    runs = [record_of(other, "b", steps=50), record_of(plan, "c")]
    tuning = Tuning(tuple(runs))
    spent = tuning.epsilon(record_of(plan))
    assert spent == accounting.epsilon_of_events(
        [
            accounting.Event(plan.sampling, plan.noise_multiplier, plan.num_steps),
            accounting.Event(other.sampling, other.noise_multiplier, 50),
            accounting.Event(plan.sampling, plan.noise_multiplier, plan.num_steps),
        ],
        CONFIG.delta,
    )
    assert plan.epsilon < spent < 2 * plan.epsilon + 1
    assert spent < tuning.epsilon(record_of(plan), "rdp")


def test_k_equal_gaussian_queries_are_one_of_less_noise():
    """Closed form: k queries of noise sigma tell what one of sigma/sqrt(k) does."""
    config = PrivacyConfig(
        num_examples=1000,
        batch_size=1000,
        epsilon=10,
        delta=DELTA,
        num_steps=1,
        noise_multiplier=4.0,
    )
    records = [record_of(make_plan(config), str(i)) for i in range(4)]
    spent = Tuning(tuple(records[1:])).epsilon(records[0])
    exact = scipy.optimize.brentq(lambda e: gaussian_delta(e, 2.0) - DELTA, 0.01, 20)
    assert exact <= spent <= 1.002 * exact


def gaussian_delta(epsilon, sigma):
    """Exact delta of the Gaussian mechanism (Balle, Wang 2018)."""
    cdf = scipy.stats.norm.cdf
    mean = 1 / (2 * sigma)
    return cdf(mean - epsilon * sigma) - math.exp(epsilon) * cdf(
        -mean - epsilon * sigma
    )


def test_without_tuning_nothing_changes(plan):
    record = record_of(plan, steps=30)
    assert NO_TUNING.epsilon(record) == record.epsilon_spent()
    assert NO_TUNING.accountant(record) == "pld"
    assert statement_fields(record)["tuning"]["counted"] is False


def test_runs_without_guarantee_take_it_away(plan):
    tuning = Tuning((record_of(plan, "b", fixed_keys=True),))
    record = record_of(plan)
    assert tuning.epsilon(record) == math.inf
    (reason,) = tuning.not_private(record)
    assert "tuning run b" in reason
    assert statement_of(record, tuning).startswith("NOT PRIVATE")
    assert statement_fields(record, tuning)["private"] is False


def test_a_run_counts_once(plan):
    for tuning in (
        Tuning((record_of(plan),)),
        Tuning((record_of(plan, "b"), record_of(plan, "b"))),
    ):
        with pytest.raises(InputError, match="is there twice"):
            tuning.epsilon(record_of(plan))


def test_runs_of_another_unit_are_not_composed(plan):
    """Neither guarantee is a part of the other."""
    person, subject = (
        dataclasses.replace(plan, unit=Group(column, 2))
        for column in ("person", "subject")
    )
    for one, other in ((plan, person), (person, plan), (person, subject)):
        with pytest.raises(InputError, match="allowed: runs of one unit of privacy"):
            Tuning((record_of(other, "b"),)).epsilon(record_of(one))
    fewer = dataclasses.replace(plan, unit=Group("person", 1))
    both = Tuning((record_of(fewer, "b"),)).epsilon(record_of(person))
    assert both == Tuning((record_of(plan, "b"),)).epsilon(record_of(plan))


def test_a_selection_counts_all_planned_steps_of_every_candidate(plan):
    tuning = Tuning(selection=Selection(5))
    half = tuning.epsilon(record_of(plan, steps=30))
    assert half == tuning.epsilon(record_of(plan)) > plan.epsilon_spent(60, "rdp")
    # A run that has not begun has told nothing, but another candidate may have.
    assert tuning.epsilon(record_of(plan, steps=0)) == half


def test_selection_and_other_runs_compose(plan):
    selection = Selection(5)
    other = record_of(plan, "b")
    both = Tuning((other,), selection).epsilon(record_of(plan))
    one = Tuning(selection=selection).epsilon(record_of(plan))
    assert one < both < one + plan.epsilon_spent(60, "rdp")


def test_a_selection_has_no_pld_figure(plan):
    tuning = Tuning(selection=Selection(5))
    assert tuning.accountant(record_of(plan)) == "rdp"
    with pytest.raises(InputError, match="allowed: rdp"):
        tuning.epsilon(record_of(plan), "pld")
    assert statement_fields(record_of(plan), tuning)["epsilon_pld"] is None


def selection_epsilon(sigma, mean, shape, delta=DELTA):
    event = accounting.Event(ONCE, sigma, 1)
    return accounting.epsilon_of_selection([event], mean, shape, delta)


def generating_function(mean, shape):
    """E[x^K] and its derivative (definition 1 of the paper)."""
    if math.isinf(shape):
        return (
            lambda x: np.exp(mean * (x - 1)),
            lambda x: mean * np.exp(mean * (x - 1)),
        )

    def of_gamma(gamma):
        if shape == 0:
            scale = 1 / math.log(gamma)
            return (
                lambda x: scale * np.log(1 - (1 - gamma) * x),
                lambda x: -scale * (1 - gamma) / (1 - (1 - gamma) * x),
            )
        scale = 1 / (gamma**-shape - 1)
        return (
            lambda x: scale * ((1 - (1 - gamma) * x) ** -shape - 1),
            lambda x: (
                scale * shape * (1 - gamma) * (1 - (1 - gamma) * x) ** (-shape - 1)
            ),
        )

    gamma = scipy.optimize.brentq(lambda g: of_gamma(g)[1](1.0) - mean, 1e-9, 1 - 1e-9)
    return of_gamma(gamma)


def gamma_of(mean, shape):
    """P[K = 1] = f'(0) gives gamma back, for the paper's formula."""
    if shape == 1:
        return 1 / mean
    return scipy.optimize.brentq(
        lambda g: (
            (
                (1 / g - 1) / math.log(1 / g)
                if shape == 0
                else shape * (1 - g) / (g * (1 - g**shape))
            )
            - mean
        ),
        1e-12,
        1 - 1e-12,
    )


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("sigma", "mean"), [(2.0, 10), (5.0, 100), (1.0, 3)])
def test_theorem_2(sigma, mean, shape):
    """Truncated negative binomial, by the formula with freely chosen orders."""
    gamma = gamma_of(mean, shape)

    def rdp(order):
        return order / (2 * sigma**2)

    def constant(order):
        return (1 + shape) * (
            (1 - 1 / order) * rdp(order) + math.log(1 / gamma) / order
        )

    orders = 1 + np.geomspace(1e-3, 1e4, 20_000)
    least = min(constant(order) for order in orders)
    expected = min(
        rdp(a)
        + math.log(mean) / (a - 1)
        + least
        # From Renyi to (epsilon, delta): Canonne, Kamath, Steinke 2020.
        + math.log1p(-1 / a)
        - math.log(DELTA * a) / (a - 1)
        for a in orders
    )
    found = selection_epsilon(sigma, mean, shape)
    assert expected * (1 - 1e-6) <= found <= 1.03 * expected


@pytest.mark.parametrize(("sigma", "mean"), [(2.0, 10), (5.0, 100), (1.0, 3)])
def test_theorem_6(sigma, mean):
    """Poisson, with the delta-hat of one run exact, and as its RDP implies it."""
    orders = 1 + np.geomspace(1e-3, 1e3, 2000)

    def implied_delta(epsilon):
        # Canonne, Kamath, Steinke 2020.
        powers = (orders - 1) * (orders / (2 * sigma**2) - epsilon)
        logs = powers - np.log(orders - 1) + orders * np.log1p(-1 / orders)
        return min(1.0, math.exp(logs.min()))

    def best(delta_hat):
        def bound(order):
            hat = delta_hat(math.log1p(1 / (order - 1)))
            renyi = order / (2 * sigma**2) + mean * hat + math.log(mean) / (order - 1)
            rest = math.log(DELTA * order) / (order - 1)
            return renyi + math.log1p(-1 / order) - rest

        return min(bound(order) for order in orders)

    found = selection_epsilon(sigma, mean, math.inf)
    least = best(lambda epsilon: gaussian_delta(epsilon, sigma))
    assert least * (1 - 1e-6) <= found <= 1.03 * best(implied_delta)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("sigma", "mean"), [(1.0, 3), (3.0, 20), (3.0, 300)])
def test_the_bound_holds_for_the_largest_of_gaussian_outputs(sigma, mean, shape):
    """Exact delta of 'publish the best of K Gaussian queries', by integration."""
    f, slope = generating_function(mean, shape)
    y = np.linspace(-12 * sigma, 1 + 12 * sigma, 400_001)

    def density(shift):
        cdf, pdf = (
            law(y, loc=shift, scale=sigma)
            for law in (scipy.stats.norm.cdf, scipy.stats.norm.pdf)
        )
        return slope(cdf) * pdf

    one, other = density(0.0), density(1.0)
    np.testing.assert_allclose(
        scipy.integrate.trapezoid(one, y), f(1.0) - f(0.0), rtol=1e-6
    )

    def delta(epsilon):
        return max(
            scipy.integrate.trapezoid(np.maximum(p - math.exp(epsilon) * q, 0), y)
            for p, q in ((one, other), (other, one))
        )

    claimed = selection_epsilon(sigma, mean, shape)
    assert delta(claimed) <= DELTA
    # That choosing costs something shows here: the budget of one run is not kept.
    if mean >= 20:
        alone = scipy.optimize.brentq(
            lambda e: gaussian_delta(e, sigma) - DELTA, 0.01, 20
        )
        assert delta(alone) > DELTA


def test_the_bound_grows_with_mean_and_shape():
    by_mean = [selection_epsilon(2.0, mean, 1.0) for mean in (2, 10, 100)]
    assert by_mean == sorted(by_mean)
    by_shape = [selection_epsilon(2.0, 10, shape) for shape in (0.0, 0.5, 1.0, 3.0)]
    assert by_shape == sorted(by_shape)
    single = accounting.epsilon(ONCE, 2.0, DELTA, "rdp")
    assert single < by_shape[0]


def test_selection_of_nothing_and_of_everything():
    nothing = accounting.Event(ONCE, 2.0, 0)
    query = accounting.Event(ONCE, 2.0, 1)
    bare = accounting.Event(ONCE, 0.0, 1)
    select = accounting.epsilon_of_selection
    assert select([nothing], 5, 1, DELTA) == 0
    assert select([nothing], 5, 1, DELTA, [query]) == accounting.epsilon(
        ONCE, 2.0, DELTA, "rdp"
    )
    assert select([bare], 5, 1, DELTA) == math.inf
    assert select([query], 5, 1, DELTA, [bare]) == math.inf


def quantiles(selection, uniform):
    """Numbers of runs at rising quantiles; none is asked for between equal ones."""
    numbers = np.empty(len(uniform), int)
    for end in (0, -1):
        numbers[end] = selection.num_runs(uniform[end])

    def fill(first, last):
        if numbers[first] == numbers[last]:
            numbers[first:last] = numbers[first]
        elif last - first > 1:
            middle = (first + last) // 2
            numbers[middle] = selection.num_runs(uniform[middle])
            fill(first, middle)
            fill(middle, last)

    fill(0, len(uniform) - 1)
    return numbers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 4.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_numbers_of_runs_follow_the_distribution(mean, shape):
    selection = Selection(mean, shape)
    uniform = (np.arange(4000) + 0.5) / 4000
    numbers = quantiles(selection, uniform)
    some = np.random.default_rng(0).choice(4000, 100, replace=False)
    # They rise, as ``quantiles`` takes for granted.
    assert [selection.num_runs(u) for u in uniform[some]] == numbers[some].tolist()
    assert numbers.min() >= (0 if math.isinf(shape) else 1)
    # Evenly spread quantiles leave out the tail's last 4000th part.
    assert numbers.mean() == pytest.approx(mean, rel=0.02)
    f, _ = generating_function(mean, shape)
    for x in (0.3, 0.8):
        assert np.mean(x**numbers) == pytest.approx(float(f(x)), abs=2e-3)


def test_draws_come_from_the_operating_system():
    draws = [Selection(20.0, 1.0).draw_num_runs() for _ in range(50)]
    assert len(set(draws)) > 5  # all alike with a chance below 1e-20
    assert Selection(1.0).draw_num_runs() == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_selection_round_trip(shape):
    selection = Selection(7.5, shape)
    assert Selection.from_dict(selection.to_dict()) == selection
    assert "7.5 expected" in Tuning(selection=selection).describe()


@pytest.mark.parametrize(
    ("mean", "shape", "message"),
    [
        (0.9, 1.0, "mean number"),
        (math.inf, 1.0, "mean number"),
        (math.nan, 1.0, "mean number"),
        ("many", 1.0, "mean number"),
        (2.0, -0.1, "shape of"),
        (2.0, math.nan, "shape of"),
        (2.0, "flat", "shape of"),
    ],
)
def test_bad_selections(mean, shape, message):
    with pytest.raises(InputError, match=message):
        Selection(mean, shape)


@pytest.mark.parametrize(
    ("mean", "shape", "delta"), [(0.5, 1, DELTA), (2, -1, DELTA), (2, 1, 0), (2, 1, 1)]
)
def test_bad_arguments(mean, shape, delta):
    with pytest.raises(InputError):
        selection_epsilon(2.0, mean, shape, delta)


@pytest.mark.parametrize(
    ("mean", "shape", "message"),
    [
        (10**400, 1.0, "the mean number of tuning runs is 1000"),
        (1e15, 0.0, "the mean number of tuning runs is 1000000000000000.0"),
        (5.0, 1e-300, "the shape of the number of tuning runs is 1e-300"),
        (5.0, 1e300, "the shape of the number of tuning runs is 1e.300"),
    ],
)
def test_numbers_of_runs_out_of_range(mean, shape, message):
    with pytest.raises(InputError, match=message):
        Selection(mean, shape)
