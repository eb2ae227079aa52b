"""The laws of all training images' latents, made once and kept for the steps.

A codec is fixed, so that what it makes of an image is the same at each visit, and
follows from that image alone. A step that reads laws sees of each example what it would
have made of it: the guarantee is what it was. Laws are as private as the images.

On a disk they are a folder of the run directory that comes into being whole, named by
digests of all that they follow from: those of other weights or data are never found.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import BinaryIO

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from dpdm_jax import data, devices, files, processes, run_dir
from dpdm_jax.devices import DATA_AXIS
from dpdm_jax.errors import InputError
from dpdm_jax.models.encoding import (
    as_read,
    encoding_program,
    place_of_laws,
    weights_of,
)
from dpdm_jax.models.identity import digest
from dpdm_jax.padding import blank_examples, fill_rows, pad_indices
from dpdm_jax.training.run import Run
from dpdm_jax.training.units import images_per_unit

_log = logging.getLogger(__name__)

# Of the files; another one is another name.
_FORMAT = 1
# Of a folder of laws: what ``data.bind`` digests them to.
_DIGEST = "sha256"
# What reading damaged files raises, NumPy's headers among them.
_DAMAGE = (EOFError, OSError, OverflowError, SyntaxError, TypeError, ValueError)


def with_laws(run: Run) -> Run:
    """Returns the run with the laws of its training images in their place.

    Args:
        run: that is ready to take its next step; its config says where laws are kept.

    Returns:
        It as it is where they are not kept.

    Raises:
        InputError: they cannot be written, or the training data changes meanwhile.
    """
    match _place(run):
        case "memory":
            with processes.together(patiently=True):
                source: data.Source = _in_memory(run)
        case "disk":
            # Process 0 makes them, and the others find them.
            source = processes.first_goes_first(lambda: _on_disk(run))
        case _:
            return run
    return dataclasses.replace(run, source=source, encode=as_read)


def _place(run: Run) -> str:
    visits = run.plan.total_steps * run.plan.expected_batch_size
    visits *= images_per_unit(run.plan.unit)
    return place_of_laws(run.config.codec, run.model, len(run.source), visits)


def _in_memory(run: Run) -> data.Source:
    laws = blank_examples(run.model.example, len(run.source))
    for start, part in _parts(run):
        count = len(part["image"])
        fill_rows(laws, slice(start, start + count), part)
    return data.MemorySource(laws, run.source.condition)


def _on_disk(run: Run) -> data.Source:
    folder = run.workdir / run_dir.LATENTS
    path = folder / _name(run)
    if processes.is_first():
        files.make_private_folder(folder)
        for other in folder.iterdir():  # of a killed process, or of another codec
            if other != path:
                shutil.rmtree(other) if other.is_dir() else other.unlink()
    found = _read(path, run)
    if found is None and processes.is_first():
        if path.exists():
            _log.warning("%s is damaged, and is made anew.", path)
            shutil.rmtree(path)
        _write(path, run)
        found = _read(path, run)
    if found is None:
        raise InputError(
            f"{path} is not what process 0 wrote; allowed: a run directory that all "
            "processes share."
        )
    return found


def _name(run: Run) -> str:
    """Names what laws follow from; with the run's key: names of data are guessable."""
    law = run.model.codec.law_spec
    facts = [
        _FORMAT,
        run.model.codec.identity,
        digest(jax.device_get(weights_of(run.fixed))),
        run.secrets.data_digest(run.content),
        len(run.source),
        list(law.shape),
        str(law.dtype),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _parts(run: Run) -> Iterator[tuple[int, data.Example]]:
    """Yields the first row of each part of the laws, and the part.

    A process makes them alone, in batches that give each device as many as a step does,
    by the same program therefore, which rounds as in a step.
    """
    mesh = Mesh(np.array(jax.local_devices()), (DATA_AXIS,))
    laws = encoding_program(run.model.codec, mesh)
    of_device = run.config.train.microbatch_size // run.mesh.size
    size = of_device * images_per_unit(run.plan.unit) * mesh.size
    fixed = devices.place(
        jax.device_get(weights_of(run.fixed)), devices.replicated(mesh)
    )
    number = len(run.source)
    with tqdm.tqdm(
        desc="encoding images", total=number, leave=False, disable=None
    ) as progress:
        for start in range(0, number, size):
            rows = np.arange(start, min(start + size, number))
            batch = data.load_batch(run.source, pad_indices(rows, size))
            placed = devices.place(batch.examples, devices.divided(mesh))
            placed = placed | {"image": laws(fixed, placed["image"])}
            made = jax.device_get(placed)
            yield start, jax.tree.map(lambda x, rows=rows: x[: len(rows)], made)
            progress.update(len(rows))


def _write(path: pathlib.Path, run: Run) -> None:
    """Makes a folder of laws: a file of each array, and their digest."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    specs = jax.tree.leaves(run.model.example)
    try:
        with contextlib.ExitStack() as opened:
            with files.writing(path):
                temporary.mkdir(mode=0o700)
                arrays = [
                    opened.enter_context(_begin(_array(temporary, i), spec, run))
                    for i, spec in enumerate(specs)
                ]
            for _, part in _parts(run):
                leaves = jax.tree.leaves(part)
                with files.writing(path):
                    for file, array in zip(arrays, leaves, strict=True):
                        file.write(np.ascontiguousarray(array).tobytes())
        with files.writing(path):
            _, content = data.bind(_Laws(temporary, run))
            _private(temporary / _DIGEST).write_text(content.hex())
            files.sync_tree(temporary)
            os.replace(temporary, path)
            files.sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _begin(path: pathlib.Path, spec: jax.ShapeDtypeStruct, run: Run) -> BinaryIO:
    """Opens a file for an array, and describes the array in it."""
    # Not by way of mapped memory: where a disk is full, that ends the process.
    file = _private(path).open("wb")
    described = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(spec.dtype)),
        "fortran_order": False,
        "shape": (len(run.source), *spec.shape),
    }
    np.lib.format.write_array_header_1_0(file, described)
    return file


def _private(path: pathlib.Path) -> pathlib.Path:
    path.touch(mode=0o600)
    return path


def _array(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"{number}.npy"


def _read(path: pathlib.Path, run: Run) -> data.Source | None:
    """Opens a folder of laws; None if it is not there, or damaged."""
    try:
        expected = (path / _DIGEST).read_text()
        # Digested as images are, and compared again whatever a step reads.
        bound, content = data.bind(_Laws(path, run))
    except _DAMAGE:
        return None
    return bound if content.hex() == expected else None


class _Laws:
    """Laws in the files of a folder; see ``data.Source``."""

    def __init__(self, folder: pathlib.Path, run: Run):
        """Opens the files.

        Raises:
            Exception: of ``_DAMAGE``; there is none, or it holds something else.
        """
        self.spec = run.model.example
        self.condition = run.source.condition
        self._number = len(run.source)
        specs, structure = jax.tree.flatten(self.spec)
        arrays = [np.load(_array(folder, i), mmap_mode="r") for i in range(len(specs))]
        for array, spec in zip(arrays, specs, strict=True):
            if (array.shape, array.dtype) != ((self._number, *spec.shape), spec.dtype):
                raise ValueError(f"{array.dtype} {array.shape}")
        self._arrays = jax.tree.unflatten(structure, arrays)

    def __len__(self) -> int:
        return self._number

    def examples(self, indices: np.ndarray) -> data.Example:
        """Reads examples; see ``data.Source.examples``."""
        return jax.tree.map(lambda x: np.array(x[indices]), self._arrays)
