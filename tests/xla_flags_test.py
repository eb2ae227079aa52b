import importlib.util
import os
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
    return os.environ["XLA_FLAGS"]


def test_a_users_flags_are_kept(monkeypatch):
    mine = f"--{_FLAG}=dot --xla_disable_hlo_passes=none"
    assert configured(monkeypatch, mine) == mine
    other = "--xla_cpu_enable_fast_math=false"
    assert configured(monkeypatch, other).startswith(other)


def test_a_flag_that_jaxlib_does_not_know_is_left_out(monkeypatch):
    for flags in ("_CPU_FLAGS", "ONLY_CPU_FLAGS"):
        monkeypatch.setattr(xla_flags, flags, {"xla_no_such_flag": "1"})
    assert configured(monkeypatch, "--a=b") == "--a=b"


def test_barriers_are_kept_only_where_there_is_nothing_but_the_cpu(monkeypatch):
    keeps = "xla_disable_hlo_passes=cse_barrier_expander"
    monkeypatch.setattr(xla_flags.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(xla_flags, "_has_plugins", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert keeps in configured(monkeypatch, "")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert keeps not in configured(monkeypatch, "")
    monkeypatch.setattr(xla_flags, "_has_plugins", lambda: False)
    assert keeps in configured(monkeypatch, "")
    monkeypatch.setattr(xla_flags.glob, "glob", lambda pattern: ["/dev/accel0"])
    assert keeps not in configured(monkeypatch, "")


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


def test_jax_starts_with_the_flags():
    code = (
        "from dpdm_jax import xla_flags; xla_flags.configure();"
        "import jax; print(jax.devices())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
