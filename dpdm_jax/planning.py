"""What a config will do and cost, before it touches any data."""

import dataclasses
import math
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from dpdm_jax import conditions, data, queries, rooms, validate
from dpdm_jax.conditions import Condition
from dpdm_jax.errors import InputError
from dpdm_jax.models import encoding, trainable
from dpdm_jax.models.model import Model, build_model, num_scalars
from dpdm_jax.padding import blank_examples
from dpdm_jax.privacy import (
    LedgerRecord,
    PrivacyConfig,
    PrivacyPlan,
    SeenViews,
    TrainedPart,
    extend_plan,
    make_plan,
    phase_fields,
    units,
)
from dpdm_jax.privacy.clipping import LossTraits, choose_engine, loss_traits
from dpdm_jax.privacy.ledger import FIXED_KEYS


@dataclasses.dataclass(frozen=True)
class Problem:
    """The public facts of a data set that shape a run.

    Attributes:
        num_examples: size of the training split, in units of privacy.
        image_shape: (h, w, c).
        condition: what examples say of themselves.
    """

    num_examples: int
    image_shape: tuple[int, int, int]
    condition: Condition


def public_problem(config: ml_collections.ConfigDict) -> Problem:
    """Takes the facts from the config where it states them, else from the data.

    Args:
        config: the whole config.

    Raises:
        InputError: the config leaves them open and the data can't be read.
    """
    fields = config.data
    condition = data.stated_condition(fields)
    stated = fields.num_examples and fields.image_size and fields.channels
    if stated and condition is not None:
        validate.integer("data.num_examples", fields.num_examples, minimum=1)
        validate.integer("data.image_size", fields.image_size, minimum=1)
        validate.one_of("data.channels", fields.channels, (1, 3))
        shape = (fields.image_size, fields.image_size, fields.channels)
        return Problem(fields.num_examples, shape, condition)
    source = data.load_source(fields, "train")
    return problem_of(source, data.load_groups(fields, source))


def problem_of(source: data.Source, groups: data.Groups | None = None) -> Problem:
    """Takes the facts from loaded training data.

    Args:
        source: of the images.
        groups: whose they are; None if each is a unit of privacy by itself.
    """
    number = len(source if groups is None else groups)
    return Problem(number, source.spec["image"].shape, source.condition)


def unit_of(config: ml_collections.ConfigDict) -> units.Group | None:
    """Returns the unit of privacy that a config asks for; None for one image.

    Args:
        config: the whole config; reads ``data.group`` and ``train.images_per_group``.

    Raises:
        InputError: one of them is out of range, the second is set without the first, or
            the source has no groups.
    """
    column, images = config.data.group, config.train.images_per_group
    validate.integer(
        "train.images_per_group", images, minimum=1, maximum=validate.MAX_COUNT
    )
    if column:
        validate.text("data.group", column, *units.COLUMN)
        data.check_group(config.data)
        return units.Group(column, images)
    if images != 1:
        raise InputError(
            f"train.images_per_group is {images} and data.group is ''; allowed: 1, or "
            "a data.group, the column that says whose an image is."
        )
    return None


def privacy_plan(
    config: ml_collections.ConfigDict, num_examples: int, model: Model
) -> PrivacyPlan:
    """Makes the privacy plan of a config.

    Args:
        config: the whole config; reads ``privacy`` and ``train``, and what its queries
            before the first step read.
        num_examples: size of the training split, in units of privacy.
        model: what is trained.

    Raises:
        InputError: a field is out of range.
    """
    train, privacy = config.train, config.privacy
    validate.integer("train.num_steps", train.num_steps, minimum=0)
    asked = queries.of_run(config, model)
    return make_plan(
        PrivacyConfig(
            num_examples=num_examples,
            batch_size=train.batch_size,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            l2_clip_norm=privacy.l2_clip_norm,
            exact_batch_size=train.exact_batch_size,
            epochs=None if train.num_steps else train.epochs,
            num_steps=train.num_steps or None,
            accountant=privacy.accountant,
            noise_multiplier=privacy.noise_multiplier,
            noise_multiplicity=config.diffusion.noise_multiplicity,
            queries=tuple(query.planned for query in asked),
            public_data=config.data.public,
            # How many numbers a noised sum has at most: of a step, or of a query.
            coordinates=max(
                [model.num_trained, *(query.num_coordinates for query in asked)]
            ),
            trained=_trained_part(model),
            parameters=model.network.num_parameters,
            views=_seen_views(model),
            unit=unit_of(config),
        )
    )


