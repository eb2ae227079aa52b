"""Queries of the training data before the first step, each counted by its name.

A query is a file here with a ``build``, and an entry in ``BUILDERS``. The plan, the
ledger, the statement and the audits take it from there.
"""

from dpdm_jax.queries.base import NamedQuery
from dpdm_jax.queries.registry import (
    BUILDERS,
    build_queries,
    of_run,
    with_noise_of,
)

__all__ = ["BUILDERS", "NamedQuery", "build_queries", "of_run", "with_noise_of"]
