"""What each mode of the command line does, from config to words on the screen."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections

from dpdm_jax import compilation, data, json_values, planning, processes, run_dir
from dpdm_jax.audit import run as audit_run
from dpdm_jax.autoencoding import train as autoencoding
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import run as evaluation_run
from dpdm_jax.evaluation.description import describe
from dpdm_jax.evaluation.learning_curve import description as curve_words
from dpdm_jax.evaluation.learning_curve import run as curve
from dpdm_jax.evaluation.selection import description as selection_words
from dpdm_jax.evaluation.selection import run as selection
from dpdm_jax.initial import parent_of, planned_parent, read_initial
from dpdm_jax.privacy import LedgerRecord, format_epsilon, read_ledger, statement_of
from dpdm_jax.release import build
from dpdm_jax.release.bundle import PRIVACY_TEXT
from dpdm_jax.release.model import open_as_run
from dpdm_jax.sampling import maker
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.sampling.snapshot import ReconstructionWriter, SnapshotWriter
from dpdm_jax.training import extension, loop
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.writers import registry as writers
from dpdm_jax.user_paths import user_path


def plan(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    as_json: bool,
    compile_for: str | None,
) -> None:
    """Prints what a run would do; reads no data beyond its size.

    Args:
        config: the whole config.
        workdir: the run directory; of an extended run, or one to extend, all plans are
            printed.
        as_json: print one JSON line.
        compile_for: a target whose compiler says what the programs need, in place of an
            estimate for this machine; see ``compilation.compile_report``.
    """
    # Before a word is printed: mistakes get one sentence.
    with processes.together():
        target = None if compile_for is None else compilation.find_target(compile_for)

    def make_report() -> dict[str, Any]:
        report = planning.plan_report(
            config, estimate_cost=target is None, record=_ledger_of(workdir)
        )
        return report | planned_parent(config) | autoencoding.planned(config)

    report = processes.from_first(make_report)
    if not as_json:
        width = max(map(len, report))
        for name, value in report.items():
            if "epsilon" in name:
                value = format_epsilon(float(value))
            for each in _lines(name, value):
                _say(f"{name:<{width}}  {each}")
    if target is not None:
        compiled = processes.from_first(
            lambda: compilation.compile_report(config, target)
        )
        report["compiled"] = compiled
        if not as_json:
            _say(f"\n{compilation.describe(compiled)}")
    if as_json:
        _say(json_values.dumps(report))


def extend(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Plans further steps of a run within a new budget; training goes on with them."""
    _refuse_release(config, "extend")
    extension.extend(config, workdir, _say)
    _say("The ledger has the new plan; --mode=train goes on with it.")


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains a model, or goes on with it."""
    _refuse_release(config, "train")
    _refuse_extension(config, "train")
    _say(f"Training in {workdir}.")
    _use_autoencoder(config, workdir)
    is_new = processes.from_first(lambda: not (workdir / run_dir.LEDGER).exists())
    # Handed from the check to the training, which may put something else in its place.
    with data.loaded_once(uses=2 if is_new else 1):
        if is_new:  # before any budget is spent
            processes.from_first(lambda: evaluation_run.check_sampling(config, workdir))
        _train(config, workdir)
    _print_statement(workdir)


def autoencoder(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains the autoencoder of a latent diffusion model, on public images."""
    _refuse_release(config, "autoencoder")
    _say(f"Training an autoencoder in {workdir / run_dir.AUTOENCODER}.")
    folder = autoencoding.train(config, workdir, ReconstructionWriter(workdir))
    _say(f"Autoencoder: {folder}; NOT PRIVATE, of {config.data.public}")


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Makes images from a checkpoint, or a release."""
    _open_release(config, workdir)
    folder = sampling_run.sample(config, workdir)
    _say(f"Samples: {folder / sampling_run.ARCHIVE}")
    for name in maker.wanted_formats(config.sample):
        _say(f"As {name}: {folder / name}")
    _say(f"Picture: {folder / sampling_run.GRID}")


def evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures the samples of a run, or of a release."""
    _open_release(config, workdir)
    result = evaluation_run.evaluate(config, workdir)
    _say(describe(result))
    _say(f"Results: {workdir / run_dir.EVALUATION / config.sample.name}.json")


