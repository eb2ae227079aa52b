"""Killed runs end like undisturbed ones; the experiment makes 200 points of this."""

import pytest

from experiments.faults import points


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones(tmp_path):
    runs = points.Points(tmp_path, seed=1)
    # Two of each kind, which kill their runs once and twice.
    numbers = (0, 6, 1, 10, 9, 5)
    outcome = sum(map(runs.run, numbers), points.Outcome())
    assert outcome.failures == []
    assert outcome.kinds == {points.OPERATION: 2, points.MOMENT: 2, points.DAMAGE: 2}
    assert outcome.kills >= 4  # a random moment may come after the end
    assert outcome.damaged
