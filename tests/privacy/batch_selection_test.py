import itertools

import numpy as np
import pytest
import scipy.stats

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import batch_selection
from dpdm_jax.privacy.batch_selection import PoissonSampling

SEED = bytes(range(32))

# Every statistical test below uses a fixed seed and rejects at this level: had the seed
# been drawn anew, a correct sampler would fail one run in a million.
ERROR_RATE = 1e-6


def inclusion_table(num_examples=2000, num_steps=500, q=0.1, seed=SEED):
    sampling = PoissonSampling(q, num_steps)
    table = np.zeros((num_steps, num_examples), bool)
    for step in range(num_steps):
        table[step, sampling.indices(num_examples, seed, step)] = True
    return table


def shuffled_epochs_table(num_examples=2000, num_steps=500, q=0.1):
    """What a sampler that shuffles and cuts into fixed batches would give."""
    rng = np.random.default_rng(0)
    per_epoch = round(1 / q)
    table = np.zeros((num_steps, num_examples), bool)
    for step in range(num_steps):
        if step % per_epoch == 0:
            parts = np.split(rng.permutation(num_examples), per_epoch)
        table[step, parts[step % per_epoch]] = True
    return table


def dispersion_pvalue(counts, trials, q):
    """Two-sided p-value that ``counts`` are independent Binomial(trials, q)."""
    statistic = np.sum((counts - trials * q) ** 2) / (trials * q * (1 - q))
    tail = scipy.stats.chi2.sf(statistic, len(counts))
    return 2 * min(tail, 1 - tail)


def dependence_pvalue(a, b):
    """P-value that two boolean arrays are independent entry by entry."""
    table = [[np.sum(x & y) for y in (b, ~b)] for x in (a, ~a)]
    return scipy.stats.chi2_contingency(table, correction=False).pvalue


# Reference 3.3, the example of 3.2 that loses steps to rounding, and the digits.
PUBLISHED = [
    # N, B, epochs, L, T, B_exp
    (60000, 4096, 300, 15, 4500, 4000),
    (162770, 2048, 300, 80, 24000, 2034),
    (50000, 2048, 500, 25, 12500, 2000),
    (1281167, 2048, 100, 626, 62600, 2046),
    (202599, 2048, 300, 99, 29700, 2046),
]


@pytest.mark.parametrize(("n", "b", "epochs", "length", "steps", "divisor"), PUBLISHED)
def test_published_runs_in_integers(n, b, epochs, length, steps, divisor):
    sampling = PoissonSampling.from_batch_size(n, b, epochs=epochs)
    assert sampling == PoissonSampling(1 / length, steps)
    assert batch_selection.steps_per_epoch(n, b) == length
    assert batch_selection.expected_batch_size(n, b) == divisor


@pytest.mark.parametrize("length", [93, 99, 105])
def test_no_step_is_lost_to_rounding(length):
    assert int(1 / (1 / length)) == length - 1  # what must not be done
    sampling = PoissonSampling.from_batch_size(length * 8, 8, epochs=300)
    assert sampling.num_steps == 300 * length


def test_integers_agree_with_exact_arithmetic():
    for n, b in itertools.product((1, 2, 97, 1000, 4096, 60000), (1, 3, 64, 97)):
        if b > n:
            continue
        length = batch_selection.steps_per_epoch(n, b)
        assert (length - 1) * b < n <= length * b
        divisor = batch_selection.expected_batch_size(n, b)
        assert 1 <= divisor <= b
        assert divisor * length <= n < (divisor + 1) * length


def test_number_of_steps_can_be_given():
    sampling = PoissonSampling.from_batch_size(60000, 4096, num_steps=7)
    assert sampling == PoissonSampling(1 / 15, 7)


def test_a_batch_size_can_be_the_expected_one():
    # DP fine-tuning's CIFAR-10 (arXiv 2302.13861): a third of the data a step, which
    # no whole number of steps an epoch gives.
    sampling = PoissonSampling.from_batch_size(50_000, 16_384, num_steps=9, exact=True)
    assert sampling == PoissonSampling(16_384 / 50_000, 9)
    assert batch_selection.expected_batch_size(50_000, 16_384, exact=True) == 16_384
    drawn = sum(len(sampling.indices(50_000, SEED, t)) for t in range(9))
    assert scipy.stats.binomtest(drawn, 9 * 50_000, 0.32768).pvalue > ERROR_RATE
    by_epochs = PoissonSampling.from_batch_size(7, 3, epochs=2, exact=True)
    assert by_epochs == PoissonSampling(3 / 7, 6)
    with pytest.raises(InputError, match="batch_size is 8"):
        batch_selection.expected_batch_size(7, 8, exact=True)


