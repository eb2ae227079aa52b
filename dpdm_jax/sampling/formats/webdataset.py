"""WebDataset: tar files read front to back, each image with its label beside it.

Of image 17 there are 0000017.png and 0000017.cls (its label) or 0000017.txt (its
prompt).
"""

import io
import pathlib
import tarfile

from dpdm_jax.sampling import images
from dpdm_jax.sampling.formats.base import ImageSet, Place

PART_SIZE = 10_000
IS_COMPACT = True


def require() -> None:
    """Needs no package beside those of the base."""


def write(folder: pathlib.Path, whole: ImageSet, part: Place) -> None:
    """See ``Format``."""
    with tarfile.open(
        folder / f"{part.name}.tar", "w", format=tarfile.USTAR_FORMAT
    ) as archive:
        for index in range(part.first, part.stop):
            _add(archive, f"{index:07d}.png", images.png(whole.images[index]))
            if whole.labels is not None:
                _add(archive, f"{index:07d}.cls", b"%d" % whole.labels[index])
            if whole.texts is not None:
                _add(archive, f"{index:07d}.txt", str(whole.texts[index]).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # Nothing of the time, the machine or its user: the same images, the same bytes.
    about = tarfile.TarInfo(name)
    about.size = len(content)
    archive.addfile(about, io.BytesIO(content))
