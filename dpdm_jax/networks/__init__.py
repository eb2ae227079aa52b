"""Networks as pure functions over dictionaries of parameters."""

from dpdm_jax.networks.network import Network, Params
from dpdm_jax.networks.registry import build_network

__all__ = ["Network", "Params", "build_network"]
