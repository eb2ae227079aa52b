"""The convolutional autoencoder of latent diffusion (Rombach et al. 2022).

Parameters lie under readable names: ``encoder/stem``, ``encoder/down/level_0/block_0``
(and ``attention_0``, ``downsample``), ``encoder/middle``, ``encoder/head``, ``decoder``
likewise with ``up/level_1/block_0`` (and ``attention_0``, ``upsample``), and
``to_latent``, ``from_latent`` between the two. Initial values follow PyTorch's laws.
"""

import abc
import dataclasses
import functools
from typing import ClassVar, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt8

from dpdm_jax import validate
from dpdm_jax.fusion import materialize
from dpdm_jax.images import pixels
from dpdm_jax.networks import layers, network, torch_layers, unet
from dpdm_jax.networks.codecs.base import KEPT
from dpdm_jax.networks.network import Params

# Of group normalisation.
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of an autoencoder; the defaults are DP-LDM's for images of 32x32.

    Attributes:
        base_channels: channels at full resolution, a multiple of 32.
        channel_multipliers: width of each level as a multiple of ``base_channels``,
            from full resolution down; each further level halves height and width.
        num_res_blocks: residual blocks per level on the way down; one more going up.
        attention_factors: how many times smaller than the image (1, 2, 4, ...) the
            levels are at which attention follows each block.
        inner_channels: channels between encoder and latents, >= 1.
        latent_channels: channels of the latents, >= 1.
        scale_factor: what latents are multiplied by for the diffusion, > 0. A public
            constant: it must not be measured on private images.

    Raises:
        InputError: a field is out of range.
    """

    path: ClassVar[str]

    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = (2,)
    inner_channels: int = 3
    latent_channels: int = 3
    scale_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, minimum in (
            ("base_channels", 32),
            ("num_res_blocks", 1),
            ("inner_channels", 1),
            ("latent_channels", 1),
        ):
            value = getattr(self, name)
            validate.integer(f"{self.path}.{name}", value, minimum=minimum)
        unet.check_levels(self.path, self.base_channels, self.channel_multipliers)
        unet.check_factors(
            self.path, self.attention_factors, len(self.channel_multipliers)
        )
        validate.real(f"{self.path}.scale_factor", self.scale_factor, above=0)

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.base_channels * m for m in self.channel_multipliers]

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns (h, w, c) of the latents of images (h, w, c).

        Raises:
            InputError: the image can't be halved often enough.
        """
        unet.check_sides(self.path, image_shape, self.channel_multipliers)
        factor = 2 ** (len(self.channel_multipliers) - 1)
        height, width, _ = image_shape
        return height // factor, width // factor, self.latent_channels


class ResidualBlock(nnx.Module):
    """Residual block without a condition.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.norm_a = _norm(in_channels, **make)
        self.conv_a = torch_layers.conv3x3(in_channels, out_channels, **make)
        self.norm_b = _norm(out_channels, **make)
        self.conv_b = torch_layers.conv3x3(out_channels, out_channels, **make)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.shortcut = torch_layers.dense(in_channels, out_channels, **make)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h w o"]:
        """Maps [n, h, w, in_channels] to [n, h, w, out_channels]."""
        h = self.conv_a(materialize(self.norm_a.then_silu(x)))
        h = self.conv_b(materialize(self.norm_b.then_silu(materialize(h))))
        if self.has_shortcut:
            x = self.shortcut(x)
        return materialize(x + h)


class AttentionBlock(nnx.Module):
    """Single-head self-attention over all pixels, as a residual.

    Args:
        channels: of input and output.
        dtype: of the computation; the softmax is in float32.
        rngs: see ``layers.dense``.
    """

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.norm = _norm(channels, **make)
        self.query = torch_layers.dense(channels, channels, **make)
        self.key = torch_layers.dense(channels, channels, **make)
        self.value = torch_layers.dense(channels, channels, **make)
        self.output = torch_layers.dense(channels, channels, **make)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Adds to each pixel what it attends to."""
        n, height, width, channels = x.shape
        h = materialize(self.norm(x).reshape(n, height * width, channels))
        h = layers.attend(self.query(h), self.key(h), self.value(h))
        return materialize(x + self.output(materialize(h)).reshape(x.shape))


