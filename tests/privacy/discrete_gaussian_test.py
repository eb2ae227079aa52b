"""The noise: its table against exact probabilities, its combination, its draws."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import stats

from dpdm_jax.errors import InputError
from dpdm_jax.privacy.exact import bounds, discrete_gaussian
from dpdm_jax.privacy.exact.discrete_gaussian import combination_of, draw, table_of

ERROR_RATE = 1e-6
# The standard deviation of noise of multiplier 1.5 on a grid whose clip norm is 2^28.
WIDE = 1.5 * 2.0**28


def two_keys(seed=0):
    return jax.random.split(jax.random.key(seed), 2)


def integers(keys, size, stddev):
    low, high = (np.asarray(word, np.int64) for word in draw(keys, size, stddev))
    return (high << 20) + low


def exact_masses(stddev, reach):
    """Probabilities of a discrete Gaussian, to 60 digits."""
    with mpmath.workdps(60):
        s = mpmath.mpf(stddev)
        masses = [mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * s**2)) for x in range(reach)]
        total = 2 * mpmath.fsum(masses) - masses[0]
        return [mass / total for mass in masses]


@pytest.mark.parametrize("stddev", [16.0, 37.3])
def test_table_has_the_probabilities_of_a_discrete_gaussian(stddev):
    """As integers over 2^128: not one is off by more than the bound counts."""
    table = table_of(stddev)
    cells = 1 << table.cell_bits
    whole = 1 << table.threshold_bits
    found = [0] * cells
    for cell, (threshold, other) in enumerate(
        zip(table.thresholds, table.others, strict=True)
    ):
        assert 0 <= threshold <= whole
        found[cell] += threshold
        found[other] += whole - threshold
    assert sum(found) == 2**128
    half = cells // 2
    exact = exact_masses(stddev, half)
    off = Fraction(0)
    for x in range(half):
        with mpmath.workdps(60):
            wanted = int(mpmath.nint(exact[x] * mpmath.mpf(2) ** 200))
        for cell in {half + x, half - x}:
            off += abs(Fraction(found[cell], 2**128) - Fraction(wanted, 2**200))
    # Half the sum is the total variation.
    assert off / 2 < Fraction(cells, 2**128)
    assert cells * 2.0**-128 <= bounds._TABLE


def test_the_words_on_the_device_are_the_table():
    words = discrete_gaussian._words_of(37.3)
    table = table_of(37.3)
    rest_bits = 32 - words.cell_bits
    for cell, (threshold, other) in enumerate(
        zip(table.thresholds, table.others, strict=True)
    ):
        rest = int(words.second[cell]) & (2**rest_bits - 1)
        joined = int(words.first[cell])
        for part, bits in (
            (rest, rest_bits),
            (int(words.third[cell]), 32),
            (int(words.fourth[cell]), 32),
        ):
            joined = joined << bits | part
        if threshold == 1 << table.threshold_bits:
            # Of a cell without another value nothing is compared.
            assert int(words.second[cell]) >> rest_bits == cell
        else:
            assert joined == threshold
            assert int(words.second[cell]) >> rest_bits == other


@pytest.mark.parametrize("tie", ["none", "below", "above"])
def test_a_draw_is_compared_by_all_of_its_bits(tie, monkeypatch):
    """Where 64 bits decide nothing, 64 more do."""
    words = discrete_gaussian._words_of(37.3)
    rest_bits = 32 - words.cell_bits
    cells = np.flatnonzero(
        (words.second >> rest_bits != np.arange(len(words.first)))
        & (words.third > 0)
        & (words.third < 2**32 - 1)
    )[:50].astype(np.uint32)
    first = words.first[cells]
    rest = words.second[cells] & np.uint32(2**rest_bits - 1)
    one = cells << np.uint32(rest_bits) | first >> np.uint32(words.cell_bits)
    two = first << np.uint32(rest_bits) | rest
    if tie == "none":
        two = two ^ np.uint32(1)
    step = {"none": 0, "below": -1, "above": 1}[tie]
    three = (words.third[cells].astype(np.int64) + step).astype(np.uint32)

    def bits(key_data, positions, stream):
        even = stream % 2 == 0
        return jnp.where(even, one, three), jnp.where(even, two, words.fourth[cells])

    monkeypatch.setattr(discrete_gaussian, "_bits", bits)
    found = discrete_gaussian._cells(
        None, jnp.zeros(len(cells), jnp.uint32), jnp.uint32(0), words
    )
    others = words.second[cells] >> rest_bits
    if tie == "none":
        is_below = (two & (2**rest_bits - 1)) < rest
        expected = np.where(is_below, cells, others)
    else:
        expected = cells if tie == "below" else others
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stddev", [16.0, 100.0, 2.0**20, WIDE, 2.0**35, 2.0**46])
def test_combination_is_wide_and_smooth_enough(stddev):
    found = combination_of(stddev)
    squares = Fraction(found.stddev) ** 2 * sum(
        Fraction(found.factor) ** (2 * i) for i in range(found.terms)
    )
    assert squares >= Fraction(stddev) ** 2 * (1 - Fraction(1, 2**50))
    assert found.total_stddev == pytest.approx(stddev, rel=1e-14)
    assert found.terms <= bounds._TERMS
    if found.terms > 1:
        assert found.stddev >= 2 * math.sqrt(1 + found.factor**2)
    # The factor and the small draws fit into the words of ``multiply_add``.
    assert found.factor <= 2**13
    assert 13.5 * found.stddev < 2**17


def test_noise_out_of_range_is_refused():
    for stddev in (15.9, 2.0**46.1):
        with pytest.raises(InputError, match="allowed: 2\\^4 to 2\\^46"):
            combination_of(stddev)


@pytest.mark.parametrize(("small", "factor"), [(8.0, 4), (16.0, 8), (16.0, 9)])
def test_convolution_is_a_discrete_gaussian_within_its_bound(small, factor):
    """By all probabilities, to 60 digits: the error comes near to the bound, too."""
    reach = int(14 * small)
    masses = exact_masses(small, reach)
    smoothing = small / math.sqrt(1 + factor**2)
    worst = 0
    with mpmath.workdps(60):
        bound = mpmath.mpf(bounds.convolution_error(smoothing))
        total = small * mpmath.sqrt(1 + factor**2)
        far = int(4 * total)
        exact = exact_masses(total, int(14 * total))
        for y in range(0, far, max(1, far // 40)):
            found = mpmath.fsum(
                masses[abs(x)] * masses[abs(y - factor * x)]
                for x in range(-reach + 1, reach)
                if abs(y - factor * x) < reach
            )
            worst = max(worst, abs(found / exact[y] - 1))
        assert bound / 1000 < worst < (1 + bound) / (1 - bound) - 1


def test_smoothing_of_two_is_far_below_any_delta():
    assert bounds.convolution_error(2.0) < 2.0**-110


@pytest.mark.parametrize("stddev", [16.0, 50.0])
def test_rounded_and_discrete_gaussians_differ_by_the_bound(stddev):
    """R / D = 1 + (z^2 - 1) / (24 S^2) and less, to 60 digits, up to z = 13."""
    reach = int(13 * stddev)
    exact = exact_masses(stddev, int(20 * stddev))
    with mpmath.workdps(60):
        s = mpmath.mpf(stddev)
        for x in range(0, reach, reach // 50):
            a, b = ((x + side) / (s * mpmath.sqrt(2)) for side in (-0.5, 0.5))
            rounded = (mpmath.erfc(a) - mpmath.erfc(b)) / 2
            ratio = mpmath.log(rounded / exact[x])
            assert -1.001 / (24 * s**2) <= ratio <= (x / s) ** 2 / (24 * s**2)


def test_draws_are_a_discrete_gaussian():
    """One small draw against its probabilities, by chi-square."""
    drawn = integers(two_keys(1), 200_000, 16.0)
    masses = np.array([float(m) for m in exact_masses(16.0, 60)])
    values = np.arange(-59, 60)
    expected = len(drawn) * masses[np.abs(values)]
    seen = np.array([np.sum(drawn == x) for x in values])
    often = expected > 10
    result = stats.chisquare(
        np.append(seen[often], len(drawn) - seen[often].sum()),
        np.append(expected[often], len(drawn) - expected[often].sum()),
    )
    assert result.pvalue > ERROR_RATE


@pytest.mark.parametrize("stddev", [2.0**13, WIDE])
def test_combined_draws_are_gaussian_at_every_scale(stddev):
    number = 200_000
    drawn = integers(two_keys(2), number, stddev)
    z = drawn / stddev
    assert stats.kstest(z, "norm").pvalue > ERROR_RATE
    limit = stats.norm.isf(ERROR_RATE / 2)
    assert abs(z.mean()) < limit / math.sqrt(number)
    assert abs(z.var() - 1) < limit * math.sqrt(2 / number)
    for threshold in (2.0, 3.0, 4.0):
        low, high = stats.poisson.interval(
            1 - ERROR_RATE, number * stats.norm.sf(threshold)
        )
        assert low <= np.sum(z > threshold) <= high
        assert low <= np.sum(z < -threshold) <= high
    # Remainders of a discrete Gaussian so wide are uniform.
    for modulus in (2, 3, combination_of(stddev).factor):
        counts = np.bincount(drawn % modulus, minlength=modulus)
        assert stats.chisquare(counts).pvalue > ERROR_RATE


def test_a_draw_does_not_depend_on_how_many_there_are():
    few, many = (integers(two_keys(3), size, 16.0) for size in (10, 33_000))
    np.testing.assert_array_equal(few, many[:10])
    other = integers(two_keys(4), 33_000, 16.0)
    assert abs(np.corrcoef(many, other)[0, 1]) < 0.03
