"""Whatever surrounds the main job: the same weights and images, or one sentence.

What Python and JAX read as they start wants processes that start; for what can be
changed later, those of ``commands`` are forked. A run's keys are fixed, so that two of
one config can be compared.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from cheap_compilation import xla_flags_of_children
from commands import CHECKOUT

pytestmark = pytest.mark.slow

_JOB = (
    "--config.network.mlp.base_width=4",
    "--config.network.mlp.hidden_width=8",
    "--config.network.mlp.num_blocks=1",
    "--config.diffusion.noise_multiplicity=2",
    "--config.privacy.fixed_keys_seed=1",
    "--config.privacy.accountant=rdp",
    "--config.train.batch_size=100",
    "--config.train.num_steps=2",
    "--config.train.microbatch_size=64",
    "--config.log.snapshot_every_steps=0",
    "--config.log.tensorboard=False",
    "--config.sampler.num_steps=4",
    "--config.sample.num_images=50",
    "--config.evaluate.metrics=('logreg',)",
    "--config.evaluate.epochs=1",
    "--config.evaluate.seeds=1",
    "--config.evaluate.dp_sgd.epochs=0",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Surroundings.

    Attributes:
        env: variables.
        redirection: of the shell.
        says: part of the sentence that refuses them; "" if the job is done.
        afresh: whether they act as Python starts.
    """

    env: Mapping[str, str]
    redirection: str = ""
    says: str = ""
    afresh: bool = False


_NOWHERE = "/proc/nowhere"
CASES = {
    # All that would change numbers, at once.
    "numbers": Case(
        {
            "JAX_ENABLE_X64": "1",
            "JAX_DEFAULT_PRNG_IMPL": "rbg",
            "JAX_THREEFRY_PARTITIONABLE": "0",
            "JAX_RANDOM_SEED_OFFSET": "3",
            "JAX_NUMPY_RANK_PROMOTION": "raise",
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",
            "JAX_TRANSFER_GUARD": "disallow",
        },
        afresh=True,
    ),
    "no_compiler": Case({"JAX_DISABLE_JIT": "1"}, says="JAX_DISABLE_JIT is set"),
    "unknown_flag": Case({"XLA_FLAGS": "--xla_no=1"}, says="XLA_FLAGS has --xla_no"),
    # What changes nothing by itself, in one job: no case makes up for another.
    "debugging_flags_and_no_home": Case(
        {"JAX_DEBUG_NANS": "1", "JAX_DEBUG_KEY_REUSE": "1"}
        | {"XLA_FLAGS": "--xla_dump_to="}
        | {"HOME": _NOWHERE, "XDG_CACHE_HOME": _NOWHERE, "MPLCONFIGDIR": _NOWHERE}
    ),
    # A locale that Python does not take for UTF-8.
    "no_letters_and_no_streams": Case(
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        redirection=">&- 2>&-",
        afresh=True,
    ),
}


@pytest.fixture(scope="module")
def expected(commands, tmp_path_factory) -> pathlib.Path:
    """The job's run directory in ordinary surroundings."""
    small = {"base_width": 4, "hidden_width": 8, "num_blocks": 1}
    of_network = {f"network__mlp__{name}": size for name, size in small.items()}
    steps = {"train__batch_size": 100, "train__num_steps": 2}
    commands.plan(privacy__accountant="rdp", **steps, **of_network)
    workdir = tmp_path_factory.mktemp("ordinary") / "run"
    done = commands.run(*_JOB, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def _run(case: Case, commands, folder: pathlib.Path) -> subprocess.CompletedProcess:
    args = [*_JOB, "--workdir=run"]
    if not case.afresh:
        return commands.run(*args, cwd=folder, env=case.env)
    command = [sys.executable, "-m", "dpdm_jax.main", *args]
    return subprocess.run(
        ["bash", "-c", f'"$0" "$@" {case.redirection}', *command],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(CHECKOUT), "XLA_FLAGS": xla_flags_of_children()}
        | case.env,
        capture_output=True,
        text=True,
    )


def _made(workdir: pathlib.Path) -> tuple[np.ndarray, str]:
    """Returns the images, and the digest of the weights that they are of."""
    folder = workdir / "samples" / "samples"
    described = json.loads((folder / "settings.json").read_text())
    with np.load(folder / "samples.npz") as archive:
        return archive["images"], described["weights_sha256"]


@pytest.mark.parametrize("name", CASES)
def test_the_same_comes_out_or_one_sentence(expected, commands, tmp_path, name):
    case = CASES[name]
    done = _run(case, commands, tmp_path)
    if case.says:
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("error: ")
        assert case.says in sentence
        assert done.returncode == 2
        assert not (tmp_path / "run").exists()
        return
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    (found, weights), (wanted, trained) = map(_made, (tmp_path / "run", expected))
    assert weights == trained
    np.testing.assert_array_equal(found, wanted)
