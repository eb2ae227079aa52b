"""Diffusion models trained with differential privacy, in JAX/Flax."""

__version__ = "0.1.0"
