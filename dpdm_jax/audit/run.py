"""The audit of a finished run: its mechanism by canaries, its model by membership."""

import importlib.metadata
import math
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import data, files, planning, queries, run_dir, validate
from dpdm_jax.audit import attacks, bounds, images, mechanism, membership
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.privacy import PrivacyPlan, format_epsilon, read_ledger, units
from dpdm_jax.training.checkpoints import Checkpoints

#: Files in the run directory, which their owner alone can read.
RESULT = "audit.json"
PICTURE = "PRIVATE_membership.png"

# With fewer no guess can be sure of anything.
_MIN_CANARIES = 100
_MIN_RUNS = 100


def audit(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Attacks a finished run and writes what was found.

    The mechanism is that of the run's plan, by its own code, on canaries in place of
    images: it shows what the code does today, not what a run did long ago. A run
    without a guarantee claims nothing, and only its model is attacked. Membership reads
    the private images outside any budget.

    Args:
        config: the whole config; reads ``audit``, ``train`` and ``data``.
        workdir: a run directory whose training is finished.

    Returns:
        What was written to <workdir>/audit.json; a picture lies beside it.

    Raises:
        InputError: a field is out of range, the run is not finished, the data does not
            fit, jax_privacy is missing, or there are several processes.
    """
    _check(config)
    record = read_ledger(workdir / run_dir.LEDGER)
    plan = record.plan
    model, params, fixed = _finished_model(config, workdir, plan.total_steps)
    training, held_out = (_load(config, split, model) for split in ("train", "test"))
    groups = data.load_groups(config.data, training)
    training = _of_run(workdir, training, groups)
    found = _membership(config, model, params, training, held_out)
    claimed = math.inf if record.not_private else record.epsilon_spent()
    result = {
        "claim": {
            "epsilon": claimed,
            "delta": plan.delta,
            "num_steps": plan.total_steps,
            "accountant": plan.accountant,
            "not_private": list(record.not_private),
            "unit": units.in_words(plan.unit),
        },
        "settings": config.audit.to_dict(),
        "one_run": None,
        "many_runs": None,
        "images_of_noise": None,
        "contradictions": [],
        "membership": membership.to_dict(found, claimed, plan.delta),
    }
    if not record.not_private:
        # Of an extended run the steps it was begun with: one code takes them all.
        result |= _audit_mechanism(
            config, plan.phases[0], model, training, fixed, groups
        )
    membership.draw(workdir / PICTURE, found, claimed, plan.delta)
    files.write_json(workdir / RESULT, result, private=True)
    return result


def describe(result: dict[str, Any]) -> str:
    """Says in words what ``audit`` found."""
    claim = result["claim"]
    lines = []
    if claim["not_private"]:
        lines.append(
            f"NOT PRIVATE ({'; '.join(claim['not_private'])}): no claim to audit."
        )
    else:
        lines.append(
            f"Claimed: epsilon {format_epsilon(claim['epsilon'])} at delta "
            f"{claim['delta']:g} for {claim['num_steps']} steps; the unit is "
            f"{claim['unit']}."
        )
        lines += _describe_mechanism(result)
    found = result["membership"]
    lines.append(
        f"Membership by loss (private, do not publish): AUC {found['auc']:.3f} (0.5 is "
        f"none), {found['training_images']} training images against "
        f"{found['held_out_images']} held out."
    )
    lines += [
        f"  At most {rate['false_positives']:.1%} false alarms: "
        f"{rate['true_positives']:.2%} recognised; the guarantee allows "
        f"{rate['highest_true_positives']:.2%}."
        for rate in found["rates"]
    ]
    return "\n".join(lines)


def _check(config: ml_collections.ConfigDict) -> None:
    settings = config.audit
    validate.integer("audit.canaries", settings.canaries, minimum=_MIN_CANARIES)
    validate.integer("audit.runs", settings.runs, minimum=0)
    if 0 < settings.runs < _MIN_RUNS:
        raise InputError(
            f"audit.runs is {settings.runs}; allowed: 0 for none, or at least "
            f"{_MIN_RUNS}."
        )
    if settings.image_canaries:
        validate.integer(
            "audit.image_canaries", settings.image_canaries, minimum=_MIN_CANARIES
        )
    for name in ("num_steps", "run_steps", "images", "noise_draws"):
        validate.integer(f"audit.{name}", settings[name], minimum=1)
    validate.integer("audit.seed", settings.seed, minimum=0)
    validate.real("audit.confidence", settings.confidence, above=0.5, below=1)
    planning.check_microbatch(config.train.microbatch_size, jax.device_count())
    if jax.process_count() > 1:
        raise InputError(
            f"--mode is audit in {jax.process_count()} processes; allowed: one."
        )
    bounds.check_installed()


def _finished_model(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, num_steps: int
) -> tuple[Model, Any, Any]:
    """Reads the averaged weights, of which samples and releases are made.

    And beside them those that no step changed.
    """
    checkpoints = Checkpoints(workdir)
    try:
        model = build_model(config, *checkpoints.stored_problem())
        params, step = checkpoints.restore_weights(model)
        fixed = checkpoints.restore_fixed(model)
    finally:
        checkpoints.close()
    if step < num_steps:
        raise InputError(
            f"{workdir} has taken {step} of {num_steps} steps; allowed: --mode=audit "
            "when all are taken."
        )
    return model, params, fixed


def _load(config: ml_collections.ConfigDict, split: str, model: Model) -> data.Source:
    source = data.load_source(config.data, split)
    found = (source.spec["image"].shape, source.condition)
    wanted = (model.stored["image"].shape, model.condition)
    if found != wanted:
        raise InputError(
            f"The {split}ing images are {found[0]} of {found[1]}, and the "
            f"model's {wanted[0]} of {wanted[1]}; allowed: the data that it was "
            "trained on."
        )
    return source


def _of_run(
    workdir: pathlib.Path, training: data.Source, groups: data.Groups | None
) -> data.Source:
    """Other images would look as if the model had forgotten those it was trained on."""
    bound, content = data.bind(training, groups)
    checkpoints = Checkpoints(workdir)
    try:
        if checkpoints.is_of_data(content) is False:
            raise InputError(
                f"The training images are not those that {workdir} was trained on; "
                "allowed: the same images, labels and order."
            )
    finally:
        checkpoints.close()
    return bound


def _membership(
    config: ml_collections.ConfigDict,
    model: Model,
    params: Any,
    *sources: data.Source,
) -> membership.Membership:
    rng = np.random.default_rng(config.audit.seed)
    losses_of = membership.make_image_losses(model, config.audit)
    return membership.membership(
        *(
            losses_of(
                params, source, rng.permutation(len(source))[: config.audit.images]
            )
            for source in sources
        )
    )


def _audit_mechanism(
    config: ml_collections.ConfigDict,
    plan: PrivacyPlan,
    model: Model,
    training: data.Source,
    fixed: Any,
    groups: data.Groups | None,
) -> dict[str, Any]:
    asked = queries.of_run(config, model)
    one_run = mechanism.audit_one_run(config, plan, asked)
    many_runs = on_images = None
    if config.audit.runs:
        many_runs = mechanism.audit_many_runs(config, plan, asked)
    if config.audit.image_canaries:
        on_images = images.audit_images(config, plan, model, training, fixed, groups)
    return {
        "software": {"jax-privacy": importlib.metadata.version("jax-privacy")},
        "one_run": one_run.to_dict(),
        "many_runs": many_runs and many_runs.to_dict(),
        "images_of_noise": on_images and on_images.to_dict(),
        "contradictions": contradictions(one_run, many_runs, on_images),
    }


def contradictions(
    one_run: mechanism.OneRun,
    many_runs: mechanism.ManyRuns | None = None,
    on_images: mechanism.OneRun | None = None,
) -> list[str]:
    """Returns a sentence for everything that speaks against the claim."""
    found = [
        f"{where} show epsilon > {bound.shown:.3f} at delta {bound.delta:g}, claimed "
        f"{format_epsilon(bound.claimed)} (attack: {attacks.ATTACKS[bound.attack]})"
        for where, part in (
            (f"canaries in one run of {one_run.num_steps} steps", one_run),
            ("runs with and without a canary", many_runs),
            ("images of noise among the training images", on_images),
        )
        if part is not None
        for bound in part.bounds
        if bound.contradicts
    ]
    found += [
        "batch sizes scatter unlike those of Poisson sampling (p = "
        f"{part.poisson_p_value:.2g})"
        for part in (one_run, on_images)
        if part is not None and not part.is_poisson
    ]
    if not one_run.is_noise_new:
        found.append(
            "noise of the queries and the first steps is not new each time (p = "
            f"{one_run.noise_p_value:.2g})"
        )
    return found


def _describe_mechanism(result: dict[str, Any]) -> list[str]:
    settings, one_run, many_runs, on_images = (
        result[name] for name in ("settings", "one_run", "many_runs", "images_of_noise")
    )

    def epsilons(made: dict[str, Any]) -> str:
        at_delta = [b for b in made["bounds"] if b["delta"] == result["claim"]["delta"]]
        return (
            f"epsilon is at least {max(b['shown'] for b in at_delta):.2f}; claimed "
            f"{format_epsilon(at_delta[0]['claimed'])}"
        )

    lines = [
        f"One run of {one_run['num_steps']} steps on {one_run['canaries']} canaries: "
        f"{epsilons(one_run)}; so many can show {one_run['most']:.2f} at most."
    ]
    if many_runs is not None:
        lines.append(
            f"{many_runs['runs']} runs of {many_runs['num_steps']} steps with and "
            f"without one canary: {epsilons(many_runs)}; tested at "
            f"{len(many_runs['bounds'])} deltas."
        )
    if on_images is not None:
        lines.append(
            f"One run of {on_images['num_steps']} steps of the network itself on "
            f"{on_images['canaries']} images of noise: {epsilons(on_images)}; so many "
            f"can show {on_images['most']:.2f} at most."
        )
    lines.append(
        "Batch sizes beside those of Poisson sampling: p = "
        f"{one_run['poisson_p_value']:.2g}, suspicious below {one_run['error']:.2g}."
    )
    if result["contradictions"]:
        lines.append("Verdict: the claim is CONTRADICTED:")
        lines += [f"  {sentence}." for sentence in result["contradictions"]]
    else:
        lines.append("Verdict: nothing contradicts the claim.")
    lines.append(f"All this holds together at {settings['confidence']:.0%} confidence.")
    return lines
