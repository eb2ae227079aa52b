"""What the entry points' common frame lets a person see."""

import subprocess
import sys

import pytest


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
