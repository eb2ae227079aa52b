"""What a run directory holds for its report.

Files with private parts are not even opened unless these are asked for: a page made
from what is read here cannot show what was never read.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from dpdm_jax import run_dir
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import LedgerRecord, read_ledger
from dpdm_jax.sampling import maker, snapshot
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training import metrics as training_metrics

# More classes, or images of one, than a person can look at help nobody.
MAX_CLASSES = 20
IMAGES_IN_ROW = 10
_UNLABELLED_ROWS = 5
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class SampleSet:
    """A folder below samples/.

    Attributes:
        name: of the folder.
        settings: how the images were made; empty if that is not known.
        count: images in the archive; 0 if there is none.
        num_classes: classes that occur in the archive; 0 without labels.
        num_prompts: likewise, of images that were asked for by prompts.
        rows: the first images of the first classes, or prompts, uint8 [n, h, w, c]
            below their class, or prompt; of images without either the first, below
            None.
        picture: the grid as a PNG file, where there is that but no archive.
    """

    name: str
    settings: dict[str, Any]
    count: int = 0
    num_classes: int = 0
    num_prompts: int = 0
    rows: tuple[tuple[int | str | None, np.ndarray], ...] = ()
    picture: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file.

    Attributes:
        name: its path in the run directory.
        content: the file.
    """

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Private:
    """What was read off private data outside the mechanism.

    Attributes:
        evaluations: the results in evaluation/NAME.json, under NAME.
        curves: (step, value) pairs under the names in metrics.jsonl, by step.
        pictures: training images beside samples.
    """

    evaluations: dict[str, dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    pictures: list[Picture]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a report tells of.

    Attributes:
        folder: name of the run directory.
        config: its config.json; None if there is none.
        ledger: its privacy ledger; None if there is none.
        samples: the sample sets, that which the config names first.
        snapshot: the newest picture made in training; None if there is none.
        private: None unless asked for.
        problems: a sentence on each file that cannot be read.
    """

    folder: str
    config: dict[str, Any] | None
    ledger: LedgerRecord | None
    samples: list[SampleSet]
    snapshot: Picture | None
    private: Private | None
    problems: list[str]


def read_contents(workdir: pathlib.Path, *, private: bool) -> Contents:
    """Reads a run directory, of which any part may be missing.

    Args:
        workdir: the run directory.
        private: whether to read private files.

    Returns:
        What is there.

    Raises:
        InputError: it is no run directory, or its ledger is damaged.
    """
    has_ledger = (workdir / run_dir.LEDGER).exists()
    if not has_ledger and not (workdir / run_dir.CONFIG).exists():
        raise InputError(
            f"{workdir} is no run directory; allowed: a folder with {run_dir.CONFIG} "
            f"or {run_dir.LEDGER}."
        )
    problems: list[str] = []
    config = _read_object(workdir, workdir / run_dir.CONFIG, problems)
    settings = (config or {}).get("sample")
    first = settings.get("name") if isinstance(settings, dict) else None
    return Contents(
        folder=workdir.resolve().name,
        config=config,
        # Damaged, it raises: a page must not guess at a guarantee.
        ledger=read_ledger(workdir / run_dir.LEDGER) if has_ledger else None,
        samples=_read_samples(workdir, first, problems),
        snapshot=_newest_snapshot(workdir, problems),
        private=_read_private(workdir, first, problems) if private else None,
        problems=problems,
    )


def _read_samples(
    workdir: pathlib.Path, first: str | None, problems: list[str]
) -> list[SampleSet]:
    folders = [
        path
        for path in (workdir / run_dir.SAMPLES).glob("*")
        if path.is_dir() and path.name != snapshot.FOLDER
    ]
    folders.sort(key=lambda path: (path.name != first, path.name))
    return [_read_sample_set(workdir, folder, problems) for folder in folders]


def _read_sample_set(
    workdir: pathlib.Path, folder: pathlib.Path, problems: list[str]
) -> SampleSet:
    described = SampleSet(
        folder.name,
        _read_object(workdir, folder / maker.SETTINGS, problems) or {},
    )
    path = folder / sampling_run.ARCHIVE
    if not path.exists():
        grid = _read_picture(workdir, folder / sampling_run.GRID, problems)
        return dataclasses.replace(
            described, picture=None if grid is None else grid.content
        )
    try:
        with np.load(path) as archive:
            images, labels = archive["images"], archive.get("labels")
            texts = archive.get("prompts")
        rows, number = _rows(images, labels if texts is None else texts)
    except Exception:  # a damaged zip raises many kinds
        problems.append(f"{path.relative_to(workdir)} cannot be read as images.")
        return described
    return dataclasses.replace(
        described,
        count=len(images),
        num_classes=number if texts is None else 0,
        num_prompts=0 if texts is None else number,
        rows=rows,
    )


def _rows(
    images: np.ndarray, labels: np.ndarray | None
) -> tuple[tuple[tuple[int | str | None, np.ndarray], ...], int]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError("no images")
    if labels is None:
        shown = images[: IMAGES_IN_ROW * _UNLABELLED_ROWS]
        starts = range(0, len(shown), IMAGES_IN_ROW)
        return tuple((None, shown[i : i + IMAGES_IN_ROW]) for i in starts), 0
    if labels.shape != (len(images),) or labels.dtype.kind not in "iuU":
        raise ValueError("no labels")
    classes = np.unique(labels).tolist()
    if labels.dtype.kind == "U":
        classes = list(dict.fromkeys(labels.tolist()))  # as they were asked for
    rows = [
        (each, images[np.flatnonzero(labels == each)[:IMAGES_IN_ROW]])
        for each in classes[:MAX_CLASSES]
    ]
    return tuple(rows), len(classes)


def _newest_snapshot(workdir: pathlib.Path, problems: list[str]) -> Picture | None:
    # Their names have the step, in as many digits.
    paths = sorted((workdir / run_dir.SAMPLES / snapshot.FOLDER).glob("step_*.png"))
    return _read_picture(workdir, paths[-1], problems) if paths else None


def _read_private(
    workdir: pathlib.Path, first: str | None, problems: list[str]
) -> Private:
    folder = workdir / run_dir.EVALUATION
    evaluations = {}
    in_order = sorted(folder.glob("*.json"), key=lambda p: (p.stem != first, p.stem))
    for path in in_order:
        results = _read_object(workdir, path, problems)
        if results is not None:
            evaluations[path.stem] = results
    pictures = [
        _read_picture(workdir, path, problems)
        for path in sorted(folder.rglob("PRIVATE_*.png"))
    ]
    return Private(
        evaluations=evaluations,
        curves=_read_curves(workdir / training_metrics.FILE_NAME, problems),
        pictures=[picture for picture in pictures if picture is not None],
    )


def _read_curves(
    path: pathlib.Path, problems: list[str]
) -> dict[str, list[tuple[int, float]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        problems.append(f"{path.name} cannot be read.")
        return {}
    curves: dict[str, dict[int, float]] = {}
    broken = 0
    for line in lines:
        try:
            scalars = json.loads(line)
            step = int(scalars.pop("step"))
            values = {str(name): float(value) for name, value in scalars.items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            broken += 1
            continue
        for name, value in values.items():
            # After an interruption some steps were taken twice: the last one counts.
            curves.setdefault(name, {})[step] = value
    if broken:
        problems.append(f"{broken} of {len(lines)} lines of {path.name} are damaged.")
    return {name: sorted(points.items()) for name, points in curves.items()}


def _read_object(
    workdir: pathlib.Path, path: pathlib.Path, problems: list[str]
) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        problems.append(f"{path.relative_to(workdir)} cannot be read.")
        return None
    return value


def _read_picture(
    workdir: pathlib.Path, path: pathlib.Path, problems: list[str]
) -> Picture | None:
    name = path.relative_to(workdir).as_posix()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        content = b""
    if not content.startswith(_PNG_SIGNATURE):
        problems.append(f"{name} cannot be read as a picture.")
        return None
    return Picture(name, content)
