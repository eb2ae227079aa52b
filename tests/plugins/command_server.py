"""Imports the program once, then forks a process for each command line it is told.

Jobs come in on standard input, one JSON object a line, and each is answered by a line.
{"overrides": ..., "network_alone": ...} plans the digits with those fields, so that the
accountant of every later process remembers; {"import": [...]} imports modules for them;
{"program": ..., ...} starts a command; {"pid": ...} asks whether it has ended.
"""

import gc
import importlib
import json
import os
import runpy
import sys
import traceback

import cheap_compilation
import jax
import remembered
from jax._src import xla_bridge  # there is no public way to ask

from dpdm_jax import evaluation, modes, planning, report, settings, xla_flags
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.evaluation import classifiers, downstream, fid, lenet_features, metrics
from dpdm_jax.interop import torch_checkpoints
from dpdm_jax.models.model import build_model
from dpdm_jax.release import build, verify

_IMPORTED = (evaluation, modes, report, classifiers, downstream, fid, lenet_features)
_IMPORTED += (metrics, torch_checkpoints, build, verify)
# Of the digits.
_IMAGES, _IMAGE_SHAPE, _CLASSES = 1437, (8, 8, 1), 10


def plan(overrides: dict, network_alone: bool) -> None:
    """Makes the privacy plan of the digits, for the processes to come."""
    config = digits.network_alone() if network_alone else digits.get_config()
    for name, value in overrides.items():
        settings.assign(config, name, value)
    model = build_model(config, _IMAGE_SHAPE, of_classes(_CLASSES))
    planning.privacy_plan(config, _IMAGES, model)
    if xla_bridge.backends_are_initialized():
        raise RuntimeError(
            "Planning has started a device, whose threads no forked process would have."
        )


def how_it_ended(pid: int) -> dict:
    """Returns exit status and processor seconds of a command, once it has ended."""
    ended, status, usage = os.wait4(pid, os.WNOHANG)
    if not ended:
        return {}
    seconds = usage.ru_utime + usage.ru_stime
    return {"status": os.waitstatus_to_exitcode(status), "seconds": seconds}


def serve() -> dict:
    """Answers until standard input ends; returns in the processes of commands alone."""
    answer = {"seconds": sum(os.times()[:2])}
    while True:
        print(json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        job = json.loads(line)
        if "overrides" in job:
            before = sum(os.times()[:2])
            plan(**job)
            answer = {"seconds": sum(os.times()[:2]) - before}
        elif "import" in job:
            before = sum(os.times()[:2])
            for name in job["import"]:
                importlib.import_module(name)
            gc.freeze()
            answer = {"seconds": sum(os.times()[:2]) - before}
        elif "pid" in job:
            answer = how_it_ended(job["pid"])
        else:
            child = os.fork()
            if child == 0:
                return job
            answer = {"pid": child}


def run(job: dict) -> int:
    """Does what ``python`` does with a module or a file; returns the exit status."""
    for path, number, mode in (
        (job["in"], 0, os.O_RDONLY),
        (job["out"], 1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (job["err"], 2, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(path, mode), number)
    sys.stdin = os.fdopen(0, closefd=False)  # the server's may have read ahead
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    for name, value in job["env"].items():
        if name.startswith("JAX_"):  # which JAX has read as it was imported
            jax.config.update(name.lower(), value)
    program = job["program"]
    sys.argv = [program, *job["args"]]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            sys.path.insert(0, os.getcwd())  # as python -m does
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        print(e.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def look_for_flags() -> None:
    """Finds in jaxlib what every command would look for, and leaves no trace."""
    before = dict(os.environ)
    xla_flags.configure()
    cheap_compilation.xla_flags_of_children()
    os.environ.clear()
    os.environ.update(before)


if __name__ == "__main__":
    cheap_compilation.install()
    remembered.install()
    look_for_flags()
    os.fsync = lambda handle: None  # no test cuts the power
    gc.freeze()  # what is imported stays, and stays shared with the processes
    status = run(serve())
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking an interpreter down with all that it imported takes a second.
    os._exit(status)