def plan_with_noise_of(
    plan: PrivacyPlan, config: ml_collections.ConfigDict, model: Model
) -> PrivacyPlan:
    """Makes the plan of a config again, with the noise that was once calibrated for it.

    Another version of the accountant may calibrate the last digit otherwise.

    Args:
        plan: whose noise is taken, of steps and of queries, where the config leaves it
            to the budget.
        config: the whole config; see ``privacy_plan``.
        model: what is trained.

    Raises:
        InputError: a field is out of range.
    """
    config = queries.with_noise_of(plan.queries, config)
    noise = config.privacy.noise_multiplier
    if noise is None and plan.noise_multiplier > 0:
        noise = plan.noise_multiplier
    with config.unlocked(), config.ignore_type():
        config.privacy.noise_multiplier = noise
        # Its own last digit must not break the budget.
        config.privacy.epsilon = math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return privacy_plan(config, plan.num_examples, model)


def _trained_part(model: Model) -> TrainedPart | None:
    if not model.trainable.frozen:
        return None
    return TrainedPart(
        selector=model.trainable.selector,
        parameters=model.num_trained,
        adapters=model.num_adapters,
        of=model.network.num_parameters,
    )


def _seen_views(model: Model) -> SeenViews | None:
    views = model.views
    if views.are_the_image:
        return None
    return SeenViews(
        count=views.number(model.draws.noise_multiplicity),
        crop=views.crop,
        flip=views.flip,
    )


def extended_plan(
    settings: ml_collections.ConfigDict, record: LedgerRecord
) -> PrivacyPlan:
    """Makes the plan of further steps of a run; all else of it is as in the ledger.

    Args:
        settings: ``config.extend``.
        record: the run's ledger.

    Raises:
        InputError: a field is out of range.
    """
    validate.integer("extend.num_steps", settings.num_steps, minimum=1)
    if record.plan.coordinates is None:
        raise InputError(
            "The run was begun with floating-point noise, which is no longer drawn; "
            "allowed: extend it with the version of dpdm_jax that began it, or begin "
            "in a new directory."
        )
    return extend_plan(
        record.plan,
        num_steps=settings.num_steps,
        epsilon=settings.epsilon,
        noise_multiplier=settings.noise_multiplier,
    )


def is_extension(config: ml_collections.ConfigDict) -> bool:
    """Whether a config asks for further steps of a run."""
    return any(value is not None and value != 0 for value in config.extend.values())


