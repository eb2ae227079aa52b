"""The weights of a codec: those of a file, or those that a network was trained with."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import ml_collections

from dpdm_jax import run_dir
from dpdm_jax.autoencoding.checkpoints import FOLDER, read_trained
from dpdm_jax.errors import InputError
from dpdm_jax.initial import fitting
from dpdm_jax.interop import latent_diffusion
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import Model
from dpdm_jax.networks.codecs import KEPT
from dpdm_jax.networks.codecs.autoencoder import AutoencoderCodec
from dpdm_jax.privacy.lineage import Origin
from dpdm_jax.release import bundle, privacy_files
from dpdm_jax.release.model import load_release
from dpdm_jax.user_paths import user_path


class Given(NamedTuple):
    """The codec that another model has.

    Attributes:
        identity: of the codec, see ``Codec``.
        params: all of the model's.
        origin: whose weights the codec's are; None of one without any, or where that is
            not known.
    """

    identity: str
    params: Any
    origin: Origin | None


def read_codec(
    config: ml_collections.ConfigDict, model: Model, params: Any, given: Given | None
) -> tuple[Any, Origin | None]:
    """Puts the weights of a codec among a model's parameters.

    Args:
        config: the whole config; reads ``codec`` and ``initial``.
        model: what begins with them.
        params: all of its parameters, with a random codec.
        given: the codec that its network was trained with; None for random networks,
            and for those of a file.

    Returns:
        The parameters and where the codec's come from; as they are of a codec without
        any.

    Raises:
        InputError: no weights are named, they cannot be read, or are of another codec
            than the config's or the network's.
    """
    codec, settings = model.codec, config.codec
    is_given = given is not None and given.identity != ""
    if given is not None and is_given:
        _check_identity(
            f"the network of {config.initial.weights}",
            given.identity,
            codec.identity,
        )
    if not isinstance(codec, AutoencoderCodec):
        return params, None
    if given is not None and is_given:
        if settings.weights:
            raise InputError(
                f"codec.weights is {settings.weights!r}, and {config.initial.weights} "
                "brings the codec that its network was trained with; allowed: ''."
            )
        return _taken(given, settings, params)
    if not settings.weights:
        raise InputError(
            f"codec.weights is '' and codec.name is {settings.name!r}; allowed: a "
            "checkpoint of an autoencoder, the folder of diffusers' AutoencoderKL, a "
            "release with a codec, or initial.weights of a run with a codec, or "
            "--mode=autoencoder first, on public data."
        )
    path = user_path("codec.weights", settings.weights)
    if (path / run_dir.LEDGER).exists():
        raise InputError(
            f"codec.weights is {settings.weights!r}, a run directory; allowed: its "
            f"{run_dir.AUTOENCODER}/ or its {run_dir.RELEASE}/."
        )
    if (path / FOLDER).is_dir():
        kept, public = read_trained(path, codec)
        _check_public(settings, public)
        # Called as the run is, of which it is a part.
        name = path.absolute().parent.name
        return params | kept, Origin("run", name, digest(kept), public)
    if (path / bundle.MANIFEST).is_file():
        return _taken(_of_release(settings.weights, path, codec), settings, params)
    if not settings.public:
        raise InputError(
            f"codec.weights is {settings.weights!r} and codec.public is empty; "
            "allowed: the name of the public data that it was trained on."
        )
    kept = latent_diffusion.read_autoencoder(path, codec)
    kind = "folder" if path.is_dir() else "file"
    origin = Origin(kind, path.name, digest(kept), settings.public)
    return params | kept, origin


def _of_release(
    weights: str, path: pathlib.Path, codec: AutoencoderCodec[Any]
) -> Given:
    """Reads a release, whose codec alone is wanted: no step trained that.

    Raises:
        InputError: it has another codec, or none of whose data something is known, or
            was chosen among several.
    """
    released = load_release(path)
    record, tuning = privacy_files.read_accounted(released.privacy)
    name = f"the codec of {weights}"
    _check_identity(
        f"the network of {weights}", released.model.codec.identity, codec.identity
    )
    found = released.model.codec
    assert isinstance(found, AutoencoderCodec)  # as their identities are the same
    if found.sample_shape != codec.sample_shape:
        sizes = ["x".join(map(str, c.sample_shape)) for c in (found, codec)]
        raise InputError(
            f"{name} is of images of {sizes[0]}; allowed: {sizes[1]}, as the data's."
        )
    for field in dataclasses.fields(codec.settings):
        was, now = (getattr(c.settings, field.name) for c in (found, codec))
        if was != now:
            raise InputError(
                f"{codec.settings.path}.{field.name} is {now!r} and that of {name} "
                f"{was!r}; allowed: the same."
            )
    if tuning.is_counted:
        raise InputError(
            f"{name} was chosen by runs that its release counts, of which the new "
            "run's ledger would not tell; allowed: the release of a model without "
            "counted tuning."
        )
    if record.codec is None:
        raise InputError(
            f"the ledger of {weights} does not say what its codec was trained on; "
            "allowed: a release whose ledger does."
        )
    return Given(found.identity, released.params, record.codec)


def _taken(
    given: Given, settings: ml_collections.ConfigDict, params: Any
) -> tuple[Any, Origin | None]:
    """Puts another model's codec among a model's parameters."""
    kept = {KEPT: fitting.fit(given.params[KEPT], params[KEPT], "reuse")}
    origin = given.origin
    if origin is not None:
        _check_public(settings, origin.public_data)
        # Of these very weights: a release may have rounded them.
        origin = dataclasses.replace(origin, sha256=digest(kept))
    return {**params, **kept}, origin


def _check_public(settings: ml_collections.ConfigDict, public: str) -> None:
    """Refuses a config that names other data than a codec was trained on."""
    if settings.public not in ("", public):
        raise InputError(
            f"codec.public is {settings.public!r} and the codec was trained on "
            f"{public!r}; allowed: '' or that."
        )


def _check_identity(network: str, found: str, wanted: str) -> None:
    """Refuses a codec of another kind or scale."""
    if found != wanted:
        raise InputError(
            f"{network} was trained with the codec {found or 'pixels'}; allowed: the "
            "same codec."
        )
