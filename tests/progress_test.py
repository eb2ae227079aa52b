import io
import sys

from dpdm_jax.progress import progress_bar


def test_a_line_says_all_within_80_columns(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bar("training", 62600, done=100) as bar:
        bar.update(62000)
        bar.set_postfix_str("12345 images/s, epsilon 10.0000 of 10")
    line = out.getvalue().split("\r")[-1].rstrip("\n")
    assert len(line) <= 80
    assert "62100/62600" in line
    assert "left, 12345 images/s, epsilon 10.0000 of 10" in line
