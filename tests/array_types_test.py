"""Arrays are checked against annotations while tests run, and for no user."""

import subprocess
import sys

import jax.numpy as jnp
import jaxtyping
import pytest

import dpdm_jax
from dpdm_jax import privacy
from dpdm_jax.diffusion.noise_levels import LogNormal
from dpdm_jax.networks import layers, patches


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: layers.upsample(jnp.zeros((4, 4, 1))), "x"),
        (lambda: patches.fold(jnp.zeros((1, 4, 4, 1), int), 2), "x"),
        (lambda: LogNormal().sigma(jnp.zeros(3, int)), "base_draw"),
        (
            lambda: privacy.exact_sum(
                jnp.zeros((3, 2)),
                l2_clip_norm=1.0,
                is_padding_example=jnp.zeros((3, 1), bool),
            ),
            "is_padding_example",
        ),
    ],
    ids=["shape", "dtype", "diffusion", "privacy"],
)
def test_wrong_arrays_are_found(call, argument):
    with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{argument}'"):
        call()


def test_what_the_package_exports_is_checked():
    assert hasattr(dpdm_jax.load_release, "__wrapped__")


_UNCHECKED = """
import sys
import jax.numpy as jnp
from dpdm_jax.diffusion.noise_levels import LogNormal
LogNormal().sigma(jnp.zeros(3, int))
assert "beartype" not in sys.modules
"""


@pytest.mark.slow
def test_users_are_not_slowed_down():
    subprocess.run([sys.executable, "-c", _UNCHECKED], check=True)
