"""Diffusion models trained with differential privacy, in JAX/Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpdm_jax.release.model import load_release

__version__ = "0.1.0"

__all__ = ["__version__", "load_release"]


def __getattr__(name: str) -> Any:
    # Brings JAX, Flax and Orbax, which importing the package does not.
    if name == "load_release":
        from dpdm_jax.release.model import load_release

        return load_release
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
