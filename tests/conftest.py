import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Before JAX initialises: compiling is most of the time, small programs included.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from dpdm_jax import xla_flags  # noqa: E402

xla_flags.configure()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(TESTS / "golden"),
        help="folder of figures from the official code; see tests/golden/README.md",
    )
