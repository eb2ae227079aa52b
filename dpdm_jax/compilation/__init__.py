"""What the compiled programs of a run need, on hardware that need not be present."""

from dpdm_jax.compilation.report import compile_report, describe, step_seconds
from dpdm_jax.compilation.targets import find_target

__all__ = ["compile_report", "describe", "find_target", "step_seconds"]
