"""Programs go on where nobody hears them."""

import subprocess
import sys

import pytest

_PROGRAM = """
import pathlib, sys
from dpdm_jax import progress, streams
with streams.tolerated():
    for stream in sys.stdout, sys.stderr:
        for _ in range(3):
            print("█" * 100_000, file=stream, flush=True)
    with open("file", "w") as file, progress.progress_bar("work", 3) as bar:
        assert file.fileno() > 2
        bar.update(3)
    pathlib.Path("done").touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["| true", "2>&1 | true", ">&-", "2>&- >&-"])
def test_a_stream_without_a_reader_ends_nothing(tmp_path, redirection):
    command = f'set -o pipefail; "$0" -c "$1" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, _PROGRAM],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr
    assert b"rror" not in done.stderr
    assert (tmp_path / "done").exists()


@pytest.mark.slow
def test_letters_that_a_locale_lacks_are_replaced(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"???")
