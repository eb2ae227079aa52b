import math

import numpy as np
import pytest

from dpdm_jax import json_values, validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import PrivacyConfig, make_plan


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_numpy_integers_do_and_become_exact(kind):
    number = validate.integer("n", kind(100), minimum=1, maximum=100)
    assert type(number) is int
    assert number * number == 10_000
    assert type(validate.seed("seed", kind(3))) is int


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.int16(1)])
def test_numpy_reals_do(value):
    validate.real("x", value, above=0, maximum=1)


@pytest.mark.parametrize(
    "value", [True, np.True_, np.float64(3), 3.0, "3", np.str_("3")]
)
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(InputError, match="allowed: an integer >= 1"):
        validate.integer("n", value, minimum=1)


@pytest.mark.parametrize(
    "value", [True, np.True_, "1", b"1", np.nan, np.float32("nan")]
)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="allowed: a finite number any"):
        validate.real("x", value)


def test_numpy_scalars_are_bounded_and_shown_as_pythons():
    with pytest.raises(InputError, match=r"n is 0; allowed: an integer >= 1"):
        validate.integer("n", np.int64(0), minimum=1)
    with pytest.raises(InputError, match=r"x is 2\.0; allowed: a finite number <= 1"):
        validate.real("x", np.float32(2), maximum=1)


@pytest.mark.filterwarnings("ignore:This run is NOT PRIVATE")
def test_a_plan_of_numpy_scalars_is_that_of_pythons():
    """Of narrow integers too, which would wrap around: 100 * 3 does not fit int8."""
    common = {"epsilon": math.inf, "delta": 1e-5, "noise_multiplier": None}
    plan = make_plan(
        PrivacyConfig(num_examples=100, batch_size=30, epochs=100, **common)
    )
    numpy_plan = make_plan(
        PrivacyConfig(
            num_examples=np.uint8(100),
            batch_size=np.int8(30),
            epochs=np.int8(100),
            exact_batch_size=np.False_,
            **common,
        )
    )
    assert numpy_plan == plan
    assert repr(numpy_plan) == repr(plan)


def test_numpy_scalars_are_written_as_json():
    values = [np.int64(3), np.float32(0.5), np.True_, np.float64("inf")]
    assert json_values.encode(values) == [3, 0.5, True, "inf"]
    assert [type(v) for v in json_values.encode(values)] == [int, float, bool, str]


@pytest.mark.parametrize("name", ["digits", "a b", "v1.0", "..."])
def test_a_plain_folder_name_comes_back(name):
    assert validate.folder_name("config.name", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "/tmp/x", "../x", "a/b", "a/", "a\\b", "a\nb", "a\0", 3],
)
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(InputError, match=r"config\.name is .*; allowed: the name of"):
        validate.folder_name("config.name", name)
