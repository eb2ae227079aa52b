"""Weights & Biases. Its environment variables (WANDB_MODE, WANDB_ENTITY) hold."""

from collections.abc import Mapping
from typing import Any

from dpdm_jax import files
from dpdm_jax.training.writers.base import About, library


class Writer:
    """A run of Weights & Biases."""

    def __init__(self, about: About):
        """Opens it, or goes on with it."""
        wandb = library("wandb")
        # It keeps all that it sends there, for whoever may open the folder.
        files.make_private_folder(about.workdir / "wandb")
        self._run: Any = wandb.init(
            project=about.project,
            name=about.name,
            id=about.run_id,
            resume="allow",
            dir=str(about.workdir),
            config=dict(about.facts),
            # By itself it sends what is on the screen, the command line, paths, names
            # of the machine and its load: of these some are private, none is asked for.
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                host="not told",
                save_code=False,
                silent=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        # Its own count of steps goes up alone, and a resumed run repeats some.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step, **scalars})

    def close(self) -> None:
        self._run.finish()


def require() -> None:
    """Raises InputError if the package is not installed."""
    library("wandb")
