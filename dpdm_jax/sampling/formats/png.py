"""A PNG file an image, in a folder a class: what every tool opens.

Hugging Face's ``imagefolder`` and torchvision's ``ImageFolder`` read it with the
classes. Images with prompts lie in a folder a prompt, and metadata.csv has the whole
texts, as the former reads them.
"""

import csv
import pathlib
import re

from dpdm_jax import files
from dpdm_jax.sampling import images
from dpdm_jax.sampling.formats.base import ImageSet, Place

PART_SIZE = 1000
IS_COMPACT = False

METADATA = "metadata.csv"

# No separators, no "..", nothing hidden.
_PLAIN = re.compile(r"[\w+-]([\w .+-]{0,98}[\w+-])?")


def require() -> None:
    """Needs no package beside those of the base."""


def write(folder: pathlib.Path, whole: ImageSet, part: Place) -> None:
    """See ``Format``."""
    inside = _inside(whole)
    for index in range(part.first, part.stop):
        path = folder / inside[index]
        files.make_folder(path)
        (path / _name(index)).write_bytes(images.png(whole.images[index]))
    if whole.texts is not None and part.number == part.parts - 1:
        with open(folder / METADATA, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", "text"])
            rows.writerows(
                (f"{inside[index]}/{_name(index)}", text)
                for index, text in enumerate(whole.texts.tolist())
            )


def _name(index: int) -> str:
    return f"{index:07d}.png"


def _inside(whole: ImageSet) -> list[str]:
    """Returns the name of each image's folder."""
    if whole.texts is not None:
        texts = whole.texts.tolist()
        # In order of the prompts, which may have signs that no file system takes.
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return [f"{number[text]:04d}_{_plain(text)}" for text in texts]
    if whole.labels is None:
        return ["."] * len(whole)
    folders = [_folder(i, name) for i, name in enumerate(whole.class_names)]
    return [folders[label] for label in whole.labels]


def _folder(label: int, name: str) -> str:
    """Returns a class's name, or of one that leads elsewhere what is plain of it."""
    return name if _PLAIN.fullmatch(name) else f"{label:04d}_{_plain(name)}"


def _plain(text: str) -> str:
    """Returns what of a text a folder may be called."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)[:60].strip("_")
