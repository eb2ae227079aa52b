"""Differentially private gradients for any JAX model, usable without the rest.

    grad_fn = privacy.clipped_grad(loss, l2_clip_norm=1.0, batch_argnums=(1, 2))
    noise = privacy.gaussian_noise(sigma * grad_fn.sensitivity(), key)
    mean = privacy.normalize_by(expected_batch_size)

Clipping and noise are JAX; batch selection, accounting and the ledger are NumPy on the
host. Only ``plan`` couples them.
"""

from dpdm_jax.privacy import accounting
from dpdm_jax.privacy.batch_selection import PoissonSampling, new_seed
from dpdm_jax.privacy.clipping import (
    ENGINES,
    Aux,
    ClippedGrad,
    clipped_grad,
    exact_sum,
)
from dpdm_jax.privacy.exact.grid import ExactSum
from dpdm_jax.privacy.ledger import Ledger, LedgerRecord, read_ledger
from dpdm_jax.privacy.noise import (
    GaussianNoiseState,
    gaussian_noise,
    new_noise_key,
    normalize_by,
)
from dpdm_jax.privacy.plan import (
    PrivacyConfig,
    PrivacyPlan,
    extend_plan,
    make_plan,
)
from dpdm_jax.privacy.queries import Query
from dpdm_jax.privacy.seen_views import SeenViews
from dpdm_jax.privacy.statements import (
    Statement,
    extension_text,
    format_epsilon,
    guess_bound,
    make_statement,
    make_statement_of,
    phase_fields,
    statement,
    statement_fields,
    statement_of,
)
from dpdm_jax.privacy.threefry import secret_key
from dpdm_jax.privacy.trained import TrainedPart
from dpdm_jax.privacy.tuning import NO_TUNING, Selection, Tuning
from dpdm_jax.privacy.units import Group

__all__ = [
    "ENGINES",
    "NO_TUNING",
    "Aux",
    "ClippedGrad",
    "ExactSum",
    "GaussianNoiseState",
    "Group",
    "Ledger",
    "LedgerRecord",
    "PoissonSampling",
    "PrivacyConfig",
    "PrivacyPlan",
    "Query",
    "SeenViews",
    "Selection",
    "Statement",
    "TrainedPart",
    "Tuning",
    "accounting",
    "clipped_grad",
    "exact_sum",
    "extend_plan",
    "extension_text",
    "format_epsilon",
    "gaussian_noise",
    "guess_bound",
    "make_plan",
    "make_statement",
    "make_statement_of",
    "new_noise_key",
    "new_seed",
    "normalize_by",
    "phase_fields",
    "read_ledger",
    "secret_key",
    "statement",
    "statement_fields",
    "statement_of",
]
