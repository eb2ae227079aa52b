"""One damaged file after another: made, read, judged, and put right again."""

import collections
import dataclasses
import pathlib
import random
import shutil
import traceback
import warnings
from typing import Any

from dpdm_jax.errors import InputError
from experiments.fuzz import damage, formats

REFUSED = "refused in one sentence"
SAME = "read, equal to the undamaged"
OTHER = "read, other values of the right kind"
FAILED = "failed"

_FORGED = 0.4  # of the files
_MISSING = 0.02  # of the accidents: no file, or a folder in its place


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
        number: which.
        format: of the file.
        damage: how it was damaged, and which file.
        outcome: REFUSED, SAME, OTHER or FAILED.
        what: the error's words.
    """

    number: int
    format: str
    damage: str
    outcome: str
    what: str = ""


class Cases:
    """Damages files in a copy of the undamaged ones."""

    def __init__(
        self, undamaged: pathlib.Path, folder: pathlib.Path, seed: int, bomb_size: int
    ):
        """Copies the files and reads each once.

        Args:
            undamaged: as ``formats.make_files`` made it.
            folder: new.
            seed: of all choices.
            bomb_size: bytes that bombs unpack to.
        """
        shutil.copytree(undamaged, folder)
        self._folder = folder
        self._seed = seed
        all_formats = formats.formats(bomb_size)
        self._turns = [f for f in all_formats for _ in range(f.weight)]
        self._right = {f.name: f.read(folder / f.folder) for f in all_formats}

    def run(self, number: int) -> Result:
        """Makes a damaged file, and lets it be read.

        Args:
            number: which; with the seed it decides all.
        """
        dice = random.Random(f"{self._seed} {number}")
        kind = self._turns[number % len(self._turns)]
        folder = self._folder / kind.folder
        paths = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file()
            and path.relative_to(folder).as_posix().startswith(kind.files)
        )
        makers = {
            path: maker
            for path in paths
            for end, maker in kind.forgeries.items()
            if path.name.endswith(end)
        }
        is_forgery = dice.random() < _FORGED
        path = dice.choice(list(makers) if is_forgery else paths)
        before = {
            each: each.read_bytes()
            for each in {path, *folder.glob(formats.bundle.CHECKSUMS)}
        }
        if is_forgery:
            how, is_sealed = "forgery", False
            path.write_bytes(makers[path](dice, before[path]))
            formats.seal_folder(folder)
        else:
            how = _accident(dice, path, before[path])
            is_sealed = kind.sealed == "folder" or (
                kind.sealed == "files" and path.is_file()
            )
        try:
            outcome, what = self._read(kind, folder, is_sealed)
        finally:
            for each, content in before.items():
                if each.is_dir():
                    each.rmdir()
                each.write_bytes(content)
        name = path.relative_to(folder).as_posix()
        return Result(number, kind.name, f"{how} of {name}", outcome, what)

    def _read(
        self, kind: formats.Format, folder: pathlib.Path, is_sealed: bool
    ) -> tuple[str, str]:
        del damage.EXECUTED[:]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = kind.read(folder)
        except InputError as e:
            outcome, what = _judge_words(str(e)), str(e)
        except formats.GarbageError as e:
            outcome, what = FAILED, str(e)
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            place = f"{pathlib.Path(where.filename).name}:{where.lineno}"
            outcome, what = FAILED, f"{type(e).__name__} at {place}: {e}"[:300]
        else:
            outcome, what = self._judge_value(kind, value, is_sealed)
        if damage.EXECUTED:
            return FAILED, damage.EXECUTED[0]
        return outcome, what

    def _judge_value(
        self, kind: formats.Format, value: Any, is_sealed: bool
    ) -> tuple[str, str]:
        if value == self._right[kind.name]:
            return SAME, ""
        if is_sealed:
            return FAILED, f"silent garbage: {value}"[:300]
        return OTHER, ""


def _accident(dice: random.Random, path: pathlib.Path, content: bytes) -> str:
    if dice.random() < _MISSING:
        path.unlink()
        if dice.random() < 0.5:
            return "removal"
        path.mkdir()
        return "replacement by a folder"
    name = dice.choice(list(damage.ACCIDENTS))
    path.write_bytes(damage.ACCIDENTS[name](dice, content))
    return name


def _judge_words(words: str) -> str:
    is_sentence = "\n" not in words and words.endswith(".") and not words.endswith("..")
    return REFUSED if is_sentence else FAILED


def summarise(results: list[Result]) -> dict[str, Any]:
    """Counts results by format and outcome; lists the failures."""
    counts: dict[str, collections.Counter] = {}
    for result in results:
        counts.setdefault(result.format, collections.Counter())[result.outcome] += 1
    failures = [vars(result) for result in results if result.outcome == FAILED]
    return {
        "failures": len(failures),
        "outcomes": {n: dict(sorted(c.items())) for n, c in sorted(counts.items())},
        "failed": failures,
    }
