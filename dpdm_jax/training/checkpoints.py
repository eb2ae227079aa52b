"""Checkpoints of a run, by Orbax: what they hold, and for whom.

One checkpoint has the items ``params``, ``ema_params``, ``opt_state`` (arrays, of the
trained parameters), ``meta`` (JSON: model, config, ledger, digests of the arrays) and
``private`` (JSON: the secrets, and a digest of the data). Sampling reads only the
weights and ``meta``. Parameters that no step changes are written once, to
``fixed/DIGEST``, for all checkpoints that name them. The folder is readable by its
owner alone. All that is read is compared with its digest.

Of a run that keeps averages to rebuild others from (``power_averages``), checkpoints
have these in the item ``power_averages``. Copies of them at other steps are written
once, to ``averages/STEP/DIGEST``, and stay; ``meta`` names those that there were.

With several processes all of them call every method together; process 0 writes, and all
read the same storage.
"""

import dataclasses
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import dpdm_jax
from dpdm_jax import conditions, devices, files, processes, run_dir
from dpdm_jax.errors import InputError, reason
from dpdm_jax.models import partition
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import Model, signature
from dpdm_jax.models.trainable import ALL
from dpdm_jax.privacy.noise import GaussianNoiseState
from dpdm_jax.training import arithmetic, ema, power_averages
from dpdm_jax.training.divergence import are_finite
from dpdm_jax.training.mechanism_version import MECHANISM_VERSION
from dpdm_jax.training.secrets import Secrets
from dpdm_jax.training.state import TrainState

_log = logging.getLogger(__name__)

FOLDER = run_dir.CHECKPOINTS
#: Below it, the damaged checkpoints that a run has gone on without.
DAMAGED = run_dir.DAMAGED
#: Below it, by their digest, parameters that no step changes.
FIXED = "fixed"
#: Below it, by step and digest, averages that others are rebuilt from.
AVERAGES = "averages"
_FORMAT = 3
# 1 had no digests; 1 and 2 had what is fixed among the trained parameters.
_FORMATS = (1, 2, 3)
# Of a model that does not say what is trained.
_EVERYTHING = {"trainable": ALL}
_ARRAYS = ("params", "ema_params", "opt_state")
# Of runs with such averages.
_POWER = "power_averages"
# About what the texts, names and indices of a checkpoint take, in bytes.
_TEXT_SIZE = 2**17


class DamagedCheckpointError(InputError):
    """A checkpoint cannot be read, or is not what was written.

    Attributes:
        damage: what is damaged and how, as the beginning of a sentence.
    """

    def __init__(self, damage: str):
        super().__init__(
            f"{damage}; allowed: an undamaged checkpoint (--mode=train goes on from "
            "the one before)."
        )
        self.damage = damage


@dataclasses.dataclass(frozen=True)
class Restored:
    """A training checkpoint.

    Attributes:
        state: the state after ``state.step`` steps, noise key included.
        fixed: the parameters that no step changes.
        secrets: the private randomness of the run.
        data_digest: of the training data; see ``Secrets.data_digest``.
    """

    state: TrainState
    fixed: Any
    secrets: Secrets
    data_digest: str


