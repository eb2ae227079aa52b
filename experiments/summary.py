"""One table of all three systems, made of the results that are committed as JSON.

python -m experiments.summary           # prints it
python -m experiments.summary --write   # puts it into experiments/README.md

What no JSON holds is no number here: the cell is empty and its letter says why.
"""

import argparse
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments.table_2 import plot

_FOLDER = pathlib.Path(__file__).parent
PAGE = _FOLDER / "README.md"
BEGIN, END = "<!-- summary -->\n", "<!-- end of summary -->\n"

#: The classifiers' columns.
CLASSIFIERS = ("logreg", "mlp", "cnn")
_COLUMNS = ("system", "data", "epsilon", "public data", "pre-trained")
_COLUMNS += ("LogReg", "MLP", "CNN", "`fid_lenet` (floor)", "alignment")
_COLUMNS += ("minutes, cores", "commit", "command")

# Why a cell is empty.
_NOT_MEASURED = "not measured"
_NO_TIME = "the committed results do not say how long the training took"
_COLLECTED = "the committed seconds are those of collecting finished runs"
_NOTES = """\
Accuracy on real test images, percent, of classifiers that see samples alone, and in
brackets of the same trained on the real images by DP-SGD, at the epsilon that was
planned. +- is the standard deviation of three runs from nothing (digits 8x8, whose
minutes are those of a whole command: public stage, samples and evaluation, too) or of
three trainings of the classifier (writers); the others are single ones. LogReg and MLP
of MNIST and Fashion-MNIST, and all that is in brackets there:
`python -m experiments.table_2`. `fid_lenet` compares within one data set alone; its
floor is that of two real halves. "-dirty": with changes that were not committed."""

Json = dict[str, Any]


class Empty(str):
    """A cell without a figure: the reason."""


class Accuracy(NamedTuple):
    """Of a classifier that sees samples, and of one trained by DP-SGD."""

    on_samples: str
    by_dp_sgd: str


class Row(NamedTuple):
    """A run: what it is in words, and figures or why they are missing.

    Attributes:
        system: DPDM, DP fine-tuning or DP-LDM.
        data: the private images.
        epsilon: spent.
        public_data: "none", or its name.
        accuracies: of each classifier.
        distance: ``fid_lenet``, and that of two real halves.
        alignment: share of samples that show what was asked for.
        minutes: of training, and the cores that it had.
        commit: of the code.
        command: that makes the figures again.
    """

    system: str
    data: str
    epsilon: str
    public_data: str
    accuracies: dict[str, Accuracy]
    distance: str
    alignment: str
    minutes: str
    commit: str
    command: str


def rows() -> list[Row]:
    """Reads the committed results."""
    return [
        *_digits(),
        *_mnist_cpu(),
        *_from_public_data("finetune", "DP fine-tuning", "check_mnist_*.json"),
        *_from_public_data("latent", "DP-LDM", "mnist_*.json"),
        *_people(),
    ]


def _digits() -> Iterator[Row]:
    glyphs = "characters of matplotlib's fonts"
    for name, system, public in (
        ("digits", "DPDM", "none"),
        ("digits_finetune", "DP fine-tuning", glyphs),
        ("digits_text", "DP fine-tuning, by text", glyphs),
    ):
        found = _read(_FOLDER / "digits" / "results" / f"{name}.json")
        cores = sorted({str(row["machine"]["cores"]) for row in found["rows"]})
        yield Row(
            system,
            "digits 8x8",
            f"{found['epsilon']:.2f}",
            public,
            {
                classifier: Accuracy(
                    _percent(found, classifier), _percent(found, f"{classifier}_dp_sgd")
                )
                for classifier in CLASSIFIERS
            },
            _distance(found),
            _percent(found, "alignment"),
            f"{found['seconds'] / 60:.1f} in all, {' or '.join(cores)}",
            ", ".join(found["commits"]),
            f"python -m experiments.digits --runs {name}",
        )


def _mnist_cpu() -> Iterator[Row]:
    folder = _FOLDER / "mnist_cpu" / "results"
    for path in _by_data(folder.glob("*_check.json")):
        check = _read(path)
        name = check["release"]
        trained = _read(folder / f"{name}.json")
        yield _of_check(
            "DPDM",
            check,
            "none",
            f"python -m experiments.mnist_cpu.check --release={name} --data=FOLDER",
            on_samples=_tables()[0],
        )._replace(
            minutes=f"{trained['seconds'] / 60:.0f}, {trained['machine']['cores']}",
            commit=f"{trained['commit']}; checked {check['commit']}",
        )


