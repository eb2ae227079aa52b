"""From a config to a run that is ready to take its next step."""

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections

from dpdm_jax import (
    data,
    devices,
    files,
    planning,
    processes,
    queries,
    rngs,
    rooms,
    run_dir,
    stored_config,
    validate,
)
from dpdm_jax.errors import InputError
from dpdm_jax.models.encoding import make_encoder
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import Ledger, PrivacyPlan
from dpdm_jax.training import power_averages
from dpdm_jax.training.beginning import Beginning, ReadInitial
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.resume import restore
from dpdm_jax.training.run import Run, save
from dpdm_jax.training.secrets import Secrets, fixed_secrets, fresh_secrets
from dpdm_jax.training.shared_ledger import SharedLedger
from dpdm_jax.training.state import TrainState, create_state
from dpdm_jax.training.units import images_per_unit


def prepare(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    resources: contextlib.ExitStack,
    read_initial: ReadInitial | None = None,
) -> tuple[Run, TrainState]:
    """Checks everything that can be checked before a file is written, then opens.

    Args:
        config: the whole config.
        workdir: the run directory, created if need be.
        resources: closes what is opened.
        read_initial: see ``loop.train``.

    Returns:
        The run, and its state after the last step that was kept.

    Raises:
        InputError: see ``loop.train``.
    """
    is_new = not _has_checkpoint(workdir)
    with processes.together():
        _check(config)
        planning.check_microbatch(config.train.microbatch_size, jax.device_count())
        planning.unit_of(config)
        if is_new:
            _check_parent(config.initial)
    source = processes.first_goes_first(lambda: data.load_source(config.data, "train"))
    with processes.together(patiently=True):
        groups = data.load_groups(config.data, source)
        source, content = data.bind(source, groups)
    processes.check_same("The training data", content.hex)
    problem = planning.problem_of(source, groups)
    with processes.together():
        model = build_model(config, problem.image_shape, problem.condition)
    plan = PrivacyPlan.from_dict(
        processes.from_first(
            lambda: planning.privacy_plan(config, problem.num_examples, model).to_dict()
        )
    )
    seed = config.privacy.fixed_keys_seed
    secrets = Secrets.from_dict(
        processes.from_first(
            lambda: (fresh_secrets() if seed is None else fixed_secrets(seed)).to_dict()
        )
    )
    mesh = devices.data_mesh()
    with processes.together():
        training = build_training(
            config, plan, model.trained_loss(), secrets.noise_key, mesh
        )

    random = processes.same_arrays(model.init(rngs.stream(config.seed, "init")))
    begun_with = Beginning(random)
    if read_initial is not None and is_new:
        found = read_initial(config, model, random, content)
        begun_with = found._replace(params=processes.same_arrays(found.params))

    ledger_path = workdir / run_dir.LEDGER
    begun = processes.from_first(lambda: _claim(workdir, resources))
    ledger = None
    if begun:
        ledger = SharedLedger(
            lambda: Ledger.open(ledger_path, plan, fixed_keys=seed is not None)
        )
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    resources.callback(checkpoints.close)

    params, fixed = model.split(begun_with.params)
    state = create_state(
        params, training.optimizer, training.noise, config.train.power_averages
    )
    where, everywhere = training.layout(state), devices.replicated(mesh)
    state, fixed = devices.place(state, where), devices.place(fixed, everywhere)
    if checkpoints.steps():
        restored = restore(
            workdir, checkpoints, ledger, model, (state, fixed), config, content
        )
        secrets = restored.secrets
        state, fixed = restored.state, restored.fixed
    elif ledger is not None and ledger.record.authorized_steps:
        with processes.together():
            raise InputError(
                f"The ledger of {workdir} counts {ledger.record.authorized_steps} "
                "steps but no checkpoint is left to go on from; allowed: a new run "
                "directory, whose budget adds to this one's."
            )
    elif ledger is not None:
        for was, now in (
            (ledger.record.origin, begun_with.origin),
            (ledger.record.codec, begun_with.codec),
        ):
            if was != now:
                with processes.together():
                    raise InputError(
                        f"The run in {workdir} was begun with the weights "
                        f"{was or 'random'}, not {now or 'random ones'}; allowed: the "
                        "same, or a new run directory."
                    )
    state, fixed = devices.place(state, where), devices.place(fixed, everywhere)

    if ledger is None:
        ledger = SharedLedger(
            lambda: Ledger.create(
                ledger_path,
                plan,
                fixed_keys=seed is not None,
                origin=begun_with.origin,
                codec=begun_with.codec,
            )
        )
    run = Run(
        config=config,
        workdir=workdir,
        plan=ledger.record.plan,
        source=source,
        groups=groups,
        encode=make_encoder(
            model, mesh, images_per_unit=images_per_unit(ledger.record.plan.unit)
        ),
        content=content,
        model=model,
        fixed=fixed,
        mesh=mesh,
        secrets=secrets,
        ledger=ledger,
        checkpoints=checkpoints,
    )
    values = stored_config.to_values(config)
    path = workdir / run_dir.CONFIG  # names places on this machine
    processes.from_first(lambda: files.write_json(path, values, private=True))
    if not checkpoints.steps():
        # The secrets must be on disk before the first step uses them: a run killed in
        # its first steps then repeats their noise instead of drawing it anew.
        save(run, state)
    if int(state.step) == 0:
        run = dataclasses.replace(run, fixed=_fixed_by_queries(run))
    return run, state


