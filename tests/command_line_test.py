"""What the entry points' common frame lets a person see."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "is_seen"),
    [("/site-packages/orbax/checkpoint/future.py", False), ("/mine/run.py", True)],
)
def test_what_orbax_raises_is_not_logged_as_well(file, is_seen):
    """Its threads log what fails in them, whatever becomes of it; a file says whose."""
    script = f"""
from absl import logging
from dpdm_jax import command_line
code = compile("logging.error('the disk is full')", {file!r}, "exec")
command_line.run(lambda argv: exec(code))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ("the disk is full" in result.stderr) == is_seen


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "gpu", "nonsense"])
def test_a_device_that_is_not_there_gets_one_sentence(platform):
    script = """
import jax
from dpdm_jax import command_line
# As on a machine without any, wherever this runs.
jax._src.hardware_utils.has_visible_nvidia_gpu = lambda: False
command_line.run(lambda argv: jax.devices())
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": platform},
    )
    (sentence,) = result.stderr.strip().splitlines()
    assert sentence.startswith(f"error: JAX_PLATFORMS is {platform!r}, and JAX has no ")
    assert result.returncode == 2


@pytest.mark.slow
def test_an_error_of_ones_own_keeps_its_traceback():
    script = """
import jax
from dpdm_jax import command_line
command_line.run(lambda argv: 1 / 0)
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
    )
    assert "ZeroDivisionError" in result.stderr
    assert result.returncode == 1


@pytest.mark.slow
def test_only_what_a_library_left_behind_is_silent():
    """A coroutine that is given up says nothing; an error of one's own is shown."""
    script = """
import types
from dpdm_jax import command_line

@types.coroutine
def wait():
    yield

async def given_up():
    try:
        await wait()
    finally:
        raise ValueError("left behind")

class Own:
    def __del__(self):
        raise ValueError("my own")

def main(argv):
    coroutine = given_up()
    coroutine.send(None)
    del coroutine
    Own()

command_line.run(main)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "my own" in result.stderr
    assert "left behind" not in result.stderr
