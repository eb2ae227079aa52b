"""The views of an example that its noise draws are made of.

Augmentation multiplicity (De et al. 2022, arXiv 2204.13650) joined with noise
multiplicity (DPDM): the losses of all views of an image are averaged *before* the one
clip, so that neither number enters the privacy analysis (DP fine-tuning, arXiv
2302.13861).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from dpdm_jax import validate
from dpdm_jax.images import augmentation


@dataclasses.dataclass(frozen=True)
class Views:
    """How an image is seen in a step.

    Attributes:
        crop: pixels that an image is padded by before a crop of its size, >= 0; 0 for
            no crops.
        flip: whether left and right are exchanged half the time; never for digits.
        count: V, views of an image, each shared by K / V noise draws; 0 for one view a
            draw.

    Raises:
        InputError: a field is out of range.
    """

    crop: int = 0
    flip: bool = False
    count: int = 0

    def __post_init__(self) -> None:
        validate.integer("diffusion.views.crop", self.crop, minimum=0)
        validate.integer("diffusion.views.count", self.count, minimum=0)

    @property
    def are_the_image(self) -> bool:
        """Whether every view is the image as it is."""
        return self.crop == 0 and not self.flip

    def draw(
        self, key: PRNGKeyArray, image: Float[Array, "h w c"], num: int
    ) -> Float[Array, "h w c"] | Float[Array, "{num} h w c"]:
        """Draws the views of one image.

        Args:
            key: of the draws.
            image: in [-1, 1].
            num: K >= 1, noise draws, which ``count`` divides.

        Returns:
            K images, of which K / V in a row are one view; just the image if every view
            is it.
        """
        if self.are_the_image:
            return image
        keys = jax.random.split(key, self.number(num))
        return for_draws(jax.vmap(self.view, (0, None))(keys, image), num)

    def number(self, num: int) -> int:
        """Returns V, given K >= 1."""
        return self.count or num

    def view(
        self, key: PRNGKeyArray, image: Shaped[Array, "h w c"]
    ) -> Shaped[Array, "h w c"]:
        """Draws one view of an image, of whatever dtype that is."""
        crop_key, flip_key = jax.random.split(key)
        seen = augmentation.random_crop(crop_key, image, self.crop)
        return augmentation.random_flip(flip_key, seen) if self.flip else seen


def for_draws(views: Float[Array, "v h w c"], num: int) -> Float[Array, "{num} h w c"]:
    """Gives each of K noise draws its view: K / V in a row share one.

    Args:
        views: V of them, a divisor of K.
        num: K.
    """
    return jnp.repeat(views, num // len(views), axis=0)
