"""Weights that a run begins with, in place of random ones, and their lineage."""

from dpdm_jax.initial.parent import parent_of, planned_parent
from dpdm_jax.initial.weights import read_initial

__all__ = ["parent_of", "planned_parent", "read_initial"]
