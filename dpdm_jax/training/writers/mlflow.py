"""MLflow. Its environment variables (MLFLOW_TRACKING_URI) hold."""

import time
from collections.abc import Mapping
from typing import Any

from dpdm_jax.training.writers.base import About, library

_RUN = "dpdm_jax.run_id"


class Writer:
    """A run of MLflow."""

    def __init__(self, about: About):
        """Opens it, or goes on with it."""
        self._entities = library("mlflow.entities")
        # Not the functions for notebooks, which tag a run with user, path and commit.
        self._client: Any = library("mlflow").MlflowClient()
        experiment = self._client.get_experiment_by_name(about.project)
        number = (
            self._client.create_experiment(about.project)
            if experiment is None
            else experiment.experiment_id
        )
        wanted = f"tags.`{_RUN}` = '{about.run_id}'"
        found = self._client.search_runs([number], wanted)
        if found:
            self._id = found[0].info.run_id
            return
        run = self._client.create_run(
            number, run_name=about.name, tags={_RUN: about.run_id}
        )
        self._id = run.info.run_id
        for name, value in about.facts.items():
            self._client.log_param(self._id, name, value)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(
            self._id,
            metrics=[
                self._entities.Metric(name, value, now, step)
                for name, value in scalars.items()
            ],
        )

    def close(self) -> None:
        self._client.set_terminated(self._id)


def require() -> None:
    """Raises InputError if the package is not installed."""
    library("mlflow")