@pytest.mark.parametrize("q", [1 / 626, 0.1, 0.5, 0.93])
def test_inclusion_rate(q):
    sampling = PoissonSampling(q, 20)
    selected = sum(len(sampling.indices(50_000, SEED, t)) for t in range(20))
    assert scipy.stats.binomtest(selected, 20 * 50_000, q).pvalue > ERROR_RATE


def test_batch_sizes_are_binomial():
    sizes = inclusion_table().sum(axis=1)
    assert dispersion_pvalue(sizes, 2000, 0.1) > ERROR_RATE


def test_examples_are_chosen_equally_often():
    counts = inclusion_table().sum(axis=0)
    assert dispersion_pvalue(counts, 500, 0.1) > ERROR_RATE


def test_steps_examples_and_seeds_are_independent():
    table = inclusion_table()
    other = inclusion_table(seed=bytes(32))
    assert dependence_pvalue(table[1:], table[:-1]) > ERROR_RATE
    assert dependence_pvalue(table[10:], table[:-10]) > ERROR_RATE
    assert dependence_pvalue(table[:, 1:], table[:, :-1]) > ERROR_RATE
    assert dependence_pvalue(table, other) > ERROR_RATE


def test_the_statistics_reject_a_shuffling_sampler():
    table = shuffled_epochs_table()
    assert dispersion_pvalue(table.sum(axis=1), 2000, 0.1) < ERROR_RATE
    assert dispersion_pvalue(table.sum(axis=0), 500, 0.1) < ERROR_RATE
    assert dependence_pvalue(table[1:], table[:-1]) < ERROR_RATE


def test_indices_are_sorted_unique_int64():
    indices = PoissonSampling(0.3, 1).indices(1000, SEED, 0)
    assert indices.dtype == np.int64
    assert np.all(np.diff(indices) > 0)
    assert indices[0] >= 0
    assert indices[-1] < 1000


def test_probability_one_takes_everything():
    np.testing.assert_array_equal(
        PoissonSampling(1, 3).indices(17, SEED, 2), np.arange(17)
    )


def test_realised_rate_never_exceeds_the_stated_one(monkeypatch):
    # The largest draw below q * 2**64 is in, the draw at q * 2**64 is out.
    q = 0.3
    edge = int(q * 2**64)
    draws = np.array([edge - 1, edge, edge + 1], np.uint64)
    monkeypatch.setattr(batch_selection, "_draws", lambda *_: draws)
    np.testing.assert_array_equal(PoissonSampling(q, 1).indices(3, SEED, 0), [0])


def test_stream_is_stable():
    # A change of these numbers breaks the resume of every existing run.
    indices = PoissonSampling(0.1, 1000).indices(64, SEED, 7)
    np.testing.assert_array_equal(indices, [12, 13, 20, 21, 26, 53, 59])


def test_large_data_sets_are_drawn_in_blocks(monkeypatch):
    sampling = PoissonSampling(0.2, 3)
    monkeypatch.setattr(batch_selection, "_BLOCK", 10)
    long = sampling.indices(35, SEED, 1)
    short = sampling.indices(23, SEED, 1)
    np.testing.assert_array_equal(short, long[long < 23])
    blocks = [batch_selection._draws(SEED, 1, start, 35) for start in (0, 10, 20, 30)]
    assert [len(block) for block in blocks] == [10, 10, 10, 5]
    assert len(np.unique(np.concatenate(blocks))) == 35


def test_replay_from_any_step():
    sampling = PoissonSampling(0.2, 12)
    whole = list(sampling.batches(50, SEED, pad_to_multiple_of=4))
    assert len(whole) == 12
    for start in range(13):
        rest = list(sampling.batches(50, SEED, start=start, pad_to_multiple_of=4))
        assert len(rest) == 12 - start
        for a, b in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(a, b)


def test_steps_and_seeds_differ():
    sampling = PoissonSampling(0.5, 20)
    batches = [sampling.indices(200, SEED, step) for step in range(20)]
    batches += [sampling.indices(200, bytes([i]) * 16, 0) for i in range(20)]
    assert len({batch.tobytes() for batch in batches}) == 40


