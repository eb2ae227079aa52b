"""The report: facts of a run directory, laid out by a template."""

import base64
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jinja2
import markupsafe

import dpdm_jax
from dpdm_jax import files, run_dir
from dpdm_jax.conditions import is_file
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import (
    NO_TUNING,
    LedgerRecord,
    Statement,
    Tuning,
    format_epsilon,
    guess_bound,
    make_statement_of,
    units,
)
from dpdm_jax.release import published
from dpdm_jax.report import curves
from dpdm_jax.report.contents import (
    MAX_CLASSES,
    Contents,
    Private,
    SampleSet,
    read_contents,
)
from dpdm_jax.report.explanations import GROUPS
from dpdm_jax.report.metrics_table import by_class, metrics_table
from dpdm_jax.sampling import maker
from dpdm_jax.sampling.images import png as to_png
from dpdm_jax.training.metrics import PRIVATE

# Images up to this side are enlarged with sharp edges, as their pixels are, to a whole
# multiple near these many points of the page; from the second on they get more room.
_SMALL, _WIDE = 40, 96
_ON_LAPTOP, _ON_PHONE = 84, 56
# On a public page, for what is left out.
_NAMELESS = "A diffusion model"

_EPSILON = "epsilon"
#: What curves are called, in the order of a page.
CURVE_TITLES = {
    f"{PRIVATE}loss": "Loss",
    f"{PRIVATE}grad_norm": "Mean gradient norm before clipping",
    f"{PRIVATE}clip_fraction": "Fraction of gradients clipped",
    f"{PRIVATE}images_per_second": "Training images per second",
    f"{PRIVATE}batch_size": "Images in a batch",
    f"{PRIVATE}non_finite": "Gradients that were not finite",
    _EPSILON: "Epsilon spent",
}


def write_report(
    workdir: pathlib.Path, *, private: bool = True, tuning: Tuning = NO_TUNING
) -> pathlib.Path:
    """Writes one HTML page about a run; it loads nothing and runs no script.

    Any part of the run may be missing: it may still be training, have no samples, no
    labels or no evaluation. The page then says so.

    Args:
        workdir: the run directory.
        private: True writes <workdir>/report.html for the owner of the data, with
            metrics, curves and training images, all marked, readable by its owner
            alone. False writes <workdir>/report_public.html from the ledger, the
            config and the samples; private files are not even opened, and settings
            that name places on this machine are left out.
        tuning: how the run's settings were chosen.

    Returns:
        The file that was written.

    Raises:
        InputError: it is no run directory, its ledger is damaged, or a public page is
            asked for of a run that has no privacy guarantee.
    """
    contents, statement = read_run(workdir, private=private, tuning=tuning)
    path = workdir / (run_dir.REPORT if private else run_dir.PUBLIC_REPORT)
    write_page(path, "report.html", _facts(contents, statement), private=private)
    return path


def read_run(
    workdir: pathlib.Path, *, private: bool, tuning: Tuning = NO_TUNING
) -> tuple[Contents, Statement | None]:
    """Reads what a page says of a run, and what the run guarantees.

    Args:
        workdir: the run directory.
        private: whether the page is for the owner of the data. If not, private files
            are not opened, and names of places on this machine are left out.
        tuning: how the run's settings were chosen.

    Returns:
        What is there, and the statement of its ledger; None without one.

    Raises:
        InputError: see ``write_report``.
    """
    contents = read_contents(workdir, private=private)
    statement = None
    if contents.ledger is not None:
        statement = make_statement_of(contents.ledger, tuning)
    if private:
        return contents, statement
    is_public = contents.ledger is not None and contents.ledger.plan.public_data
    if not is_public and (statement is None or statement.not_private):
        raise InputError(
            f"{workdir} has no privacy guarantee ({reason_of(statement)}), so that no "
            "page about it is public; allowed: report.private_parts=True."
        )
    if contents.ledger is not None:
        _check_counted(workdir, contents.samples, contents.ledger)
    return _without_places(contents), statement


def _check_counted(
    workdir: pathlib.Path, samples: Iterable[SampleSet], ledger: LedgerRecord
) -> None:
    """Refuses a guarantee beside images of steps that it does not count."""
    for each in samples:
        step = each.settings.get("step")
        if isinstance(step, int) and step > ledger.authorized_steps:
            raise InputError(
                f"The samples {each.name!r} of {workdir} are of step {step} and its "
                f"ledger counts {ledger.authorized_steps} steps; allowed: a ledger "
                "that counts every step."
            )


