"""Killed runs end like undisturbed ones; the experiment makes 200 points of this."""

import pytest

from experiments.faults import points


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones(tmp_path):
    runs = points.Points(tmp_path, seed=1)
    outcome = sum(map(runs.run, range(12)), points.Outcome())
    assert outcome.failures == []
    assert outcome.kills >= 8  # a random moment may come after the end
    assert outcome.damaged
