"""Steps on some number of devices; runs in a ``worker.Worker``.

The number of devices is fixed when JAX starts them, hence a process for each.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dpdm_jax import devices, files, planning, processes, xla_flags
from dpdm_jax.compilation.memory import program_memory
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.padding import blank_examples
from dpdm_jax.privacy import PoissonSampling, clipped_grad
from dpdm_jax.training import loop
from dpdm_jax.training.from_config import Training, build_training
from dpdm_jax.training.secrets import fixed_secrets
from dpdm_jax.training.state import create_state
from experiments.benchmarks import problem

#: Of the keys and of the initial weights.
SEED = 0


def sized_steps(sizes: Sequence[Sequence[Any]]) -> dict[str, Callable[[], None]]:
    """Logical steps of one micro-batch on one device.

    Args:
        sizes: (network, B, K) each; see ``problem.NETWORKS``.

    Returns:
        "network,B,K" -> function that takes a step.
    """
    xla_flags.configure()
    return {",".join(map(str, size)): _step(*size).run for size in sizes}


def described_steps(
    num_devices: int,
    num_processes: int,
    process_id: int,
    address: str,
    sizes: Sequence[Sequence[Any]],
    answer: str,
) -> dict[str, Callable[[], None]]:
    """Logical steps of one micro-batch over all devices, and the memory they take.

    Args:
        num_devices: virtual devices of this process.
        num_processes: how many processes take part.
        process_id: which this is.
        address: where they meet.
        sizes: (network, B, K, whether the state is sharded) each.
        answer: .json file that process 0 writes: of each size, as a list, the weights
            and the bytes that a step takes at once on one device, by the compiler.

    Returns:
        "network,B,K,sharded" -> function that takes a step together with the other
        processes.
    """
    _start_devices(num_devices, num_processes, process_id, address)
    steps = {",".join(map(str, size)): _step(*size) for size in sizes}
    if processes.is_first():
        files.write_json(
            pathlib.Path(answer),
            {
                name: [num_parameters(size[0]), step.bytes_at_once]
                for size, (name, step) in zip(sizes, steps.items(), strict=True)
            },
        )
    return {name: step.run for name, step in steps.items()}


def _start_devices(
    num_devices: int, num_processes: int, process_id: int, address: str
) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = (
        f"{flags} --xla_force_host_platform_device_count={num_devices}".strip()
    )
    xla_flags.configure()
    if num_processes > 1:
        processes.connect(address, num_processes, process_id)


def num_parameters(network: str) -> int:
    """Weights of a network of ``problem.NETWORKS``."""
    config = problem.load_config(network, 1)
    return build_model(
        config, problem.IMAGE_SHAPE, of_classes(problem.NUM_CLASSES)
    ).num_parameters


def run_and_step(
    num_devices: int,
    num_processes: int,
    process_id: int,
    address: str,
    num_steps: int,
    network: str,
    batch_size: int,
    noise_multiplicity: int,
    answer: str,
    is_least: bool,
) -> dict[str, Callable[[], None]]:
    """Trains on the digits as configs/digits.py does; then holds a step to be timed.

    Args:
        num_devices: virtual devices of this process.
        num_processes: how many processes take part.
        process_id: which this is.
        address: where they meet.
        num_steps: steps of the training run.
        network: of the timed step, a name in ``problem.NETWORKS``.
        batch_size: B of the timed step, over all devices.
        noise_multiplicity: K of the timed step.
        answer: .npz file that process 0 writes: the indices of each step in turn, noise
            of two steps, and the final weights and average.
        is_least: whether the run is tiny: without moments of the classes, and with few
            draws.

    Returns:
        "step" -> function that takes a step together with the other processes.
    """
    _start_devices(num_devices, num_processes, process_id, address)
    config = digits.network_alone() if is_least else digits.get_config()
    if is_least:
        config.diffusion.noise_multiplicity = 2
    config.privacy.fixed_keys_seed = SEED
    config.train.num_steps = num_steps
    # A plan that is quickly made: the figures do not depend on it.
    config.privacy.noise_multiplier = 1.0
    config.train.microbatch_size = 208  # four of them in most steps
    config.log.snapshot_every_steps = 0
    config.log.tensorboard = False
    selected = []
    select = PoissonSampling.indices

    def selecting(*args: Any) -> np.ndarray:
        selected.append(select(*args))
        return selected[-1]

    PoissonSampling.indices = selecting
    try:
        workdir = pathlib.Path(answer).parent / f"run_{num_processes}x{num_devices}"
        state = loop.train(config, workdir)
    finally:
        PoissonSampling.indices = select
    step = _step(network, batch_size, noise_multiplicity)
    drawn = _noise(step.training, step.params)
    if processes.is_first():
        np.savez(
            answer,
            indices=np.concatenate(selected),
            sizes=[len(indices) for indices in selected],
            noise=drawn,
            params=_flat(state.params),
            ema=_flat(state.ema_params),
        )
    return {"step": step.run}


class _Step(NamedTuple):
    """A step that can be taken again and again.

    Attributes:
        run: takes it.
        bytes_at_once: of one device, by the compiler, the batch aside.
        training: what it is made of.
        params: before the first one.
    """

    run: Callable[[], None]
    bytes_at_once: int
    training: Training
    params: Any


def _step(
    network: str, batch_size: int, noise_multiplicity: int, is_sharded: bool = False
) -> _Step:
    config = problem.load_config(network, noise_multiplicity)
    config.train.batch_size = batch_size
    config.train.num_steps = 1
    config.train.sharded_state = is_sharded
    config.privacy.noise_multiplier = 1.0
    model = build_model(config, problem.IMAGE_SHAPE, of_classes(problem.NUM_CLASSES))
    plan = planning.privacy_plan(config, config.data.num_examples, model)
    mesh = devices.data_mesh()
    secrets = fixed_secrets(SEED)
    loss = model.trained_loss()
    training = build_training(config, plan, loss, secrets.noise_key, mesh)
    params, fixed = model.split(model.init(jax.random.key(SEED)))
    state = create_state(params, training.optimizer, training.noise)
    state = devices.place(state, training.layout(state))
    batch = devices.place(_batch(model, batch_size), devices.divided(mesh))
    key = devices.place(secrets.loss_key(0), devices.replicated(mesh))
    functions = training.step_fns
    partial = functions.start(state.params)
    given = (fixed, *batch, key)
    accumulate = functions.accumulate.lower(partial, state.params, *given).compile()
    finish = functions.finish.lower(state, partial).compile()

    def step() -> None:
        nonlocal state
        partial = accumulate(functions.start(state.params), state.params, *given)
        state, _ = finish(state, partial)
        jax.block_until_ready(state.params)

    # The state and the sum, which the last program is given, are there all the time.
    memory = [program_memory(program) for program in (accumulate, finish)]
    working = [m["peak"] - m["arguments"] - m["code"] for m in memory]
    at_once = memory[-1]["arguments"] + max(working)
    return _Step(step, at_once, training, params)


def _batch(model: Model, batch_size: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(SEED)
    examples = blank_examples(model.example, batch_size)
    examples["image"][:] = rng.integers(0, 256, examples["image"].shape)
    examples["condition"][:] = np.arange(batch_size) % problem.NUM_CLASSES
    return (
        examples,
        np.zeros(batch_size, bool),
        np.arange(batch_size, dtype=np.int32),
    )


def _noise(training: Training, params: Any) -> np.ndarray:
    """The noise of the first two steps, by the transform that the steps use."""
    everywhere = devices.replicated(devices.data_mesh())
    update = jax.jit(training.noise.update, out_shardings=everywhere)
    nothing = clipped_grad(lambda *_: 0.0, l2_clip_norm=1.0).zeros(params)
    zeros = devices.place(nothing, everywhere)
    state = devices.place(training.noise.init(params), everywhere)
    drawn = []
    for _ in range(2):
        noise, state = update(zeros, state)
        drawn.append(_flat(noise))
    return np.stack(drawn)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