def num_microbatches(examples: int, microbatch_size: int) -> int:
    """Micro-batches of a logical batch; one of padding where it is empty."""
    return max(1, -(-examples // microbatch_size))


def check_microbatch(microbatch_size: int, num_devices: int) -> None:
    """Raises InputError unless micro-batches divide over the devices."""
    validate.integer("train.microbatch_size", microbatch_size, minimum=1)
    if microbatch_size % num_devices:
        raise InputError(
            f"train.microbatch_size is {microbatch_size}; allowed on {num_devices} "
            f"devices: multiples of {num_devices}."
        )


def plan_report(
    config: ml_collections.ConfigDict,
    *,
    estimate_cost: bool = True,
    record: LedgerRecord | None = None,
) -> dict[str, Any]:
    """Describes a run: its privacy, size and estimated cost.

    Args:
        config: the whole config.
        estimate_cost: whether to estimate memory and time on this machine.
        record: the ledger of the run directory, if there is one. Where the config asks
            for further steps they are added to its plan; else, if it is an extended run
            of this config, the report is of all of its plans.

    Returns:
        JSON values, infinity as "inf". Of an extended run epsilon is the total, noise
        and steps are those of the last plan, and ``phases`` and ``total_steps`` are
        there, too.

    Raises:
        InputError: a field is out of range.
    """
    rooms.check(config)
    problem = public_problem(config)
    model = build_model(config, problem.image_shape, problem.condition)
    plan = privacy_plan(config, problem.num_examples, model)
    if is_extension(config):
        if record is None:
            raise InputError(
                "config.extend is set without a run to extend; allowed: the --workdir "
                "of a run."
            )
        plan = extended_plan(config.extend, record)
    elif record is not None and not record.plan.phases[0].differences(plan):
        plan = record.plan
    return (
        {"config": config.name}
        | dataclasses.replace(plan, extends=None).to_dict()
        | _phases(plan)
        | {
            "unit_of_privacy": units.in_words(plan.unit),
            "max_batch_size": plan.max_batch_size,
            "noise_stddev": plan.noise_stddev,
        }
        | _noise_over_clip_norm(plan, model.num_trained)
        | {
            "epsilon_rdp": plan.epsilon_spent(plan.total_steps, "rdp"),
            "epsilon_pld": plan.epsilon_spent(plan.total_steps, "pld"),
            "num_parameters": model.num_parameters,
            "num_trained": model.num_trained,
            "trained_modules": _trained_modules(model),
            "image_shape": list(problem.image_shape),
        }
        | _without_guarantee(config.privacy)
        | _beginning(config.initial)
        | _views(model)
        | conditions.to_dict(problem.condition)
        | (_cost(config, model, plan) if estimate_cost else {})
    )


def _noise_over_clip_norm(plan: PrivacyPlan, num_trained: int) -> dict[str, float]:
    """Expected length of the noise on an average gradient, in clip norms.

    No average of clipped gradients is longer than one clip norm. In the average over
    all steps a gradient that stays the same stays as long, and the noise gets shorter.
    """
    of_step = plan.noise_multiplier * math.sqrt(num_trained) / plan.expected_batch_size
    return {
        "step_noise_over_clip_norm": of_step,
        "run_noise_over_clip_norm": of_step / math.sqrt(max(1, plan.num_steps)),
    }


def _trained_modules(model: Model) -> dict[str, int]:
    """Numbers of trained parameters, by the modules that they are in."""
    return trainable.groups(model.trained_network(model.shapes), model.network.parts)


def _without_guarantee(settings: ml_collections.ConfigDict) -> dict[str, Any]:
    """Why the plan's epsilon is none, where that is not its own doing."""
    if settings.fixed_keys_seed is None:
        return {}
    return {"not_private": FIXED_KEYS}


def _beginning(settings: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a run begins with, if not with random weights."""
    begins_with = settings.weights or settings.parent
    found = {"begins_with": begins_with, "begins_with_public_data": settings.public}
    return {name: value for name, value in found.items() if value and begins_with}


def _views(model: Model) -> dict[str, Any]:
    """How a step sees an image: also where an older ledger does not state it."""
    seen = _seen_views(model)
    return {} if seen is None else {"views": seen.to_dict()}


def _phases(plan: PrivacyPlan) -> dict[str, Any]:
    if plan.extends is None:
        return {}
    return {"total_steps": plan.total_steps, "phases": phase_fields(plan)}


def forward_cost(
    config: ml_collections.ConfigDict, model: Model
) -> tuple[float, float]:
    """Flops and bytes of the network on one noisy image, as XLA counts them in float32.

    Convolutions and matrix products are nearly all of the flops. The bytes are those of
    every operation by itself, before any are fused.
    """
    if config.network.dtype != "float32":  # else casts would count as work
        config = config.copy_and_resolve_references()
        config.network.dtype = "float32"
        model = build_model(config, model.sample_shape, model.condition)
    params = model.network.shapes
    x = jax.ShapeDtypeStruct((1, *model.latent_shape), jnp.float32)
    sigma = jax.ShapeDtypeStruct((1,), jnp.float32)
    condition = blank_examples(model.condition.spec, 1)
    lowered = jax.jit(model.network.apply).lower(params, x, sigma, condition)
    cost = lowered.cost_analysis() or {}
    return cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)


def encoding_cost(model: Model) -> tuple[float, int]:
    """Flops of encoding an image, as XLA counts them, and bytes taken meanwhile.

    These are three arrays as large as the largest: a block's input, what a layer reads
    and what it gives.
    """
    codec = model.codec
    if codec.law_spec == codec.spec:
        return 0.0, 0

    def law(params: Any, image: jax.Array) -> jax.Array:
        return codec.law(params, image[None])[0]

    cost = jax.jit(law).lower(model.shapes, codec.spec).cost_analysis() or {}
    one = blank_examples(codec.spec, 1)
    largest = loss_traits(law, model.shapes, (one,)).largest_array
    return cost.get("flops", 0.0), 3 * largest


def images_encoded_per_step(
    config: ml_collections.ConfigDict, model: Model, plan: PrivacyPlan
) -> float:
    """Returns how many images a step encodes; on average where all are, before steps.

    Args:
        config: the whole config.
        model: of the run.
        plan: of the run.
    """
    images = plan.expected_batch_size * _room(plan)
    number, steps = plan.num_examples, plan.num_steps
    place = encoding.place_of_laws(config.codec, model, number, steps * images)
    return images if place == "off" else number / max(1, steps)


def _room(plan: PrivacyPlan) -> int:
    """Room for images in a unit of privacy: what is empty costs as much."""
    return 1 if plan.unit is None else plan.unit.images


def encodings_of_image(model: Model) -> int:
    """Returns how often an image is encoded for a step that sees it, where it is."""
    if not model.encodes_views:
        return 1
    return model.views.number(model.draws.noise_multiplicity)


def _examples_at_once(
    config: ml_collections.ConfigDict, model: Model, plan: PrivacyPlan, devices: int
) -> int:
    """Examples that a device's engine works on at once.

    Accelerators' "book_keeping", which holds few gradients, counts as if it held all.
    """
    examples = config.train.microbatch_size // devices
    given = config.train.engine_microbatch_size
    if given:
        return min(examples, given)
    is_clipped = math.isfinite(plan.l2_clip_norm)
    if is_clipped and config.train.engine == "auto":
        platform = jax.default_backend()
        traits = _traits(model) if platform == "cpu" else None
        number = model.num_trained
        _, chosen = choose_engine(platform, examples, number, traits=traits)
        return chosen or examples
    return 1 if is_clipped and config.train.engine == "scan" else examples


def _traits(model: Model) -> LossTraits:
    """What an engine sees of an image's loss."""
    loss = model.trained_loss()

    def of_one(params: Any, example: Any, key: jax.Array) -> tuple[jax.Array, None]:
        trained, fixed = params
        return loss(trained, fixed, example, key), None

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    batch = (blank_examples(model.example, 1), keys)
    return loss_traits(of_one, model.split(model.shapes), batch)


def batch_bytes(model: Model, images: int) -> int:
    """Memory of so many images as the loss takes them, see ``Model.example``."""
    of_one = blank_examples(model.example, 1)
    return images * sum(leaf.nbytes for leaf in jax.tree.leaves(of_one))


def gradient_passes(model: Model) -> float:
    """Work of a gradient, in forward passes of the network.

    One is forward, one back to what is trained, and one for the gradients by weights:
    of those that are trained, whose share of the work is about that of the weights.
    """
    return 2.0 + min(1.0, model.num_trained / model.network.num_parameters)


def _cost(
    config: ml_collections.ConfigDict, model: Model, plan: PrivacyPlan
) -> dict[str, Any]:
    """Estimates memory and time of a step on this machine, without compiling it."""
    devices = jax.device_count()
    check_microbatch(config.train.microbatch_size, devices)
    held = _examples_at_once(config, model, plan, devices)
    multiplicity = config.diffusion.noise_multiplicity
    forward_flops, forward_bytes = forward_cost(config, model)
    draws = config.diffusion.draws_at_once or multiplicity
    images = _room(plan)
    flops = gradient_passes(model) * forward_flops * multiplicity
    flops *= plan.expected_batch_size * images
    encoding_flops, encoding_bytes = encoding_cost(model)
    encoded = images_encoded_per_step(config, model, plan)
    flops += encoding_flops * encoded * encodings_of_image(model)
    size = 4 * model.num_trained
    fixed = 4 * num_scalars(model.split(model.shapes)[1])
    # What is fixed; weights, average, two Adam moments, the two words of the sum; then
    # what a micro-batch holds: its gradients, those of draws in parts twice, and the
    # activations that the backward pass reads, which the bytes that a forward pass
    # moves bound from above. Images are encoded before, and wait.
    gradients = size if draws == multiplicity and images == 1 else 2 * size
    activations = forward_bytes * draws
    batch = config.train.microbatch_size // devices * images
    most = encoding.images_at_once(jax.default_backend())
    at_once = min(most, batch * encodings_of_image(model))
    working = max(held * (gradients + activations), at_once * encoding_bytes)
    memory = fixed + 6 * size + batch_bytes(model, batch) + working
    rate = _matrix_product_rate()
    return {
        "microbatches_per_step": num_microbatches(
            plan.expected_batch_size, config.train.microbatch_size
        ),
        "images_at_once": held,
        "draws_at_once": draws,
        "flops_per_step": flops,
        "estimated_device_memory_bytes": int(memory),
        "measured_matrix_flops_per_second": rate,
        "estimated_seconds_per_step": flops / (rate * devices),
        "estimated_hours": plan.num_steps * flops / (rate * devices) / 3600,
        "devices": f"{devices} x {jax.devices()[0].device_kind}",
    }


def _matrix_product_rate(size: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations per second of a float32 matrix product, best of a few.

    An upper limit of what training reaches: estimates of time are optimistic.
    """
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
