"""The layer by which noise level and condition enter networks of matrix products."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dpdm_jax import validate
from dpdm_jax.conditions import Condition
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import layers
from dpdm_jax.networks.embeddings import BagOfTokens


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a residual network whose blocks are made of ``ConditionedMLP``.

    Attributes:
        base_width: channels of the positional embedding of the noise level, >= 4.
        hidden_width: features that pass from block to block, >= 1: of the image, or of
            each pixel.
        num_blocks: residual blocks, >= 0.
        condition_gain: factor of the embeddings of noise level and condition, > 0. All
            weights get the same noise; above 1 these, of small gradients, gain against
            it.

    Raises:
        InputError: a field is out of range.
    """

    path: ClassVar[str]

    base_width: int = 32
    hidden_width: int = 128
    num_blocks: int = 2
    condition_gain: float = 1.0

    def __post_init__(self) -> None:
        for name, minimum in (
            ("base_width", 4),
            ("hidden_width", 1),
            ("num_blocks", 0),
        ):
            value = getattr(self, name)
            validate.integer(f"{self.path}.{name}", value, minimum=minimum)
        validate.real(f"{self.path}.condition_gain", self.condition_gain, above=0)


class ConditionedMLP(nnx.Module):
    """Hidden layer shifted by noise level and condition, SiLU, and back.

    Both act on the hidden layer directly: under the noise of private training a deeper
    embedding learns too slowly to tell the classes apart.

    Args:
        width: features of the input and of the output.
        hidden_width: features of the hidden layer.
        base_width: channels of the positional embedding of the noise level.
        condition: of the examples: class labels, tokens, or none.
        condition_gain: factor of the shift, whose weights start so much smaller.
            Private training adds the same noise to every weight: above 1 these, whose
            gradients are small, gain against it.
        scale: factor of the initial variance of the way back, small where the result is
            added to a residual stream.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        width: int,
        hidden_width: int,
        base_width: int,
        condition: Condition,
        *,
        condition_gain: float,
        scale: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.hidden = layers.dense(width, hidden_width, **make)
        self.noise = layers.dense(
            base_width, hidden_width, scale=condition_gain**-2, **make
        )
        std = 1 / condition_gain
        self.num_classes = condition.num_classes
        if self.num_classes is None:
            self.text = BagOfTokens(hidden_width, std=std, **make)
        elif self.num_classes > 0:
            self.label = layers.embed(
                self.num_classes + 1, hidden_width, std=std, **make
            )
        self.output = layers.dense(hidden_width, width, scale=scale, **make)
        self.condition_gain = condition_gain

    def __call__(
        self,
        x: Float[Array, "n *rows width"],
        noise: Float[Array, "n b"],
        condition: Int[Array, " n *tokens"],
    ) -> Float[Array, "n *rows width"]:
        """Applies the layer.

        Args:
            x: features; all rows are shifted alike, of which there is one axis or none.
            noise: positional embedding of the noise level.
            condition: labels in 0..num_classes, or tokens.

        Returns:
            As x.
        """
        shift = self.noise(noise)
        if self.num_classes is None:
            shift = shift + self.text(condition)
        elif self.num_classes > 0:
            shift = shift + self.label(condition)
        # Wide, since the shift's gradient is a sum over rows.
        shift = self.condition_gain * shift.astype(jnp.float32)
        if x.ndim == 3:
            shift = shift[:, None]
        h = self.hidden(x).astype(jnp.float32) + shift
        h = materialize(h.astype(x.dtype))
        return self.output(materialize(nnx.silu(h)))