def _from_public_data(experiment: str, system: str, results: str) -> Iterator[Row]:
    folder = _FOLDER / experiment
    for path in _by_data((folder / "results").glob(results)):
        check = _read(path)
        name = check["release"]
        training = folder / "results" / f"training_{name}.json"
        statement = _read(folder / "releases" / name / "PRIVACY.json")
        row = _of_check(
            system,
            check,
            statement["lineage"]["public_data"],
            f"python -m experiments.{experiment}.check --release={name} --data=FOLDER",
        )
        if training.exists():
            trained = _read(training)
            row = row._replace(
                minutes=f"{trained['seconds'] / 60:.0f}, {trained['cores']}",
                commit=f"{trained['commit']}; {row.commit}",
            )
        yield row


def _people() -> Iterator[Row]:
    found = _read(_FOLDER / "people" / "results.json")
    for row in found["rows"]:
        count, kind = row["images_per_writer"], row["kind"]
        of_writers = f", of writers with {count} ({kind})" if count > 1 else ""
        accuracies = {
            name: Accuracy(_percent(row, name), _percent(row, f"{name}_dp_sgd"))
            for name in CLASSIFIERS
        }
        yield Row(
            "DPDM",
            f"digits 8x8{of_writers}",
            f"{row['epsilon']:.2f}",
            "none",
            accuracies,
            Empty(_NOT_MEASURED),
            Empty(_NOT_MEASURED),
            Empty(_COLLECTED),
            found["commit"],
            "python -m experiments.people",
        )


def _of_check(
    system: str,
    check: Json,
    public_data: str,
    command: str,
    on_samples: dict[plot.Cell, float] | None = None,
) -> Row:
    """The row of what a ``check`` of one of the experiments printed."""
    name = check["release"]
    data, planned = name.partition("_eps")[0], float(name.partition("_eps")[2])
    by_dp_sgd = _tables()[1]
    measured = {check["classifier"]: check["accuracy"]} | check.get("others", {})
    accuracies = {}
    for classifier in CLASSIFIERS:
        own = (on_samples or {}).get((data, planned, classifier, "samples"))
        if classifier in measured:
            own = 100 * measured[classifier]
        other = by_dp_sgd.get((data, planned, classifier, "DP-SGD"))
        accuracies[classifier] = Accuracy(_number(own), _number(other))
    return Row(
        system,
        {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}[data],
        f"{float(check['epsilon']):.2f}",
        public_data,
        accuracies,
        _distance(check),
        Empty(_NOT_MEASURED),
        Empty(_NO_TIME),
        f"checked {check['commit']}",
        command,
    )


def _tables() -> tuple[dict[plot.Cell, float], dict[plot.Cell, float]]:
    """Accuracies of table_2: on samples of mnist_cpu's releases, and by DP-SGD."""
    folder = _FOLDER / "table_2" / "results"
    found = [_read(path) for path in sorted(folder.glob("*.json"))]
    return (
        plot.accuracies([result for result in found if "release" in result], []),
        plot.accuracies([result for result in found if "release" not in result], []),
    )


def _by_data(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Results by their data, the largest epsilon first."""

    def key(path: pathlib.Path) -> tuple[bool, str, float]:
        data, _, epsilon = _read(path)["release"].partition("_eps")
        return data != "mnist", data, -float(epsilon)

    return sorted(paths, key=key)


def _read(path: pathlib.Path) -> Json:
    return json.loads(path.read_text())


def _number(value: float | None) -> str:
    return Empty(_NOT_MEASURED) if value is None else f"{value:.2f}"


def _percent(found: Json, name: str) -> str:
    """A share with its standard deviation, where there is one."""
    if name not in found:
        return Empty(_NOT_MEASURED)
    deviation = found.get(f"{name}_std")
    spread = "" if deviation is None else f" +- {100 * deviation:.1f}"
    return f"{100 * found[name]:.1f}{spread}"


def _distance(found: Json) -> str:
    return f"{found['fid_lenet']:.0f} ({found['fid_lenet_floor']:.1f})"


def table(found: Sequence[Row]) -> str:
    """The table in Markdown, with its notes.

    Args:
        found: see ``rows``.
    """
    letters: dict[str, str] = {}

    def cell(value: str) -> str:
        if isinstance(value, Empty):
            return f"[{letters.setdefault(value, chr(ord('a') + len(letters)))}]"
        return value

    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    for row in found:
        values = [row.system, row.data, row.epsilon, row.public_data, "no"]
        for name in CLASSIFIERS:
            own, other = map(cell, row.accuracies[name])
            values.append(own if own == other else f"{own} ({other})")
        values += map(cell, (row.distance, row.alignment, row.minutes, row.commit))
        lines.append(_line([*values, f"`{row.command}`"]))
    reasons = [f"[{letter}] {reason}" for reason, letter in letters.items()]
    return "\n".join([*lines, "", _NOTES, f"Empty cells: {'; '.join(reasons)}.", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def on_page(page: str, text: str) -> str:
    """A page with the table in its place.

    Args:
        page: has the two marks.
        text: see ``table``.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    text = table(rows())
    if parser.parse_args(argv).write:
        PAGE.write_text(on_page(PAGE.read_text(), text))
    else:
        print(text)


if __name__ == "__main__":
    main()
