"""Font files: which there are, what they draw, and the glyphs they hold."""

import functools
import hashlib
import string
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from fontTools import agl
from matplotlib import ft2font
from PIL import ImageFont

from dpdm_jax.data import paths
from dpdm_jax.data.font_rendering import Glyph, outline
from dpdm_jax.errors import InputError, reason

_SUFFIXES = (".ttf", ".otf")
_WANTED = "a folder of .ttf or .otf files, or '' for the fonts of matplotlib"
_EM = 96  # pixels, in which characters are looked for
_NO_CHARACTER = 0x1FFFE  # Unicode keeps it free for ever
_OPEN_FONTS, _KEPT_GLYPHS = 64, 2048


def font_files(path: str) -> list[Path]:
    """Lists font files, in the order of their names' hashes.

    Args:
        path: a folder, which is searched with its sub-folders; "" for the fonts that
            come with matplotlib. Of files that share a name the first path counts.

    Returns:
        The files: their order depends on their names alone.

    Raises:
        InputError: the folder is missing or has no such files.
    """
    if path:
        folder = paths.existing_folder(path, _WANTED)
    else:
        folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    by_name = {p.name: p for p in reversed(files) if p.is_file()}
    if not by_name:
        raise InputError(f"{folder} has no font files; allowed: {_WANTED}.")
    hashes = {name: hashlib.sha256(name.encode()).digest() for name in by_name}
    return [by_name[name] for name in sorted(by_name, key=hashes.__getitem__)]


def fonts_with(characters: str, files: Sequence[Path]) -> list[Path]:
    """Chooses the fonts that draw all of the characters, each as itself.

    Args:
        characters: what to draw.
        files: font files.

    Returns:
        Two of the files or more, in their order.

    Raises:
        InputError: a file is damaged, a character is missing from all fonts, or fewer
            than two have all.
    """
    usable, missing = [], set(characters)
    for file in files:
        drawn = _drawn(characters, file)
        missing -= drawn
        if len(drawn) == len(characters):
            usable.append(file)
    if missing:
        raise InputError(
            f"data.glyphs.characters is {characters!r}, of which "
            f"{min(missing, key=characters.index)!r} is in none of {len(files)} fonts; "
            "allowed: characters that the fonts in data.path draw."
        )
    if len(usable) < 2:
        raise InputError(
            f"of {len(files)} font files {len(usable)} draw all of {characters!r}; "
            "allowed: at least 2, one for each split."
        )
    return usable


@functools.lru_cache(_KEPT_GLYPHS)
def glyph_of(file: Path, character: str, em: int) -> Glyph:
    """Measures a glyph.

    Args:
        file: a font that draws the character.
        character: which.
        em: size of the font in pixels.

    Returns:
        The glyph.
    """
    mask = _open_font(file, em).getmask(character, mode="L")
    return outline(np.asarray(mask, np.uint8).reshape(mask.size[::-1]))


def _drawn(characters: str, file: Path) -> set[str]:
    """Returns the characters that a font draws as themselves."""
    try:
        # Both libraries raise errors of many kinds on damaged files.
        face, font = ft2font.FT2Font(str(file)), _open_font(file, _EM)
        if not face.scalable or _is_of_signs(face):
            return set()
        mapped = (c for c in characters if face.get_char_index(ord(c)))
        named = (c for c in mapped if not _is_misnamed(face, c))
        return {c for c in named if font.getmask(c).getbbox() is not None}
    except Exception as error:
        raise InputError(
            f"{file} cannot be read as a font ({reason(error)}); allowed: undamaged "
            "TrueType and OpenType files."
        ) from error


def _is_of_signs(face: ft2font.FT2Font) -> bool:
    """Says whether a font has other signs in the places of characters."""
    # Fonts of last resort draw one for all characters of a range, even of those that
    # will never be; TeX's have others instead of the digits.
    return face.get_char_index(_NO_CHARACTER) != 0 or any(
        _is_misnamed(face, digit) for digit in string.digits
    )


def _is_misnamed(face: ft2font.FT2Font, character: str) -> bool:
    """Says whether the name of a letter's or digit's glyph stands for another one."""
    # Of other characters several may share a glyph, and its name.
    if not (character.isascii() and character.isalnum()):
        return False
    glyph = face.get_char_index(ord(character))
    named = agl.toUnicode(face.get_glyph_name(glyph)) if glyph else ""
    return len(named) == 1 and named != character


@functools.lru_cache(_OPEN_FONTS)
def _open_font(file: Path, em: int) -> ImageFont.FreeTypeFont:
    # Basic: a character is drawn alone, whether or not Pillow has a shaping engine.
    return ImageFont.truetype(file, em, layout_engine=ImageFont.Layout.BASIC)
