"""The one interface through which the rest of the package sees a network."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Key, PRNGKeyArray

from dpdm_jax.networks import layers

#: Computation dtypes by their name in a config; parameters are always float32.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

#: Nested dictionary of float32 arrays with readable names.
Params = dict[str, Any]


class Apply(Protocol):
    """``apply(params, x, c_noise, condition)``, in training also with ``keys``."""

    def __call__(
        self,
        params: Params,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        condition: Any,
        /,
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]: ...


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as two pure functions over a dictionary of parameters.

    Attributes:
        init: ``init(key) -> params``, determined by the key.
        apply: ``apply(params, x, c_noise, condition)``. The condition is a tree of
            arrays [n, ...]: of class labels int32 [n] in 0..num_classes, where
            num_classes is the null label, or of tokens int32 [n, length]. Keys, one an
            image, are given in training to a network that drops.
        image_shape: (h, w, c).
        drops: whether it drops some features in training.
    """

    init: Callable[[PRNGKeyArray], Params]
    apply: Apply
    image_shape: tuple[int, int, int]
    drops: bool = False

    @property
    def num_parameters(self) -> int:
        """Number of scalars, measured ones among them; allocates none."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


class _NoKeys(nnx.Rngs):
    """Random keys for Flax's layers, which hand them to laws that need none.

    Making them would take most of the time of building a network.
    """

    def __init__(self) -> None:
        pass

    def params(self) -> None:
        return None


def from_module(
    make_module: Callable[[nnx.Rngs], nnx.Module],
    image_shape: tuple[int, int, int],
    *,
    drops: bool = False,
) -> Network:
    """Turns a Flax module made of ``layers`` into a ``Network``.

    Args:
        make_module: builds the module, whose call is ``module(x, c_noise, condition)``
            and whose parameters all carry an initialisation law (see ``layers``).
        image_shape: (h, w, c).
        drops: see ``Network``; the module's call then takes keys as well, or none.

    Returns:
        The network.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: make_module(_NoKeys())))
    parameters = nnx.to_flat_state(state)

    def init(key: PRNGKeyArray) -> Params:
        # One draw, cut up on the host: XLA would compile a draw, or only a slice, for
        # each tensor, which takes seconds. Traced, the same lines build a graph.
        total = sum(parameter.size for _, parameter in parameters)
        lowest = jnp.nextafter(jnp.float32(-1), jnp.float32(0))  # -1 maps to -infinity
        draw: Array | np.ndarray = jax.random.uniform(
            key, (total,), minval=lowest, maxval=1.0
        )
        if not isinstance(draw, jax.core.Tracer):
            draw = np.asarray(draw)
        params: Params = {}
        start = 0
        for path, parameter in parameters:
            u = draw[start : start + parameter.size].reshape(parameter.shape)
            start += parameter.size
            *parents, name = map(str, path)
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = jnp.asarray(parameter.get_metadata(layers.LAW)(u))
        return params

    def apply(
        params: Params,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        condition: Any,
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        return nnx.merge(graph, params)(x, c_noise, condition, *keys)

    return Network(init, apply, image_shape, drops)
