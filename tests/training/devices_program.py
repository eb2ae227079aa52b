"""Trains and samples as one of several processes; what ``devices_test`` starts.

The number of devices is fixed when a process starts, hence processes for each layout.
Jobs come in on standard input, one JSON object a line. Each is answered by a line, JSON
too; what else is printed goes to the errors.
"""

import functools
import json
import os
import pathlib
import re
import signal
import sys

from dpdm_jax import rooms, settings, xla_flags
from dpdm_jax.configs import digits

xla_flags.configure()

import cheap_compilation  # noqa: E402
import compiled_steps  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from dpdm_jax import data, devices, privacy, processes  # noqa: E402
from dpdm_jax.errors import InputError, Interrupted  # noqa: E402
from dpdm_jax.models.model import build_model  # noqa: E402
from dpdm_jax.privacy import PoissonSampling, gaussian_noise  # noqa: E402
from dpdm_jax.privacy.exact.grid import to_integers  # noqa: E402
from dpdm_jax.sampling import run  # noqa: E402
from dpdm_jax.training import (  # noqa: E402
    exchange,
    from_config,
    loop,
    prepare,
    steps,
)
from dpdm_jax.training.checkpoints import Checkpoints  # noqa: E402
from dpdm_jax.training.secrets import fixed_secrets  # noqa: E402

_EXCHANGE = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+)(?:-start)?\("
)


class Spy:
    """Watches a run from inside, and can disturb it."""

    def __init__(self):
        self.exchanges: dict[str, list[str]] | None = None
        self.on_load = lambda step: None
        self.forget()
        self._watch_secrets()
        self._watch_examples()
        self._watch_compilation()

    def forget(self):
        """Begins to watch anew."""
        self.step = -1
        self.drawn_secrets = 0
        self.selected: dict[int, list[int]] = {}
        self.loaded: dict[int, list[int]] = {}

    def _watch_secrets(self):
        def drawing(seed):
            self.drawn_secrets += 1
            return fixed_secrets(seed)

        prepare.fixed_secrets = drawing

    def _watch_examples(self):
        select, load = PoissonSampling.indices, data.load_batch

        def selecting(sampling, num_examples, seed, step):
            self.step = step
            found = select(sampling, num_examples, seed, step)
            self.selected[step] = found.tolist()
            self.loaded[step] = []
            return found

        def loading(source, indices):
            self.on_load(self.step)
            # Before the first step moments are measured, of all examples.
            loaded = self.loaded.setdefault(self.step, [])
            loaded += indices[indices >= 0].tolist()
            return load(source, indices)

        PoissonSampling.indices, data.load_batch = selecting, loading

    def _watch_compilation(self):
        make = from_config.make_train_step

        def making(*args, **kwargs):
            fns = make(*args, **kwargs)

            def watched(name):
                function = getattr(fns, name)

                def call(*arguments):
                    if self.exchanges is not None and name not in self.exchanges:
                        text = function.lower(*arguments).compile().as_text()
                        self.exchanges[name] = sorted(_EXCHANGE.findall(text))
                    return function(*arguments)

                return call

            return type(fns)(fns.start, watched("accumulate"), watched("finish"))

        from_config.make_train_step = making


def flat(tree):
    leaves = map(devices.to_host, jax.tree.leaves(tree))
    return np.concatenate([np.ravel(x) for x in leaves]).tolist()


def held(tree):
    """The share of arrays that this process's first device holds."""
    leaves = jax.tree.leaves(tree)
    parts = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
    return parts / sum(leaf.size for leaf in leaves)


def noise_of_two_steps(seed, **options):
    """The step's noise, laid out over the devices as in a step.

    Of a leaf that divides over four devices and one that does not.
    """
    mesh = devices.data_mesh()
    noise = gaussian_noise(1.0, fixed_secrets(seed).noise_key, **options)
    update = jax.jit(noise.update)
    state = devices.place(noise.init(None), devices.replicated(mesh))

    @jax.jit
    def nothing():
        leaves = [jnp.zeros((1, 2, 1000, 4)), jnp.zeros((1, 3, 669))]
        return privacy.exact_sum(leaves, l2_clip_norm=1.0)

    zeros = nothing()
    drawn = []
    for _ in range(2):
        values, state = update(zeros, state)
        drawn.append(flat(values))
    return drawn


