"""Checkpoints of an autoencoder's training, by Orbax. Nothing in them is private.

One has the items ``state`` (arrays), ``params`` (those of the autoencoder again, which
is all that a diffusion model reads) and ``meta`` (JSON).
"""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from dpdm_jax import files, processes
from dpdm_jax.autoencoding.step import State
from dpdm_jax.errors import InputError, reason
from dpdm_jax.models.identity import digest, named_leaves
from dpdm_jax.networks import Params
from dpdm_jax.networks.codecs.autoencoder import AutoencoderCodec
from dpdm_jax.training.checkpoints import open_manager, placement

FOLDER = "checkpoints"
#: What the last checkpoint alone says: what its latents were multiplied by.
SCALE = "scale"
_FORMAT = 1


def read_trained(
    folder: pathlib.Path, codec: AutoencoderCodec[Any]
) -> tuple[Params, str]:
    """Reads an autoencoder that is trained to its end.

    Args:
        folder: of the training.
        codec: that it must be of.

    Returns:
        What the codec keeps among a model's parameters, and the public data that it
        was trained on.

    Raises:
        InputError: it is not trained to its end, is damaged, or of another codec.
    """
    checkpoints = Checkpoints(folder)
    try:
        step = checkpoints.newest()
        if step is None or not (meta := checkpoints.read_meta(step)).get(SCALE):
            raise InputError(
                f"the autoencoder of {folder} is not trained to its end; allowed: one "
                "that is (--mode=autoencoder goes on with it)."
            )
        return checkpoints.read_params(step, codec), str(meta["public"])
    finally:
        checkpoints.close()


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, folder: pathlib.Path, *, keep: int | None = None):
        """Opens them.

        Args:
            folder: of the training.
            keep: how many to keep, >= 1; None opens them to read only.
        """
        self._folder = folder / FOLDER
        if keep is not None:
            processes.first_goes_first(lambda: files.make_folder(self._folder))
        self._manager = open_manager(self._folder, keep)

    def close(self) -> None:
        """Releases what Orbax holds."""
        if self._manager is not None:
            self._manager.close()

    def newest(self) -> int | None:
        """Returns the step of the newest checkpoint; None if there is none."""
        steps = [] if self._manager is None else self._manager.all_steps()
        return max(steps, default=None)

    def save(
        self, codec: AutoencoderCodec[Any], state: State, meta: dict[str, Any]
    ) -> None:
        """Writes a checkpoint; a half-written one never counts.

        Args:
            codec: what is trained.
            state: the state.
            meta: what is said of it, as JSON values.

        Raises:
            InputError: there is no room for it.
        """
        step = int(state.step)
        said = {
            "format": _FORMAT,
            "codec": codec.identity,
            "image_shape": list(codec.sample_shape),
            "digest": digest(state.params),
        } | meta
        path = self._folder / str(step)
        with files.writing(path):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    params=ocp.args.StandardSave(state.params),
                    meta=ocp.args.JsonSave(said),
                ),
                force=True,
            )
            if processes.is_first():
                files.sync_tree(path)

    def read_meta(self, step: int) -> dict[str, Any]:
        """Reads what is said of a checkpoint.

        Raises:
            InputError: it is damaged, or foreign.
        """
        found = self._restore(step, "meta", ocp.args.JsonRestore())
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise InputError(
                f"{self._folder / str(step)} is not a checkpoint of an autoencoder; "
                "allowed: one that --mode=autoencoder wrote."
            )
        return found

    def restore(self, step: int, template: State) -> State:
        """Reads the state of a checkpoint.

        Args:
            step: which.
            template: shapes, dtypes and shardings.

        Raises:
            InputError: it is damaged, or of another network.
        """
        like = jax.tree.map(placement, template)
        found: State = self._restore(step, "state", ocp.args.StandardRestore(like))
        return found

    def read_params(self, step: int, codec: AutoencoderCodec[Any]) -> Params:
        """Reads the autoencoder of a checkpoint.

        Args:
            step: which.
            codec: that it must be of.

        Raises:
            InputError: it is damaged, or of another autoencoder.
        """
        meta = self.read_meta(step)
        where = self._folder / str(step)
        wanted = jax.eval_shape(codec.init, jax.random.key(0))
        for name, was, now in (
            ("codec", meta["codec"], codec.identity),
            ("shape of images", tuple(meta["image_shape"]), codec.sample_shape),
        ):
            if was != now:
                raise InputError(
                    f"the {name} of {where} is {was}; allowed: {now}, that of the "
                    "config."
                )
        sizes = {name: tuple(x.shape) for name, x in named_leaves(wanted).items()}
        stored = {name: tuple(shape) for name, shape in meta["parameters"].items()}
        for name in sorted({*sizes, *stored}):
            if sizes.get(name) != stored.get(name):
                raise InputError(
                    f"{name} of {where} has the shape {stored.get(name)}; allowed: "
                    f"{sizes.get(name)}, that of the config's codec."
                )
        params: Params = self._restore(step, "params", ocp.args.StandardRestore(wanted))
        if digest(params) != meta["digest"]:
            raise InputError(
                f"{where} is not what was written; allowed: an undamaged checkpoint."
            )
        return params

    def _restore(self, step: int, item: str, args: Any) -> Any:
        try:
            read = self._manager.restore(step, args=ocp.args.Composite(**{item: args}))
        except Exception as e:  # Orbax raises many kinds for a damaged file
            raise InputError(
                f"The item {item} of {self._folder / str(step)} cannot be read "
                f"({reason(e)}); allowed: an undamaged checkpoint of this training."
            ) from None
        return read[item]
