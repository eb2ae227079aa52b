"""Command line: plan, train, sample from and evaluate a private diffusion model.

python -m dpdm_jax.main [--config=FILE.py:VARIANT] [--workdir=DIR] [--mode=MODE]
"""

import logging
import os
import pathlib
import sys
import warnings

from absl import app, flags

from dpdm_jax import command_line, xla_flags
from dpdm_jax.errors import InputError

MODES = ("run", "plan", "train", "sample", "evaluate")

_CONFIG = command_line.define_config_flag("configs/digits.py")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run directory; runs/<config.name> unless given."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "run",
    MODES,
    "plan prints what a run will do; train, sample and evaluate are its stages; run is "
    "the three in turn.",
)
_JSON = flags.DEFINE_bool("json", False, "With --mode=plan: print one JSON line.")


def main(argv: list[str]) -> None:
    """Dispatches to the modes."""
    del argv
    # Imported late: JAX must find the flags set, and errors in flags come at once.
    from dpdm_jax import modes

    config = _CONFIG.value
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / config.name)
    if _MODE.value == "plan":
        modes.plan(config, as_json=_JSON.value)
        return
    getattr(modes, _MODE.value)(config, workdir)


def run() -> None:
    """Entry point: what the user got wrong is one sentence and exit status 2."""
    xla_flags.configure()
    # TensorFlow (TFDS, TensorBoard) announces itself on standard error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for noisy in ("absl", "jax", "orbax", "tensorflow", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.showwarning = _show_warning
    try:
        app.run(main, flags_parser=command_line.parse)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    del filename, lineno, file, line
    # Libraries' notes to developers are not for the people who run this.
    if category is UserWarning:
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    run()
