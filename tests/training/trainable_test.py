"""Runs that train a part of the network: the rest is as it was, bit for bit."""

import dataclasses
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from float_sums import clipped_grad
from reading import shape_of

from dpdm_jax import data, privacy, rngs, rooms
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.initial import read_initial
from dpdm_jax.models import partition, trainable
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import build_model, num_scalars
from dpdm_jax.networks import adapters, adm_blocks
from dpdm_jax.networks.network import from_module
from dpdm_jax.padding import blank_examples
from dpdm_jax.privacy import LedgerRecord, read_ledger, statement_of
from dpdm_jax.release import bundle
from dpdm_jax.release.build import release
from dpdm_jax.release.model import load_release
from dpdm_jax.release.verify import verify
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train
from dpdm_jax.training.secrets import fixed_secrets

pytestmark = pytest.mark.slow

PART = "attention:2-2,condition"
LOW_RANK = "lora:2"
# The attention of the second block, its feed-forward layers, and the first's table.
OF_PART = {"blocks/block_1", "blocks/block_0/mlp/label"}
ADAPTED = {
    f"blocks/block_{i}/{layer}/kernel"
    for i in (0, 1)
    for layer in ("query_key_value", "attended")
}


@pytest.fixture(scope="module")
def config_of(tiny_config):
    """A transformer of two blocks on four pixels of patches."""

    def make(selector="all", **overrides):
        small = {
            "network__name": "transformer",
            "network__patch_size": 4,
            "network__transformer__base_width": 4,
            "network__transformer__hidden_width": 8,
            "network__transformer__num_heads": 2,
            "train__num_steps": 3,
            "train__trainable": selector,
        }
        return tiny_config(**small | overrides)

    return make


@pytest.fixture(scope="module")
def workdirs(config_of, tmp_path_factory):
    """A run of each kind. Read-only."""
    folders = {}
    for name, selector in (("part", PART), ("low_rank", LOW_RANK)):
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        train(config_of(selector), folders[name])
    return folders


def model_of(config):
    return build_model(config, (8, 8, 1), of_classes(10))


def weights(workdir, config, name="ema", step=-1):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore_weights(model_of(config), name, step)[0]
    finally:
        checkpoints.close()


def changed(one, other):
    """Names of the leaves that differ in any bit."""
    found, others = named_leaves(one), named_leaves(other)
    assert found.keys() == others.keys()
    return {name for name in found if not np.array_equal(found[name], others[name])}


def assert_close(one, other, rtol=1e-5):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=rtol * largest),
        one,
        other,
    )


def test_what_is_frozen_is_as_it_was_bit_for_bit(workdirs, config_of):
    config = config_of(PART)
    first = model_of(config_of()).init(rngs.stream(config.seed, "init"))
    raw, ema = (weights(workdirs["part"], config, name) for name in ("raw", "ema"))
    every = named_leaves(first)
    moved = {n for n in every if any(n.startswith(f"{m}/") for m in OF_PART)}
    assert changed(raw, first) == changed(ema, first) == changed(raw, ema) == moved
    # And is neither in the state of the optimizer, nor in the average.
    folder = workdirs["part"] / "checkpoints"
    (fixed,) = (folder / "fixed").iterdir()
    for item in ("params", "ema_params", "opt_state"):
        tree = (folder / "3" / item / "_METADATA").read_text()
        assert "'block_1'" in tree
        assert "'input'" not in tree
    assert "'input'" in (fixed / "_METADATA").read_text()


def test_adapters_are_merged_and_nothing_else_of_the_base_moves(workdirs, config_of):
    config = config_of(LOW_RANK)
    first = model_of(config_of()).init(rngs.stream(config.seed, "init"))
    raw, ema = (weights(workdirs["low_rank"], config, name) for name in ("raw", "ema"))
    tables = {f"blocks/block_{i}/mlp/label/embedding" for i in (0, 1)}
    assert changed(raw, first) == changed(ema, first) == ADAPTED | tables
    assert changed(raw, ema) == ADAPTED | tables
    begun = weights(workdirs["low_rank"], config, step=0)
    assert changed(begun, first) == set()
    for name in ADAPTED:
        difference = named_leaves(raw)[name] - named_leaves(first)[name]
        assert np.linalg.matrix_rank(difference, tol=1e-6) == 2


