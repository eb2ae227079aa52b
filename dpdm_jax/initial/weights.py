"""Reads the weights that a config names, from a run, a release or a file."""

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from dpdm_jax import json_values, processes, run_dir, stored_config, validate
from dpdm_jax.errors import InputError, reason
from dpdm_jax.initial import codec_weights, fitting
from dpdm_jax.interop import latent_diffusion, name_maps, torch_checkpoints
from dpdm_jax.interop.convert import convert
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.networks import Params
from dpdm_jax.privacy import LedgerRecord, read_ledger
from dpdm_jax.privacy.lineage import Origin
from dpdm_jax.release import bundle, privacy_files
from dpdm_jax.release.model import load_release
from dpdm_jax.training.beginning import Beginning
from dpdm_jax.training.checkpoints import FOLDER, Checkpoints
from dpdm_jax.training.resume import check_is_of_run
from dpdm_jax.user_paths import user_path

_FILES = (".pt", ".pth", ".ckpt", ".safetensors")


class Found(NamedTuple):
    """Weights to begin with.

    Attributes:
        network: parameters of a network.
        origin: where they come from.
        codec: that the network was trained with; None where that is not there.
    """

    network: Params
    origin: Origin
    codec: codec_weights.Given | None = None


#: Reads the parameters of a network and where they come from.
Reader = Callable[
    [pathlib.Path, ml_collections.ConfigDict, Model, Checkpoints | None], Found
]


def read_initial(
    config: ml_collections.ConfigDict,
    model: Model,
    random: Params,
    content: bytes | None = None,
) -> Beginning:
    """Reads the weights that ``config.initial`` and ``config.codec`` name.

    Args:
        config: the whole config; reads ``initial`` and ``codec``.
        model: what begins with them.
        random: its random parameters, for the parts that are not taken.
        content: digest of the training data, see ``data.bind``; None if that is not
            compared with what a run directory's weights were trained on.

    Returns:
        The parameters and where they come from.

    Raises:
        InputError: there are no such weights, they do not fit, or what they were
            trained on is not stated, or is the private data itself.
    """
    found = _read_network(config, model, random, content)
    given = None if found is None else found.codec
    with processes.together():
        params, of_codec = codec_weights.read_codec(config, model, random, given)
    if found is None:
        return Beginning(params, None, of_codec)
    params = model.with_network(params, found.network)
    return Beginning(params, found.origin, of_codec)


def _read_network(
    config: ml_collections.ConfigDict,
    model: Model,
    random: Params,
    content: bytes | None,
) -> Found | None:
    """Reads a network's weights; None if the config names none."""
    settings = config.initial
    if not settings.weights:
        return None
    validate.one_of("initial.label_table", settings.label_table, fitting.TABLES)
    with processes.together():
        path = user_path("initial.weights", settings.weights)
        read = _reader(path, settings)
    # Opened by all processes together, which read it each by itself.
    checkpoints = Checkpoints(path) if read is _of_run else None
    try:
        with processes.together():
            found = read(path, settings, model, checkpoints)
            _check_protected(found.origin, settings)
            if checkpoints is not None and content is not None:
                _check_other_data(config, found.origin, checkpoints, content)
            wanted = model.network_of(random)
            network = fitting.fit(
                found.network,
                wanted,
                settings.label_table,
                model.condition.num_classes or 0,
            )
    finally:
        if checkpoints is not None:
            checkpoints.close()
    return found._replace(network=network)


def _reader(path: pathlib.Path, settings: ml_collections.ConfigDict) -> Reader:
    if path.suffix in _FILES and not path.is_dir():
        return _of_file
    if bundle.is_bundle(path):
        return _of_release
    if (path / FOLDER).is_dir():
        return _of_run
    raise InputError(
        f"initial.weights is {settings.weights!r}; allowed: a run directory, a "
        f"release, or a file {', '.join(_FILES)} of guided-diffusion or latent "
        "diffusion."
    )


def _check_protected(origin: Origin, settings: ml_collections.ConfigDict) -> None:
    if origin.ledger is not None and not settings.other_data:
        raise InputError(
            f"initial.weights is {settings.weights!r}, which was trained privately and "
            "whose steps would count if the data were the same; allowed: weights of "
            "public data, or initial.other_data=True if no one is in both."
        )


def _check_other_data(
    config: ml_collections.ConfigDict,
    origin: Origin,
    checkpoints: Checkpoints,
    content: bytes,
) -> None:
    """Refuses private images that a run has been trained on as public ones."""
    if config.data.public or origin.ledger is not None:
        return
    if checkpoints.is_of_data(content):
        raise InputError(
            f"the weights of {origin.name} were trained on the very images of this "
            f"run, as on public data ({origin.public_data}); allowed: other images, or "
            "data.public if these are public."
        )


