import ml_collections
import optax

from dpdm_jax import validate
from dpdm_jax.errors import InputError

_SCHEDULES = ("constant", "cosine", "linear")
_FINAL_FRACTION = 0.05


def build_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> optax.GradientTransformation:
    """Builds the optimizer, which only ever sees the noised mean gradient.

    Args:
        config: ``config.train``.
        num_steps: T, over which a schedule decays.

    Returns:
        The optax transform, learning rate included.

    Raises:
        InputError: a field is out of range.
    """
    validate.one_of("train.optimizer", config.optimizer, ("adam", "sgd"))
    validate.one_of("train.schedule", config.schedule, _SCHEDULES)
    validate.real("train.learning_rate", config.learning_rate, above=0)
    validate.integer("train.warmup_steps", config.warmup_steps, minimum=0)
    rate, final = config.learning_rate, config.learning_rate * _FINAL_FRACTION
    decay_steps = max(1, num_steps - config.warmup_steps)
    match config.schedule:
        case "constant":
            schedule = optax.constant_schedule(rate)
        case "cosine":
            schedule = optax.cosine_decay_schedule(rate, decay_steps, _FINAL_FRACTION)
        case _:
            schedule = optax.linear_schedule(rate, final, decay_steps)
    if config.warmup_steps:
        schedule = optax.join_schedules(
            [optax.linear_schedule(0.0, rate, config.warmup_steps), schedule],
            [config.warmup_steps],
        )
    validate.real("train.weight_decay", config.weight_decay, minimum=0)
    if config.optimizer == "sgd":
        if config.weight_decay:
            raise InputError(
                f"train.weight_decay is {config.weight_decay!r} and train.optimizer is "
                "'sgd'; allowed: 0, or adam."
            )
        return optax.sgd(schedule)
    for name in ("b1", "b2"):
        validate.real(f"train.{name}", config[name], minimum=0, below=1)
    validate.real("train.adam_eps", config.adam_eps, above=0)
    settings = {"b1": config.b1, "b2": config.b2, "eps": config.adam_eps}
    if config.weight_decay:
        # Loshchilov and Hutter 2019, arXiv 1711.05101, as PyTorch has it.
        return optax.adamw(schedule, **settings, weight_decay=config.weight_decay)
    return optax.adam(schedule, **settings)