def _has_checkpoint(workdir: pathlib.Path) -> bool:
    existing = Checkpoints(workdir)
    try:
        return bool(existing.steps())
    finally:
        existing.close()


def _check_parent(settings: ml_collections.ConfigDict) -> None:
    """Refuses random weights where a config says what it begins with."""
    if settings.parent and not settings.weights:
        raise InputError(
            f"initial.weights is '' and the config fine-tunes; allowed: the run "
            f"directory, or a release, of {settings.parent}, --mode=run, which trains "
            "that first, or initial.parent='' for random weights."
        )


def _fixed_by_queries(run: Run) -> Any:
    """Returns the fixed parameters, as far as queries fill them in.

    The ledger counts the queries since it was created, and their noise is that of the
    run: one that was killed before its first step asks the same again.
    """
    fixed = run.fixed
    for query in queries.of_run(run.config, run.model):
        key = run.secrets.query_key(query.planned.name)
        with processes.together():
            answer = query.answer(run.source, key, None, run.groups)
        # What follows from noised sums in floating point may differ between machines.
        answer = processes.same_arrays(answer)
        fixed = fixed | devices.place(answer, devices.replicated(run.mesh))
    return fixed


def _claim(workdir: pathlib.Path, resources: contextlib.ExitStack) -> bool:
    """Locks the run directory; says whether a run has begun in it."""
    files.make_folder(workdir)
    resources.enter_context(run_dir.locked(workdir))
    for name in (run_dir.LEDGER, run_dir.CONFIG):
        for unfinished in workdir.glob(f".{name}.*"):  # by a killed process
            unfinished.unlink()
    return (workdir / run_dir.LEDGER).exists()


def _check(config: ml_collections.ConfigDict) -> None:
    rooms.check(config)
    validate.seed("seed", config.seed)
    for name in ("every_steps", "keep"):
        validate.integer(f"checkpoint.{name}", config.checkpoint[name], minimum=1)
    validate.integer(
        "checkpoint.average_every_steps",
        config.checkpoint.average_every_steps,
        minimum=0,
    )
    validate.integer("log.every_steps", config.log.every_steps, minimum=1)
    for name in ("snapshot_every_steps", "snapshot_per_class"):
        validate.integer(f"log.{name}", config.log[name], minimum=0)
    validate.integer("train.stop_after_steps", config.train.stop_after_steps, minimum=0)
    validate.integer(
        "train.engine_microbatch_size", config.train.engine_microbatch_size, minimum=0
    )
    validate.real("train.ema_decay", config.train.ema_decay, minimum=0, below=1)
    power_averages.check_lengths("train.power_averages", config.train.power_averages)
