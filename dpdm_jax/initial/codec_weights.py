"""The weights of a codec: those of a file, or those that a network was trained with."""

import pathlib
from typing import Any, NamedTuple

import ml_collections

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
    """The codec of a model whose network another one begins with.

    Attributes:
        identity: of the codec, see ``Codec``.
        params: all of the model's.
        origin: whose weights the codec's are.
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
    codec = model.codec
    if given is not None and given.identity and given.identity != codec.identity:
        raise _of_another_codec(f"the network of {config.initial.weights}", given)
    if not isinstance(codec, AutoencoderCodec):
        return params, None
    settings = config.codec
    if given is not None and given.identity:
        if settings.weights:
            raise InputError(
                f"codec.weights is {settings.weights!r}, and {config.initial.weights} "
                "brings the codec that its network was trained with; allowed: ''."
            )
        return _taken(given, params)
    if not settings.weights:
        raise InputError(
            f"codec.weights is '' and codec.name is {settings.name!r}; allowed: a "
            "checkpoint of an autoencoder, the folder of diffusers' AutoencoderKL, a "
            "release with a codec, or initial.weights of a run with a codec, or "
            "--mode=autoencoder first, on public data."
        )
    path = user_path("codec.weights", settings.weights)
    if (path / FOLDER).is_dir():
        kept, public = read_trained(path, codec)
        # Called as the run is, of which it is a part.
        name = path.absolute().parent.name
        return params | kept, Origin("run", name, digest(kept), public)
    if bundle.is_bundle(path):
        released = _of_release(path)
        if released.identity != codec.identity:
            raise _of_another_codec(f"the network of {settings.weights}", released)
        return _taken(released, params)
    if not settings.public:
        raise InputError(
            f"codec.weights is {settings.weights!r} and codec.public is empty; "
            "allowed: the name of the public data that it was trained on."
        )
    kept = latent_diffusion.read_autoencoder(path, codec)
    kind = "folder" if path.is_dir() else "file"
    origin = Origin(kind, path.name, digest(kept), settings.public)
    return params | kept, origin


def _of_release(path: pathlib.Path) -> Given:
    """Reads a release, whose codec alone is wanted: no step trained that."""
    released = load_release(path)
    record, _ = privacy_files.read_accounted(released.privacy)
    return Given(released.model.codec.identity, released.params, record.codec)


def _taken(given: Given, params: Any) -> tuple[Any, Origin | None]:
    """Puts another model's codec among a model's parameters."""
    kept = fitting.fit(given.params[KEPT], params[KEPT], "reuse")
    return {**params, KEPT: kept}, given.origin


def _of_another_codec(network: str, given: Given) -> InputError:
    identity = given.identity or "pixels"
    return InputError(
        f"{network} was trained with the codec {identity}; allowed: the same codec."
    )
