"""How classifiers are trained: one recipe for each."""

import dataclasses

import optax

from dpdm_jax import validate


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a classifier's training.

    Attributes:
        epochs: passes over the training set, >= 1.
        batch_size: images in a step, >= 1.
        learning_rate: > 0.
        optimizer: "adam", or "sgd" with Nesterov momentum of 0.9.
        schedule: of the learning rate: "constant", or "cosine" to 0 at the last step.
        weight_decay: added to the gradient, times the weights, >= 0.
        label_smoothing: probability that goes to all classes alike, in [0, 1).
        augmentation: whether images are mirrored at random and shifted by up to 4
            pixels.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = "adam"
    schedule: str = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: bool = False

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        validate.integer("epochs", self.epochs, minimum=1)
        validate.integer("batch_size", self.batch_size, minimum=1)
        validate.real("learning_rate", self.learning_rate, above=0)
        validate.one_of("optimizer", self.optimizer, ("adam", "sgd"))
        validate.one_of("schedule", self.schedule, ("constant", "cosine"))
        validate.real("weight_decay", self.weight_decay, minimum=0)
        validate.real("label_smoothing", self.label_smoothing, minimum=0, below=1)
        validate.one_of("augmentation", self.augmentation, (True, False))

    def transform(self, num_steps: int) -> optax.GradientTransformation:
        """Returns the optimizer.

        Args:
            num_steps: of the whole training; only a schedule depends on it.
        """
        rate = self.learning_rate
        if self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(rate, num_steps)
        if self.optimizer == "adam":
            step = optax.adam(rate)
        else:
            step = optax.sgd(rate, momentum=0.9, nesterov=True)
        if self.weight_decay == 0:
            return step
        return optax.chain(optax.add_decayed_weights(self.weight_decay), step)


#: DPDM's protocol (Dockhorn et al., 2023, arXiv 2210.09929, section 5.1, and its code).
DPDM = Recipe(epochs=50, batch_size=128, learning_rate=3e-4)

#: The usual one of wide residual networks; the papers that use them for synthetic
#: images (arXiv 2302.13861, 2305.15759) leave theirs out or disagree.
WIDE_RESNET = Recipe(
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    optimizer="sgd",
    schedule="cosine",
    weight_decay=5e-4,
    augmentation=True,
)