@pytest.mark.parametrize("selector", [PART, LOW_RANK])
def test_statement_and_ledger_say_how_much_is_trained(workdirs, config_of, selector):
    workdir = workdirs["part" if selector == PART else "low_rank"]
    record = read_ledger(workdir / "privacy.json")
    model = model_of(config_of(selector))
    trained = record.plan.trained
    assert (trained.selector, trained.parameters) == (selector, model.num_trained)
    assert trained.of == model_of(config_of()).num_parameters
    assert record.plan.coordinates == model.num_trained
    text = " ".join(statement_of(record).split())
    assert (
        f"Trained: {model.num_trained} parameters, chosen by {selector}, for a network "
        f"of {model.num_parameters}; no step changed others."
    ) in text
    assert ("low-rank adapters" in text) == (selector == LOW_RANK)


def test_what_is_trained_cannot_be_changed_on_the_way(workdirs, config_of, tmp_path):
    workdir = shutil.copytree(workdirs["part"], tmp_path / "run")
    # The last is the same parameters by another name.
    same = "attention:2-2,*/label/*"
    for other in ("all", "attention:1-1,condition", LOW_RANK, same):
        with pytest.raises(
            InputError, match=r"trained '\d+ of \d+ \(attention:2-2,con"
        ):
            train(config_of(other), workdir)
        with pytest.raises(InputError, match="its trainable has attention:2-2,condit"):
            weights(workdir, config_of(other))


@pytest.mark.parametrize("selector", [PART, LOW_RANK])
def test_interrupted_runs_end_alike(config_of, tmp_path, selector):
    fixed = {"privacy__fixed_keys_seed": 3}
    seen = []
    whole = train(
        config_of(selector, log__snapshot_every_steps=2, **fixed),
        tmp_path / "whole",
        # A copy: the next step gives its memory away.
        snapshot=lambda model, params, step: seen.append(
            jax.tree.map(np.array, params)
        ),
    )
    for stop in (1, 0):
        config = config_of(selector, train__stop_after_steps=stop, **fixed)
        parts = train(config, tmp_path / "parts")
    for name in ("params", "ema_params", "opt_state"):
        one, other = (getattr(state, name) for state in (whole, parts))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    (params,) = seen
    assert changed(params, weights(tmp_path / "whole", config, step=2)) == set()


def test_a_release_is_of_an_ordinary_network(workdirs, config_of, tmp_path):
    workdir = shutil.copytree(workdirs["low_rank"], tmp_path / "run")
    small = {"sampler__num_steps": 3, "sample__num_images": 12}
    config = config_of(LOW_RANK, release__samples="samples", **small)
    sampling_run.sample(config, workdir)
    folder = release(config, workdir)
    assert verify(folder).failures == ()
    released = load_release(folder)
    assert changed(released.params, weights(workdir, config)) == set()
    assert not any(map(adapters.is_of_one, named_leaves(released.params)))
    assert released.config.train.trainable == "all"
    assert "train.trainable" in released.manifest["emptied_in_config"]
    assert released.manifest["num_parameters"] == released.model.num_parameters
    assert released.privacy["mechanism"]["trained"]["selector"] == LOW_RANK
    images, _ = released.sample(12)
    with np.load(workdir / "samples" / "samples" / "samples.npz") as archive:
        np.testing.assert_array_equal(images, archive["images"])

    # What the ledger says of it is worked out anew.
    fields = json.loads((folder / "PRIVACY.json").read_text())
    record = LedgerRecord.from_dict(fields["ledgers"][0])
    for change, says in (
        ({"parameters": 17}, "gives trained"),
        ({"selector": "lora:3"}, "gives trained"),
        ({"selector": "resblocks"}, "'resblocks' selects nothing"),
    ):
        trained = dataclasses.replace(record.plan.trained, **change)
        plan = dataclasses.replace(record.plan, trained=trained)
        forged = dataclasses.replace(record, plan=plan).to_dict()
        (folder / "PRIVACY.json").write_text(json.dumps(fields | {"ledgers": [forged]}))
        assert any(says in failure for failure in verify(folder).failures)
    values = json.loads((folder / "config.json").read_text())
    values["train"]["trainable"] = LOW_RANK
    (folder / "config.json").write_text(json.dumps(values))
    (folder / bundle.CHECKSUMS).unlink()
    bundle.write_checksums(folder)
    assert any("another trainable" in failure for failure in verify(folder).failures)


