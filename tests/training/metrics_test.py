import importlib.util
import json
import math

import jax.numpy as jnp
import pytest

from dpdm_jax.training import metrics
from dpdm_jax.training.step import Diagnostics


def test_lines_are_appended_also_by_a_resumed_run(tmp_path):
    for steps in ((1, 2), (3,)):
        log = metrics.MetricsLog(tmp_path, tensorboard=False)
        for step in steps:
            log.write(step, {"a": jnp.float32(step / 2)})
        log.close()
    lines = (tmp_path / metrics.FILE_NAME).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": n, "a": n / 2} for n in (1, 2, 3)
    ]


def test_half_a_line_of_a_power_cut_is_dropped(tmp_path):
    path = tmp_path / metrics.FILE_NAME
    path.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "a')
    log = metrics.MetricsLog(tmp_path, tensorboard=False)
    log.write(2, {"a": 1.0})
    log.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_means_are_over_examples_with_finite_gradients():
    sums = Diagnostics(loss=6.0, grad_norm=9.0, clipped=2.0, non_finite=1.0, examples=4)
    assert metrics.private_diagnostics(sums) == {
        "private/loss": pytest.approx(2.0),
        "private/grad_norm": pytest.approx(3.0),
        "private/clip_fraction": pytest.approx(2 / 3),
        "private/non_finite": 1.0,
        "private/batch_size": 4.0,
    }


def test_without_a_finite_gradient_there_is_no_loss():
    sums = Diagnostics(loss=0.0, grad_norm=0.0, clipped=0.0, non_finite=4.0, examples=4)
    found = metrics.private_diagnostics(sums)
    for name in ("loss", "grad_norm", "clip_fraction"):
        assert math.isnan(found[f"private/{name}"])
    assert found["private/non_finite"] == found["private/batch_size"] == 4


def test_an_empty_batch_has_no_means():
    sums = Diagnostics(*5 * [0.0])
    assert metrics.private_diagnostics(sums) == {
        "private/non_finite": 0.0,
        "private/batch_size": 0.0,
    }


def test_tensorboard_is_loaded_when_there_is_something_to_write(
    tmp_path, monkeypatch, with_tensorboard
):
    calls = []

    class Events:
        def __init__(self, folder):
            calls.append("opened")

        def write_scalars(self, step, scalars):
            calls.append((step, dict(scalars)))

        def close(self):
            calls.append("closed")

    monkeypatch.setattr(metrics, "_open_events", Events)
    log = metrics.MetricsLog(tmp_path, tensorboard=True)
    assert not calls
    log.write(1, {"a": jnp.float32(0.5)})
    log.write(2, {"a": 0.25})
    log.close()
    assert calls == ["opened", (1, {"a": 0.5}), (2, {"a": 0.25}), "closed"]


@pytest.mark.parametrize("missing", ["clu", "tensorflow"])
def test_without_the_extra_one_line_names_it(
    tmp_path, monkeypatch, with_tensorboard, caplog, missing
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        metrics.importlib.util,
        "find_spec",
        lambda name: None if name == missing else found(name),
    )
    with caplog.at_level("INFO", "dpdm_jax"):
        log = metrics.MetricsLog(tmp_path, tensorboard=True)
        log.write(1, {"a": 0.5})
        log.write(2, {"a": 0.25})
        log.close()
        metrics.MetricsLog(tmp_path, tensorboard=False).close()
    (line,) = caplog.messages
    assert "pip install 'dpdm_jax[tensorboard]'" in line
    assert len((tmp_path / metrics.FILE_NAME).read_text().splitlines()) == 2
    assert not (tmp_path / "tensorboard").exists()
