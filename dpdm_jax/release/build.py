"""Builds a release from a run directory, or says why there cannot be one."""

import contextlib
import json
import pathlib
from typing import Any

import ml_collections
import numpy as np

from dpdm_jax import (
    conditions,
    files,
    json_values,
    processes,
    run_dir,
    stored_config,
    validate,
)
from dpdm_jax.conditions import is_file
from dpdm_jax.errors import InputError
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import build_model, signature
from dpdm_jax.privacy import LedgerRecord, Selection, Tuning, read_ledger
from dpdm_jax.release import (
    bundle,
    card,
    exported,
    privacy_files,
    published,
    signing,
)
from dpdm_jax.release.verify import verify
from dpdm_jax.sampling import images, maker
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.sampling.formats import registry
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.power_averages import check_average, weights_name
from dpdm_jax.training.resume import check_is_of_run
from dpdm_jax.user_paths import user_path


def release(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Writes <workdir>/release/: averaged weights, config, privacy statement, card.

    The folder appears whole or not at all, and takes the place of an earlier release
    only then. With several processes process 0 writes.

    Args:
        config: the whole config; reads ``release`` and, for publication, the sampler's
            fields.
        workdir: a run directory.

    Returns:
        The folder.

    Raises:
        InputError: the run is in use, not private, or not fully accounted for, or a
            field is out of range.
    """
    settings = config.release
    with processes.together():
        _check(settings)
    with contextlib.ExitStack() as resources:
        processes.from_first(lambda: _claim(workdir, resources))
        checkpoints = Checkpoints(workdir)
        resources.callback(checkpoints.close)
        with processes.together():  # what Orbax reads, all read alike
            stored = checkpoints.description(settings.step)
            model = build_model(
                config,
                tuple(stored["model"]["image_shape"]),
                conditions.from_dict(stored["model"]),
            )
            params, step = checkpoints.restore_weights(
                model, "ema", stored["step"], settings.average
            )

        def write() -> None:
            if settings.signing_key:  # before the work, should it be missing
                signing.read_private_key(
                    user_path("release.signing_key", settings.signing_key)
                )
            record = _read_accounts(workdir, stored)
            tuning = read_tuning(settings)
            about = card.read_about(settings)
            _check_private(settings, record, tuning)
            trained = stored_config.read(
                stored["config"], f"the checkpoint of {workdir}"
            )
            values, emptied = published.published_config(
                stored_config.to_values(trained), config
            )
            manifest = {
                "format": bundle.FORMAT,
                "name": values["name"],
                "run_id": record.run_id,
                "step": step,
                "weights": weights_name("ema", settings.average),
                "dtype": settings.dtype,
                "num_parameters": model.num_parameters,
                "model": signature(model.ordinary),
                "samples": None,
                "emptied_in_config": emptied,
            }
            if names := values["data"].get("class_names"):
                manifest["class_names"] = names
            target = workdir / run_dir.RELEASE
            with files.replacing_folder(target, bundle.is_bundle, "release") as folder:
                if settings.samples:
                    manifest["samples"] = _write_samples(
                        folder,
                        workdir,
                        settings.samples,
                        digest(params),
                        model.condition.num_classes or 0,
                    )
                metrics = _write_metrics(folder, workdir) if settings.metrics else []
                bundle.write_parameters(
                    folder / bundle.PARAMETERS, params, settings.dtype
                )
                files.write_json(folder / bundle.CONFIG, values)
                files.write_json(folder / bundle.MANIFEST, manifest)
                if settings.export:
                    exported.write(folder)
                stated = bundle.stated_files(bundle.digests(folder))
                fields = privacy_files.privacy_fields(
                    record, tuning, manifest, metrics, stated
                )
                files.write_json(folder / bundle.PRIVACY, fields)
                text = privacy_files.privacy_text(record, tuning, fields)
                (folder / bundle.PRIVACY_TEXT).write_text(text, encoding="utf-8")
                text = card.card(
                    manifest,
                    fields,
                    values,
                    license_name=settings.license,
                    about=about,
                    without_us=(
                        exported.how_to_sample(folder, manifest)
                        if settings.export
                        else ""
                    ),
                )
                (folder / bundle.CARD).write_text(text, encoding="utf-8")
                bundle.write_checksums(folder)
                if settings.signing_key:
                    signing.sign(
                        folder, user_path("release.signing_key", settings.signing_key)
                    )
                failures = verify(folder).failures
                if failures:
                    raise RuntimeError(f"the new release is wrong: {failures[0]}")

        processes.from_first(write)
    return workdir / run_dir.RELEASE


def _check(settings: ml_collections.ConfigDict) -> None:
    validate.one_of("release.dtype", settings.dtype, bundle.DTYPES)
    validate.integer("release.step", settings.step, minimum=-1)
    check_average("release.average", settings.average)
    validate.real("release.selection_mean", settings.selection_mean, minimum=0)
    if settings.samples:
        validate.folder_name("release.samples", settings.samples)


def _claim(workdir: pathlib.Path, resources: contextlib.ExitStack) -> None:
    """Keeps training away, which would make ledger and weights move."""
    if not workdir.is_dir():
        raise InputError(
            f"{workdir} is no folder; allowed: the --workdir of a run that was trained."
        )
    resources.enter_context(run_dir.locked(workdir))


def _read_accounts(workdir: pathlib.Path, stored: dict[str, Any]) -> LedgerRecord:
    """Reads the ledger, and makes sure that it counts the checkpoint's steps."""
    if stored["kind"] != "training":
        raise InputError(
            f"{workdir} holds imported weights, whose training no ledger counts; "
            "allowed: a run that was trained here."
        )
    path = workdir / run_dir.LEDGER
    record = read_ledger(path)
    check_is_of_run(workdir, stored, record)
    return record


def read_tuning(settings: ml_collections.ConfigDict) -> Tuning:
    """Returns how a run's settings were chosen.

    Args:
        settings: ``config.release``.

    Raises:
        InputError: a ledger of another run cannot be read, or a field is out of range.
    """
    folders = [f.strip() for f in settings.tuning_runs.split(",") if f.strip()]
    paths = [user_path("release.tuning_runs", folder) for folder in folders]
    runs = tuple(read_ledger(path / run_dir.LEDGER) for path in paths)
    selection = None
    if settings.selection_mean:
        selection = Selection(settings.selection_mean, settings.selection_shape)
    return Tuning(runs, selection)


def _check_private(
    settings: ml_collections.ConfigDict, record: LedgerRecord, tuning: Tuning
) -> None:
    reasons = tuning.not_private(record)
    if reasons and not (settings.allow_not_private or record.plan.public_data):
        raise InputError(
            f"The run is NOT PRIVATE ({'; '.join(reasons)}), so its release may reveal "
            "training images; allowed: a private run, or "
            "--config.release.allow_not_private=True."
        )


def _write_samples(
    folder: pathlib.Path,
    workdir: pathlib.Path,
    name: str,
    weights_sha256: str,
    num_classes: int,
) -> dict[str, Any]:
    """Copies images and labels, if they were made with the released weights."""
    source = workdir / run_dir.SAMPLES / name
    try:
        settings = json_values.loads((source / maker.SETTINGS).read_text())
        with np.load(source / sampling_run.ARCHIVE, allow_pickle=False) as archive:
            made, labels = archive["images"], archive.get("labels")
            texts = archive.get("prompts")
            names = archive.get("class_names", np.array(())).tolist()
        from_file = is_file(settings["labels"])
        described = {
            "num_images": len(made),
            "labels": "" if from_file else settings["labels"],
            "labels_from_file": from_file,
        } | {name: settings[name] for name in ("sampler", "seed", "rounding")}
        if texts is not None:
            described["prompts"] = len(np.unique(texts))
        made_with = settings["weights_sha256"]
    except Exception as e:  # a damaged zip raises many kinds
        raise InputError(
            f"release.samples is {name!r}, and the samples in {source} cannot be read "
            f"({type(e).__name__}); allowed: the sample.name of samples that are "
            "complete."
        ) from None
    if made_with != weights_sha256:
        raise InputError(
            f"The samples in {source} were made with other weights than those to be "
            "released; allowed: samples of this checkpoint's average."
        )
    images.write_npz(folder / bundle.SAMPLES, made, labels, texts, names)
    # As they were written there, but of these images and no others.
    for name in registry.read_digests(source):
        if name in registry.FORMATS and registry.FORMATS[name].IS_COMPACT:
            whole = sampling_run.read_set(folder / bundle.SAMPLES, num_classes)
            registry.write_one(folder / run_dir.SAMPLES, name, whole)
    return described


def _write_metrics(folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    names = []
    for path in sorted((workdir / run_dir.EVALUATION).glob("*.json")):
        name = f"{bundle.METRICS}/{path.name}"
        try:
            value = json.loads(path.read_text())
        except ValueError:
            raise InputError(
                f"{path} is damaged; allowed: what --mode=evaluate wrote."
            ) from None
        files.write_json(folder / name, published.metrics(value))
        names.append(name)
    if not names:
        raise InputError(
            f"release.metrics is True and {workdir / run_dir.EVALUATION} holds no "
            "metrics; allowed: a run that was evaluated, or False."
        )
    return names