def test_a_part_is_fine_tuned_from_the_weights_of_another_run(config_of, tmp_path):
    # Other images than the child's.
    other = {"data__train_split": "test", "data__num_examples": 360}
    public = {"data__public": "digits, UCI"} | other
    parent = tmp_path / "parent"
    train(config_of(LOW_RANK, **public), parent)
    taken = weights(parent, config_of(LOW_RANK, **public))
    child = tmp_path / "child"
    config = config_of(LOW_RANK, initial__weights=str(parent), train__num_steps=1)
    train(config, child, read_initial=read_initial)
    assert changed(weights(child, config, step=0), taken) == set()
    moved = changed(weights(child, config), taken)
    assert ADAPTED <= moved < set(named_leaves(taken))


@pytest.fixture(scope="module")
def public_run(config_of, tmp_path_factory):
    """A run on other images, which are public. Read-only."""
    workdir = tmp_path_factory.mktemp("public") / "run"
    other = {"data__train_split": "test", "data__num_examples": 360}
    train(config_of("all", data__public="digits, UCI", **other), workdir)
    return workdir


@pytest.mark.parametrize("selector", ["all", PART, LOW_RANK])
def test_without_noise_and_clipping_it_is_ordinary_fine_tuning(
    config_of, public_run, tmp_path, selector
):
    """From public weights, and of views of the images."""
    config = config_of(
        selector,
        initial__weights=str(public_run),
        diffusion__views__crop=1,
        diffusion__views__flip=True,
        privacy__epsilon=math.inf,
        privacy__fixed_keys_seed=7,
        train__batch_size=1437,  # every example in every batch
        train__num_steps=2,
        train__optimizer="sgd",
        train__learning_rate=0.5,
    )
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        state = train(config, tmp_path, read_initial=read_initial)

    source = data.load_source(config.data, "train")
    model = build_model(config, shape_of(source), source.condition)
    batch = data.load_batch(source, np.arange(len(source)))
    plain = weights(public_run, config_of("all"))
    random = model.init(rngs.stream(config.seed, "init"))
    trained, _ = model.split(model.with_network(random, plain))
    assert not changed(model.ordinary.split(plain)[0], plain)
    loss = model.ordinary.loss()

    @jax.jit
    def step(trained, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(source)))

        def mean_loss(trained):
            # Of the whole network, with W + A B for its weights.
            params = {name: dict(leaf) for name, leaf in plain.items()}
            params = _written(params, trained)
            return jax.vmap(loss, (None, 0, 0))(params, batch.examples, keys).mean()

        grads = jax.grad(mean_loss)(trained)
        return jax.tree.map(lambda w, g: w - 0.5 * g, trained, grads)

    for number in range(2):
        trained = step(trained, fixed_secrets(7).loss_key(number))
    assert jax.tree.structure(state.params) == jax.tree.structure(trained)
    assert_close(state.params, trained, rtol=2e-5)


def _written(params, trained):
    """Parameters with trained ones in their places, and adapters' products added."""
    params = {
        name: _written(value, trained.get(name, {}))
        if isinstance(value, dict)
        else value
        for name, value in params.items()
    }
    for name, value in trained.items():
        if name == adapters.NAME:
            params["kernel"] = params["kernel"] + value["a"] @ value["b"]
        elif not isinstance(value, dict):
            params[name] = value
    return params


ENGINES = {
    "vmap": {"engine": "vmap"},
    "scan": {"engine": "scan", "microbatch_size": 2},
    "book-keeping": {"engine": "book_keeping"},
}


def adm_config(selector):
    config = digits.network_alone()
    config.network.name = "adm"
    rooms.forget_foreign(config, ["network.name"])
    config.network.adm.update(
        base_channels=32,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_factors=(),
        head_channels=16,
        remat=True,
    )
    config.diffusion.noise_multiplicity = 2
    config.train.trainable = selector
    return config