def open_manager(folder: pathlib.Path, keep: int | None) -> Any:
    """Opens a folder of checkpoints, by all processes together.

    Args:
        folder: of the checkpoints.
        keep: how many to keep, >= 1; 2 of 1. None opens them to read only.

    Returns:
        Orbax's manager, which has no types; None if there is no such folder.
    """
    # Network storage would remember for others that they looked in vain.
    if not processes.from_first(folder.is_dir):
        return None
    return ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(
            # The last one must be there until the next one is on the disk.
            max_to_keep=None if keep is None else max(2, keep),
            read_only=keep is None,
            # What a killed process had begun to write.
            cleanup_tmp_directories=keep is not None,
            enable_async_checkpointing=False,
        ),
    )


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
        # Of the run so far: digests by step.
        self._averages: dict[str, str] = {}
        if keep is not None:
            processes.first_goes_first(self._find_folder)
        self._manager = open_manager(self._folder, keep)

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
        fixed: Any,
        secrets: Secrets,
        *,
        run_id: str,
        config: dict[str, Any],
        ledger: dict[str, Any],
        data_digest: str,
    ) -> None:
        """Writes a training checkpoint; a half-written one never counts.

        Args:
            model: what the weights are of.
            state: the state; its noise state goes into the private part only.
            fixed: the parameters that no step changes.
            secrets: the private randomness of the run.
            run_id: of the ledger.
            config: the config as JSON values.
            ledger: the ledger as JSON values.
            data_digest: of the training data; see ``Secrets.data_digest``.

        Raises:
            InputError: there is no room for it.
        """
        arrays = {name: getattr(state, name) for name in _ARRAYS}
        if state.power_averages:
            arrays[_POWER] = state.power_averages
        self._save(
            int(state.step),
            arrays,
            fixed,
            {
                "private": {"format": _FORMAT, "data_digest": data_digest}
                | secrets.to_dict(),
                "meta": _meta(model, "training", config)
                | {
                    "mechanism_version": MECHANISM_VERSION,
                    arithmetic.ARITHMETIC: arithmetic.described(),
                    "run_id": run_id,
                    "ledger": ledger,
                }
                | ({AVERAGES: self._averages} if state.power_averages else {}),
            },
        )

    def save_averages(self, state: TrainState) -> None:
        """Writes the averages of a state that others are rebuilt from.

        The next checkpoint names them. Without one the run takes these steps again, and
        writes the same.

        Args:
            state: a state with such averages.

        Raises:
            InputError: there is no room for them.
        """
        name, step = digest(state.power_averages), str(int(state.step))
        self._save_once(state.power_averages, self._folder / AVERAGES / step / name)
        self._averages[step] = name

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
            params: raw weights, fixed ones among them.
            ema_params: averaged weights, likewise.
            config: the config as JSON values.
            origin: where the weights came from, as JSON values.

        Raises:
            InputError: there is no room for it.
        """
        trained, fixed = model.split(params)
        self._save(
            step,
            {"params": trained, "ema_params": model.split(ema_params)[0]},
            fixed,
            {"meta": _meta(model, "imported", config) | {"origin": origin}},
        )

    def restore(
        self,
        step: int,
        model: Model,
        template: TrainState,
        fixed: Any,
        check: Callable[[dict[str, Any]], None],
    ) -> Restored:
        """Reads a training checkpoint.

        Args:
            step: which checkpoint.
            model: what it must be a checkpoint of.
            template: a state with the shapes, dtypes and shardings to restore into.
            fixed: likewise, the parameters that no step changes.
            check: is given its ``description`` before the arrays are read, which fit
                into the template only if the config agrees; raises if it does not.

        Returns:
            The checkpoint.

        Raises:
            DamagedCheckpointError: it is damaged.
            InputError: there is none, or it is foreign, or imported weights.
        """
        meta = self._read_meta(step, model)
        if meta["kind"] != "training":
            raise InputError(
                f"{self._path(step)} holds imported weights; allowed: sampling from "
                "them, or training in a new run directory."
            )
        check(meta)
        private = self._read_json(step, "private")
        secrets = self._secrets(step, private)
        templates = {name: getattr(template, name) for name in _ARRAYS}
        if template.power_averages:
            templates[_POWER] = template.power_averages
        arrays = self._read_arrays(step, templates, meta)
        self._averages = dict(meta.get(AVERAGES, {}))
        averages = {ema.NAME: arrays.pop("ema_params")} | arrays.pop(_POWER, {})
        # The noise is keyed by the step, so its count is the step's.
        noise_state = GaussianNoiseState(secrets.noise_key, jnp.asarray(step))
        state = TrainState(
            step=jnp.asarray(step),
            averages=averages,
            noise_state=noise_state,
            **arrays,
        )
        return Restored(
            state,
            self._read_fixed(step, fixed, meta),
            secrets,
            self._data_digest(step, private),
        )

    def read_secrets(self, step: int) -> Secrets:
        """Reads the secrets of a training checkpoint whose arrays may be damaged.

        Raises:
            DamagedCheckpointError: they are damaged.
        """
        return self._secrets(step, self._read_json(step, "private"))

    def is_of_data(self, content: bytes, step: int = -1) -> bool | None:
        """Says whether a training checkpoint is of a run on this data.

        Args:
            content: digest of all of the data, see ``data.bind``.
            step: which checkpoint; -1 the newest.

        Returns:
            Whether it is; None if its run digested data in another way.

        Raises:
            InputError: there is no such checkpoint, or it is damaged or foreign.
        """
        described = self.description(step)
        if described.get("mechanism_version", 1) != MECHANISM_VERSION:
            return None
        step = described["step"]
        private = self._read_json(step, "private")
        stored = self._data_digest(step, private)
        return stored == self._secrets(step, private).data_digest(content)

    def set_aside(self, step: int) -> pathlib.Path:
        """Takes a checkpoint out of the run, and keeps it: it holds secrets.

        Returns:
            Where it is now.
        """
        target = self._folder / DAMAGED / str(step)

        def move() -> str:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            free, number = target, 1
            while free.exists():
                free = target.with_name(f"{step}.{number}")
                number += 1
            self._path(step).rename(free)
            files.sync(target.parent)
            files.sync(self._folder)
            return str(free)

        moved = processes.from_first(move)
        self._manager.reload()
        return pathlib.Path(moved)

    def stored_problem(
        self, step: int = -1
    ) -> tuple[tuple[int, int, int], conditions.Condition]:
        """Reads the image shape (h, w, c) and the condition of a checkpoint.

        Raises:
            InputError: there is no such checkpoint, or it is damaged or foreign.
        """
        stored = self.description(step)["model"]
        return tuple(stored["image_shape"]), conditions.from_dict(stored)

    def description(self, step: int = -1) -> dict[str, Any]:
        """Reads what a checkpoint says of itself, its secrets excepted.

        Args:
            step: which checkpoint; -1 the newest.

        Returns:
            ``step``, ``kind`` ("training" or "imported"), ``model`` (see
            ``model.signature``) and ``config`` as JSON values; of a training
            checkpoint ``mechanism_version``, ``run_id`` and ``ledger``, of an imported
            one ``origin``.

        Raises:
            InputError: there is no such checkpoint, or it is damaged or foreign.
        """
        step = self._pick(step)
        return {"step": step} | self._read_meta(step)

    def restore_weights(
        self, model: Model, weights: str = "ema", step: int = -1, average: float = 0.0
    ) -> tuple[Any, int]:
        """Reads the weights of a checkpoint, trained or imported, to sample from.

        Args:
            model: what it must be a checkpoint of.
            weights: "ema" or "raw".
            step: which checkpoint; -1 the newest.
            average: length of an average to rebuild in place of these weights, see
                ``power_averages``; 0 for none.

        Returns:
            The parameters, fixed ones among them and adapters merged into them, and the
            step they are of.

        Raises:
            InputError: there is no such checkpoint, it is damaged or foreign, or a
                weight is not finite, or the run kept nothing to rebuild averages from.
        """
        step = self._pick(step)
        meta = self._read_meta(step, model)
        name = "ema_params" if weights == "ema" else "params"
        trained, fixed = _templates(model, meta)
        if average:
            params = self._rebuilt(step, average, trained, meta)
        else:
            params = self._read_arrays(step, {name: trained}, meta)[name]
        params = partition.join(params, self._read_fixed(step, fixed, meta))
        params = model.merged(params)
        if not are_finite(params):
            raise InputError(
                f"The weights ({weights}) of the checkpoint of step {step} are not "
                "finite; allowed: an earlier step, or a run that has not diverged."
            )
        return params, step

    def restore_fixed(self, model: Model) -> Any:
        """Reads the parameters that no step of a run changes.

        Args:
            model: what the newest checkpoint must be of.

        Returns:
            As of ``Model.split``; {} of checkpoints that do not tell them apart.

        Raises:
            InputError: there is no checkpoint, or it is damaged or foreign.
        """
        step = self._pick(-1)
        meta = self._read_meta(step, model)
        return self._read_fixed(step, _templates(model, meta)[1], meta)

    def _save(
        self, step: int, arrays: dict[str, Any], fixed: Any, texts: dict[str, Any]
    ) -> None:
        digests = {name: digest(value) for name, value in arrays.items()}
        if fixed:
            digests[FIXED] = digest(fixed)
            self._save_once(fixed, self._folder / FIXED / digests[FIXED])
        texts = texts | {"meta": texts["meta"] | {"digests": digests}}
        items = {name: ocp.args.StandardSave(value) for name, value in arrays.items()}
        items |= {
            name: ocp.args.JsonSave(value | {"checksum": checksum(value)})
            for name, value in texts.items()
        }
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        # Asked first, since failing half-way Orbax fills the screen with its own.
        processes.from_first(
            lambda: self._check_room(self._path(step), size + _TEXT_SIZE)
        )
        with files.writing(self._path(step)):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            if processes.is_first():
                # Orbax leaves that to the operating system. The secrets must be there
                # before the noise is used, and this one before the last is removed.
                files.sync_tree(self._path(step))

    def _rebuilt(
        self, step: int, length: float, template: Any, meta: dict[str, Any]
    ) -> Any:
        """Returns an average of the steps so far, from those that were kept."""
        lengths = meta["config"].get("train", {}).get("power_averages", ())
        if not lengths or not step:
            raise InputError(
                f"An average of length {length:g} is asked for, and the checkpoint "
                f"{self._path(step)} holds none to rebuild it from; allowed: 0, or a "
                "run that was trained with train.power_averages."
            )
        names = {power_averages.name_of(length): length for length in lengths}
        kept = {int(each): digest for each, digest in meta.get(AVERAGES, {}).items()}
        # The checkpoint's own are those of its step.
        steps = sorted({*kept, step})
        snapshots = [
            power_averages.Snapshot(each, names[name])
            for each in steps
            for name in sorted(names)
        ]
        shares, error = power_averages.coefficients(
            snapshots, power_averages.Snapshot(step, length)
        )
        _say_error(length, step, len(snapshots), error)
        templates = dict.fromkeys(sorted(names), template)
        total = jax.tree.map(lambda x: np.zeros(x.shape), template)
        for each, of_step in zip(steps, shares.reshape(len(steps), -1), strict=True):
            if each == step:
                found = self._read_arrays(step, {_POWER: templates}, meta)[_POWER]
            else:
                path = self._folder / AVERAGES / str(each) / kept[each]
                found = self._read_once(
                    step, templates, path, f"{AVERAGES} of step {each}"
                )
            for name, share in zip(sorted(names), of_step, strict=True):
                total = jax.tree.map(
                    # Coefficients of both signs: what is left needs the digits.
                    lambda sum_, x, share=share: sum_ + share * np.asarray(x, float),
                    total,
                    found[name],
                )
        rounded = jax.tree.map(lambda x, like: x.astype(like.dtype), total, template)
        return devices.place(rounded, jax.tree.map(lambda x: x.sharding, template))

    def _save_once(self, arrays: Any, path: pathlib.Path) -> None:
        """Writes arrays whose digest is the name of their folder."""
        if processes.from_first(path.is_dir):
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        processes.from_first(lambda: self._check_room(path, size))
        with files.writing(path), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), arrays)
            checkpointer.wait_until_finished()
            if processes.is_first():
                files.sync_tree(path)
                files.sync(path.parent)

    def _read_fixed(self, step: int, template: Any, meta: dict[str, Any]) -> Any:
        if not template:
            return {}
        path = self._folder / FIXED / str(meta["digests"].get(FIXED))
        return self._read_once(step, template, path, FIXED)

    def _read_once(
        self, step: int, template: Any, path: pathlib.Path, item: str
    ) -> Any:
        """Reads what ``_save_once`` wrote, of a checkpoint's item."""
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                arrays = checkpointer.restore(
                    path.absolute(), jax.tree.map(placement, template)
                )
        except Exception as e:  # Orbax raises many kinds for a damaged file
            raise self._damaged(step, item, f"cannot be read ({reason(e)})") from None
        if digest(arrays) != path.name:
            raise self._damaged(step, item, "is not what was written")
        return arrays

    def _check_room(self, path: pathlib.Path, size: int) -> None:
        with files.writing(path):
            if shutil.disk_usage(self._folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
        if meta.get("format") not in _FORMATS or not _is_whole(meta):
            raise InputError(
                f"{self._path(step)} is not a checkpoint of this software; allowed: "
                f"checkpoints of format {' or '.join(map(str, _FORMATS))}."
            )
        stored = _EVERYTHING | meta["model"]
        expected = {} if model is None else _EVERYTHING | signature(model)
        for field, wanted in expected.items():
            if stored.get(field) != wanted:
                was, now = _first_difference(stored.get(field), wanted)
                raise InputError(
                    f"{self._path(step)} is a checkpoint of another model: its {field} "
                    f"has {was}; allowed with this config: {now}."
                )
        return meta

    def _read_json(self, step: int, item: str) -> dict[str, Any]:
        value = self._restore(step, item, ocp.args.JsonRestore())
        if not isinstance(value, dict):
            raise self._damaged(step, item, "is not an object")
        found = value.pop("checksum", None)
        unsealed = found is None and value.get("format", 1) == 1
        if not unsealed and found != checksum(value):
            raise self._damaged(step, item, "is not what was written")
        return value

    def _read_arrays(
        self, step: int, templates: dict[str, Any], meta: dict[str, Any]
    ) -> dict[str, Any]:
        arrays = {}
        for name, template in templates.items():
            arrays[name] = self._restore(
                step,
                name,
                ocp.args.StandardRestore(jax.tree.map(placement, template)),
            )
            if meta["format"] > 1 and digest(arrays[name]) != meta["digests"].get(name):
                raise self._damaged(step, name, "is not what was written")
        return arrays

    def _restore(self, step: int, item: str, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[
                item
            ]
        except Exception as e:  # Orbax raises many kinds for a damaged file
            raise self._damaged(step, item, f"cannot be read ({reason(e)})") from None

    def _secrets(self, step: int, private: dict[str, Any]) -> Secrets:
        try:
            return Secrets.from_dict(private)
        except InputError:
            raise self._damaged(step, "private", "is malformed") from None

    def _data_digest(self, step: int, private: dict[str, Any]) -> str:
        if not isinstance(private.get("data_digest"), str):
            raise self._damaged(step, "private", "has no digest of the data")
        return private["data_digest"]

    def _damaged(self, step: int, item: str, how: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            f"The item {item} of the checkpoint {self._path(step)} {how}"
        )


def _say_error(length: float, step: int, count: int, error: float) -> None:
    _log.info(
        "The average of length %g at step %d is rebuilt from %d that were kept; its "
        "profile is right to %.1f %%.",
        length,
        step,
        count,
        100 * error,
    )


def _is_whole(meta: dict[str, Any]) -> bool:
    """Whether a description has the parts that every checkpoint's has."""
    parts = [meta.get(name) for name in ("model", "config", "digests")]
    if meta["format"] == 1:
        parts.pop()
    return "kind" in meta and all(isinstance(part, dict) for part in parts)


def placement(x: Any) -> jax.ShapeDtypeStruct:
    """Returns what an array is restored as, given it or another of its kind."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def checksum(value: dict[str, Any]) -> str:
    """Returns a digest of JSON values as they will be read back."""
    content = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


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


def _templates(model: Model, meta: dict[str, Any]) -> tuple[Any, Any]:
    """Where a checkpoint's trained and fixed parameters go.

    On all devices, whatever the devices of the run were.
    """
    everywhere = devices.replicated(devices.data_mesh())
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        model.shapes,
    )
    return (template, {}) if meta["format"] < 3 else model.split(template)
