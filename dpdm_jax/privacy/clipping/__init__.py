"""Sums of clipped per-example gradients behind one call, by interchangeable engines."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Bool

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy.clipping.arithmetic import (
    Arithmetic,
    Cells,
    Engine,
    arithmetic_of,
    on_joined,
)
from dpdm_jax.privacy.clipping.auto import (
    LossTraits,
    choose_engine,
    equations,
    loss_traits,
)
from dpdm_jax.privacy.clipping.base import (
    Aux,
    ClippedGrad,
    ClippedSum,
    LossAndAux,
    PyTree,
    batch_size,
    manual_axes,
    shape_of_one,
    vary,
)
from dpdm_jax.privacy.clipping.book_keeping import book_keeping_engine
from dpdm_jax.privacy.clipping.scan import scan_engine
from dpdm_jax.privacy.clipping.vmap import vmap_engine
from dpdm_jax.privacy.exact.grid import ExactSum

ENGINES = ("auto", "vmap", "scan", "book_keeping")

__all__ = [
    "ENGINES",
    "Aux",
    "ClippedGrad",
    "LossTraits",
    "choose_engine",
    "clipped_grad",
    "exact_sum",
    "loss_traits",
]


def clipped_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    l2_clip_norm: float,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
    return_values: bool = False,
    return_grad_norms: bool = False,
    microbatch_size: int | None = None,
    prng_argnum: int | None = None,
    engine: str = "auto",
) -> ClippedGrad:
    """Transforms a loss of one example into a sum of clipped per-example gradients.

    Names follow ``jax_privacy.clipped_grad``; unlike there, ``fun`` sees one example
    without a batch axis unless ``keep_batch_dim`` is set.

        >>> import jax.numpy as jnp
        >>> loss = lambda w, x: 0.5 * (x - w) ** 2
        >>> grad_fn = clipped_grad(loss, l2_clip_norm=1.0)
        >>> float(grad_fn(3.0, jnp.array([3.5, 7.0, -2.0])).to_float())
        -0.5

    Guarantee: adding, removing or masking one example moves the returned sum by at most
    ``l2_clip_norm`` in L2 norm over all leaves (``.sensitivity(relation)``), whatever
    ``fun`` does to one example, non-finite gradients included. It holds to the last
    bit: the sum is one of integers (``ExactSum``), which no order of adding changes.
    That is so for masking, by which the others keep their places in the batch; where
    they move up, it is so as far as convolutions round alike at all places. The
    by-products in ``Aux`` are private and carry no bound.

    A ``custom_vmap`` in ``fun`` is refused, since an example could see others by it;
    inside a gradient rule of ``fun`` (``custom_vjp``) it is not looked for.

    A single PRNG key is folded with each example's position, which removing another
    example may shift. The guarantee for adding or removing then rests on the key being
    secret and fresh, so that the draws are independent of the data; with a published
    key, give each example a key of its own.

    Args:
        fun: scalar loss of one example, ``fun(params, *example)``; ``(loss, aux)`` with
            ``has_aux``.
        argnums: which arguments to differentiate.
        has_aux: whether ``fun`` returns ``(loss, aux)``.
        l2_clip_norm: C, 2^-60 to 2^60; ``math.inf`` switches clipping off, and gives
            float32 sums that no noise protects.
        batch_argnums: arguments with a leading axis of examples.
        keep_batch_dim: give ``fun`` a leading axis of length 1.
        return_values: also return the losses.
        return_grad_norms: also return the gradient norms before clipping.
        microbatch_size: examples that are worked on at once; None for all, except
            under "scan" and "auto".
        prng_argnum: argument that is a typed PRNG key: one per example, or a single
            secret one that is folded with the example's position.
        engine: "vmap" holds all per-example gradients; "scan" goes through
            micro-batches of ``microbatch_size`` (default 1); "book_keeping" holds those
            of a few layers or examples at a time, for twice the weight-gradient work;
            "auto" chooses by ``choose_engine``.

    Returns:
        ``grad_fn(*args, is_padding_example=None, total=None)``, where arguments of
        ``fun`` may be named instead, giving the sum, an
        ``ExactSum`` of trees like the differentiated argument, or ``(sum, Aux)`` if any
        by-product was asked for. ``is_padding_example`` is bool [b]; such examples
        count for nothing. Sums of parts of a batch are added by ``+``, from
        ``grad_fn.zeros(params)`` on, or by handing the sum so far to the next part as
        ``total``, whose memory it then takes where that is donated.

    Raises:
        InputError: an option is out of range.
    """
    validate.real("l2_clip_norm", l2_clip_norm, above=0.0, allow_inf=True)
    arithmetic = arithmetic_of(l2_clip_norm)
    validate.one_of("engine", engine, ENGINES)
    if microbatch_size is not None:
        validate.integer("microbatch_size", microbatch_size, minimum=1)
    if engine == "vmap" and microbatch_size is not None:
        raise InputError(
            f"microbatch_size is {microbatch_size} with engine 'vmap', which takes the "
            "whole batch at once; allowed: engine 'scan' or 'auto', or no "
            "microbatch_size."
        )
    batch_argnums = _as_tuple(batch_argnums)
    mapped = batch_argnums if prng_argnum is None else (*batch_argnums, prng_argnum)
    if set(mapped) & set(_as_tuple(argnums)) or len(set(mapped)) != len(mapped):
        raise InputError(
            f"argnums {argnums}, batch_argnums {batch_argnums} and prng_argnum "
            f"{prng_argnum} overlap; allowed: distinct arguments."
        )
    if engine == "auto":
        run = _auto_engine(microbatch_size)
    else:
        run = _make_engine(engine, microbatch_size)
    with_aux = fun if has_aux else lambda *args: (fun(*args), None)

    def grad_fn(
        *args: Any,
        is_padding_example: jax.Array | None = None,
        total: Any = None,
        **named: Any,
    ) -> Any:
        args = _in_place(fun, args, named)
        size = batch_size([args[i] for i in batch_argnums])
        examples = [args[i] for i in batch_argnums]
        if prng_argnum is not None:
            examples.append(_key_per_example(args[prng_argnum], size))

        def loss(params: PyTree, *example: Any) -> tuple[jax.Array, PyTree]:
            full = list(args)
            differentiated = (params,) if isinstance(argnums, int) else params
            for position, value in zip(_as_tuple(argnums), differentiated, strict=True):
                full[position] = value
            for position, value in zip(mapped, example, strict=True):
                expand = keep_batch_dim and position != prng_argnum
                add_axis = lambda x: x[None]  # noqa: E731
                full[position] = jax.tree.map(add_axis, value) if expand else value
            return with_aux(*full)

        if isinstance(argnums, int):
            params = args[argnums]
        else:
            params = tuple(args[i] for i in argnums)
        _check_differentiable(params)
        # Inside shard_map JAX would otherwise add up, over the devices, gradients by
        # parameters that are the same on all: several examples' before clipping.
        params = vary(jax.tree.map(jnp.asarray, params), manual_axes(examples))
        is_padding_example = _padding(is_padding_example, size)
        _warn_of_unmapped(args, mapped, argnums, size)
        traced = _traced(loss, params, tuple(examples))
        axes = manual_axes((examples, is_padding_example))
        if total is None:
            so_far = arithmetic.zeros(params)
        else:
            _check_total(total, jax.eval_shape(zeros, params))
            so_far = arithmetic.cells(total)
        result = run(
            traced,
            params,
            tuple(examples),
            vary(is_padding_example, axes),
            arithmetic,
            vary(so_far, axes),
        )
        added = arithmetic.result(result.total, jax.tree.structure(params))
        by_products = result.aux
        if not (return_values or return_grad_norms or has_aux):
            return added
        return added, Aux(
            values=by_products.values if return_values else None,
            grad_norms=by_products.grad_norms if return_grad_norms else None,
            aux=by_products.aux if has_aux else None,
        )

    def zeros(params: PyTree) -> Any:
        return arithmetic.result(arithmetic.zeros(params), jax.tree.structure(params))

    return ClippedGrad(grad_fn, float(l2_clip_norm), zeros)


def exact_sum(
    vectors: PyTree,
    *,
    l2_clip_norm: float,
    is_padding_example: Bool[Array | np.ndarray, " n"] | None = None,
) -> ExactSum:
    """Clips vectors and adds them up, for ``gaussian_noise``: a query of its own.

    Guarantee: that of ``clipped_grad``, whose sum this is for gradients like these.

    Args:
        vectors: pytree of real arrays [n, ...], float32 or narrower; the leaves' rows
            together are one vector an example.
        l2_clip_norm: C, 2^-60 to 2^60.
        is_padding_example: such examples count for nothing.

    Returns:
        The sum, of trees like one example.

    Raises:
        InputError: an argument is out of range.
    """
    validate.real("l2_clip_norm", l2_clip_norm, above=0.0)
    arithmetic = arithmetic_of(l2_clip_norm)
    vectors = jax.tree.map(jnp.asarray, vectors)
    _check_narrow(vectors, "exact_sum")
    size = batch_size(vectors)
    axes = manual_axes((vectors, is_padding_example))
    counts = vary(~_padding(is_padding_example, size), axes)
    one = jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), vectors)
    nothing = vary(arithmetic.zeros(one), axes)
    joined, _, _ = arithmetic.visit(
        arithmetic.join(nothing),
        jax.tree.leaves(vectors),
        counts,
        lambda squares, roundings, rows: arithmetic.factors(
            squares, roundings, rows(counts)
        ),
    )
    total = arithmetic.split(joined, nothing)
    return arithmetic.result(total, jax.tree.structure(one))


def _in_place(
    fun: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    """Puts named arguments where the loss has them: positions tell what is examples'.

    Raises:
        InputError: the loss has no such argument, or none with a place.
    """
    if not named:
        return args
    try:
        bound = inspect.signature(fun).bind(*args, **named)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"clipped_grad was given {', '.join(named)} by name, and the loss cannot "
            f"be called so ({e}); allowed: names of its arguments."
        ) from None
    bound.apply_defaults()
    by_name = [name for name in named if name in bound.kwargs]
    if by_name:
        raise InputError(
            f"the loss takes {', '.join(by_name)} by name alone; allowed: "
            "arguments with a place, of which batch_argnums tells those of examples."
        )
    return bound.args


def _padding(is_padding_example: Any, size: int) -> jax.Array:
    if is_padding_example is None:
        return jnp.zeros((size,), bool)
    mask = is_padding_example
    dtype = getattr(mask, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.bool_):
        raise InputError(
            f"is_padding_example is of type "
            f"{dtype or type(mask).__name__}; allowed: an array of booleans."
        )
    if mask.shape != (size,):
        raise InputError(
            f"is_padding_example has shape {mask.shape}; allowed: "
            f"({size},), one entry per example."
        )
    return jnp.asarray(mask)


def _as_tuple(argnums: int | Sequence[int]) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


def _check_differentiable(params: PyTree) -> None:
    for leaf in jax.tree.leaves(params):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else type(leaf)
        if dtype is not float and not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"A differentiated argument has a leaf of type {dtype}; allowed: real "
                "floating-point numbers."
            )
    _check_narrow(params, "clipped_grad")


def _check_total(total: Any, like: Any) -> None:
    """Raises InputError unless a sum is like the one of no examples."""
    if isinstance(total, ExactSum) and isinstance(like, ExactSum):
        total.check_spacing(like.spacing)

    def described(tree: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(jnp.shape(x), jnp.result_type(x)) for x in leaves]

    if described(total) != described(like):
        raise InputError(
            f"total is a {type(total).__name__} that is no sum of such gradients; "
            "allowed: what an earlier call returned, or zeros(params)."
        )


def _traced(loss: LossAndAux, params: PyTree, batch: PyTree) -> LossAndAux:
    """Traces a loss of one example, once for all who look at it.

    Raises:
        InputError: a rule of its own would let it see the other examples of a batch.
    """
    closed, shapes = jax.make_jaxpr(loss, return_shape=True)(
        params, *shape_of_one(batch)
    )
    if any(
        equation.primitive.name == "custom_vmap_call"
        for equation in equations(closed.jaxpr)
    ):
        raise InputError(
            "The loss has a custom_vmap, by which an example may see others of its "
            "batch; allowed: operations that JAX vectorizes itself, and gradient rules."
        )
    treedef = jax.tree.structure(shapes)
    evaluate = core.jaxpr_as_fun(closed)
    return lambda *args: jax.tree.unflatten(treedef, evaluate(*jax.tree.leaves(args)))


def _warn_of_unmapped(
    args: tuple[Any, ...],
    mapped: tuple[int, ...],
    argnums: int | Sequence[int],
    size: int,
) -> None:
    """Warns of arguments that look like the batch's but are given to all examples."""
    for position, value in enumerate(args):
        if size < 2 or position in (*mapped, *_as_tuple(argnums)):
            continue
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(value)]
        if any(shape[:1] == (size,) for shape in shapes):
            warnings.warn(
                f"argument {position} has an array of length {size}, as the batch has, "
                "and every example sees all of it; if it belongs to the examples, it "
                "is protected only as one of batch_argnums.",
                stacklevel=3,
            )


