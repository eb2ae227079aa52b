"""How an autoencoder is trained."""

import dataclasses
from typing import Literal

from dpdm_jax import validate


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.codec.training``: for ``--mode=autoencoder``, on public images.

    Attributes:
        batch_size: images of a step, >= 1.
        num_steps: steps in all, >= 1.
        learning_rate: of Adam, > 0; the same for the discriminator.
        error: of a pixel: "l1", its absolute value, or "l2", its square.
        penalty_weight: of kl: of the latents' divergence from normal ones, >= 0.
        codebook_weight: of vq: of the latents' distance to the table's rows, >= 0.
        perceptual_weights: the file of LPIPS's network, see ``perceptual``; "" leaves
            that term out.
        perceptual_weight: of that term, >= 0.
        adversarial_weight: of the discriminator, >= 0, beside a factor that makes its
            gradient as large as the error's; 0 for no discriminator.
        adversarial_start: steps before it is heard and trained, >= 0.
        discriminator_width: channels of its first layer, >= 1.
        discriminator_layers: of stride 2, >= 1.
        scale_images: images on which the latents are measured at the end, whose
            standard deviation is then 1; 0 leaves them as they are.
    """

    path = "codec.training"

    batch_size: int = 32
    num_steps: int = 100_000
    learning_rate: float = 1.44e-4
    error: Literal["l1", "l2"] = "l1"
    penalty_weight: float = 1e-6
    codebook_weight: float = 1.0
    perceptual_weights: str = ""
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.5
    adversarial_start: int = 50_000
    discriminator_width: int = 64
    discriminator_layers: int = 3
    scale_images: int = 10_000

    def __post_init__(self) -> None:
        for name, minimum in (
            ("batch_size", 1),
            ("num_steps", 1),
            ("adversarial_start", 0),
            ("discriminator_width", 1),
            ("discriminator_layers", 1),
            ("scale_images", 0),
        ):
            value = getattr(self, name)
            validate.integer(f"{self.path}.{name}", value, minimum=minimum)
        validate.real(f"{self.path}.learning_rate", self.learning_rate, above=0)
        for name in (
            "penalty_weight",
            "codebook_weight",
            "perceptual_weight",
            "adversarial_weight",
        ):
            validate.real(f"{self.path}.{name}", getattr(self, name), minimum=0)

    @property
    def has_discriminator(self) -> bool:
        """Whether a discriminator is heard before the steps end."""
        return self.adversarial_weight > 0 and self.adversarial_start < self.num_steps
