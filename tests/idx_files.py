"""IDX files, as MNIST's come in."""

import gzip
import struct


def encode(array, type_code=8):
    header = struct.pack(
        f">BBBB{array.ndim}I", 0, 0, type_code, array.ndim, *array.shape
    )
    return header + array.tobytes()


def write(folder, images, labels, prefix="train", zipped=False):
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        path = folder / f"{prefix}-{name}-ubyte"
        if zipped:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(encode(array)))
        else:
            path.write_bytes(encode(array))
