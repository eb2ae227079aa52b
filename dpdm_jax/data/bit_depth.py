"""Images of more than 8 bits a channel: how deep a file is, and what becomes of it."""

import numpy as np
from PIL import Image

from dpdm_jax.errors import InputError

_GREY_MODES = ("I", "I;16", "I;16B", "I;16L")
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # where the header has it

#: The setting that states what is read of deeper images.
RANGE = "data.image_folder.value_range"


def bits(content: bytes, image: Image.Image) -> int:
    """Returns the bits a channel of a file; Pillow cuts colours to 8 without a word.

    Args:
        content: of the file.
        image: as Pillow has opened it.
    """
    if content.startswith(_PNG):
        return content[_PNG_DEPTH]
    stated = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
    return max(stated) if isinstance(stated, tuple) else int(stated)


def to_bytes(
    image: Image.Image, depth: int, value_range: tuple[int, ...], name: object
) -> np.ndarray:
    """Maps a grey image of more than 8 bits to bytes.

    Args:
        image: the image.
        depth: bits a channel, > 8.
        value_range: the values that become 0 and 255; what lies outside is cut to them.
            () if none is stated.
        name: what messages call the image.

    Returns:
        uint8 [H, W, 1].

    Raises:
        InputError: it is in colour, or no range is stated.
    """
    if image.mode not in _GREY_MODES:
        raise InputError(
            f"{name} has {depth} bits a channel in Pillow's mode {image.mode!r}; "
            f"allowed: 8 bits per channel, or 16 in grey with {RANGE}."
        )
    if not value_range:
        raise InputError(
            f"{name} has pixels of {depth} bits; allowed: 8 bits per channel, or "
            f"{RANGE}=(LOW,HIGH), the values that become 0 and 255."
        )
    low, high = value_range
    levels = np.clip(np.asarray(image, np.int64), low, high) - low
    return np.rint(levels * (255 / (high - low))).astype(np.uint8)[..., None]
