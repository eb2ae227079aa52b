"""The stage before a run: found, trained once, and begun with."""

import pathlib

import pytest

from dpdm_jax import modes
from dpdm_jax.errors import InputError
from dpdm_jax.initial import parent_of
from dpdm_jax.privacy import read_ledger

_PARENT = """
from dpdm_jax.configs import digits

def get_config():
    config = digits.network_alone()
    config.name = "before"
    config.data.public = "digits that are said to be public"
    # Other images than those of the run.
    config.data.train_split = "test"
    config.data.num_examples = 360
    config.log.snapshot_every_steps = 0
    config.update_from_flattened_dict({overrides})
    return config
"""
_TINY = {
    "network.mlp.base_width": 4,
    "network.mlp.hidden_width": 8,
    "train.batch_size": 100,
    "train.num_steps": 2,
    "train.microbatch_size": 64,
}


@pytest.fixture
def parent(tmp_path):
    path = tmp_path / "before.py"
    path.write_text(_PARENT.format(overrides=_TINY))
    return str(path)


def test_a_parent_lies_beside_its_children(tiny_config, parent, tmp_path):
    config = tiny_config(initial__parent=parent)
    found, folder = parent_of(config, tmp_path / "runs" / "child")
    assert (found.name, folder) == ("before", tmp_path / "runs" / "before")


def test_weights_that_are_named_go_before(tiny_config, parent):
    named = {"initial__weights": "elsewhere", "initial__parent": parent}
    for overrides in (named, {}):
        assert parent_of(tiny_config(**overrides), pathlib.Path("runs/child")) is None


def test_a_parent_that_is_no_config(tiny_config, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        parent_of(tiny_config(initial__parent="configs/none.py"), tmp_path)


@pytest.mark.slow
def test_one_command_trains_both_once(tiny_config, parent, tmp_path, capsys):
    def run(name):
        config = tiny_config(
            name=name,
            initial__parent=parent,
            evaluate__metrics=("logreg",),
            evaluate__seeds=1,
            evaluate__epochs=1,
            train__num_steps=1,
            sample__num_images=50,
            sampler__num_steps=2,
        )
        modes.run(config, tmp_path / name)
        return capsys.readouterr().out

    assert f"Training {parent} in {tmp_path / 'before'}, to begin with." in run("a")
    origin = read_ledger(tmp_path / "a" / "privacy.json").origin
    assert (origin.kind, origin.name) == ("run", "before")
    # The next child finds it done; so does the same command, given again.
    assert "to begin with" not in run("b") + run("a")
    assert read_ledger(tmp_path / "b" / "privacy.json").origin == origin
