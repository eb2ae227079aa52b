"""The audit of a finished run: its mechanism by canaries, its model by membership."""

import importlib.metadata
import math
import pathlib
from typing import Any

import jax
import ml_collections

from dpdm_jax import data, planning, run_dir, validate
from dpdm_jax.audit import attacks, bounds, mechanism, membership
from dpdm_jax.errors import InputError
from dpdm_jax.model import build_model
from dpdm_jax.privacy import LedgerRecord, format_epsilon, read_ledger
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
    found = _membership_of_run(config, workdir, plan.num_steps)
    claimed = math.inf if record.not_private else record.epsilon_spent()
    result = {
        "claim": {
            "epsilon": claimed,
            "delta": plan.delta,
            "num_steps": plan.num_steps,
            "accountant": plan.accountant,
            "not_private": list(record.not_private),
        },
        "settings": config.audit.to_dict(),
        "one_run": None,
        "many_runs": None,
        "contradictions": [],
        "membership": membership.to_dict(found, claimed, plan.delta),
    }
    if not record.not_private:
        result |= _audit_mechanism(config, record)
    membership.draw(workdir / PICTURE, found, claimed, plan.delta)
    run_dir.write_json(workdir / RESULT, result, private=True)
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
            f"{claim['delta']:g} for {claim['num_steps']} steps."
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


def _membership_of_run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, num_steps: int
) -> membership.Membership:
    """Attacks the averaged weights, from which samples are drawn and releases made."""
    checkpoints = Checkpoints(workdir)
    try:
        shape, num_classes = checkpoints.stored_problem()
        model = build_model(config, shape, num_classes)
        params, step = checkpoints.restore_weights(model)
    finally:
        checkpoints.close()
    if step < num_steps:
        raise InputError(
            f"{workdir} has taken {step} of {num_steps} steps; allowed: --mode=audit "
            "when all are taken."
        )
    losses = []
    for split in ("train", "test"):
        source = data.load_source(config.data, split)
        if source.image_shape != shape or source.num_classes != num_classes:
            raise InputError(
                f"The {split}ing images are {source.image_shape} of "
                f"{source.num_classes} classes, and the model's {shape} of "
                f"{num_classes}; allowed: the data that it was trained on."
            )
        losses.append(membership.image_losses(model, params, source, config.audit))
    return membership.membership(*losses)


def _audit_mechanism(
    config: ml_collections.ConfigDict, record: LedgerRecord
) -> dict[str, Any]:
    one_run = mechanism.audit_one_run(config, record.plan)
    many_runs = None
    if config.audit.runs:
        many_runs = mechanism.audit_many_runs(config, record.plan)
    return {
        "software": {"jax-privacy": importlib.metadata.version("jax-privacy")},
        "one_run": one_run.to_dict(),
        "many_runs": many_runs and many_runs.to_dict(),
        "contradictions": contradictions(one_run, many_runs),
    }


def contradictions(
    one_run: mechanism.OneRun, many_runs: mechanism.ManyRuns | None
) -> list[str]:
    """Returns a sentence for everything that speaks against the claim."""
    found = [
        f"{where} show epsilon > {bound.shown:.3f} at delta {bound.delta:g}, claimed "
        f"{format_epsilon(bound.claimed)} (attack: {attacks.ATTACKS[bound.attack]})"
        for where, part in (
            (f"canaries in one run of {one_run.num_steps} steps", one_run),
            ("runs with and without a canary", many_runs),
        )
        if part is not None
        for bound in part.bounds
        if bound.contradicts
    ]
    if not one_run.is_poisson:
        found.append(
            "batch sizes scatter unlike those of Poisson sampling (p = "
            f"{one_run.poisson_p_value:.2g})"
        )
    return found


def _describe_mechanism(result: dict[str, Any]) -> list[str]:
    settings, one_run, many_runs = (
        result[name] for name in ("settings", "one_run", "many_runs")
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
    lines.append(
        "Batch sizes scatter as Poisson sampling's do: p = "
        f"{one_run['poisson_p_value']:.2g}."
    )
    if result["contradictions"]:
        lines.append("Verdict: the claim is CONTRADICTED:")
        lines += [f"  {sentence}." for sentence in result["contradictions"]]
    else:
        lines.append("Verdict: nothing contradicts the claim.")
    lines.append(f"All this holds together at {settings['confidence']:.0%} confidence.")
    return lines
