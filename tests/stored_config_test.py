"""Configs that earlier versions stored are read as what they meant."""

import json
import math
import pathlib

import pytest
from commands import CHECKOUT
from earlier_configs import as_format_1

from dpdm_jax import command_line, config_upgrades, rooms, settings, stored_config
from dpdm_jax.configs import base
from dpdm_jax.errors import InputError
from dpdm_jax.release import bundle

_FOLDER = CHECKOUT / "experiments" / "mnist_cpu" / "releases"
RELEASES = [_FOLDER / f"mnist_eps{e}" for e in ("0.2", "1")]
RELEASES.append(_FOLDER / "fashion_mnist_eps10")
SPECS = [
    *("digits.py", "mnist.py:eps=0.2", "mnist.py:eps=1", "fashion_mnist.py:eps=10"),
    *("mnist_cpu.py:eps=1", "celeba_64.py", "imagenet_32.py"),
]


@pytest.mark.parametrize("spec", SPECS)
def test_shipped_configs_come_back_from_either_format(spec):
    config = command_line.load_config(f"configs/{spec}")
    values = json.loads(json.dumps(stored_config.to_values(config)))
    assert values["format"] == config_upgrades.FORMAT
    assert stored_config.read(values, "it").to_dict() == config.to_dict()
    assert stored_config.read(as_format_1(config), "it").to_dict() == config.to_dict()


@pytest.mark.parametrize("folder", RELEASES, ids=lambda folder: folder.name)
def test_committed_releases_are_of_the_first_format_and_read(folder: pathlib.Path):
    values = json.loads((folder / bundle.CONFIG).read_text())
    config = bundle.read_config(folder)
    rooms.check(config)
    network, diffusion = values["network"], values["diffusion"]
    mixer = {"base_width": 32, "condition_gain": 5.0}
    mixer |= {name: network[name] for name in ("hidden_width", "num_blocks")}
    assert config.network.mixer.to_dict() == mixer
    assert config.network.low_frequencies.to_dict() == {
        "count": network["low_frequencies"],
        "base_width": network["base_width"],
        "hidden_width": network["low_frequency_width"],
        "condition_gain": network["condition_gain"],
    }
    assert config.diffusion.sigma_data == diffusion["sigma_data"]
    assert config.diffusion.edm_dct.mean_data == diffusion["mean_data"]
    assert config.diffusion.log_normal.p_mean == diffusion["p_mean"]
    assert config.sampler.heun.s_max == math.inf
    # Of kinds that are not chosen nothing is left.
    assert config.data.tfds.name == ""
    assert config.network.ncsnpp == base.get_config().network.ncsnpp
    assert config.diffusion.views == base.get_config().diffusion.views
    # What the file says is not touched by reading it.
    assert json.loads((folder / bundle.CONFIG).read_text()) == values


@pytest.mark.parametrize(
    ("field", "value"), [("name", "inf"), ("data.class_names", ("cov", "-inf"))]
)
def test_texts_that_would_come_back_as_numbers_are_refused(field, value):
    config = base.get_config()
    settings.assign(config, field, value)
    with pytest.raises(InputError, match=rf"^{field} has the text '-?inf', by which"):
        stored_config.to_values(config)


def test_what_only_unchosen_kinds_read_is_dropped_with_any_value():
    values = as_format_1(command_line.load_config("configs/digits.py"))
    values["network"] |= {"num_heads": -1, "adm": {"base_channels": 64}}
    config = stored_config.read(values, "it")
    rooms.check(config)
    assert config.to_dict() == command_line.load_config("configs/digits.py").to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format=3), "it: format is 3; allowed: 1, 2"),
        (lambda v: v.update(format="x"), "it: format is 'x'; allowed"),
        (lambda v: v.update(surprise=1), "it has the unknown field 'surprise'"),
        (
            lambda v: v["network"].update(hidden_width=3),
            r"unknown field 'network\.hidden_width'",
        ),
        (lambda v: v["network"].update(mlp=3), r"unknown field 'network\.mlp'"),
        (lambda v: v.update(train="fast"), "unknown field 'train'"),
        (lambda v: v["train"].update(batch_size="many"), "it holds no config"),
        (lambda v: v["sampler_presets"].update(x=3), r"'sampler_presets\.x'"),
        (
            lambda v: v["sampler_presets"].update(x={"s_churn": 3.0}),
            r"unknown field 'sampler_presets\.x\.s_churn'",
        ),
        (lambda v: v.update(sampler_presets=3), "unknown field 'sampler_presets'"),
    ],
)
def test_what_is_not_known_is_refused_in_one_sentence(change, message):
    values = stored_config.to_values(command_line.load_config("configs/digits.py"))
    change(values)
    with pytest.raises(InputError, match=message) as error:
        stored_config.read(values, "it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [3, [], {}, None, {"network": 3, "sampler": []}])
def test_values_that_are_no_config_stay_as_they_are(value):
    values = {"data": value, "sampler_presets": value}
    assert config_upgrades.upgraded(values) == values | {"format": 2}


def test_every_earlier_name_leads_to_a_field_of_today():
    names = set(settings.names(base.get_config()))
    for old, news in config_upgrades.MOVED.items():
        assert old not in names
        assert set(news) <= names


@pytest.mark.parametrize("old", [o for o, n in config_upgrades.MOVED.items() if n])
def test_the_command_line_says_where_a_field_went(old):
    with pytest.raises(InputError) as error:
        command_line.parse(["main", "--config=configs/digits.py", f"--config.{old}=1"])
    for new in config_upgrades.MOVED[old]:
        assert f"--config.{new}" in str(error.value)


def test_a_config_file_with_an_earlier_name_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dpdm_jax.configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.network.hidden_width = 64\n"
        "    return config\n"
    )
    with pytest.raises(
        InputError,
        match=r"mine\.py sets the unknown field network\.hidden_width; allowed: "
        r"network\.mlp\.hidden_width or network\.mixer\.hidden_width or",
    ):
        command_line.load_config(str(path))
