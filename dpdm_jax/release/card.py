"""README.md of a release: the model card that people and model hubs read.

Its first lines are metadata in YAML, as Hugging Face's hub takes them. What they say of
privacy follows from the statement, and ``verify`` holds them to it. The rest is prose:
``SHA256SUMS`` covers it, and nothing else rests on it, so that a release whose card was
edited is read all the same.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dpdm_jax import conditions, run_dir, validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import SeenViews, units
from dpdm_jax.release import bundle
from dpdm_jax.sampling.prompts import is_text
from dpdm_jax.user_paths import user_path

#: What a hub's metadata may call a licence; "" is said to be unknown.
LICENSE = (
    re.compile(r"[a-z0-9][a-z0-9.+-]{0,49}|"),
    "a hub's name of a licence, such as apache-2.0 or cc-by-4.0, or nothing",
)

# Metadata before those on privacy.
_FRONT = re.compile(
    r"license: [a-z0-9.+-]+\nlibrary_name: dpdm_jax\npipeline_tag: [a-z-]+\n"
    r"tags:(\n- [\w-]+)+"
)
_TAGS = ("differential-privacy", "diffusion", "synthetic-data", "jax", "dpdm_jax")
_TASKS = {False: "unconditional-image-generation", True: "text-to-image"}
# Which the one who samples must have.
_VOCABULARY = "data.captions.vocabulary"
_INTENDED = """\
Synthetic images where the training images must not leave their house: building and
testing software, teaching, sharing a data set's look, training models that are then
tested on real images. They may be made in any number, at no further privacy cost."""
_INTENDED_PUBLIC = """\
Synthetic images like the public ones, and weights to begin private training with."""
_INTENDED_NOT_PRIVATE = """\
Study, by those who may see the training images. Nothing here may stand in for images
that must be protected."""
_LIMITS = (
    "No image shows a real thing or person, and none is evidence of one: not for "
    "diagnosis, identification, or decisions about people.",
    "What the training images have too little or too much of, these have, too.",
    "Test what is trained on these images on real ones before you rely on it.",
)
_LIMIT_OF_NOISE = (
    "Noise that hides each training example hides rare things first: small groups and "
    "unusual images are shown worse than common ones, or not at all."
)


def read_about(settings: Any) -> str:
    """Returns what a publisher says in words of their own; "" if nothing.

    Args:
        settings: ``config.release``.

    Raises:
        InputError: the file cannot be read, or the licence is no name of one.
    """
    validate.text("release.license", settings.license, *LICENSE)
    if not settings.about:
        return ""
    path = user_path("release.about", settings.about)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as e:
        raise InputError(
            f"release.about is {settings.about!r}, which cannot be read "
            f"({type(e).__name__}); allowed: a text file in Markdown and UTF-8."
        ) from None


def card(
    manifest: Mapping[str, Any],
    statement: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    license_name: str = "",
    about: str = "",
    without_us: str = "",
) -> str:
    """Returns the model card of a release.

    Args:
        manifest: of the release.
        statement: the contents of PRIVACY.json.
        config: the published config as JSON values.
        license_name: what the weights may be used under, see ``LICENSE``.
        about: what the publisher says besides, in Markdown.
        without_us: how to sample without this software; "" if one cannot.
    """
    by_text = is_text(conditions.from_dict(manifest["model"]))
    front = [
        f"license: {license_name or 'unknown'}",
        "library_name: dpdm_jax",
        f"pipeline_tag: {_TASKS[by_text]}",
        "tags:",
        *(f"- {tag}" for tag in _TAGS),
        *_facts(manifest, statement, config),
    ]
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {manifest['name']}",
        _claim(statement),
        _table(manifest, statement, config),
        *(["## About it", about] if about else []),
        "## Sample from it",
        _how_to_sample(manifest, by_text),
        *([without_us] if without_us else []),
        "## Intended use",
        _intended(statement),
        "## Limits",
        _listed([*_LIMITS, *([_LIMIT_OF_NOISE] if statement["private"] else [])]),
    ]
    if not statement.get("public_data"):
        parts += ["## Outside the guarantee", _listed(_not_covered(statement))]
    return "\n\n".join(parts) + "\n"


def card_failures(
    folder: pathlib.Path,
    manifest: Mapping[str, Any],
    statement: Mapping[str, Any],
    config: Mapping[str, Any],
) -> list[str]:
    """Returns a sentence if the metadata do not say of privacy what the statement does.

    Args:
        folder: a release; one without a card is in order.
        manifest: of the release.
        statement: the contents of PRIVACY.json.
        config: the published config as JSON values.
    """
    try:
        text = (folder / bundle.CARD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return [f"{bundle.CARD} cannot be read."]
    front, end, _ = text.removeprefix("---\n").partition("\n---\n")
    before, found, facts = front.partition("\nprivacy:\n")
    stated = found[1:] + facts
    # Nothing else besides: YAML has many ways to say a thing twice.
    if (
        end
        and _FRONT.fullmatch(before)
        and stated == "\n".join(_facts(manifest, statement, config))
    ):
        return []
    return [
        f"{bundle.CARD} does not say of privacy, in its metadata, what "
        f"{bundle.PRIVACY} does."
    ]


def _facts(
    manifest: Mapping[str, Any],
    statement: Mapping[str, Any],
    config: Mapping[str, Any],
) -> list[str]:
    """Returns the metadata on privacy, in lines of YAML."""
    epsilon = statement["epsilon"]
    fields = {
        "private": json.dumps(statement["private"]),
        "epsilon": ".inf" if epsilon == "infinity" else epsilon,
        "delta": np.format_float_positional(statement["delta"], trim="0"),
        "unit": json.dumps(statement["unit_of_privacy"]),
        "accountant": statement["accountant"],
        "data": json.dumps(_data(manifest, statement, config)),
        "statement": bundle.PRIVACY_TEXT,
    }
    return ["privacy:", *(f"  {name}: {value}" for name, value in fields.items())]


def _data(
    manifest: Mapping[str, Any],
    statement: Mapping[str, Any],
    config: Mapping[str, Any],
) -> str:
    """Returns in words what the model was trained on."""
    name = config["data"].get("tfds", {}).get("name") or config["data"]["source"]
    public = statement.get("public_data")
    count = statement["mechanism"]["num_examples"]
    trained_on = f"{count} training images"
    if statement["unit_of_privacy"] != units.in_words(None):
        trained_on = f"training images of {count} groups"
    return (
        f"{trained_on} "
        f"({f'public: {public}' if public else f'source {name}'}), {_images(manifest)}"
    )


def numbered(class_names: Sequence[str]) -> str:
    """Returns names of classes, each behind its label."""
    return ", ".join(f"{label} {name}" for label, name in enumerate(class_names))


def _images(manifest: Mapping[str, Any]) -> str:
    height, width, channels = manifest["model"]["image_shape"]
    condition = conditions.from_dict(manifest["model"])
    return f"{height} x {width} x {channels}, {condition}"


def _guarantee(statement: Mapping[str, Any]) -> str:
    return f"epsilon = {statement['epsilon']} at delta = {statement['delta']!r}"


def _claim(statement: Mapping[str, Any]) -> str:
    see = f"[{bundle.PRIVACY_TEXT}]({bundle.PRIVACY_TEXT}) is the whole statement."
    if public := statement.get("public_data"):
        return (
            f"A diffusion model of images, trained on public data ({public}), none of "
            f"which it protects. {see}"
        )
    if not statement["private"]:
        return (
            "A diffusion model of images. **It is NOT PRIVATE** "
            f"({'; '.join(statement['not_private'])}): it may reveal training images. "
            f"{see}"
        )
    return (
        "A diffusion model of images, trained with differential privacy: "
        f"**{_guarantee(statement)}**. What is protected is "
        f"{statement['unit_of_privacy']}. {see}"
    )


def _table(
    manifest: Mapping[str, Any],
    statement: Mapping[str, Any],
    config: Mapping[str, Any],
) -> str:
    rows = {"trained on": _data(manifest, statement, config), "privacy": "none"}
    if names := bundle.class_names(manifest):
        rows["classes"] = numbered(names)
    if statement["private"]:
        accountant = statement["accountant"].upper()
        rows["privacy"] = f"{_guarantee(statement)}, by {accountant}"
        rows["unit of privacy"] = statement["unit_of_privacy"]
    rows["parameters"] = f"{manifest['num_parameters']}, stored as {manifest['dtype']}"
    if trained := statement["mechanism"].get("trained"):
        rows["trained of them"] = _trained(trained)
    if seen := statement["mechanism"].get("views"):
        rows["seen in a step"] = str(SeenViews.from_dict(seen))
    if origin := statement.get("lineage"):
        rows["begins with"] = f"weights of {origin['name']}"
        if of := origin.get("public_data"):
            rows["begins with"] += f", trained on public data ({of})"
    if samples := manifest["samples"]:
        folders = {
            f"{name.rpartition('/')[0]}/"
            for name in statement["files"]
            if name.startswith(f"{run_dir.SAMPLES}/")
        }
        places = ", ".join(f"`{each}`" for each in (bundle.SAMPLES, *sorted(folders)))
        rows["images in it"] = f"{samples['num_images']}, in {places}"
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _trained(part: Mapping[str, Any]) -> str:
    """Returns what part of the network was trained, from the statement's numbers."""
    adapters = f", {part['adapters']} of them in adapters" if part["adapters"] else ""
    return f"{part['parameters']}{adapters} ({part['selector']})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _how_to_sample(manifest: Mapping[str, Any], by_text: bool) -> str:
    height, width, channels = manifest["model"]["image_shape"]
    shape = f"(16, {height}, {width}, {channels})"
    asked = 'labels="balanced", ' if manifest["model"]["num_classes"] else ""
    lines = [
        "from dpdm_jax import load_release",
        "",
        'model = load_release(".")  # the folder of this file',
        f"images, labels = model.sample(16, {asked}seed=0)",
        f"print(images.dtype, images.shape)  # uint8 {shape}",
    ]
    if by_text:
        lines[3] = 'images, _ = model.sample(16, prompts=["a text", "another"], seed=0)'
        if _VOCABULARY in manifest["emptied_in_config"]:
            lines.insert(
                3, f'model.config.{_VOCABULARY} = "FILE"  # is no part of this'
            )
    code = "\n".join(lines)
    return f"""\
With Python and dpdm_jax:

```python
{code}
```

`python -m dpdm_jax.release verify .` recomputes epsilon from the ledger in
`{bundle.PRIVACY}`, and compares all files with what they promise."""


def _intended(statement: Mapping[str, Any]) -> str:
    if statement.get("public_data"):
        return _INTENDED_PUBLIC
    return _INTENDED if statement["private"] else _INTENDED_NOT_PRIVATE


def _not_covered(statement: Mapping[str, Any]) -> list[str]:
    disclosed = [
        f"`{each['file']}`: {each['what']}" for each in statement["disclosures"]
    ]
    return [*statement["outside"], *disclosed]


def _listed(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)