@pytest.mark.parametrize(
    ("network", "selector"),
    [("adm", "attention,condition"), ("transformer", LOW_RANK)],
)
def test_engines_give_the_same_clipped_sums_of_a_part(config_of, network, selector):
    """Of several noise draws, each of another view of its image."""
    config = adm_config(selector) if network == "adm" else config_of(selector)
    config.diffusion.views.update(crop=1, flip=True, count=2)
    shape = (2, 2, 1) if network == "adm" else (8, 8, 1)
    model = build_model(config, shape, of_classes(10))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32),
        model.shapes,
    )
    trained, fixed = model.split(params)
    of_example = model.trained_loss()
    examples = blank_examples(model.example, 5)
    examples["image"][:] = rng.integers(0, 256, examples["image"].shape)
    examples["condition"][:] = np.arange(5)
    keys = jax.random.split(jax.random.key(4), 5)

    def loss(trained, example, key):
        return of_example(trained, fixed, example, key)

    results = []
    for options in ENGINES.values():
        grad_fn = clipped_grad(
            loss,
            l2_clip_norm=2.0,
            batch_argnums=(1, 2),
            return_grad_norms=True,
            **options,
        )
        compiled = jax.jit(
            grad_fn, compiler_options={"xla_backend_optimization_level": 0}
        )
        results.append(compiled(trained, examples, keys))
    (expected, aux), *others = results
    assert jax.tree.structure(expected) == jax.tree.structure(trained)
    assert any(leaf.any() for leaf in jax.tree.leaves(expected))
    norms = np.asarray(aux.grad_norms)
    for total, found in others:
        np.testing.assert_allclose(found.grad_norms, norms, rtol=1e-4)
        assert_close(total, expected, rtol=1e-4)


class OneBlock(nnx.Module):
    """A residual block of a U-Net and attention behind it."""

    def __init__(self, **make):
        self.block = adm_blocks.ResidualBlock(
            32, 32, 4, scale_shift=False, dropout=0.0, number=0, **make
        )
        self.attention = adm_blocks.AttentionBlock(
            32, num_heads=2, query_first=False, **make
        )
        self.head = adm_blocks.conv3x3(32, 32, **make)

    def __call__(self, x, c_noise, label):
        embedding = c_noise[:, None] * jnp.ones(4)
        return self.head(self.attention(self.block(x, embedding)))


@pytest.mark.optimized
@pytest.mark.parametrize("engine", ["vmap", "book_keeping"])
def test_no_gradient_of_what_is_frozen_is_ever_in_memory(engine):
    """As the compiler sees it: convolutions with gradient rules of their own, too."""
    network = from_module(
        lambda rngs: OneBlock(dtype=jnp.float32, rngs=rngs), (2, 2, 32)
    )
    size, memory, largest, flops = 3, {}, {}, {}
    for selector in ("all", "attention", LOW_RANK):
        found = trainable.select(selector, network)
        params = jax.eval_shape(
            lambda found=found: found.with_adapters(
                network.init(jax.random.key(0)), jax.random.key(0)
            )
        )
        trained, fixed = partition.split(
            params, lambda path, found=found: path not in found.frozen
        )

        def sums(trained, fixed, x, engine=engine):
            def loss(trained, x):
                params = partition.join(trained, fixed)
                out = network.apply(params, x[None], jnp.ones(1), jnp.zeros(1, int))
                return jnp.sum(out**2)

            return privacy.clipped_grad(loss, l2_clip_norm=1.0, engine=engine)(
                trained, x
            )

        x = jax.ShapeDtypeStruct((size, 2, 2, 32), jnp.float32)
        # What a level changes are the kernels, not what they read and write.
        compiled = (
            jax.jit(sums)
            .lower(trained, fixed, x)
            .compile({"xla_backend_optimization_level": 0})
        )
        memory[selector] = compiled.memory_analysis().temp_size_in_bytes
        flops[selector] = compiled.cost_analysis()["flops"]
        shapes = re.findall(r"= f32\[([0-9,]+)\]", compiled.as_text())
        largest[selector] = max(
            math.prod(map(int, shape.split(","))) for shape in shapes
        )
    kernel = 9 * 32 * 32
    frozen = network.num_parameters - num_scalars(network.shapes["attention"])
    # Two examples' gradients of a kernel are larger than anything of the trained part.
    assert largest["attention"] < 2 * kernel <= largest["all"]
    assert largest[LOW_RANK] < 2 * kernel
    if engine != "book_keeping":  # which never holds many
        assert memory["all"] - memory["attention"] > 4 * size * frozen
    assert memory[LOW_RANK] < memory["attention"] < memory["all"]
    assert flops[LOW_RANK] < flops["attention"] < 0.8 * flops["all"]
