"""The keys of a step's images: of the step, of a unit's place in it, and of each image.

Neither micro-batches nor devices, nor the other units of a batch, change them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PRNGKeyArray

# Of a unit's key: other blocks of its stream than what the loss of one image draws
# (``diffusion.losses``, ``models.model``).
_IMAGES_STREAM = 6


def of_units(step_key: PRNGKeyArray, positions: Int[Array, " m"]) -> Key[Array, " m"]:
    """Returns the keys of units of privacy.

    Args:
        step_key: of the step.
        positions: of the units in the logical batch.
    """
    keys: jax.Array = jax.vmap(jax.random.fold_in, (None, 0))(step_key, positions)
    return keys


def of_images(unit_key: PRNGKeyArray, number: int) -> Key[Array, " n"]:
    """Returns the keys of a unit's images; the first is what that image alone has.

    Args:
        unit_key: see ``of_units``.
        number: room for images in a unit, >= 1.
    """
    others = jax.vmap(jax.random.fold_in, (None, 0))(
        unit_key, _IMAGES_STREAM + jnp.arange(number - 1)
    )
    return jnp.concatenate([unit_key[None], others])


def of_step(
    step_key: PRNGKeyArray, positions: Int[Array, " m"], images_per_unit: int
) -> Key[Array, " n"]:
    """Returns the keys of all images, those of one unit after another's.

    Args:
        step_key: of the step.
        positions: of the units in the logical batch.
        images_per_unit: g, the room for images in a unit; n = m g.
    """
    units = of_units(step_key, positions)
    return jax.vmap(lambda key: of_images(key, images_per_unit))(units).reshape(-1)
