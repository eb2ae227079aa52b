import jax
from jax.extend import core
from jax.extend.core import primitives

from dpdm_jax.privacy.clipping.base import ExampleLoss, PyTree, shape_of_one

#: Per-example gradients that engine "auto" holds at once on a device, in bytes. On a
#: CPU a few examples at a time are as fast as many or faster, their activations being
#: closer to its caches; an accelerator needs wide batches.
CPU_BYTES = 2**25
BYTES = 2**30


def choose_engine(
    platform: str,
    batch_size: int,
    num_parameters: int,
    microbatch_size: int | None = None,
    *,
    slow_in_loops: bool = False,
) -> tuple[str, int | None]:
    """What engine "auto" stands for.

    "vmap" while the batch's gradients fit into ``CPU_BYTES`` on a CPU, into ``BYTES``
    elsewhere or where loops are slow. Beyond that, CPUs take micro-batches of equal
    size that fit, or single examples; accelerators keep the batch and take
    "book_keeping". A given ``microbatch_size`` is kept, and accelerators apply the
    rule to a micro-batch.

    Args:
        platform: as ``jax.default_backend()`` names it.
        batch_size: examples in a call, on one device, >= 0.
        num_parameters: scalars that are differentiated by.
        microbatch_size: see ``clipped_grad``.
        slow_in_loops: see ``is_slow_in_loops``.

    Returns:
        The engine and its ``microbatch_size``.
    """
    on_cpu = platform == "cpu"
    budget = CPU_BYTES if on_cpu and not slow_in_loops else BYTES
    fitting = max(1, budget // max(1, 4 * num_parameters))
    examples = batch_size if microbatch_size is None else microbatch_size
    if examples > fitting and not on_cpu:
        return "book_keeping", microbatch_size
    if microbatch_size is not None:
        return "scan", microbatch_size
    if examples > fitting:
        chunks = -(-examples // fitting)
        return "scan", -(-examples // chunks)
    return "vmap", None


def is_slow_in_loops(loss: ExampleLoss, params: PyTree, batch: PyTree) -> bool:
    """Whether a CPU is several times slower at this loss' gradient inside a loop.

    XLA:CPU has no fast program for the weight gradient that JAX derives of ``lax.conv``
    except outside of loops. Convolutions with a gradient rule of their own, as those
    of ``dpdm_jax.networks``, are taken to be fast.

    Args:
        loss: see ``ExampleLoss``.
        params: its first argument.
        batch: its other arguments, each with a leading axis of examples.
    """
    closed = jax.make_jaxpr(loss)(params, *shape_of_one(batch))
    return _convolves(closed.jaxpr)


def _convolves(jaxpr: core.Jaxpr) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive is primitives.conv_general_dilated_p:
            return True
        if equation.primitive is not primitives.custom_vjp_call_p and any(
            map(_convolves, _parts_on_cpu(equation))
        ):
            return True
    return False


def _parts_on_cpu(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    # lax.platform_dependent is a choice that knows its platforms; None is the default.
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        return core.jaxprs_in_params(equation.params)
    runs = [names is None or "cpu" in names for names in platforms]
    return [equation.params["branches"][runs.index(True)].jaxpr]
