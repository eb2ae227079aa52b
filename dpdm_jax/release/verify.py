"""Checks a release against itself: sums, statement, accountant, parameters.

Everything that follows from something else is made anew and compared as a whole. That
finds damage, mistakes, and files that do not belong together. Someone who forges
ledger, statement, digests and sums together, for weights of their own, is not found
out: without a signature a release is as trustworthy as where it came from.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from dpdm_jax import planning, run_dir
from dpdm_jax.conditions import class_names
from dpdm_jax.errors import InputError, reason
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.privacy import accounting
from dpdm_jax.release import bundle, card, privacy_files, published, signing

_OLD_FORMAT = (
    "The release is of format 1, whose statement does not name its files: that "
    "weights, config and samples are those that it is about is not checked beyond "
    f"{bundle.CHECKSUMS}, which whoever swaps a file can write anew."
)
_UNSIGNED = (
    "It is not signed: whoever makes ledger, statement and sums anew is not found out."
)
_SAMPLER = (
    f"{bundle.SAMPLER} is the file that was released; that it computes what "
    f"{bundle.CONFIG} says is not checked."
)
_SIGNED = "It is signed; by whom, --public-key=FILE checks."


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was found out about a release.

    Attributes:
        failures: a sentence for each thing that is wrong; empty if it is intact.
        statement: the contents of PRIVACY.json; empty if it cannot be read.
        num_parameters: as the manifest states it; None if that cannot be read.
        notes: sentences on what was not checked.
    """

    failures: tuple[str, ...]
    statement: dict[str, Any]
    num_parameters: int | None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome as JSON values."""
        names = ("private", "epsilon", "delta", "accountant", "unit_of_privacy")
        return {
            "ok": self.ok,
            "failures": list(self.failures),
            "notes": list(self.notes),
            "num_parameters": self.num_parameters,
            "recomputed_with": accounting.accountant_version(),
        } | {name: self.statement.get(name) for name in names}


def verify(
    folder: pathlib.Path, public_key: pathlib.Path | None = None
) -> Verification:
    """Checks a release.

    Args:
        folder: the release; nothing in it is trusted.
        public_key: file of the key by which it must be signed; None if it need not be.

    Returns:
        The outcome; never raises for what is in the folder.

    Raises:
        InputError: the key cannot be read, or the package that checks signatures is not
            installed.
    """
    manifest: dict[str, Any] = {}
    statement: dict[str, Any] = {}
    try:
        # As they are written: some file systems take PRIVACY.json for the ledger's.
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        digests = {} if run_dir.LEDGER in names else bundle.digests(folder)
        failures = bundle.file_failures(folder, digests)
    except OSError as e:
        failure = f"{folder} cannot be read ({reason(e)})."
        return Verification((failure,), statement, None)
    if not folder.is_dir():
        return Verification(tuple(failures), statement, None)
    if run_dir.LEDGER in names and bundle.MANIFEST not in names:
        its_own = folder / run_dir.RELEASE
        sentence = (
            f"{folder} is a run directory; allowed: a release, such as "
            f"{its_own}, which --mode=release makes."
        )
        return Verification((sentence,), statement, None)

    def attempt(name: str, check: Callable[[], list[str]]) -> None:
        try:
            failures.extend(check())
        except InputError as e:
            failures.append(str(e))
        except bundle.MALFORMED as e:
            failures.append(f"{name} is malformed ({type(e).__name__}: {e}).")

    def read() -> list[str]:
        manifest.update(bundle.read_manifest(folder))
        statement.update(bundle.read_json(folder, bundle.PRIVACY))
        return []

    if public_key is not None:
        failures += signing.signature_failures(folder, public_key)
    attempt(f"{bundle.MANIFEST} or {bundle.PRIVACY}", read)
    if manifest:
        attempt(bundle.MANIFEST, lambda: _model_failures(folder, manifest))
    if manifest and statement:
        metrics = [
            name
            for name in bundle.file_names(folder)
            if name.startswith(f"{bundle.METRICS}/")
        ]
        attempt(
            bundle.PRIVACY,
            lambda: statement_failures(
                statement, manifest, metrics, bundle.stated_files(digests)
            ),
        )
        attempt(bundle.CONFIG, lambda: _config_failures(folder, statement, manifest))
        attempt(bundle.PRIVACY_TEXT, lambda: _text_failures(folder, statement))
        attempt(bundle.CARD, lambda: _card_failures(folder, statement, manifest))
    return Verification(
        tuple(failures),
        statement,
        manifest.get("num_parameters"),
        _notes(folder, manifest, public_key),
    )


def _notes(
    folder: pathlib.Path, manifest: dict[str, Any], public_key: pathlib.Path | None
) -> tuple[str, ...]:
    notes = [_OLD_FORMAT] if manifest.get("format") == bundle.FORMATS[0] else []
    if (folder / bundle.SAMPLER).exists():
        notes.append(_SAMPLER)
    if public_key is None:
        notes.append(_SIGNED if (folder / bundle.SIGNATURE).exists() else _UNSIGNED)
    return tuple(notes)


def statement_failures(
    statement: dict[str, Any],
    manifest: dict[str, Any],
    metrics: list[str],
    files: Mapping[str, str],
) -> list[str]:
    """Returns a sentence for all that does not follow from the ledgers and the files.

    Args:
        statement: the contents of PRIVACY.json.
        manifest: of the release.
        metrics: names of the files with metrics.
        files: SHA-256 of each file that the statement is about.

    Raises:
        InputError: a ledger in the statement is damaged.
    """
    record, tuning = privacy_files.read_accounted(statement)
    expected = privacy_files.expected_fields(
        statement, record, tuning, manifest, metrics, files
    )
    failures = [
        _sentence(name, stated, right)
        for name, stated, right in _differences(statement, expected)
    ]
    stated_with = statement["software"]["accountant"]
    if failures and stated_with != accounting.accountant_version():
        failures.append(
            f"{bundle.PRIVACY} was computed with {stated_with}; last digits may differ."
        )
    counted = record.authorized_steps
    if not 0 <= manifest["step"] <= counted:
        failures.append(
            f"{bundle.MANIFEST} states step {manifest['step']}; the ledger counts "
            f"{counted}."
        )
    if manifest["run_id"] != record.run_id:
        failures.append(f"{bundle.MANIFEST} is of another run than {bundle.PRIVACY}.")
    return failures


def _sentence(name: str, stated: Any, right: Any) -> str:
    if name.startswith("files."):
        return (
            f"{name.removeprefix('files.')} is not the file that {bundle.PRIVACY} is "
            f"about: its SHA-256 is {right!r}, and {stated!r} is stated."
        )
    return (
        f"{bundle.PRIVACY} states {name} {stated!r}; its ledger, with "
        f"{accounting.accountant_version()}, gives {right!r}."
    )


def _differences(
    stated: dict[str, Any], expected: dict[str, Any]
) -> list[tuple[str, Any, Any]]:
    names = {**expected, **stated}
    absent = "(absent)"
    found = []
    for name in names:
        one, other = stated.get(name, absent), expected.get(name, absent)
        if isinstance(one, list) and isinstance(other, list):
            one, other = (
                {str(index): value for index, value in enumerate(values)}
                for values in (one, other)
            )
        if isinstance(one, dict) and isinstance(other, dict):
            found += [(f"{name}.{n}", a, b) for n, a, b in _differences(one, other)]
        elif one != other or isinstance(one, bool) != isinstance(other, bool):
            found.append((name, one, other))
    return found


def _model_failures(folder: pathlib.Path, manifest: dict[str, Any]) -> list[str]:
    model = bundle.read_model(folder, bundle.read_config(folder), manifest)
    bundle.read_parameters(folder, model, manifest["dtype"])
    failures = bundle.sample_failures(folder, model, manifest)
    if manifest["num_parameters"] != model.num_parameters:
        failures.append(
            f"{bundle.MANIFEST} states {manifest['num_parameters']} parameters; the "
            f"model has {model.num_parameters}."
        )
    if manifest["dtype"] not in bundle.DTYPES:
        failures.append(f"{bundle.MANIFEST} states dtype {manifest['dtype']!r}.")
    return failures


def _config_failures(
    folder: pathlib.Path, statement: dict[str, Any], manifest: dict[str, Any]
) -> list[str]:
    record, _ = privacy_files.read_accounted(statement)
    config = bundle.read_config(folder)
    plan = record.plan.phases[0]  # extensions are in the ledger alone
    model = bundle.read_model(folder, config, manifest)
    if plan.trained is not None:
        config.train.trainable = plan.trained.selector
        model = build_model(config, model.sample_shape, model.condition)
    made_again = planning.plan_with_noise_of(plan, config, model)
    differences = [
        (name, mine, theirs)
        for name, mine, theirs in made_again.differences(plan)
        if name != "target_epsilon" and not _is_older(name, theirs, mine, model)
    ]
    for name in ("parameters", "views"):  # for information; older ledgers lack them
        mine, theirs = getattr(made_again, name), getattr(plan, name)
        if theirs not in (None, mine):
            differences.append((name, str(mine), str(theirs)))
    budgets = config.privacy.epsilon, plan.target_epsilon
    if budgets[0] != budgets[1] and not plan.public_data:
        differences.append(("privacy.epsilon", *budgets))
    failures = [
        f"{bundle.CONFIG} gives {name} {mine!r}; the ledger has {theirs!r}."
        for name, mine, theirs in differences
    ]
    if config.name != manifest["name"]:
        failures.append(
            f"{bundle.CONFIG} gives the name {config.name!r}; {bundle.MANIFEST} has "
            f"{manifest['name']!r}."
        )
    if list(config.data.class_names) != bundle.class_names(manifest):
        failures.append(
            f"{bundle.CONFIG} and {bundle.MANIFEST} have other names of the classes."
        )
    if config.data.class_names:
        class_names.check(config.data.class_names, model.condition.num_classes or 0)
    if manifest["format"] == bundle.FORMAT:
        _, emptied = published.clean_config(bundle.read_json(folder, bundle.CONFIG))
        failures += [f"{bundle.CONFIG}: {name} is not empty." for name in emptied]
    return failures


def _is_older(name: str, stated: Any, counted: Any, model: Model) -> bool:
    """Whether a ledger differs from its config since runs began to count otherwise."""
    if name != "coordinates":
        return False
    # Of floating-point arithmetic none; then what is not trained, too.
    return stated is None or stated == max(counted, model.num_parameters)


def _card_failures(
    folder: pathlib.Path, statement: dict[str, Any], manifest: dict[str, Any]
) -> list[str]:
    values = bundle.read_json(folder, bundle.CONFIG)
    return card.card_failures(folder, manifest, statement, values)


def _text_failures(folder: pathlib.Path, statement: dict[str, Any]) -> list[str]:
    try:
        text = (folder / bundle.PRIVACY_TEXT).read_bytes().decode()
    except (OSError, ValueError):
        return [f"{bundle.PRIVACY_TEXT} cannot be read."]
    return privacy_files.text_failures(text, statement)
