"""Ways to damage a file: accidents that befall any bytes, and forgeries by format.

An accident leaves a format's checksums as they were; a forgery makes them anew, so that
what lies behind them is reached.
"""

import functools
import gzip
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

#: Makes other bytes of a file's bytes.
Maker = Callable[[random.Random, bytes], bytes]

#: Grows if a reader has run code that a file holds.
EXECUTED: list[str] = []


def run_by_a_pickle() -> None:
    """What the pickles in forged files call."""
    EXECUTED.append("a pickle was executed")


class _Caller:
    def __reduce__(self):
        return run_by_a_pickle, ()


def _span(dice: random.Random, data: bytes) -> tuple[int, int]:
    start = dice.randrange(len(data) + 1)
    return start, min(len(data), start + dice.choice((1, 4, 16, 64, 512)))


def flip_bits(dice: random.Random, data: bytes) -> bytes:
    """Flips one to eight bits."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 8) if out else 0):
        out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
    return bytes(out)


def cut_short(dice: random.Random, data: bytes) -> bytes:
    """Keeps the beginning, possibly nothing."""
    return data[: dice.randrange(len(data) + 1)]


def insert(dice: random.Random, data: bytes) -> bytes:
    """Adds random bytes somewhere."""
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.randbytes(dice.choice((1, 2, 7, 64, 1000))) + data[at:]


def leave_out(dice: random.Random, data: bytes) -> bytes:
    """Drops a block."""
    start, end = _span(dice, data)
    return data[:start] + data[end:]


def overwrite(dice: random.Random, data: bytes) -> bytes:
    """Overwrites a block by zeros, ones or random bytes."""
    start, end = _span(dice, data)
    size = end - start
    block = dice.choice((bytes(size), b"\xff" * size, dice.randbytes(size)))
    return data[:start] + block + data[end:]


def repeat(dice: random.Random, data: bytes) -> bytes:
    """Doubles a block."""
    start, end = _span(dice, data)
    return data[:end] + data[start:]


def swap(dice: random.Random, data: bytes) -> bytes:
    """Swaps two blocks of one size."""
    size = dice.choice((1, 4, 16, 64))
    if len(data) < 2 * size:
        return data[::-1]
    first = dice.randrange(len(data) - 2 * size + 1)
    second = dice.randrange(first + size, len(data) - size + 1)
    out = bytearray(data)
    out[first : first + size] = data[second : second + size]
    out[second : second + size] = data[first : first + size]
    return bytes(out)


def change_length(dice: random.Random, data: bytes) -> bytes:
    """Changes what may be a length: an integer of 2, 4 or 8 bytes."""
    size = dice.choice((2, 4, 8))
    order = dice.choice(("little", "big"))
    at = dice.randrange(max(1, len(data) - size))
    value = int.from_bytes(data[at : at + size], order)
    value = dice.choice(
        (0, 1, value + 1, value - 1, 2 * value, 2 ** (8 * size - 1), -1, len(data))
    )
    return (
        data[:at] + (value % 2 ** (8 * size)).to_bytes(size, order) + data[at + size :]
    )


ACCIDENTS: dict[str, Maker] = {
    "bits": flip_bits,
    "cut": cut_short,
    "insertion": insert,
    "omission": leave_out,
    "overwriting": overwrite,
    "repetition": repeat,
    "swap": swap,
    "length": change_length,
}


def any_accident(dice: random.Random, data: bytes) -> bytes:
    """Makes one of the accidents."""
    return dice.choice(list(ACCIDENTS.values()))(dice, data)


# npz ---------------------------------------------------------------------------------


def _npy(shape: str, descr: str, content: bytes) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"
    return (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(header))
        + header.encode()
        + content
    )


def _saved(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@functools.cache
def _npz_bomb(size: int, shape: str) -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(_npy(shape, "'|u1'", b""))
        for _ in range(size // 2**20):
            member.write(bytes(2**20))
    return file.getvalue()


_SHAPES = (
    "(1099511627776, 8, 8, 3)",
    "(4294967295, 4294967295, 4294967295, 3)",
    "(9223372036854775807, 3, 3, 3)",
    "(-1, 6, 5, 3)",
    "(0, 6, 5, 3)",
    "(10, 6, 5, 2)",
    "(10, 6, 5)",
    "(900,)",
    "()",
    "(10.0, 6, 5, 3)",
    "(True, 6, 5, 3)",
    "(10, 6, 5, 3",
    "(" * 200 + ")" * 200,
)
_TYPES = ("'<f4'", "'>u2'", "'|b1'", "'|S900'", "'<U9'", "'|V900'", "'|O'", "'zz'", "3")


def forge_npz(bomb_size: int) -> Maker:
    """Returns the maker of archives that are whole and hold what they should not.

    Args:
        bomb_size: bytes that bombs unpack to.
    """

    def forge(dice: random.Random, data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = dice.choice(list(members))
        match dice.randrange(9):
            case 0:
                members[name] = any_accident(dice, members[name])
            case 1:
                members[name] = _npy(dice.choice(_SHAPES), "'|u1'", bytes(900))
            case 2:
                members[name] = _npy("(10, 6, 5, 3)", dice.choice(_TYPES), bytes(9000))
            case 3:
                objects = np.array([_Caller()] * 10)
                members[name] = _saved(objects, allow_pickle=True)
            case 4:
                members[name] = pickle.dumps(_Caller())
            case 5:
                shape = (bomb_size // 192, 8, 8, 3)
                return _npz_bomb(bomb_size, str(dice.choice((shape, (10, 8, 8, 3)))))
            case 6:
                labels = [
                    dice.choice((-1, 0, 3, 2**31 - 1, 2**40, 2**62)) for _ in "0" * 10
                ]
                members["labels.npy"] = _saved(np.array(labels))
            case 7:
                del members[name]
                members[dice.choice(("../images.npy", "images", "x.npy"))] = b"1"
            case _:
                method = dice.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
                return _zipped(members, method)
        return _zipped(members)

    return forge


# IDX ---------------------------------------------------------------------------------


def forge_idx(dice: random.Random, data: bytes) -> bytes:
    """Changes the header of an IDX file: type, dimensions, sizes."""
    out = bytearray(data)
    if dice.random() < 0.3:
        out[dice.randrange(4)] = dice.randrange(256)
        return bytes(out)
    at = 4 * dice.randint(1, out[3])
    size = dice.choice((0, 1, 2**16, 2**31, 2**32 - 1, dice.randrange(100)))
    out[at : at + 4] = size.to_bytes(4, "big")
    return bytes(out)


@functools.cache
def _gzip_bomb(size: int, images: int) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="w", compresslevel=1, mtime=0) as out:
        out.write(bytes((0, 0, 8, 3)) + struct.pack(">3I", images, 8, 8))
        for _ in range(size // 2**20):
            out.write(bytes(2**20))
    return file.getvalue()


def forge_idx_gz(bomb_size: int) -> Maker:
    """Returns the maker of gzip files that are whole and hold what they should not.

    Args:
        bomb_size: bytes that bombs unpack to.
    """

    def forge(dice: random.Random, data: bytes) -> bytes:
        if dice.random() < 0.1:
            return _gzip_bomb(bomb_size, dice.choice((10, bomb_size // 64)))
        inner = dice.choice((forge_idx, any_accident))(dice, gzip.decompress(data))
        return gzip.compress(inner, mtime=0)

    return forge


# PNG ---------------------------------------------------------------------------------


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        checksum = zlib.crc32(name + content)
        out += (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", checksum)
        )
    return out


def forge_png(bomb_size: int) -> Maker:
    """Returns the maker of PNG files with other chunks, and the checksums of those.

    Args:
        bomb_size: bytes that bombs unpack to.
    """

    def forge(dice: random.Random, data: bytes) -> bytes:
        chunks = _chunks(data)
        at = dice.randrange(len(chunks))
        name, content = chunks[at]
        match dice.randrange(9):
            case 0:
                chunks[at] = (name, any_accident(dice, content))
            case 1:
                del chunks[at]
            case 2:
                chunks.insert(dice.randrange(len(chunks)), chunks[at])
            case 3:
                other = dice.randrange(len(chunks))
                chunks[at], chunks[other] = chunks[other], chunks[at]
            case 4:  # huge pictures, of which next to nothing is there
                side = dice.choice((0, 9000, 30_000, 2**20, 2**31 - 1))
                chunks[0] = (b"IHDR", struct.pack(">II", side, side) + chunks[0][1][8:])
            case 5:  # depth, kind of colour, compression, filter, interlace
                header = bytearray(chunks[0][1])
                header[dice.randrange(8, 13)] = dice.randrange(20)
                chunks[0] = (b"IHDR", bytes(header))
            case 6:
                packed = b"text\0\0" + zlib.compress(bytes(bomb_size // 64))
                chunks.insert(1, (dice.choice((b"zTXt", b"iCCP")), packed))
            case 7:
                known = (b"eXIf", b"acTL", b"fcTL", b"PLTE", b"tRNS", b"gAMA", b"fdAT")
                made = (dice.choice(known), dice.randbytes(dice.randrange(40)))
                chunks.insert(dice.randrange(1, len(chunks)), made)
            case _:
                packed = zlib.compress(dice.randbytes(dice.choice((1, 90, 96, 2**16))))
                chunks = [c if c[0] != b"IDAT" else (b"IDAT", packed) for c in chunks]
        return _png(chunks)

    return forge


# JSON and safetensors ----------------------------------------------------------------

_VALUES = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    2**63,
    10**30,
    0.5,
    1e308,
    float("nan"),
    "",
    "inf",
    "../..",
    [],
    {},
    [[1]],
    {"x": 1},
)


def forge_json(seal: Callable[[Any], Any] = lambda value: value) -> Maker:
    """Returns the maker of JSON with a value changed, dropped or added.

    Args:
        seal: makes the checksum of changed values anew.
    """

    def forge(dice: random.Random, data: bytes) -> bytes:
        value = json.loads(data)
        if dice.random() < 0.05:
            return json.dumps(dice.choice(_VALUES)).encode()
        node = value
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = dice.choice(keys)
            inner = node[key]
            if not isinstance(inner, (dict, list)) or not inner or dice.random() < 0.3:
                break
            node = inner
        match dice.randrange(3):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[f"{key}_"] = dice.choice(_VALUES)
            case _:
                node[key] = dice.choice(_VALUES)
        return json.dumps(seal(value)).encode()

    return forge


def forge_safetensors(dice: random.Random, data: bytes) -> bytes:
    """Changes the header of a safetensors file, or numbers behind it."""
    (size,) = struct.unpack_from("<Q", data)
    header, content = data[8 : 8 + size], data[8 + size :]
    match dice.randrange(4):
        case 0:
            header = forge_json()(dice, header)
        case 1:
            content = any_accident(dice, content)
        case 2:
            content = content[:-4] + struct.pack("<f", dice.choice((np.nan, np.inf)))
        case _:
            length = dice.choice((0, size - 1, size + 1, 2**31, 2**63, 2**64 - 1))
            return struct.pack("<Q", length) + header + content
    return struct.pack("<Q", len(header)) + header + content
