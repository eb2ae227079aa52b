import subprocess
import sys

from dpdm_jax import xla_flags

_FLAG = "xla_cpu_experimental_ynn_fusion_type"


def test_known_and_unknown_flags():
    assert xla_flags._is_known("xla_force_host_platform_device_count")
    assert not xla_flags._is_known("xla_no_such_flag_in_any_version")


def configured(monkeypatch, before: str) -> str:
    monkeypatch.setenv("XLA_FLAGS", before)
    xla_flags.configure()
    import os

    return os.environ["XLA_FLAGS"]


def test_a_users_flags_are_kept(monkeypatch):
    mine = f"--{_FLAG}=dot --xla_cpu_enable_fast_math=false"
    assert configured(monkeypatch, mine) == mine
    other = "--xla_cpu_enable_fast_math=false"
    assert configured(monkeypatch, other).startswith(other)


def test_a_flag_that_jaxlib_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(xla_flags, "_CPU_FLAGS", {"xla_no_such_flag": "1"})
    assert configured(monkeypatch, "--a=b") == "--a=b"


def test_jax_starts_with_the_flags():
    code = (
        "from dpdm_jax import xla_flags; xla_flags.configure();"
        "import jax; print(jax.devices())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