def select(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Ranks classifiers by the images of a run, or of a release."""
    _open_release(config, workdir)
    found = selection.select(config, workdir)
    folder = workdir / selection.FOLDER / config.sample.name
    _say(selection_words.describe(found["synthetic"]))
    _say(f"Results: {folder / selection.RESULT}")
    if found["real"] is not None:
        _say(f"\n{selection_words.describe_real(found['real'])}")
        _say(f"Private: {folder / selection.PRIVATE_RESULT}")


def learning_curve(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Tests classifiers on growing numbers of images of a run, or of a release."""
    _open_release(config, workdir)
    points = curve.learning_curve(config, workdir)
    folder = workdir / curve.FOLDER / config.sample.name
    _say(curve_words.describe(points))
    _say(f"Private: {folder / curve.RESULT}, {folder / curve.PICTURE}")


def report(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes one page about a run: for its owner, or one that may be published."""
    # Brings matplotlib, which no other mode needs.
    from dpdm_jax.report import write_report

    def write() -> str:
        path = write_report(
            workdir,
            private=config.report.private_parts,
            tuning=build.read_tuning(config.release),
        )
        return str(path)

    _say(f"Report: {processes.from_first(write)}")


def compare(
    config: ml_collections.ConfigDict,
    workdirs: Sequence[pathlib.Path],
    folder: pathlib.Path,
) -> None:
    """Writes one page about several runs, into a folder."""
    from dpdm_jax.report import write_comparison

    def write() -> str:
        return str(
            write_comparison(workdirs, folder, private=config.report.private_parts)
        )

    _say(f"Comparison: {processes.from_first(write)}")


def release(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes what of a run may be published."""
    _refuse_release(config, "release")
    folder = build.release(config, workdir)
    _say((folder / PRIVACY_TEXT).read_text(encoding="utf-8"))
    _say(f"Release: {folder}")


def audit(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Attacks a finished run, to contradict what it claims; for its owner alone."""
    _refuse_release(config, "audit")
    _say(f"Auditing {workdir}.")
    result = audit_run.audit(config, workdir)
    _say(audit_run.describe(result))
    _say(f"Private: {workdir / audit_run.RESULT}, {workdir / audit_run.PICTURE}")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains (or goes on, or finds it done), samples, evaluates and reports.

    Before that, it trains what the config begins with.
    """
    _refuse_release(config, "run")
    _refuse_extension(config, "run")
    if _is_trained(workdir):
        _say(f"{workdir} has been trained; sampling from it.")
    else:
        # Before hours of training: what is missing for the last stages.
        with processes.together():
            writers.check(config.log)
        processes.from_first(lambda: evaluation_run.check_ahead(config, workdir))
        _train_parent(config, workdir)
        _train_autoencoder(config, workdir)
        _say(f"Training in {workdir}.")
        _train(config, workdir)
        if not _is_trained(workdir):
            _print_statement(workdir)
            return
    sample(config, workdir)
    evaluate(config, workdir)
    report(config, workdir)
    _print_statement(workdir)


def _train_parent(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains the stage before, unless that is done, and begins with its weights."""
    with processes.together():
        found = parent_of(config, workdir)
    if found is None:
        return
    parent, folder = found
    if not _is_trained(folder):
        # Its data is another's, and need not be kept for what follows.
        with data.loaded_once():
            _train_parent(parent, folder)
            _train_autoencoder(parent, folder)
            _say(f"Training {config.initial.parent} in {folder}, to begin with.")
            _train(parent, folder)
    config.initial.weights = str(folder)


def _train_autoencoder(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
    """Trains the autoencoder of a public run, unless it is done or given."""
    if autoencoding.is_wanted(config) and not autoencoding.is_finished(workdir):
        autoencoder(config, workdir)
    _use_autoencoder(config, workdir)


def _use_autoencoder(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Has a public run begin with the autoencoder that was trained for it."""
    if autoencoding.is_wanted(config) and autoencoding.is_finished(workdir):
        config.codec.weights = str(workdir / run_dir.AUTOENCODER)
        config.codec.public = config.data.public


def _train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    snapshot = SnapshotWriter(config, workdir)
    loop.train(config, workdir, snapshot=snapshot, read_initial=read_initial)


def _open_release(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    if config.release.bundle:
        bundle = user_path("release.bundle", config.release.bundle)
        open_as_run(bundle, config, workdir)


def _refuse_release(config: ml_collections.ConfigDict, mode: str) -> None:
    if config.release.bundle:
        raise InputError(
            f"--mode is {mode} with a config of the release {config.release.bundle}; "
            "allowed: --mode=sample, evaluate, select or learning_curve."
        )


def _refuse_extension(config: ml_collections.ConfigDict, mode: str) -> None:
    if planning.is_extension(config):
        raise InputError(
            f"config.extend is set with --mode={mode}; allowed: --mode=extend first, "
            f"then --mode={mode} without it."
        )


def _lines(name: str, value: Any) -> Iterable[Any]:
    """What a plan's field is printed as, a line each."""
    if name == "phases":
        return map(_in_words, value)
    if name in ("trained", "views"):
        return [_in_words(value)]
    if name == "autoencoder":
        return [f"trained first, {_in_words(value)}"]
    if name == "trained_modules":
        return [f"{module}: {count}" for module, count in value.items()]
    return [value]


def _in_words(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _ledger_of(workdir: pathlib.Path) -> LedgerRecord | None:
    path = workdir / run_dir.LEDGER
    return read_ledger(path) if path.exists() else None


def _is_trained(workdir: pathlib.Path) -> bool:
    # The ledger counts steps ahead of their being taken; the checkpoints do not.
    checkpoints = Checkpoints(workdir)
    try:
        steps = checkpoints.steps()
    finally:
        checkpoints.close()

    def planned() -> int:
        return read_ledger(workdir / run_dir.LEDGER).plan.total_steps

    return bool(steps) and steps[-1] == processes.from_first(planned)


def _say(text: str, *, end: str = "\n") -> None:
    if processes.is_first():
        print(text, end=end, flush=True)


def _print_statement(workdir: pathlib.Path) -> None:
    def text() -> str:
        return statement_of(read_ledger(workdir / run_dir.LEDGER))

    _say(f"\n{processes.from_first(text)}", end="")
