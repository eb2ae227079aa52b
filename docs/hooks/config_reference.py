"""Writes the page of all config fields, from comments and docstrings beside them.

Fields of ``configs/base.py`` have comments there; what a kind reads is documented by
its frozen dataclass (``dpdm_jax/settings.py``).
"""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dpdm_jax import rooms, settings
from dpdm_jax.configs import base

PAGE = "reference/config.md"

_HEAD = """# Every config field

`--config.train.batch_size=2048` on the command line sets a field, and so does
`config.train.batch_size = 2048` in a config file. This page is made from the comments
in `configs/base.py` and from the docstrings beside each kind's code. Defaults are those
of `configs/base.py`, which the shipped configs change.

A field such as `network.name` chooses a kind. What only some kinds read says by which
it is read; where none of these is chosen it keeps its default, and another value is
refused.
"""


@dataclasses.dataclass
class Field:
    """One field of a config.

    Attributes:
        name: the whole name, such as "network.mlp.hidden_width".
        default: in ``configs/base.py``.
        text: what it means.
        readers: choices that make it read, such as "network.name=mlp"; none for all.
    """

    name: str
    default: Any
    text: str
    readers: list[str] = dataclasses.field(default_factory=list)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page to a site (an event of MkDocs)."""
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Returns the page, in Markdown."""
    _, group_texts = _comments_of_base()
    sections: dict[str, list[Field]] = {}
    for field in fields(base.get_config()):
        sections.setdefault(field.name.rpartition(".")[0], []).append(field)
    # Groups as configs/base.py has them, and what lies in one of them behind it.
    tops = list(dict.fromkeys(["", *group_texts, *sections]))
    places = {top: place for place, top in enumerate(tops)}
    lines = [_HEAD]
    for path in sorted(
        sections, key=lambda path: (places[path.partition(".")[0]], path)
    ):
        lines.append(f"{'###' if '.' in path else '##'} {path or 'the run'}\n")
        if group_texts.get(path):
            lines.append(group_texts[path] + "\n")
        lines += _definitions(sections[path])
    return "\n".join(lines)


def fields(config: ml_collections.ConfigDict) -> list[Field]:
    """Returns all fields of a config as its code has them, but for sampler presets."""
    texts, _ = _comments_of_base()
    of_kinds, readers, choices = _of_rooms()
    known = {name: place for place, name in enumerate([*texts, *of_kinds])}
    names = [n for n in settings.names(config) if not n.startswith("sampler_presets.")]
    found = []
    for name in sorted(names, key=lambda name: known.get(name, len(known))):
        text = of_kinds.get(name) or texts.get(name, "")
        if name in choices:
            kinds = ", ".join(f"`{kind}`" for kind in choices[name])
            text = f"{text} One of {kinds}.".strip()
        default = settings.lookup(config, name)
        found.append(Field(name, default, text, readers.get(name, [])))
    return found


def _definitions(members: Sequence[Field]) -> Iterator[str]:
    """Yields fields as a list of definitions, which narrow screens have room for."""
    common = {tuple(field.readers) for field in members}
    if len(common) == 1 and members[0].readers:
        yield f"Read by {_listed(members[0].readers)}.\n"
    for field in members:
        text = field.text
        if len(common) > 1 and field.readers:
            text += f" Read by {_listed(field.readers)}."
        yield f"`{field.name}` = {_code(field.default)}\n:   {text}\n"


def _listed(readers: Sequence[str]) -> str:
    return ", ".join(f"`{reader}`" for reader in readers)


def _code(value: Any) -> str:
    if value is None:
        return "unset"
    return f"`{value!r}`" if value != "" else '`""`'


def _comments_of_base() -> tuple[dict[str, str], dict[str, str]]:
    """Returns what comments in ``base.get_config`` say of fields, and of groups."""
    source = textwrap.dedent(inspect.getsource(base.get_config))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    paths = {"config": ""}
    of_fields: dict[str, str] = {}
    of_groups: dict[str, str] = {}
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        if not isinstance(target, ast.Attribute):
            continue
        owner = target.value
        assert isinstance(owner, ast.Name)
        name = ".".join(filter(None, (paths[owner.id], target.attr)))
        above, line = list[str](), node.lineno - 1
        while lines[line - 1].lstrip().startswith("#"):
            above.insert(0, comments[line])
            line -= 1
        within = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        beside = [comments[line] for line in within if line in comments]
        text = _sentence(" ".join(above + beside))
        if len(node.targets) == 2:  # config.train = train = ConfigDict()
            alias = node.targets[1]
            assert isinstance(alias, ast.Name)
            paths[alias.id] = name
            of_groups[name] = text
        else:
            of_fields[name] = text
    return of_fields, of_groups


def _sentence(text: str) -> str:
    if not text:
        return ""
    text = text.replace("``", "`").replace("<", "&lt;")
    return text[0].upper() + text[1:] + ("" if text[-1] in ".:" else ".")


def _of_rooms() -> tuple[dict[str, str], dict[str, list[str]], dict[str, list[Any]]]:
    """Returns what kinds' docstrings say of fields, who reads them, and the kinds."""
    texts: dict[str, str] = {}
    readers: dict[str, list[str]] = {}
    choices: dict[str, list[Any]] = {}
    for room in rooms.ROOMS:
        if not isinstance(room, settings.Switch):
            choices[room.choice] = list(room.kinds)
        for group in room.shared:
            texts |= _documented(group)
        for kind, value in room.kinds.items():
            for group in value.groups:
                texts |= _documented(group)
                for name in group.defaults:
                    asked = room.asked(kind).replace("'", "")
                    if asked not in readers.setdefault(name, []):
                        readers[name].append(asked)
    # What is read whichever kind is chosen has no readers of note.
    for room in rooms.ROOMS:
        for group in room.shared:
            for name in group.defaults:
                readers.pop(name, None)
    readers.pop("network.low_frequencies.count", None)  # which chooses
    return texts, readers, choices


def _documented(group: settings.Group) -> dict[str, str]:
    """Returns the lines of ``Attributes`` by the whole names of the fields."""
    found: dict[str, str] = {}
    for owner in reversed(group.type.__mro__):
        doc = inspect.cleandoc(owner.__doc__ or "")
        _, _, attributes = doc.partition("Attributes:\n")
        attributes = re.split(r"\n\S", attributes)[0]
        for entry in re.split(r"\n(?= {4}\w+:)", "\n" + attributes):
            match = re.match(r" *(\w+): *(.*)", entry.strip("\n"), re.DOTALL)
            if match:
                found[match[1]] = _sentence(" ".join(match[2].split()))
    return {
        f"{group.path}.{field.name}": found.get(field.name, "")
        for field in dataclasses.fields(group.type)
    }
