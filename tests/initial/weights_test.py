"""Runs that begin with the weights of another, and what is said of that."""

import json
import shutil

import jax
import numpy as np
import pytest

from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.initial import read_initial
from dpdm_jax.interop import name_maps
from dpdm_jax.models.identity import digest, named_leaves
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import read_ledger
from dpdm_jax.privacy.statements import statement_of
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train

PUBLIC = "glyphs of fonts"
# Other images than those of the runs that begin with the weights.
OTHERS = {"data__train_split": "test", "data__num_examples": 360}


@pytest.fixture(scope="module")
def public_run(tmp_path_factory, tiny_config):
    """A run on data that is said to be public. Read-only."""
    folder = tmp_path_factory.mktemp("public") / "run"
    train(tiny_config(data__public=PUBLIC, **OTHERS), folder)
    return folder


@pytest.fixture(scope="module")
def private_run(tmp_path_factory, tiny_config):
    """A private run. Read-only."""
    folder = tmp_path_factory.mktemp("private") / "run"
    train(tiny_config(), folder)
    return folder


@pytest.fixture
def begin(tiny_config, tmp_path):
    def begin(weights, workdir=tmp_path / "child", stop=1, **overrides):
        config = tiny_config(
            initial__weights=str(weights), train__stop_after_steps=stop, **overrides
        )
        state = train(config, workdir, read_initial=read_initial)
        return state, workdir

    return begin


def weights_of(workdir, config, step=-1, name="ema"):
    checkpoints = Checkpoints(workdir)
    try:
        model = build_model(config, (8, 8, 1), of_classes(10))
        return checkpoints.restore_weights(model, name, step)[0]
    finally:
        checkpoints.close()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_a_run_begins_with_the_average_of_another(begin, public_run, tiny_config):
    _, workdir = begin(public_run)
    taken = weights_of(public_run, tiny_config())
    for name in ("raw", "ema"):
        assert_equal(weights_of(workdir, tiny_config(), 0, name), taken)
    origin = read_ledger(workdir / "privacy.json").origin
    assert (origin.kind, origin.public_data) == ("run", PUBLIC)
    assert origin.sha256 == digest(taken)
    assert json.loads((workdir / "privacy.json").read_text())["origin"]


@pytest.mark.slow
def test_lineage_is_in_statement_and_release(begin, public_run, tiny_config):
    _, workdir = begin(public_run)
    config = tiny_config(initial__weights=str(public_run))
    folder = release(config, workdir)
    assert verify(folder).failures == ()
    text = " ".join((folder / "PRIVACY.md").read_text().split())
    assert f"which were trained on public data: {PUBLIC}. None of that is" in text
    fields = json.loads((folder / "PRIVACY.json").read_text())
    assert fields["lineage"]["public_data"] == PUBLIC
    assert str(public_run) not in (folder / "config.json").read_text()
    # A lineage that is left out, or another, is not that of the ledger.
    for forged in ({}, {"lineage": fields["lineage"] | {"public_data": "others"}}):
        edited = {k: v for k, v in fields.items() if k != "lineage"} | forged
        (folder / "PRIVACY.json").write_text(json.dumps(edited))
        assert any("lineage" in each for each in verify(folder).failures)


@pytest.mark.slow
def test_a_release_can_be_begun_with(begin, public_run, tiny_config, tmp_path):
    parent = shutil.copytree(public_run, tmp_path / "parent")
    folder = release(tiny_config(data__public=PUBLIC), parent)
    _, workdir = begin(folder)
    taken = weights_of(public_run, tiny_config())
    assert_equal(weights_of(workdir, tiny_config(), 0), taken)
    assert read_ledger(workdir / "privacy.json").origin.kind == "release"


@pytest.mark.slow
def test_a_config_that_fine_tunes_wants_weights(begin, public_run, tmp_path):
    parent = {"initial__parent": "configs/glyphs_public.py"}
    wanted = "weights is '' .* or a release, of configs/glyphs_public.py"
    with pytest.raises(InputError, match=wanted):
        begin("", **parent)
    assert not (tmp_path / "child").exists()
    # A run that goes on has its own.
    begin(public_run, stop=1, **parent)
    state, _ = begin("", stop=2, **parent)
    assert int(state.step) == 2


@pytest.mark.slow
def test_private_weights_want_a_word(begin, private_run):
    with pytest.raises(InputError, match=r"trained privately .*initial\.other_data"):
        begin(private_run)


def test_a_public_stage_on_the_private_images_is_refused(begin, public_run):
    with pytest.raises(InputError, match=r"on the very images of this run, as on publ"):
        begin(public_run, **OTHERS)
    begin(public_run, data__public=PUBLIC, **OTHERS)


@pytest.mark.slow
def test_weights_of_more_steps_than_their_ledger_counts(begin, tiny_config, tmp_path):
    """As when a ledger comes from an older backup: its epsilon is too small."""
    parent = tmp_path / "parent"
    train(tiny_config(train__stop_after_steps=1, checkpoint__every_steps=1), parent)
    older = (parent / "privacy.json").read_bytes()
    train(tiny_config(checkpoint__every_steps=1), parent)
    (parent / "privacy.json").write_bytes(older)
    with pytest.raises(InputError, match="and its ledger counts 1 steps; allowed"):
        begin(parent, initial__other_data=True)


@pytest.mark.slow
def test_private_weights_of_other_people(begin, private_run):
    _, workdir = begin(private_run, initial__other_data=True)
    record = read_ledger(workdir / "privacy.json")
    parent = read_ledger(private_run / "privacy.json")
    assert record.origin.ledger == parent.to_dict()
    # Its steps are not this run's.
    assert [event.name for event in record.events] == ["training"]
    text = " ".join(statement_of(record).split())
    assert "Their guarantee is one of its own, and not part of this one" in text


