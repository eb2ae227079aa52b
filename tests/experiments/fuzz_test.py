"""Damaged files of every format; the experiment reads 10,000 of them."""

import os
import signal

import numpy as np
import pytest

from dpdm_jax.data import image_folder, npz
from experiments.fuzz import cases, formats, workers

_TURNS = 22  # the formats' weights together
_FILES = 10 * _TURNS

# What Orbax leaves behind when an array of a checkpoint cannot be read.
_IGNORED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
pytestmark = [_IGNORED, pytest.mark.slow]


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "undamaged"
    formats.make_files(folder)
    return folder


def run(undamaged, tmp_path, numbers):
    made = cases.Cases(undamaged, tmp_path / "files", seed=0, bomb_size=2**23)
    return [made.run(number) for number in numbers]


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_damaged_files_are_refused_or_read_right(undamaged, tmp_path):
    results = run(undamaged, tmp_path, range(_FILES))
    summary = cases.summarise(results)
    assert summary["failed"] == []
    assert len(summary["outcomes"]) == len(formats.formats(0))
    outcomes = {result.outcome for result in results}
    assert outcomes == {cases.REFUSED, cases.SAME, cases.OTHER}
    assert contents(tmp_path / "files") == contents(undamaged)  # put right again


def read_carelessly(path, names):
    with np.load(path, allow_pickle=True) as archive:
        return {name: archive[name] for name in names if name in archive}


def decode_carelessly(path, value_range=()):
    image = image_folder.Image.open(path)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("module", "name", "careless", "turns", "said"),
    [
        (npz, "read_arrays", read_carelessly, range(3), "a pickle was executed"),
        (npz, "read_arrays", read_carelessly, range(3), "BadZipFile at"),
        (image_folder, "decode_image", decode_carelessly, range(10, 14), "Error at"),
    ],
)
def test_careless_readers_are_found_out(
    undamaged, tmp_path, monkeypatch, module, name, careless, turns, said
):
    monkeypatch.setattr(module, name, careless)
    numbers = [n for n in range(3 * _FILES) if n % _TURNS in turns]
    results = run(undamaged, tmp_path, numbers)
    assert any(said in r.what for r in results if r.outcome == cases.FAILED)


def test_a_reader_that_dies_is_a_failure_and_the_next_file_is_read(undamaged, tmp_path):
    worker = workers.Worker(undamaged, tmp_path / "files", seed=0, timeout=600)
    try:
        assert worker.run(0).outcome != cases.FAILED
        os.kill(worker.pid, signal.SIGKILL)
        died = worker.run(1)
        assert (died.outcome, died.what) == (cases.FAILED, "ended its process: SIGKILL")
        assert worker.run(2).outcome != cases.FAILED
    finally:
        worker.close()