@pytest.mark.parametrize("multiple", [1, 4, 7, 100])
def test_batches_never_drop_an_example(multiple):
    sampling = PoissonSampling(0.3, 40)
    for step, batch in enumerate(
        sampling.batches(60, SEED, pad_to_multiple_of=multiple)
    ):
        expected = sampling.indices(60, SEED, step)
        assert batch.dtype == np.int64
        assert len(batch) % multiple == 0
        assert len(batch) < len(expected) + multiple
        np.testing.assert_array_equal(batch[: len(expected)], expected)
        assert np.all(batch[len(expected) :] == -1)


def test_an_empty_batch_is_one_micro_batch_of_padding():
    sampling = PoissonSampling(1e-9, 3)
    assert len(sampling.indices(5, SEED, 0)) == 0
    for batch in sampling.batches(5, SEED, pad_to_multiple_of=4):
        np.testing.assert_array_equal(batch, [-1] * 4)


@pytest.mark.parametrize("n", [10, 1500, 60000])
@pytest.mark.parametrize("q", [1 / 15, 0.5, 1])
def test_max_batch_size_is_the_least_that_holds(n, q):
    sampling = PoissonSampling(q, 4500)
    bound = sampling.max_batch_size(n)
    size = scipy.stats.binom(n, q)

    def any_larger(b):
        with np.errstate(divide="ignore"):  # b = N - 1 and q = 1: certainty
            return -np.expm1(4500 * np.log1p(-size.sf(b)))

    assert any_larger(bound) < 1e-6
    assert any_larger(bound - 1) >= 1e-6


def test_seeds_are_fresh_and_long():
    seeds = {batch_selection.new_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert all(isinstance(seed, bytes) and len(seed) == 32 for seed in seeds)


@pytest.mark.parametrize("seed", [b"", b"0123456789abcde", "0" * 32, 3, None])
def test_a_bad_seed_is_refused_without_being_shown(seed):
    sampling = PoissonSampling(0.5, 2)
    for use in (
        lambda: sampling.indices(10, seed, 0),
        lambda: sampling.batches(10, seed),
    ):
        with pytest.raises(InputError, match="batch-selection seed") as error:
            use()
        assert "0123" not in str(error.value)
        assert "0000" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoissonSampling(0, 1), "sampling_probability is 0"),
        (lambda: PoissonSampling(-0.1, 1), "sampling_probability is -0.1"),
        (lambda: PoissonSampling(1.1, 1), "sampling_probability is 1.1"),
        (lambda: PoissonSampling(float("nan"), 1), "sampling_probability is nan"),
        (lambda: PoissonSampling("0.5", 1), "sampling_probability is '0.5'"),
        (lambda: PoissonSampling(0.5, 0), "num_steps is 0"),
        (lambda: PoissonSampling(0.5, 2.0), "num_steps is 2.0"),
        (lambda: PoissonSampling(0.5, 2).indices(0, SEED, 0), "num_examples is 0"),
        (lambda: PoissonSampling(0.5, 2).indices(9, SEED, 2), "step is 2; .* 0 to 1"),
        (lambda: PoissonSampling(0.5, 2).indices(9, SEED, -1), "step is -1"),
        (lambda: PoissonSampling(0.5, 2).batches(9, SEED, start=3), "start is 3"),
        (
            lambda: PoissonSampling(0.5, 2).batches(9, SEED, pad_to_multiple_of=0),
            "pad_to_multiple_of is 0",
        ),
        (lambda: PoissonSampling(0.5, 2).max_batch_size(9, 0), "failure_probability"),
        (
            lambda: PoissonSampling.from_batch_size(10, 11, epochs=1),
            "batch_size is 11; allowed: at most the 10",
        ),
        (lambda: PoissonSampling.from_batch_size(10, 0, epochs=1), "batch_size is 0"),
        (lambda: PoissonSampling.from_batch_size(0, 1, epochs=1), "num_examples is 0"),
        (lambda: PoissonSampling.from_batch_size(10, 5, epochs=0), "epochs is 0"),
        (lambda: PoissonSampling.from_batch_size(10, 5, epochs=1.5), "epochs is 1.5"),
        (lambda: PoissonSampling.from_batch_size(10, 5), "exactly one"),
        (
            lambda: PoissonSampling.from_batch_size(10, 5, epochs=1, num_steps=1),
            "exactly one",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
