"""The loss of a unit of several images: their mean, ahead of the one clip.

A mean of gradients is the gradient of the mean. So a unit's gradient is one vector, in
which each of its images has the same part, and clipping it bounds what all of them
together add to a step: one clip norm at most, however many there are.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpdm_jax.diffusion.parts import mean_of_parts
from dpdm_jax.models import image_keys
from dpdm_jax.models.model import TrainedLoss

_IS_IMAGE = "is_image"
_IMAGES = "images"


def as_units(
    examples: Any, is_padding: Bool[Array, " n"], images_per_unit: int
) -> tuple[Any, Bool[Array, " m"]]:
    """Puts images together to units.

    Args:
        examples: tree of arrays [m g, ...], the images of one unit after another's.
        is_padding: where there is no image.
        images_per_unit: g.

    Returns:
        What ``of_units`` takes, a tree of arrays [m, g, ...]; and which units have no
        image at all.
    """

    def together(x: Array) -> Array:
        return x.reshape(-1, images_per_unit, *x.shape[1:])

    is_image = together(~is_padding)
    units = {_IMAGES: jax.tree.map(together, examples), _IS_IMAGE: is_image}
    return units, ~is_image.any(axis=1)


def of_units(loss: TrainedLoss) -> TrainedLoss:
    """Makes of the loss of an image that of a unit of several.

    Each image has draws of its own; those of the first are what a unit of that image
    alone would draw. The images are gone through one after another, which takes the
    memory of one.

    Args:
        loss: of one image.

    Returns:
        The mean loss of the images that a unit has, see ``as_units``: 0 if it has none.
    """

    def of_unit(
        trained: Any, fixed: Any, unit: dict[str, Any], key: jax.Array
    ) -> jax.Array:
        is_image = unit[_IS_IMAGE]
        weights = is_image / jnp.maximum(1, jnp.sum(is_image))
        keys = image_keys.of_images(key, len(is_image))

        def of_image(trained: Any, fixed: Any, part: tuple[Any, jax.Array]) -> Array:
            example, key = part
            return loss(trained, fixed, example, key)

        return mean_of_parts(
            of_image, trained, fixed, (unit[_IMAGES], keys), weights.astype(jnp.float32)
        )

    return of_unit
