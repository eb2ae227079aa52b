"""One self-contained HTML page about a run, read in a minute; needs no device."""

from dpdm_jax.report.page import write_report

__all__ = ["write_report"]
