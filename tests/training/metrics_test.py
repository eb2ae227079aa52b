import json
import math
import stat
import subprocess
import sys

import jax.numpy as jnp
import pytest
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError

from dpdm_jax.errors import InputError
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


def test_an_empty_batch_has_no_means():
    sums = Diagnostics(*5 * [0.0])
    assert set(metrics.private_diagnostics(sums).values()) == {0.0}


def events(folder):
    """What TensorBoard reads there, its checksums compared."""
    (path,) = folder.glob("*tfevents*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    reader = pywrap_tensorflow.PyRecordReader_New(str(path))
    while True:
        try:
            reader.GetNext()
        except OutOfRangeError:
            return
        yield event_pb2.Event.FromString(reader.record())


def test_events_are_what_tensorboard_reads(tmp_path):
    log = metrics.MetricsLog(tmp_path, tensorboard=True)
    folder = tmp_path / "tensorboard"
    # Loading TensorBoard takes a while: the first step does not wait for it.
    assert not folder.exists()
    log.write(1, {"a": jnp.float32(0.5), "private/b": 3})
    log.write(2, {"a": math.inf})
    # Each step is on disk as it ends.
    first, *steps = events(folder)
    log.close()
    assert first.file_version == "brain.Event:2"
    assert [
        (event.step, {v.tag: v.simple_value for v in event.summary.value})
        for event in steps
    ] == [(1, {"a": 0.5, "private/b": 3.0}), (2, {"a": math.inf})]
    assert len(list(events(folder))) == 3


def test_without_tensorboard_one_line_names_the_extra(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
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


def test_writing_brings_no_tensorflow(tmp_path):
    code = (
        "import pathlib, sys; from dpdm_jax.training.metrics import MetricsLog;"
        f"log = MetricsLog(pathlib.Path({str(tmp_path)!r}), tensorboard=True);"
        "log.write(1, {'a': 0.5}); log.close();"
        "print('tensorboard' in sys.modules, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "tensorboard").mkdir()
    monkeypatch.setattr(metrics.time, "time", lambda: 1.0)
    events = tmp_path / "tensorboard" / "events.out.tfevents.1.000000"
    events.symlink_to("/dev/full")
    log = metrics.MetricsLog(tmp_path, tensorboard=True)
    with pytest.raises(InputError, match="No space left on device"):
        log.write(1, {"a": 0.5})
    log.close()
    assert len((tmp_path / metrics.FILE_NAME).read_text().splitlines()) == 1
