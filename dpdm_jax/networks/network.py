"""The one interface through which the rest of the package sees a network."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Key, PRNGKeyArray

from dpdm_jax.networks import adapters, layers
from dpdm_jax.networks.parts import Parts, of_module

#: Computation dtypes by their name in a config; parameters are always float32.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

#: Nested dictionary of float32 arrays with readable names.
Params = dict[str, Any]

Module = TypeVar("Module", bound=nnx.Module)


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


# Compared as functions are: by which one it is.
@dataclasses.dataclass(frozen=True, eq=False)
class Init:
    """``init(key) -> params`` that knows shapes: a trace of many laws takes a second.

    Attributes:
        draw: makes the parameters.
        shapes: shapes and dtypes of them.
    """

    draw: Callable[[PRNGKeyArray], Params]
    shapes: Params

    def __call__(self, key: PRNGKeyArray) -> Params:
        """Returns the parameters, determined by the key."""
        return self.draw(key)


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
        parts: what its modules say of their parameters.
        embed: ``embed(params, condition)``, what ``apply`` takes in the place of
            conditions, too, for calls that share some: arrays [n, ...]. None of a
            network that makes nothing of them before it sees an image.
    """

    init: Callable[[PRNGKeyArray], Params]
    apply: Apply
    image_shape: tuple[int, int, int]
    drops: bool = False
    parts: Parts = dataclasses.field(default_factory=Parts)
    embed: Callable[[Params, Any], Any] | None = None

    @functools.cached_property
    def shapes(self) -> Params:
        """Shapes and dtypes of the parameters; allocates none, and uses no device."""
        if isinstance(self.init, Init):
            return self.init.shapes
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    @property
    def num_parameters(self) -> int:
        """Number of scalars, measured ones among them; allocates none."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.shapes))


class _NoKeys(nnx.Rngs):
    """Random keys for Flax's layers, which hand them to laws that need none.

    Making them would take most of the time of building a network.
    """

    def __init__(self) -> None:
        pass

    def params(self) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Functional(Generic[Module]):
    """A Flax module made of ``layers``, as pure functions.

    Attributes:
        init: ``init(key) -> params``, determined by the key.
        bind: ``bind(params) -> module``, the module with these parameters, which may
            have adapters (see ``adapters``).
        parts: what its modules say of their parameters.
    """

    init: Init
    bind: Callable[[Params], Module]
    parts: Parts


def functional(
    make_module: Callable[[nnx.Rngs], Module], *, tokens: int | None = None
) -> Functional[Module]:
    """Turns a Flax module made of ``layers`` into pure functions.

    Args:
        make_module: builds the module, whose parameters all carry an initialisation law
            (see ``layers``).
        tokens: that the condition is attended to as; None where none is.
    """
    known = Parts()

    def make() -> Module:
        nonlocal known
        module = make_module(_NoKeys())
        known = of_module(module, tokens)
        return module

    graph, state = nnx.split(nnx.eval_shape(make))
    parameters = nnx.to_flat_state(state)
    paths = [tuple(map(str, path)) for path, _ in parameters]
    shapes = [jax.ShapeDtypeStruct(p.shape, jnp.float32) for _, p in parameters]

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
        values = []
        start = 0
        for _, parameter in parameters:
            u = draw[start : start + parameter.size].reshape(parameter.shape)
            start += parameter.size
            values.append(parameter.get_metadata(layers.LAW)(u))
        return _nested(paths, jax.device_put(values))

    def bind(params: Params) -> Module:
        params, found = adapters.taken_apart(params)
        module = nnx.merge(graph, params)
        adapters.attach(module, found)
        return module

    return Functional(Init(init, _nested(paths, shapes)), bind, known)


def _nested(paths: Iterable[tuple[str, ...]], leaves: Iterable[Any]) -> Params:
    params: Params = {}
    for (*parents, name), leaf in zip(paths, leaves, strict=True):
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return params


def from_module(
    make_module: Callable[[nnx.Rngs], nnx.Module],
    image_shape: tuple[int, int, int],
    *,
    drops: bool = False,
    tokens: int | None = None,
    embed: Callable[[Any, Any], Any] | None = None,
) -> Network:
    """Turns a Flax module made of ``layers`` into a ``Network``.

    Args:
        make_module: see ``functional``; the module's call is
            ``module(x, c_noise, condition)``.
        image_shape: (h, w, c).
        drops: see ``Network``; the module's call then takes keys as well, or none.
        tokens: see ``functional``.
        embed: ``embed(module, condition)``, see ``Network``.

    Returns:
        The network; its parameters may have adapters.
    """
    module = functional(make_module, tokens=tokens)

    def apply(
        params: Params,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        condition: Any,
        *keys: Key[Array, " n"],
    ) -> Float32[Array, "n h w out"]:
        return module.bind(params)(x, c_noise, condition, *keys)

    def embedded(params: Params, condition: Any) -> Any:
        assert embed is not None
        return embed(module.bind(params), condition)

    return Network(
        module.init,
        apply,
        image_shape,
        drops,
        module.parts,
        None if embed is None else embedded,
    )
