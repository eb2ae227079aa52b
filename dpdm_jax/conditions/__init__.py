"""Conditions: what an example says of itself, and images are asked for by.

A new kind is a file here with a class that has the methods of ``Condition``, and an
entry in ``stored.KINDS``, by which checkpoints and releases name it.
"""

from dpdm_jax.conditions.base import Condition, is_file, num_classes_for
from dpdm_jax.conditions.labels import Labels, of_classes
from dpdm_jax.conditions.stored import from_dict, to_dict
from dpdm_jax.conditions.tokens import Tokens
from dpdm_jax.conditions.unconditional import Unconditional

__all__ = [
    "Condition",
    "Labels",
    "Tokens",
    "Unconditional",
    "from_dict",
    "is_file",
    "num_classes_for",
    "of_classes",
    "to_dict",
]
