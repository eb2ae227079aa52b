"""What ties a run to its data: a digest of every image and label, in their order.

A run that goes on replays noise. Had one image changed meanwhile, the difference of
what is released before and after would be that image's contribution, without any noise.
So all of the data is digested, once a start, as the steps will see it: after decoding,
cropping and resizing. A library that decodes or resizes in another way changes it, too.
"""

import contextlib
import hashlib
import json
import math

import jax
import numpy as np
import tqdm

from dpdm_jax import conditions
from dpdm_jax.data.groups import Groups
from dpdm_jax.data.sources import Example, MemorySource, Source
from dpdm_jax.errors import InputError

_SIZE = hashlib.sha256().digest_size
_PIECE = 2**24  # bytes of images read at once


def bind(source: Source, groups: Groups | None = None) -> tuple[Source, bytes]:
    """Digests a source, and holds it to what was digested.

    Args:
        source: the data. It is read once, from the first image to the last.
        groups: whose the images are, where units of privacy have several.

    Returns:
        The source to read from: that one if its images lie in memory, where nothing
        changes them; else one that compares what it reads with what was digested. And
        32 bytes, which differ if an image, a condition, their order, their number, the
        image shape, the kind of condition or an image's group does (SHA-256). Private.
    """
    digests = _digest_each(source)
    shape = list(source.spec["image"].shape)
    facts = [len(source), shape, *conditions.to_dict(source.condition).values()]
    whole = hashlib.sha256(json.dumps(facts).encode())
    whole.update(digests.tobytes())
    if groups is not None:
        whole.update(groups.digest())
    if not isinstance(source, MemorySource):
        source = _BoundSource(source, digests)
    return source, whole.digest()


class _BoundSource:
    """A source that is read as it is asked for; see ``Source`` and ``bind``."""

    def __init__(self, source: Source, digests: np.ndarray):
        self._source, self._digests = source, digests
        self.spec = source.spec
        self.condition = source.condition

    def __len__(self) -> int:
        return len(self._digests)

    def examples(self, indices: np.ndarray) -> Example:
        """Reads examples; see ``Source.examples``.

        Raises:
            InputError: one is not what it was when the run started.
        """
        # Which one is private: steps choose their examples in secret, and a source's
        # own message, or its library's, would name it.
        with contextlib.suppress(Exception):
            examples = self._source.examples(indices)
            if (_digests_of(examples) == self._digests[indices]).all():
                return examples
        raise InputError(
            "The training data was changed while the run reads it, or cannot be read "
            "any more; allowed: files that stay as they are until the run has ended."
        )


def _digest_each(source: Source) -> np.ndarray:
    """Digests every example; uint8 [len, 32]."""
    digests = np.empty((len(source), _SIZE), np.uint8)
    piece = max(1, _PIECE // math.prod(source.spec["image"].shape))
    with tqdm.tqdm(
        desc="digesting images", total=len(source), leave=False, disable=None
    ) as progress:
        for start in range(0, len(source), piece):
            indices = np.arange(start, min(start + piece, len(source)))
            digests[indices] = _digests_of(source.examples(indices))
            progress.update(len(indices))
    return digests


def _digests_of(examples: Example) -> np.ndarray:
    """Digests examples, each with its condition; uint8 [n, 32]."""
    leaves = [x.astype(x.dtype.newbyteorder("<")) for x in jax.tree.leaves(examples)]
    made = [
        # Each leaf has one size, so that none runs on into the next.
        hashlib.sha256(b"".join(x.tobytes() for x in parts)).digest()
        for parts in zip(*leaves, strict=True)
    ]
    return np.frombuffer(b"".join(made), np.uint8).reshape(len(made), _SIZE)