@pytest.mark.slow
@pytest.mark.parametrize("public", ["", PUBLIC])
def test_a_private_grandparent_is_not_forgotten(begin, private_run, tmp_path, public):
    """Nor through a public stage: its people could be those of the third run."""
    _, parent = begin(
        private_run, tmp_path / "parent", initial__other_data=True, data__public=public
    )
    with pytest.raises(InputError, match=r"began with private ones \(run digits"):
        begin(parent, tmp_path / "grandchild", initial__other_data=True)
    assert not (tmp_path / "grandchild").exists()


@pytest.mark.slow
def test_weights_without_a_guarantee_are_refused(begin, tiny_config, tmp_path):
    parent = tmp_path / "parent"
    train(tiny_config(privacy__fixed_keys_seed=0, train__stop_after_steps=1), parent)
    with pytest.raises(InputError, match=r"are NOT PRIVATE .*with data\.public"):
        begin(parent, initial__other_data=True)


@pytest.mark.slow
def test_a_release_that_counts_tuning_is_refused(
    begin, private_run, tiny_config, tmp_path
):
    """The child's ledger could tell of the released run alone, which is less."""
    tried = tmp_path / "tried"
    train(tiny_config(train__stop_after_steps=1), tried)
    parent = shutil.copytree(private_run, tmp_path / "parent")
    folder = release(tiny_config(release__tuning_runs=str(tried)), parent)
    with pytest.raises(InputError, match="chosen by runs that their release counts"):
        begin(folder, initial__other_data=True)
    assert not (tmp_path / "child").exists()


@pytest.mark.slow
def test_an_interrupted_run_keeps_its_origin(begin, public_run, tmp_path):
    fixed = {"stop": 0, "privacy__fixed_keys_seed": 1}
    whole, _ = begin(public_run, tmp_path / "whole", **fixed)
    begin(public_run, tmp_path / "parts", **fixed | {"stop": 2})
    # It is not read again: not even there.
    parts, workdir = begin(tmp_path / "gone", tmp_path / "parts", **fixed)
    assert_equal(parts.params, whole.params)
    assert read_ledger(workdir / "privacy.json").origin.public_data == PUBLIC
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint is left"):
        begin(public_run, workdir, **fixed)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["random", "zero"])
def test_label_tables_may_start_anew(begin, public_run, tiny_config, table):
    _, workdir = begin(public_run, initial__label_table=table)
    first = weights_of(workdir, tiny_config(), 0)["blocks"]["block_0"]
    taken = weights_of(public_run, tiny_config())["blocks"]["block_0"]
    assert_equal(first["hidden"], taken["hidden"])
    is_zero = not np.any(first["label"]["embedding"])
    assert is_zero == (table == "zero")
    assert np.any(first["label"]["embedding"] != taken["label"]["embedding"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network__mlp__hidden_width": 16}, "have shape .*; allowed: "),
        ({"network__mlp__num_blocks": 2}, "the initial weights lack blocks/block_1"),
        ({"initial__label_table": "some"}, "label_table is 'some'; allowed: reuse"),
    ],
)
def test_weights_that_do_not_fit(begin, public_run, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        begin(public_run, **overrides)
    assert not (tmp_path / "child").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "nothing'; allowed: a run directory, a release, or a file"),
        ("weights.pt", "initial.public is empty; allowed: the name of the public"),
    ],
)
def test_weights_that_are_not_there(begin, tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        begin(tmp_path / name)
    assert not (tmp_path / "child").exists()


@pytest.mark.slow
def test_a_file_of_guided_diffusion(tiny_config, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "imagenet.pt"

    def config_of(**overrides):
        config = tiny_config(
            network__name="adm",
            initial__weights=str(path),
            initial__public="ImageNet",
            **overrides,
        )
        config.network.adm.update(
            base_channels=32,
            channel_multipliers=(1,),
            num_res_blocks=1,
            attention_factors=(1,),
            head_channels=32,
        )
        return config

    model = build_model(config_of(), (8, 8, 1), of_classes(10))
    random = model.init(jax.random.key(0))
    targets = name_maps.official_names(model.shapes)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=target.official_shape).astype(np.float32)
        for name, target in targets.items()
    }
    # Of a model with more classes.
    (table,) = (name for name, t in targets.items() if "label" in t.path)
    tensors[table] = rng.normal(size=(12, *tensors[table].shape[1:]))
    torch.save({name: torch.tensor(t) for name, t in tensors.items()}, path)

    with pytest.raises(InputError, match=r"label.* have shape .*label_table .first., "):
        read_initial(config_of(), model, random)
    network = read_initial(config_of(initial__label_table="first"), model, random)[0]
    first = named_leaves(network)["/".join(targets[table].path)]
    np.testing.assert_array_equal(first, np.float32(tensors[table][:10]))
    config = config_of(initial__label_table="zero")
    network, origin, codec = read_initial(config, model, random)
    assert codec is None
    taken = named_leaves(network)
    for name, target in targets.items():
        found = np.asarray(taken["/".join(target.path)])
        if name == table:
            assert not found.any()
        else:
            expected = np.transpose(tensors[name], target.axes).reshape(target.shape)
            np.testing.assert_array_equal(found, expected)
    assert (origin.kind, origin.name) == ("file", "imagenet.pt")
    assert origin.public_data == "ImageNet"
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match="is no file of weights"):
        read_initial(config, model, random)
