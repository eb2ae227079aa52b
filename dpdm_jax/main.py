"""Command line: plan, train, sample from, evaluate, use, release, audit a model.

python -m dpdm_jax.main [--config=FILE.py:VARIANT] [--workdir=DIR] [--mode=MODE]
python -m dpdm_jax.main --mode=report RUN_DIR RUN_DIR ... compares runs.

On several hosts: the same on each, and --distributed or --coordinator_address.
"""

import pathlib

from absl import flags

from dpdm_jax import command_line, json_values, validate
from dpdm_jax.errors import InputError
from dpdm_jax.user_paths import user_path

MODES = (
    "run",
    "plan",
    "autoencoder",
    "train",
    "extend",
    "sample",
    "evaluate",
    "select",
    "learning_curve",
    "report",
    "release",
    "audit",
)

_CONFIG = command_line.define_config_flag("configs/digits.py")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run directory; runs/<config.name> unless given."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "run",
    MODES,
    "plan prints what a run will do; train, sample, evaluate and report are its "
    "stages; behind training, --workdir of a run brings its config; run is the four "
    "in turn, behind what a model begins with; autoencoder "
    "trains that of a latent diffusion model, on public images; extend plans further "
    "steps within a new budget (config.extend); select ranks classifiers by its "
    "images; learning_curve tests them on growing numbers of images, privately; "
    "release writes what of it may be published; audit attacks a finished "
    "run, privately.",
)
command_line.take_folders("report")
_ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, for one process a host, all with the same flags but for "
    "--process_id.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "With --coordinator_address: how many processes."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With --coordinator_address: which this is, from 0."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the processes that the cluster has started: TPU pods, Slurm, Open MPI, "
    "Kubernetes.",
)
_JSON = flags.DEFINE_bool("json", False, "With --mode=plan: print one JSON line.")
_COMPILE_FOR = flags.DEFINE_string(
    "compile_for",
    None,
    "With --mode=plan: compile the programs of the run for cpu or a TPU slice such as "
    "v5e:2x4 and say what they need.",
)
flags.DEFINE_alias("compile-for", "compile_for")


def main(argv: list[str]) -> None:
    """Dispatches to the modes.

    Args:
        argv: the program's name, and run directories to compare.
    """
    # Imported late: JAX must find the flags set, and errors in flags come at once.
    from dpdm_jax import data, modes, processes

    config = _CONFIG.value
    where = (_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _DISTRIBUTED.value or where != (None, None, None):
        processes.connect(*where)
        if not processes.is_first():
            command_line.speak_only_of_errors()
        job = [
            _MODE.value,
            _WORKDIR.value,
            argv[1:],
            json_values.encode(config.to_dict()),
        ]
        processes.check_same("The command line", lambda: job)
    if len(argv) > 1:
        folders = [user_path("a run directory", name) for name in argv[1:]]
        to = user_path("--workdir", _WORKDIR.value) if _WORKDIR.value else folders[0]
        modes.compare(config, folders, to)
        return
    if _WORKDIR.value:
        workdir = user_path("--workdir", _WORKDIR.value)
    else:  # a released config's name is somebody else's word
        name = validate.folder_name("config.name", config.name)
        workdir = pathlib.Path("runs") / name
    if _MODE.value == "plan":
        modes.plan(config, workdir, as_json=_JSON.value, compile_for=_COMPILE_FOR.value)
        return
    if _COMPILE_FOR.value is not None:
        raise InputError(
            f"--compile-for is {_COMPILE_FOR.value!r} with --mode={_MODE.value}; "
            "allowed: with --mode=plan."
        )
    with data.loaded_once():
        getattr(modes, _MODE.value)(config, workdir)


if __name__ == "__main__":
    command_line.run(main)