class Encoder(nnx.Module):
    """From images to what latents are made of.

    Args:
        settings: of the autoencoder.
        in_channels: channels of the images.
        out_channels: channels of the output.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        in_channels: int,
        out_channels: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.num_res_blocks = settings.num_res_blocks
        channels = settings.base_channels
        self.stem = torch_layers.conv3x3(in_channels, channels, **make)
        self.down: nnx.Dict[nnx.Dict[nnx.Module]] = nnx.Dict()
        for i, width in enumerate(settings.widths):
            level = self.down[f"level_{i}"] = nnx.Dict()
            for j in range(settings.num_res_blocks):
                level[f"block_{j}"] = ResidualBlock(channels, width, **make)
                channels = width
                if 2**i in settings.attention_factors:
                    level[f"attention_{j}"] = AttentionBlock(channels, **make)
            if i + 1 < len(settings.widths):
                # Zeros are behind the image alone.
                level["downsample"] = torch_layers.conv3x3(
                    channels, channels, stride=2, padding=(0, 1), **make
                )
        self.middle = _middle(channels, **make)
        self.head = _head(channels, out_channels, **make)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float32[Array, "n h2 w2 o"]:
        """Maps images in [-1, 1], each level but the last halves h and w."""
        h = self.stem(x)
        for i in range(len(self.down)):
            level = self.down[f"level_{i}"]
            h = _apply_blocks(level, self.num_res_blocks, h)
            if "downsample" in level:
                h = level["downsample"](h)
        return self.head(_apply_middle(self.middle, h))


class Decoder(nnx.Module):
    """From latents to images.

    Args:
        settings: of the autoencoder.
        in_channels: channels of the input.
        out_channels: channels of the images.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        in_channels: int,
        out_channels: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.num_blocks = settings.num_res_blocks + 1
        channels = settings.widths[-1]
        self.stem = torch_layers.conv3x3(in_channels, channels, **make)
        self.middle = _middle(channels, **make)
        self.up: nnx.Dict[nnx.Dict[nnx.Module]] = nnx.Dict()
        for i, width in reversed(list(enumerate(settings.widths))):
            level = self.up[f"level_{i}"] = nnx.Dict()
            for j in range(self.num_blocks):
                level[f"block_{j}"] = ResidualBlock(channels, width, **make)
                channels = width
                if 2**i in settings.attention_factors:
                    level[f"attention_{j}"] = AttentionBlock(channels, **make)
            if i > 0:
                level["upsample"] = torch_layers.conv3x3(channels, channels, **make)
        self.head = _head(channels, out_channels, **make)

    def __call__(self, z: Float[Array, "n h w c"]) -> Float32[Array, "n h2 w2 o"]:
        """Maps latents to images nominally in [-1, 1]."""
        h = _apply_middle(self.middle, self.stem(z))
        for i in reversed(range(len(self.up))):
            level = self.up[f"level_{i}"]
            h = _apply_blocks(level, self.num_blocks, h)
            if "upsample" in level:
                h = level["upsample"](layers.upsample(h))
        return self.head(h)


