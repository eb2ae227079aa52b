import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import exact

from dpdm_jax import xla_flags
from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize
from dpdm_jax.privacy.noise import gaussian_noise

_FLAG = "xla_cpu_experimental_ynn_fusion_type"


def test_known_and_unknown_flags():
    assert xla_flags.is_known("xla_force_host_platform_device_count")
    assert not xla_flags.is_known("xla_no_such_flag_in_any_version")


def configured(monkeypatch, before: str) -> str:
    monkeypatch.setenv("XLA_FLAGS", before)
    xla_flags.configure()
    return os.environ["XLA_FLAGS"]


def test_a_users_flags_are_kept(monkeypatch):
    mine = f"--{_FLAG}=dot --xla_disable_hlo_passes=none"
    assert configured(monkeypatch, mine) == mine
    other = "--xla_cpu_enable_fast_math=false"
    assert configured(monkeypatch, other).startswith(other)


def test_a_file_of_flags_is_left_to_xla(monkeypatch):
    assert configured(monkeypatch, "flags.txt") == "flags.txt"


def test_a_flag_that_jaxlib_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(xla_flags, "_CPU_FLAGS", {"xla_no_such_flag": "1"})
    assert configured(monkeypatch, "--a=b") == "--a=b"


def test_a_users_flag_that_jaxlib_does_not_know_is_refused(monkeypatch):
    mine = "--xla_cpu_enable_fast_math=false --xla_no_such_flag=1"
    with pytest.raises(InputError, match="has --xla_no_such_flag, at which this"):
        configured(monkeypatch, mine)


def test_flags_under_which_xla_ends_the_process_are_refused(monkeypatch):
    mine = "--a=b --xla_disable_hlo_passes=fusion,cse_barrier_expander --c=d"
    with pytest.raises(InputError, match=r"XLA_FLAGS has .*; allowed: other passes"):
        configured(monkeypatch, mine)
    assert os.environ["XLA_FLAGS"] == mine


@pytest.mark.optimized
@pytest.mark.slow
def test_barriers_compile_wherever_they_stand():
    """Rematerialised layers and noise contain some, here inside a loop."""
    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    noise = gaussian_noise(0.1, jax.random.key(0))

    def step(carry, _, layer):
        w, state = carry
        gradient = jax.grad(lambda w: jnp.sum(layer(layer(x, w), w)))(w)
        update, state = noise.update(exact(gradient, 100.0), state)
        return (w - update, state), gradient

    def gradients(layer):
        w = jnp.eye(3)
        step_of = functools.partial(step, layer=layer)
        return jax.jit(lambda: jax.lax.scan(step_of, (w, noise.init(w)), length=3)[1])()

    plain = gradients(lambda x, w: jnp.tanh(x @ w))
    stored = jax.checkpoint(lambda x, w: materialize(jnp.tanh(x @ w)))
    np.testing.assert_allclose(gradients(stored), plain, rtol=1e-5, atol=1e-6)
    assert not np.allclose(plain[0], plain[1])


def libtpu_configured(monkeypatch, *, device_files: list[str]) -> str | None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name == "libtpu" or find(name)
    )
    monkeypatch.setattr(xla_flags.glob, "glob", lambda pattern: device_files)
    for variable in xla_flags._NO_TPU:
        monkeypatch.setenv(variable, "")  # so that it is restored
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "mine")
    xla_flags.configure()
    assert os.environ["TPU_WORKER_HOSTNAMES"] == "mine"
    return os.environ.get("TPU_SKIP_MDS_QUERY")


def test_libtpu_is_told_where_there_is_no_tpu(monkeypatch):
    assert libtpu_configured(monkeypatch, device_files=[]) == "1"


def test_libtpu_is_left_alone_where_there_is_a_tpu(monkeypatch):
    assert libtpu_configured(monkeypatch, device_files=["/dev/accel0"]) is None


@pytest.mark.slow
def test_jax_starts_with_the_flags():
    code = (
        "from dpdm_jax import xla_flags; xla_flags.configure();"
        "import jax; print(jax.devices())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
