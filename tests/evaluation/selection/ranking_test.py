import pytest

from dpdm_jax.evaluation.selection.ranking import agreement, ranks


def test_equal_values_share_a_rank():
    assert ranks([0.9, 0.95, 0.9, 0.2]) == [2, 1, 2, 4]


@pytest.mark.parametrize(
    ("second", "spearman", "kendall"),
    [
        ([10, 20, 30, 40], 1, 1),
        ([4, 3, 2, 1], -1, -1),
        # One pair of neighbours swapped: 1 - 6 * 2 / (4 * 15), and 5 - 1 pairs of 6.
        ([1, 3, 2, 4], 0.8, 4 / 6),
        # A tie: tau-b is 5 / sqrt(6 * 5); rho is of the ranks 1, 2.5, 2.5, 4.
        ([1, 2, 2, 4], 4.5 / (5 * 4.5) ** 0.5, 5 / 30**0.5),
    ],
)
def test_agreement_of_two_orders(second, spearman, kendall):
    found = agreement([0.1, 0.2, 0.3, 0.4], second)
    assert found == pytest.approx((spearman, kendall))


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5]])
def test_what_is_no_order_agrees_with_none(values):
    assert agreement(values, range(len(values))) is None
    assert agreement(range(len(values)), values) is None