class Autoencoder(nnx.Module):
    """Encoder and decoder, and the maps between them and the latents.

    Args:
        settings: its shape.
        image_channels: channels of the images.
        outputs: numbers that the encoder gives for each of a latent.
        dtype: of the computation; parameters and output are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        settings: Settings,
        image_channels: int,
        outputs: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        inner, latent = settings.inner_channels, settings.latent_channels
        self.encoder = Encoder(settings, image_channels, outputs * inner, **make)
        self.to_latent = torch_layers.dense(outputs * inner, outputs * latent, **make)
        self.from_latent = torch_layers.dense(latent, inner, **make)
        self.decoder = Decoder(settings, inner, image_channels, **make)

    def encode(self, x: Float[Array, "n h w c"]) -> Float32[Array, "n h2 w2 o"]:
        """Returns what latents are made of, of images in [-1, 1]."""
        return self.to_latent(self.encoder(x))

    def decode(self, z: Float[Array, "n h w c"]) -> Float32[Array, "n h2 w2 o"]:
        """Returns images nominally in [-1, 1], of latents that are not scaled."""
        return self.decoder(self.from_latent(z))


class Reconstruction(NamedTuple):
    """What an autoencoder is trained by.

    Attributes:
        images: made of the latents, nominally in [-1, 1].
        penalty: what keeps the latents regular.
    """

    images: Float32[Array, "n h w c"]
    penalty: Float[Array, ""]


Module = TypeVar("Module", bound=Autoencoder)


@dataclasses.dataclass(frozen=True)
class AutoencoderCodec(abc.ABC, Generic[Module]):
    """What codecs share whose parameters are an autoencoder's; see ``Codec``.

    Attributes:
        settings: of the autoencoder.
        sample_shape: (h, w, c).
        error_is_summed: whether in training the error of an image is the sum over its
            pixels, and not the mean.
        penalty_field: which of ``training.Settings`` weighs a reconstruction's penalty.
    """

    #: Numbers that the encoder gives for each of a latent.
    outputs: ClassVar[int]

    settings: Settings
    sample_shape: tuple[int, int, int]
    error_is_summed: ClassVar[bool]
    penalty_field: ClassVar[str]

    @property
    def identity(self) -> str:
        kind = self.settings.path.rpartition(".")[2]
        return f"{kind}, scale_factor={self.settings.scale_factor!r}"

    @abc.abstractmethod
    def make(self, rngs: nnx.Rngs) -> Module:
        """Builds the autoencoder."""

    @abc.abstractmethod
    def reconstruct(
        self,
        params: Params,
        images: Float[Array, "n h w c"],
        noise: Float[Array, "n h2 w2 c2"],
    ) -> Reconstruction:
        """Encodes and decodes, with gradients to both.

        Args:
            params: of the model.
            images: in [-1, 1].
            noise: unit normal, of the latents' shape.
        """

    @abc.abstractmethod
    def rescaled(self, params: Params, factor: float) -> Params:
        """Returns parameters of an autoencoder whose latents are times as large.

        It makes the same images of them.

        Args:
            params: of the model.
            factor: > 0.
        """

    def rescaled_ends(
        self, params: Params, factors: Float[np.ndarray, " o"], shifts: np.ndarray
    ) -> Params:
        """Changes what the encoder gives, and undoes that in front of the decoder.

        Args:
            params: of the model.
            factors: of the outputs in front of the latents; the first ones are those
                of the latents themselves.
            shifts: added to them.
        """
        kept = params[KEPT]
        last, first = kept["to_latent"], kept["from_latent"]
        factor = factors[: self.settings.latent_channels]
        ends = {
            "to_latent": {
                "kernel": last["kernel"] * factors,
                "bias": last["bias"] * factors + shifts,
            },
            "from_latent": {**first, "kernel": first["kernel"] / factor[:, None]},
        }
        return {**params, KEPT: {**kept, **ends}}

    @functools.cached_property
    def module(self) -> network.Functional[Module]:
        """The autoencoder."""
        return network.functional(self.make)

    def bind(self, params: Params) -> Module:
        """Returns the autoencoder with its part of a model's parameters."""
        return self.module.bind(params[KEPT])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.settings.latent_shape(self.sample_shape)

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.sample_shape, np.uint8)

    @property
    def law_spec(self) -> jax.ShapeDtypeStruct:
        height, width, channels = self.latent_shape
        shape = (height, width, self.outputs * channels)
        return jax.ShapeDtypeStruct(shape, np.float32)

    @property
    def shapes(self) -> Params:
        return {KEPT: self.module.init.shapes}

    def init(self, key: PRNGKeyArray) -> Params:
        return {KEPT: self.module.init(key)}

    def law(
        self, params: Params, images: UInt8[Array, "n h w c"]
    ) -> Float32[Array, "n h2 w2 o"]:
        return self.bind(params).encode(pixels.to_float(images))

    @abc.abstractmethod
    def draw(
        self, law: Float32[Array, "h w o"], key: PRNGKeyArray
    ) -> Float32[Array, "h w c"]: ...

    def encode(
        self, params: Params, image: UInt8[Array, "h w c"], key: PRNGKeyArray
    ) -> Float32[Array, "h2 w2 c2"]:
        return self.draw(self.law(params, image[None])[0], key)


def _norm(channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> layers.GroupNorm:
    return torch_layers.group_norm(channels, epsilon=_EPSILON, dtype=dtype, rngs=rngs)


def _head(
    channels: int, out_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> layers.Head:
    make: layers.Make = {"dtype": dtype, "rngs": rngs}
    conv = torch_layers.conv3x3(channels, out_channels, **make)
    return layers.Head(_norm(channels, **make), conv)


def _middle(
    channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> "nnx.Dict[nnx.Module]":
    make: layers.Make = {"dtype": dtype, "rngs": rngs}
    return nnx.Dict(
        block_0=ResidualBlock(channels, channels, **make),
        attention=AttentionBlock(channels, **make),
        block_1=ResidualBlock(channels, channels, **make),
    )


def _apply_middle(middle: "nnx.Dict[nnx.Module]", h: Array) -> Array:
    return middle["block_1"](middle["attention"](middle["block_0"](h)))


def _apply_blocks(level: "nnx.Dict[nnx.Module]", count: int, h: Array) -> Array:
    for j in range(count):
        h = level[f"block_{j}"](h)
        if f"attention_{j}" in level:
            h = level[f"attention_{j}"](h)
    return h