def _check_narrow(tree: PyTree, where: str) -> None:
    """Refuses what float32 does not hold: its norm would be another vector's."""
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and (
            not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits > 32
        ):
            raise InputError(
                f"{where} was given an array of type {dtype}; allowed: float32 or "
                "narrower real numbers."
            )


def _make_engine(engine: str, microbatch_size: int | None) -> Engine:
    if engine == "scan":
        microbatch_size = microbatch_size or 1
    run: Engine = book_keeping_engine if engine == "book_keeping" else vmap_engine
    if microbatch_size is not None:
        run = scan_engine(microbatch_size, run)
    return run if engine == "book_keeping" else on_joined(run)


def _auto_engine(microbatch_size: int | None) -> Engine:
    def run(
        loss: LossAndAux,
        params: PyTree,
        batch: PyTree,
        is_padding: jax.Array,
        arithmetic: Arithmetic,
        total: Cells,
    ) -> ClippedSum:
        platform = jax.default_backend()
        # Tracing the loss takes its time, and only this choice depends on it.
        undecided = platform == "cpu" and microbatch_size is None
        chosen = choose_engine(
            platform,
            len(is_padding),
            sum(leaf.size for leaf in jax.tree.leaves(params)),
            microbatch_size,
            traits=loss_traits(loss, params, batch) if undecided else None,
        )
        run = _make_engine(*chosen)
        return run(loss, params, batch, is_padding, arithmetic, total)

    return run


def _key_per_example(key: PyTree, size: int) -> jax.Array:
    if key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))
