from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.extend.core import primitives

from dpdm_jax.privacy.clipping.base import PyTree, shape_of_one

#: Per-example gradients that engine "auto" holds at once on a device, in bytes. On a
#: CPU a few examples at a time are as fast as many or faster, their activations being
#: closer to its caches; an accelerator needs wide batches.
CPU_BYTES = 2**25
BYTES = 2**30
#: Bytes that the largest array of a micro-batch's loss may have on a CPU, for the same
#: reason: with many noise draws a single example is work enough.
CPU_ARRAY_BYTES = 2**22
#: Gradients that are each beyond a CPU's caches are best worked out a few at a time,
#: which read the weights and visit the sum once for all: as many, in as many bytes.
CPU_FEW = 3
CPU_FEW_BYTES = 2**28

# Operations that only move numbers: of an example's, what they move was counted, and of
# the weights it is there once for all examples.
_MOVES = {
    primitives.convert_element_type_p,
    primitives.reshape_p,
    primitives.rev_p,
    primitives.squeeze_p,
    primitives.transpose_p,
}


class LossTraits(NamedTuple):
    """What tells how a CPU likes a loss' gradient.

    Attributes:
        slow_in_loops: whether it is several times slower inside a loop. XLA:CPU has no
            fast program for the weight gradient that JAX derives of ``lax.conv`` except
            outside of loops. Convolutions with a gradient rule of their own, as those
            of ``dpdm_jax.networks``, are taken to be fast.
        largest_array: bytes of the largest array that one example's loss computes and
            does not only move.
    """

    slow_in_loops: bool
    largest_array: int


def choose_engine(
    platform: str,
    batch_size: int,
    num_parameters: int,
    microbatch_size: int | None = None,
    *,
    traits: LossTraits | None = None,
) -> tuple[str, int | None]:
    """What engine "auto" stands for.

    "vmap" while the batch's gradients fit into ``CPU_BYTES`` on a CPU, or ``CPU_FEW``
    of them into ``CPU_FEW_BYTES``, and the largest array of its loss into
    ``CPU_ARRAY_BYTES``; into ``BYTES`` elsewhere or where loops are slow. Beyond that,
    CPUs take micro-batches of equal size that fit, or single examples; accelerators
    keep the batch and take "book_keeping". A given ``microbatch_size`` is kept, and
    accelerators apply the rule to a micro-batch.

    Args:
        platform: as ``jax.default_backend()`` names it.
        batch_size: examples in a call, on one device, >= 0.
        num_parameters: scalars that are differentiated by.
        microbatch_size: see ``clipped_grad``.
        traits: of the loss; only CPUs look at them. None for a loss of small arrays
            that is fast in loops.

    Returns:
        The engine and its ``microbatch_size``.
    """
    on_cpu = platform == "cpu"
    traits = traits or LossTraits(slow_in_loops=False, largest_array=1)
    in_small_parts = on_cpu and not traits.slow_in_loops
    bytes_of_one = max(1, 4 * num_parameters)
    fitting = (CPU_BYTES if in_small_parts else BYTES) // bytes_of_one
    if in_small_parts:
        fitting = max(fitting, min(CPU_FEW, CPU_FEW_BYTES // bytes_of_one))
        fitting = min(fitting, CPU_ARRAY_BYTES // max(1, traits.largest_array))
    fitting = max(1, fitting)
    examples = batch_size if microbatch_size is None else microbatch_size
    if examples > fitting and not on_cpu:
        return "book_keeping", microbatch_size
    if microbatch_size is not None:
        return "scan", microbatch_size
    if examples > fitting:
        chunks = -(-examples // fitting)
        return "scan", -(-examples // chunks)
    return "vmap", None


def loss_traits(
    loss: Callable[..., PyTree], params: PyTree, batch: PyTree
) -> LossTraits:
    """Looks at a loss by tracing it.

    Args:
        loss: of one example, with by-products or without.
        params: its first argument, arrays or their shapes.
        batch: its other arguments, each with a leading axis of examples.
    """
    jaxpr = jax.make_jaxpr(loss)(params, *shape_of_one(batch)).jaxpr
    derived = equations(jaxpr, with_own_gradient=False)
    return LossTraits(
        slow_in_loops=any(
            equation.primitive is primitives.conv_general_dilated_p
            for equation in derived
        ),
        largest_array=max(
            (
                _bytes(variable.aval)
                for equation in equations(jaxpr, with_own_gradient=True)
                if equation.primitive not in _MOVES
                for variable in equation.outvars
            ),
            default=0,
        ),
    )


def _bytes(aval: Any) -> int:
    return aval.size * aval.dtype.itemsize


def equations(
    jaxpr: core.Jaxpr, *, with_own_gradient: bool = True
) -> Iterator[core.JaxprEqn]:
    """Yields all equations of a program, or those that JAX derives the gradient of.

    Args:
        jaxpr: the program.
        with_own_gradient: whether to look into what has a gradient rule of its own.
    """
    for equation in jaxpr.eqns:
        yield equation
        if with_own_gradient or equation.primitive is not primitives.custom_vjp_call_p:
            for part in _parts_on_cpu(equation):
                yield from equations(part, with_own_gradient=with_own_gradient)


def _parts_on_cpu(equation: core.JaxprEqn) -> Iterable[core.Jaxpr]:
    # lax.platform_dependent is a choice that knows its platforms; None is the default.
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        return core.jaxprs_in_params(equation.params)
    runs = [names is None or "cpu" in names for names in platforms]
    return [equation.params["branches"][runs.index(True)].jaxpr]
