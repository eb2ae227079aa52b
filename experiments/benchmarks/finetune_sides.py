"""JAX's sides of the benchmark of DP fine-tuning; runs in a ``worker.Worker``.

All sides take the same views of the same images, and add gradients up. An ordinary
step's micro-batch is one call of a compiled program, outside of any loop, which is the
form that XLA's CPU compiler likes best.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax import devices, planning, xla_flags
from dpdm_jax.models.model import Model
from dpdm_jax.padding import blank_examples
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.secrets import fixed_secrets
from experiments.benchmarks import finetune_problem as problem
from experiments.benchmarks import jax_steps

#: Of weights, images and keys.
SEED = 0


class Side(NamedTuple):
    """A program that adds gradients up.

    Attributes:
        compiled: ``compiled(total, *arguments) -> total``; the sum's memory is reused.
        total: the sum of no gradients.
        arguments: of each call of a step.
    """

    compiled: jax.stages.Compiled
    total: Any
    arguments: list[tuple[Any, ...]]


def private(
    network: str,
    dtype: str,
    batch_size: int,
    noise_multiplicity: int,
    views_at_once: int,
) -> Side:
    """The library's own step up to its noise, image after image.

    Args:
        network: a name in ``problem.NETWORKS``.
        dtype: of the network.
        batch_size: B, images.
        noise_multiplicity: K, views of each.
        views_at_once: a divisor of K.
    """
    config = problem.load_config(network, dtype, noise_multiplicity, views_at_once)
    model = problem.load_model(config)
    plan = planning.privacy_plan(config, config.data.num_examples, model)
    secrets = fixed_secrets(SEED)
    mesh = devices.data_mesh()
    training = build_training(
        config, plan, model.trained_loss(), secrets.noise_key, mesh
    )
    trained, fixed = model.split(model.init(jax.random.key(SEED)))
    step = training.step_fns
    total = step.start(trained)
    batch = examples(model, batch_size)
    is_padding = np.zeros(batch_size, bool)
    positions = np.arange(batch_size, dtype=np.int32)
    batch = devices.place((batch, is_padding, positions), devices.divided(mesh))
    call = (trained, fixed, *batch, secrets.loss_key(0))
    return Side(step.accumulate.lower(total, *call).compile(), total, [call])


def ordinary(
    network: str,
    dtype: str,
    batch_size: int,
    noise_multiplicity: int,
    views_at_once: int,
) -> Side:
    """Gradients of the mean loss of micro-batches of views.

    Args:
        network: a name in ``problem.NETWORKS``.
        dtype: of the network.
        batch_size: B, images.
        noise_multiplicity: K, views of each.
        views_at_once: a divisor of B K: several views of one image, or several images'.
    """
    views = min(noise_multiplicity, views_at_once)
    images = views_at_once // views
    model = problem.load_model(problem.load_config(network, dtype, views, 0))
    gradient = jax_steps.nonprivate(model)
    params = model.init(jax.random.key(SEED))
    total = jax.tree.map(jnp.zeros_like, params)
    batch = jax.device_put(examples(model, images))
    calls = batch_size * noise_multiplicity // views_at_once
    keys = jax.random.split(jax.random.key(SEED), (calls, images))

    def add(total: Any, *arguments: Any) -> Any:
        return jax.tree.map(jnp.add, total, gradient(*arguments))

    arguments = [(params, batch, some) for some in keys]
    compiled = jax.jit(add, donate_argnums=0).lower(total, *arguments[0]).compile()
    return Side(compiled, total, arguments)


def examples(model: Model, number: int) -> Any:
    """Random images, with classes in turn.

    Args:
        model: that they are for.
        number: of images.
    """
    rng = np.random.default_rng(SEED)
    found = blank_examples(model.example, number)
    found["image"][:] = rng.integers(0, 256, found["image"].shape)
    found["condition"][:] = model.condition.in_turn(number)
    return found


def runner(side: Side) -> Callable[[], None]:
    """A function that takes a step, on top of those before."""
    total = side.total

    def run() -> None:
        nonlocal total
        for arguments in side.arguments:
            total = side.compiled(total, *arguments)
        jax.block_until_ready(total)

    return run


def build(name: str, size: dict[str, Any]) -> Side:
    """A side by name, see ``sides``."""
    if name == "private":
        return private(**size)
    if name == "ordinary":
        return ordinary(**size)
    whole = size["batch_size"] * size["noise_multiplicity"]
    return ordinary(**size | {"views_at_once": whole})


def sides(names: list[str], **size: Any) -> dict[str, Callable[[], None]]:
    """Sums of gradients of one batch.

    Args:
        names: of "private", "ordinary", "ordinary_at_once" (all views in one batch).
        **size: see ``private``.

    Returns:
        Name -> function that takes a step.
    """
    xla_flags.configure()
    return {name: runner(build(name, size)) for name in names}