def write_page(
    path: pathlib.Path, template: str, facts: dict[str, Any], *, private: bool
) -> None:
    """Writes a page at once; a private one is readable by its owner alone.

    Args:
        path: of the file.
        template: name of the template that lays out the facts.
        facts: what it shows, besides the version.
        private: whether the page has private parts.
    """
    page = _template(template).render(facts | {"version": dpdm_jax.__version__})
    with files.replacing(path, private=private) as temporary:
        temporary.write_text(page, encoding="utf-8")


def reason_of(statement: Statement | None) -> str | None:
    """Says why a run gives no guarantee; None if it gives one."""
    if statement is None:
        return f"there is no {run_dir.LEDGER}"
    return "; ".join(statement.not_private) or None


def name_of(contents: Contents) -> str:
    """Returns what a page calls a run: the config's name, or the folder's."""
    name = (contents.config or {}).get("name")
    return name if isinstance(name, str) and name else contents.folder


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dpdm_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = _data_uri
    return environment.get_template(name)


def _data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _facts(contents: Contents, statement: Statement | None) -> dict[str, Any]:
    """Returns what the template shows."""
    private = contents.private
    return {
        "name": name_of(contents),
        "folder": contents.folder,
        "privacy": None
        if contents.ledger is None or statement is None
        else privacy_facts(contents.ledger, statement),
        "reason": reason_of(statement),
        "sample_sets": [
            sample_facts(each, class_names(contents)) for each in contents.samples
        ],
        "max_classes": MAX_CLASSES,
        "snapshot": contents.snapshot if not contents.samples else None,
        "private": None if private is None else _private_facts(private, contents),
        "settings": list(_settings(contents)),
        "problems": contents.problems,
    }


def _without_places(contents: Contents) -> Contents:
    """Leaves out names of files and folders, as releases do."""
    config, _ = published.clean_config(contents.config or {})
    samples = []
    for each in contents.samples:
        settings = published.without_places(maker.without_labels_file(each.settings))
        samples.append(dataclasses.replace(each, settings=settings))
    return dataclasses.replace(
        contents, folder=_NAMELESS, config=config, samples=samples
    )


def privacy_facts(record: LedgerRecord, statement: Statement) -> dict[str, Any]:
    """Returns what templates show of a guarantee."""
    plan = record.plan
    facts = {
        "statement": statement,
        "verdict": "PUBLIC DATA" if plan.public_data else "NOT PRIVATE",
        "delta": repr(plan.delta),
        "num_examples": plan.num_examples,
        "is_of_groups": plan.unit is not None,
        "unit": units.in_words(plan.unit),
        "steps": record.authorized_steps,
        "planned_steps": plan.total_steps,
        "began_with": _began_with(record),
        # The statement's first facts are those on weights that came from elsewhere.
        "lineage": statement.mechanism[: _num_origins(record)],
        "mechanism": statement.mechanism[_num_origins(record) :],
    }
    if statement.not_private:
        return facts
    spent = statement.epsilon
    # Never understated, as epsilon.
    bound = math.ceil(guess_bound(spent, plan.delta) * 1e5) / 1e3
    used = None
    if math.isfinite(plan.target_epsilon):
        used = min(100.0, 100 * spent / plan.target_epsilon)
    return facts | {
        "epsilon": format_epsilon(spent),
        "budget": format_epsilon(plan.target_epsilon),
        "used_percent": None if used is None else f"{used:.1f}",
        "guess_percent": f"{bound:.3f}".rstrip("0").rstrip("."),
    }