def sums_by_devices():
    """Clipped vectors added by the devices that hold them, and then over devices.

    By the number of devices: all, and in a lone process fewer of them, too.
    """
    fewer = 2 ** np.arange(10) if jax.process_count() == 1 else []
    numbers = {jax.device_count(), *(int(n) for n in fewer if n < jax.device_count())}
    vectors = np.random.default_rng(0).normal(size=(64, 50)).astype(np.float32)
    found = {}
    for number in sorted(numbers):
        mesh = Mesh(jax.devices()[:number], (devices.DATA_AXIS,))

        def add_up(vectors):
            total = privacy.exact_sum(vectors, l2_clip_norm=5.0)
            return jax.lax.psum(total, devices.DATA_AXIS)

        in_parts = jax.shard_map(
            add_up, mesh=mesh, in_specs=P(devices.DATA_AXIS), out_specs=P()
        )
        whole = jax.jit(lambda vectors, add=in_parts: add(vectors).normalized())
        placed = devices.place(vectors, devices.divided(mesh))
        found[number] = to_integers(whole(placed)).tolist()
    return found


def sums_kept_in_parts():
    """The same vectors, as devices add them up that keep a part of the sum each.

    Of a leaf that divides over four devices and one that does not.
    """
    mesh = devices.data_mesh()
    vectors = np.random.default_rng(0).normal(size=(64, 50)).astype(np.float32)

    def of_device(vectors):
        leaves = [vectors[:, :48], vectors[:, 48:]]
        total = privacy.exact_sum(leaves, l2_clip_norm=5.0)
        return jax.tree.map(lambda x: x[None], total)

    @jax.jit
    def whole(vectors):
        divided = P(devices.DATA_AXIS)
        total = jax.shard_map(
            of_device, mesh=mesh, in_specs=divided, out_specs=divided
        )(vectors)
        return exchange.added_up_in_parts(total, mesh).normalized()

    placed = devices.place(vectors, devices.divided(mesh))
    summed = whole(placed)
    shares = [held([leaf]) for leaf in summed.low]
    parts = jax.tree.map(devices.to_host, summed)
    return shares, np.concatenate(to_integers(parts)).tolist()


def rebuilt(config, workdir, length):
    """Returns an average that is rebuilt from what a run kept, of what is trained."""
    checkpoints = Checkpoints(pathlib.Path(workdir))
    try:
        model = build_model(config, *checkpoints.stored_problem())
        return model.split(checkpoints.restore_weights(model, average=length)[0])[0]
    finally:
        checkpoints.close()


def answer(job, spy):
    """Does a job, and returns what was seen of it."""
    config = digits.network_alone()
    with config.unlocked():
        for name, value in job["overrides"].items():
            settings.assign(config, name, value)
    rooms.forget_foreign(config, list(job["overrides"]))
    told = {"devices": jax.device_count(), "local_devices": jax.local_device_count()}
    spy.exchanges = {} if job.get("exchanges") else None

    def refusal(workdir):
        try:
            loop.train(config, pathlib.Path(workdir))
        except InputError as e:
            return str(e)

    if "locked" in job:
        told["locked"] = refusal(job["locked"])

    if "unreadable_on" in job:

        def fail(step):
            if step == 1 and jax.process_index() == job["unreadable_on"]:
                raise InputError(f"step {step} is unreadable; allowed: other data.")

        spy.on_load = fail
        told["unreadable"] = refusal(job["workdir"] + "_unreadable")
        told["unreadable_step"] = spy.step

    def interrupt(step):
        if step == job.get("interrupt_at") and (
            jax.process_index() == jax.process_count() - 1
        ):
            os.kill(os.getpid(), signal.SIGTERM)

    spy.on_load = interrupt
    spy.forget()
    try:
        state = loop.train(config, pathlib.Path(job["workdir"]))
        told["params"], told["ema"] = flat(state.params), flat(state.ema_params)
        told["held"] = {
            name: held(getattr(state, name))
            for name in ("params", "ema_params", "opt_state", "power_averages")
            if getattr(state, name)
        }
        if state.power_averages:
            told["kept"] = flat(state.averages["power_0.1"])
            told["rebuilt"] = flat(rebuilt(config, job["workdir"], 0.1))
    except Interrupted as e:
        told["signal"] = e.signal_number
    told["last_step"] = spy.step
    told["drawn_secrets"] = spy.drawn_secrets
    told["selected"], told["loaded"] = spy.selected, spy.loaded
    told["exchanges"] = spy.exchanges
    if job.get("measure"):
        mesh = devices.data_mesh()
        told["noise"] = noise_of_two_steps(5, sharding=devices.divided(mesh))
        told["noise_in_parts"] = noise_of_two_steps(
            5, layout=functools.partial(devices.spread, mesh)
        )
        told["sums"] = sums_by_devices()
        told["parts"] = sums_kept_in_parts()
    if job.get("sample"):
        run.sample(config, pathlib.Path(job["workdir"]))
    return told


def main(address, num_processes, process_id):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if num_processes > 1:
        processes.connect(address, num_processes, process_id)
    spy = Spy()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), spy)), file=answers, flush=True)


if __name__ == "__main__":
    cheap_compilation.install()
    prepare.build_training = steps.build_training = compiled_steps.shared()
    main(sys.argv[1], *map(int, sys.argv[2:]))
