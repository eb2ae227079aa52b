"""Queries by what a run's config and prior ask for."""

from collections.abc import Callable, Sequence

import ml_collections

from dpdm_jax.conditions import Condition
from dpdm_jax.diffusion.priors import Prior
from dpdm_jax.models.model import Model
from dpdm_jax.privacy import Query
from dpdm_jax.queries import class_moments
from dpdm_jax.queries.base import NamedQuery

#: A builder reads its own fields of the whole config; None if a run does not ask.
Builder = Callable[
    [ml_collections.ConfigDict, Prior, tuple[int, int, int], Condition],
    NamedQuery | None,
]

#: In the order in which they are asked.
BUILDERS: tuple[Builder, ...] = (class_moments.build,)


#: What is calibrated to the budget is taken from a plan by these, each for its fields.
_AS_PLANNED = (class_moments.as_planned,)


def with_noise_of(
    planned: Sequence[Query], config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Returns a copy of a config whose queries have the noise that a plan states.

    Args:
        planned: the queries of the plan.
        config: the whole config.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for put in _AS_PLANNED:
            put(config, planned)
    return config


def of_run(config: ml_collections.ConfigDict, model: Model) -> tuple[NamedQuery, ...]:
    """Returns the queries of a run, in order.

    Args:
        config: the whole config.
        model: what is trained.

    Raises:
        InputError: a field is out of range.
    """
    return build_queries(config, model.prior, model.latent_shape, model.condition)


def build_queries(
    config: ml_collections.ConfigDict,
    prior: Prior,
    image_shape: tuple[int, int, int],
    condition: Condition,
) -> tuple[NamedQuery, ...]:
    """Returns the queries that fill in what a prior keeps, in order.

    Args:
        config: the whole config.
        prior: whose parameters they are.
        image_shape: (h, w, c).
        condition: of the examples.

    Raises:
        InputError: a field is out of range.
    """
    built = (build(config, prior, image_shape, condition) for build in BUILDERS)
    return tuple(query for query in built if query is not None)
