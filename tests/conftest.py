import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Before JAX initialises: compiling is most of the suite's time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".cache" / "jax"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(TESTS / "golden"),
        help="folder of figures from the official code; see tests/golden/README.md",
    )
