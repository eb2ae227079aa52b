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
        raise InputError(
            f"the network of {config.initial.weights} was trained with the codec "
            f"{given.identity}; allowed: the same codec."
        )
    if not isinstance(codec, AutoencoderCodec):
        return params, None
    settings = config.codec
    if given is not None and given.identity:
        if settings.weights:
            raise InputError(
                f"codec.weights is {settings.weights!r}, and {config.initial.weights} "
                "brings the codec that its network was trained with; allowed: ''."
            )
        kept = fitting.fit(given.params[KEPT], params[KEPT], "reuse")
        return {**params, KEPT: kept}, given.origin
    if not settings.weights:
        raise InputError(
            f"codec.weights is '' and codec.name is {settings.name!r}; allowed: a "
            "checkpoint of an autoencoder, the folder of diffusers' AutoencoderKL, or "
            "initial.weights of a run with a codec, or --mode=autoencoder first, on "
            "public data."
        )
    path = pathlib.Path(settings.weights)
    if (path / FOLDER).is_dir():
        kept, public = read_trained(path, codec)
        # Called as the run is, of which it is a part.
        name = path.absolute().parent.name
        return params | kept, Origin("run", name, digest(kept), public)
    if not settings.public:
        raise InputError(
            f"codec.weights is {settings.weights!r} and codec.public is empty; "
            "allowed: the name of the public data that it was trained on."
        )
    kept = latent_diffusion.read_autoencoder(path, codec)
    kind = "folder" if path.is_dir() else "file"
    origin = Origin(kind, path.name, digest(kept), settings.public)
    return params | kept, origin