def class_names(contents: Contents) -> list[str]:
    """Returns the names that the config states, in order of the labels."""
    data = (contents.config or {}).get("data")
    names = data.get("class_names") if isinstance(data, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _began_with(record: LedgerRecord) -> str:
    if record.origin is None:
        return "random weights"
    guarantee = record.origin.public_data
    if record.origin.ledger is not None:
        guarantee = "trained privately, too"
    return f"{record.origin.kind} {record.origin.name} ({guarantee})"


def _num_origins(record: LedgerRecord) -> int:
    return sum(origin is not None for origin in (record.origin, record.codec))


def sample_facts(samples: SampleSet, names: Sequence[str]) -> dict[str, Any]:
    """Returns what templates show of a folder of samples.

    Args:
        samples: the folder.
        names: of classes; see ``class_names``.
    """
    rows = [
        {
            "label": label if isinstance(label, int) else None,
            "class_name": names[label]
            if isinstance(label, int) and label < len(names)
            else None,
            "prompt": label if isinstance(label, str) else None,
            "images": [to_png(image) for image in images],
        }
        for label, images in samples.rows
    ]
    sides = [images.shape[1:3] for _, images in samples.rows]
    longest = max(map(max, sides), default=0)
    size = None
    if sides:
        size = {
            "height": sides[0][0],
            "width": sides[0][1],
            "laptop": max(1, _ON_LAPTOP // longest),
            "phone": max(1, round(_ON_PHONE / longest)),
        }
    labels = samples.settings.get("labels")
    return {
        "name": samples.name,
        "count": samples.count,
        "num_classes": samples.num_classes,
        "num_prompts": samples.num_prompts,
        "rows": rows,
        "small": 0 < longest <= _SMALL,
        "wide": longest >= _WIDE,
        "size": size,
        "picture": samples.picture,
        "made_by": _made_by(samples.settings),
        "labels_file": labels == maker.FROM_FILE or is_file(labels),
    }


def _made_by(settings: dict[str, Any]) -> str:
    parts = []
    if "step" in settings:
        parts.append(f"after training step {settings['step']}")
    sampler = settings.get("sampler")
    if isinstance(sampler, dict):
        parts.append(
            f"sampler {sampler.get('preset') or sampler.get('name')}, "
            f"{sampler.get('num_steps')} steps, guidance {sampler.get('guidance')}"
        )
    return "; ".join(parts)


def _private_facts(private: Private, contents: Contents) -> dict[str, Any]:
    table = metrics_table(private.evaluations)
    return {
        "table": table,
        "groups": GROUPS,
        "by_class": by_class(private.evaluations),
        "without_metrics": [
            name for name in private.evaluations if name not in table.columns
        ],
        "evaluations": {
            name: list(flat(results)) for name, results in private.evaluations.items()
        },
        "curves": list(_curves(private, contents.ledger)),
        "pictures": private.pictures,
        # What the banner at the top warns of.
        "parts": [
            part
            for part, found in (
                ("metrics measured on the real images", private.evaluations),
                ("training curves", private.curves),
                ("training images", private.pictures),
            )
            if found
        ],
    }


def _curves(private: Private, record: LedgerRecord | None) -> Iterator[dict[str, Any]]:
    limits = {}
    if record is not None:
        limits = {
            f"{PRIVATE}grad_norm": ("clipping bound C", record.plan.l2_clip_norm),
            f"{PRIVATE}batch_size": (
                "expected",
                float(record.plan.expected_batch_size),
            ),
            _EPSILON: ("budget", record.plan.target_epsilon),
        }
    for number, name in enumerate(in_order(private.curves)):
        points = private.curves[name]
        meaning, limit = limits.get(name, ("", math.inf))
        has_limit = math.isfinite(limit)
        svg = curves.draw(f"curve_{number}", points, limit if has_limit else None)
        yield {
            "title": CURVE_TITLES.get(name, name),
            "limit": f"{meaning} = {_value(name, limit)}" if has_limit else "",
            "last": _value(name, points[-1][1]),
            "step": points[-1][0],
            # Made from numbers and our own words alone.
            "svg": markupsafe.Markup(svg),
        }


def in_order(names: Iterable[str]) -> list[str]:
    """Returns names of curves in the order of a page, unknown ones at the end."""
    names = set(names)
    known = [name for name in CURVE_TITLES if name in names]
    return known + sorted(names.difference(known))


def _value(name: str, value: float) -> str:
    return format_epsilon(value) if name == _EPSILON else f"{value:.4g}"


def _settings(contents: Contents) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yields groups of settings: a heading, and names with values."""
    config = contents.config or {}
    loose = [(k, v) for k, v in config.items() if not isinstance(v, dict)]
    if loose:
        yield run_dir.CONFIG, list(flat(dict(loose)))
    for name, group in config.items():
        if isinstance(group, dict) and group:
            yield f"{run_dir.CONFIG}: {name}", list(flat(group))
    for samples in contents.samples:
        if samples.settings:
            yield f"{run_dir.SAMPLES}/{samples.name}", list(flat(samples.settings))
    if contents.ledger is not None:
        facts = contents.ledger.plan.to_dict() | {"run_id": contents.ledger.run_id}
        facts |= {f"software.{k}": v for k, v in contents.ledger.software.items()}
        yield run_dir.LEDGER, list(flat(facts))


def flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of nested dicts under dotted names."""
    for name, each in value.items():
        if isinstance(each, dict) and each:
            yield from flat(each, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(each)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "(empty)"
    if value is None:
        return "not set"
    if isinstance(value, list) and not any(isinstance(x, (dict, list)) for x in value):
        return ", ".join(map(_text, value)) or "(empty)"
    return json.dumps(value)
