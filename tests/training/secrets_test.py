import json

import jax
import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.training.secrets import Secrets, fixed_secrets, fresh_secrets


def test_fresh_secrets_are_long_enough_and_new():
    one, other = fresh_secrets(), fresh_secrets()
    assert one.noise_words.size * 32 >= 128
    assert len(one.selection_seed) * 8 >= 128
    assert (one.noise_words != other.noise_words).any()
    assert len(one.loss_seed) * 8 >= 128
    seeds = [s for x in (one, other) for s in (x.selection_seed, x.loss_seed)]
    assert len(set(seeds)) == 4


def loss_words(secrets, step):
    return tuple(np.asarray(jax.random.key_data(secrets.loss_key(step))).tolist())


def test_loss_keys_depend_on_seed_and_step_and_repeat():
    one, other = fresh_secrets(), fresh_secrets()
    keys = [loss_words(s, step) for s in (one, other) for step in (0, 1, 256)]
    assert len(set(keys)) == 6
    assert loss_words(Secrets.from_dict(one.to_dict()), 1) == keys[1]


def test_every_key_of_the_loss_has_128_bits():
    """As the step's has, so have those of its examples and of what each draws."""
    key = fresh_secrets().loss_key(3)
    example = jax.random.fold_in(key, 7)
    for each in (key, example, *jax.random.split(example, 3)):
        words = np.asarray(jax.random.key_data(each))
        assert words.dtype.itemsize * words.size * 8 >= 128


def test_purposes_share_no_key():
    """Of one secret: the loss's key of a step, the data's digest."""
    secrets = fresh_secrets()
    step = (5).to_bytes(8, "little")
    key = np.asarray(jax.random.key_data(secrets.loss_key(5))).tobytes().hex()
    assert key not in secrets.data_digest(step)


def test_they_do_not_come_from_seedable_generators():
    made = []
    for _ in range(2):
        np.random.seed(0)
        made.append(fresh_secrets().to_dict())
    assert made[0] != made[1]


def test_round_trip_through_json():
    secrets = fresh_secrets()
    restored = Secrets.from_dict(json.loads(json.dumps(secrets.to_dict())))
    assert restored.selection_seed == secrets.selection_seed
    assert restored.loss_seed == secrets.loss_seed
    np.testing.assert_array_equal(
        jax.random.key_data(restored.noise_key), jax.random.key_data(secrets.noise_key)
    )


def test_fixed_secrets_repeat():
    assert fixed_secrets(1).to_dict() == fixed_secrets(1).to_dict()
    assert fixed_secrets(1).to_dict() != fixed_secrets(2).to_dict()


def test_neither_repr_nor_errors_show_them():
    secrets = fresh_secrets()
    assert secrets.selection_seed.hex() not in repr(secrets)
    fields = secrets.to_dict() | {"selection_seed": "zz" + secrets.selection_seed.hex()}
    with pytest.raises(InputError) as e:
        Secrets.from_dict(fields)
    assert secrets.selection_seed.hex() not in str(e.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"noise_key": [[1, 2]]},
        {"noise_key": [[1, 2]], "selection_seed": "00"},
        {"noise_key": "x", "selection_seed": "00", "loss_seed": "00"},
        {"noise_key": [[1, 2**33]], "selection_seed": "00", "loss_seed": "00"},
        {"noise_key": [[1]], "selection_seed": "00", "loss_seed": "00"},
        None,
    ],
)
def test_damaged_secrets(fields):
    with pytest.raises(InputError, match="private part"):
        Secrets.from_dict(fields)


def test_an_extension_has_secrets_of_its_own():
    secrets, stranger = fresh_secrets(), fresh_secrets()
    assert secrets.of_extension("") is secrets
    made = [s.of_extension(i) for s in (secrets, stranger) for i in ("aa", "bb")]
    made += [secrets, stranger]
    for name in ("noise_key", "selection_seed", "loss_seed"):
        values = [json.dumps(s.to_dict()[name]) for s in made]
        assert len(set(values)) == 6
        assert len({len(json.loads(value)) for value in values}) == 1
    assert {s.noise_words.shape for s in made} == {(2, 2)}
    assert secrets.of_extension("aa").to_dict() == made[0].to_dict()
