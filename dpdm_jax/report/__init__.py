"""Self-contained HTML pages about runs, read in a minute; they need no device."""

from dpdm_jax.report.comparison import write_comparison
from dpdm_jax.report.page import write_report

__all__ = ["write_comparison", "write_report"]
