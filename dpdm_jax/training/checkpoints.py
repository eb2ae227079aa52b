"""Checkpoints of a run, by Orbax: what they hold, and for whom.

One checkpoint has the items ``params``, ``ema_params``, ``opt_state`` (arrays),
``meta`` (JSON: model, config, ledger) and ``private`` (JSON: the secrets). Sampling
reads only the weights and ``meta``. The folder is readable by its owner alone.

With several processes all of them call every method together; process 0 writes, and all
read the same storage.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

import dpdm_jax
from dpdm_jax import devices, processes
from dpdm_jax.errors import InputError
from dpdm_jax.model import Model, signature
from dpdm_jax.privacy.noise import GaussianNoiseState
from dpdm_jax.training.secrets import Secrets
from dpdm_jax.training.state import TrainState

FOLDER = "checkpoints"
_FORMAT = 1
_ARRAYS = ("params", "ema_params", "opt_state")


@dataclasses.dataclass(frozen=True)
class Restored:
    """A training checkpoint.

    Attributes:
        state: the state after ``state.step`` steps, noise key included.
        secrets: the private randomness of the run.
        run_id: pairs the checkpoint with its ledger.
        config: the config that led to it, as JSON values.
    """

    state: TrainState
    secrets: Secrets
    run_id: str
    config: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, workdir: pathlib.Path, *, keep: int | None = None):
        """Opens a run's checkpoints.

        Args:
            workdir: the run directory.
            keep: how many checkpoints to keep, >= 1; None opens them to read only.

        Raises:
            InputError: processes see different storage.
        """
        self._folder = workdir / FOLDER
        if keep is not None:
            processes.first_goes_first(self._find_folder)
        self._manager = None
        # Network storage would remember for others that they looked in vain.
        if processes.from_first(self._folder.is_dir):
            self._manager = ocp.CheckpointManager(
                self._folder.absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    read_only=keep is None,
                    enable_async_checkpointing=False,
                ),
            )

    def close(self) -> None:
        """Releases what Orbax holds."""
        if self._manager is not None:
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, increasing."""
        return [] if self._manager is None else sorted(self._manager.all_steps())

    def save(
        self,
        model: Model,
        state: TrainState,
        secrets: Secrets,
        *,
        run_id: str,
        config: dict[str, Any],
        ledger: dict[str, Any],
    ) -> None:
        """Writes a training checkpoint; a half-written one never counts.

        Args:
            model: what the weights are of.
            state: the state; its noise state goes into the private part only.
            secrets: the private randomness of the run.
            run_id: of the ledger.
            config: the config as JSON values.
            ledger: the ledger as JSON values.
        """
        self._save(
            int(state.step),
            {name: getattr(state, name) for name in _ARRAYS},
            {
                "private": secrets.to_dict(),
                "meta": _meta(model, "training", config)
                | {"run_id": run_id, "ledger": ledger},
            },
        )

    def save_imported(
        self,
        model: Model,
        step: int,
        params: Any,
        ema_params: Any,
        *,
        config: dict[str, Any],
        origin: dict[str, Any],
    ) -> None:
        """Writes weights that came from elsewhere: to sample from, not to resume.

        Args:
            model: what the weights are of.
            step: training steps that the weights have seen, as far as known.
            params: raw weights.
            ema_params: averaged weights.
            config: the config as JSON values.
            origin: where the weights came from, as JSON values.
        """
        self._save(
            step,
            {"params": params, "ema_params": ema_params},
            {"meta": _meta(model, "imported", config) | {"origin": origin}},
        )

    def restore_latest(self, model: Model, template: TrainState) -> Restored:
        """Reads the newest training checkpoint.

        Args:
            model: what it must be a checkpoint of.
            template: a state with the shapes, dtypes and shardings to restore into.

        Returns:
            The checkpoint.

        Raises:
            InputError: there is none, or it is damaged, foreign, or imported weights.
        """
        step = self._pick(-1)
        meta = self._read_meta(step, model)
        if meta["kind"] != "training":
            raise InputError(
                f"{self._path(step)} holds imported weights; allowed: sampling from "
                "them, or training in a new run directory."
            )
        arrays = self._read_arrays(
            step, {name: getattr(template, name) for name in _ARRAYS}
        )
        private = self._read_json(step, "private")
        secrets = Secrets.from_dict(private)
        # The noise is keyed by the step, so its count is the step's.
        noise_state = GaussianNoiseState(secrets.noise_key, jnp.asarray(step))
        state = TrainState(step=jnp.asarray(step), noise_state=noise_state, **arrays)
        return Restored(state, secrets, meta["run_id"], meta["config"])

    def stored_problem(self, step: int = -1) -> tuple[tuple[int, int, int], int]:
        """Reads the image shape (h, w, c) and number of classes of a checkpoint.

        Raises:
            InputError: there is no such checkpoint, or it is damaged or foreign.
        """
        stored = self.description(step)["model"]
        return tuple(stored["image_shape"]), stored["num_classes"]

    def description(self, step: int = -1) -> dict[str, Any]:
        """Reads what a checkpoint says of itself, its secrets excepted.

        Args:
            step: which checkpoint; -1 the newest.

        Returns:
            ``step``, ``kind`` ("training" or "imported"), ``model`` (see
            ``model.signature``) and ``config`` as JSON values; of a training
            checkpoint ``run_id`` and ``ledger``, of an imported one ``origin``.

        Raises:
            InputError: there is no such checkpoint, or it is damaged or foreign.
        """
        step = self._pick(step)
        return {"step": step} | self._read_meta(step)

    def restore_weights(
        self, model: Model, weights: str = "ema", step: int = -1
    ) -> tuple[Any, int]:
        """Reads the weights of a checkpoint, trained or imported.

        Args:
            model: what it must be a checkpoint of.
            weights: "ema" or "raw".
            step: which checkpoint; -1 the newest.

        Returns:
            The parameters and the step they are of.

        Raises:
            InputError: there is no such checkpoint, or it is damaged or foreign.
        """
        step = self._pick(step)
        self._read_meta(step, model)
        name = "ema_params" if weights == "ema" else "params"
        # On all devices, whatever the devices of the run were.
        everywhere = devices.replicated(devices.data_mesh())
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
            jax.eval_shape(model.network.init, jax.random.key(0)),
        )
        return self._read_arrays(step, {name: template})[name], step

    def _save(self, step: int, arrays: dict[str, Any], texts: dict[str, Any]) -> None:
        items = {name: ocp.args.StandardSave(value) for name, value in arrays.items()}
        items |= {name: ocp.args.JsonSave(value) for name, value in texts.items()}
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def _find_folder(self) -> None:
        if processes.is_first():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif not self._folder.is_dir():
            raise InputError(
                f"{self._folder} is on process 0 and not on process "
                f"{jax.process_index()}; allowed: a --workdir that all processes share."
            )

    def _path(self, step: int) -> pathlib.Path:
        return self._folder / str(step)

    def _pick(self, step: int) -> int:
        steps = self.steps()
        if not steps:
            raise InputError(
                f"{self._folder} holds no checkpoint; allowed: a run directory in "
                "which --mode=train has run or weights were imported."
            )
        if step == -1:
            return steps[-1]
        if step not in steps:
            listed = ", ".join(map(str, steps))
            raise InputError(
                f"{self._folder} has no checkpoint of step {step}; allowed: {listed}, "
                "or -1 for the newest."
            )
        return step

    def _read_meta(self, step: int, model: Model | None = None) -> dict[str, Any]:
        meta = self._read_json(step, "meta")
        if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
            raise InputError(
                f"{self._path(step)} is not a checkpoint of this software; allowed: "
                f"checkpoints of format {_FORMAT}."
            )
        stored = meta["model"]
        expected = {} if model is None else signature(model)
        for field, wanted in expected.items():
            if stored.get(field) != wanted:
                was, now = _first_difference(stored.get(field), wanted)
                raise InputError(
                    f"{self._path(step)} is a checkpoint of another model: its {field} "
                    f"has {was}; allowed with this config: {now}."
                )
        return meta

    def _read_json(self, step: int, item: str) -> Any:
        return self._restore(step, item, ocp.args.JsonRestore())

    def _read_arrays(self, step: int, templates: dict[str, Any]) -> dict[str, Any]:
        def describe(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=getattr(x, "sharding", None)
            )

        return {
            name: self._restore(
                step,
                name,
                ocp.args.StandardRestore(jax.tree.map(describe, template)),
            )
            for name, template in templates.items()
        }

    def _restore(self, step: int, item: str, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[
                item
            ]
        except Exception as e:  # Orbax raises many kinds for a damaged file
            reason = (str(e).splitlines() or [""])[0][:120].rstrip(".")
            raise InputError(
                f"The item {item} of the checkpoint {self._path(step)} cannot be read "
                f"({type(e).__name__}: {reason}); allowed: an undamaged checkpoint."
            ) from None


def _meta(model: Model, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "kind": kind,
        "software": dpdm_jax.__version__,
        "model": signature(model),
        "config": config,
    }


def _first_difference(stored: Any, wanted: Any) -> tuple[Any, Any]:
    """Narrows two unequal values down to what a message can show."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in {**wanted, **stored}:
            if stored.get(name) != wanted.get(name):
                absent = f"no {name}"
                was = f"{name} {stored[name]}" if name in stored else absent
                now = f"{name} {wanted[name]}" if name in wanted else absent
                return was, now
    return stored, wanted