def _of_run(
    path: pathlib.Path,
    settings: ml_collections.ConfigDict,
    model: Model,
    checkpoints: Checkpoints | None,
) -> Found:
    assert checkpoints is not None  # ``read_initial`` opens a run's
    try:
        values = json_values.loads((path / run_dir.CONFIG).read_bytes())
        config = stored_config.read(values, path / run_dir.CONFIG)
    except InputError:
        raise
    except (AttributeError, OSError, ValueError) as e:
        raise InputError(
            f"{path / run_dir.CONFIG} cannot be read ({reason(e)}); allowed: a run "
            "directory as training writes it."
        ) from None
    parent = build_model(config, *checkpoints.stored_problem())
    fitting.check_tokens(parent.condition, model.condition)
    params, _ = checkpoints.restore_weights(parent)
    stored = checkpoints.description()
    if stored["kind"] != "training":
        raise InputError(
            f"{path} holds imported weights, of whose data nothing is known; allowed: "
            "the file that they came from."
        )
    record = read_ledger(path / run_dir.LEDGER)
    # The new run's ledger will say what that one counts.
    check_is_of_run(path, stored, record)
    return _found("run", config.name, parent, params, record)


def _of_release(
    path: pathlib.Path,
    settings: ml_collections.ConfigDict,
    model: Model,
    checkpoints: Checkpoints | None,
) -> Found:
    released = load_release(path)
    fitting.check_tokens(released.model.condition, model.condition)
    record, tuning = privacy_files.read_accounted(released.privacy)
    name = released.manifest["name"]
    if tuning.is_counted:
        raise InputError(
            f"the weights of {name} were chosen by runs that their release counts, of "
            "which the new run's ledger would not tell; allowed: the release of a "
            "model without counted tuning."
        )
    return _found("release", name, released.model, released.params, record)


def _of_file(
    path: pathlib.Path,
    settings: ml_collections.ConfigDict,
    model: Model,
    checkpoints: Checkpoints | None,
) -> Found:
    if not settings.public:
        raise InputError(
            f"initial.weights is {settings.weights!r} and initial.public is empty; "
            "allowed: the name of the public data that the file was trained on."
        )
    tensors = latent_diffusion.network_tensors(torch_checkpoints.read_state_dict(path))
    _check_ends(path, tensors, model)
    network = convert(tensors, model.network, any_label_table=True)
    origin = Origin("file", path.name, digest(network), settings.public)
    return Found(network, origin)


def _check_ends(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], model: Model
) -> None:
    """Refuses what goes into a network, or comes out, where it is not the config's."""
    targets = name_maps.official_names(model.network.shapes)

    def sizes(name: str, axis: int) -> tuple[int, int] | None:
        if name not in targets or np.ndim(tensors.get(name, 0)) <= axis:
            return None
        found, wanted = tensors[name].shape[axis], targets[name].official_shape[axis]
        return None if found == wanted else (found, wanted)

    if differ := sizes(name_maps.STEM, 1):
        found, wanted = differ
        raise InputError(
            f"{path} is of a network for {found} channels, and what the config's "
            f"network denoises has {wanted}; allowed: a codec with {found} latent "
            "channels, or images of so many."
        )
    if differ := sizes(name_maps.HEAD, 0):
        found, wanted = differ
        raise InputError(
            f"{path} is of a network that says {found} numbers of a pixel, and the "
            f"config's says {wanted}; allowed: "
            f"diffusion.ddpm.learned_range={found > wanted}, or other weights."
        )
    if differ := sizes(name_maps.TOKEN_TABLE, 0):
        found, wanted = differ
        raise InputError(
            f"{path} has a table of {found} tokens, and the config's text has "
            f"{wanted}; allowed: data.captions.vocabulary as it was trained with."
        )


def _found(
    kind: str, name: str, parent: Model, params: Params, record: LedgerRecord
) -> Found:
    """Takes the network out of another model, and its codec."""
    network = parent.network_of(params)
    given = codec_weights.Given(parent.codec.identity, params, record.codec)
    return Found(network, _origin(kind, name, network, record), given)


def _origin(kind: str, name: str, network: Params, record: LedgerRecord) -> Origin:
    public = record.plan.public_data
    if not public and record.not_private:
        raise InputError(
            f"the weights of {name} are NOT PRIVATE ({'; '.join(record.not_private)}) "
            "and not stated to be of public data; allowed: a private model, or one "
            "trained with data.public."
        )
    if record.origin is not None and record.origin.ledger is not None:
        # The new run's ledger would no longer tell of the data before that.
        raise InputError(
            f"the weights of {name} began with private ones ({record.origin}), whose "
            "data is that of a third run; allowed: weights whose own first weights are "
            "random or of public data."
        )
    ledger = None if public else record.to_dict()
    return Origin(kind, name, digest(network), public, ledger)
