"""Which examples enter which step: Poisson sampling, the sampler that is accounted."""

import dataclasses
import math
import os
from collections.abc import Iterator

import numpy as np
import scipy.stats
from jaxtyping import Int64

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.padding import pad_indices
from dpdm_jax.privacy import seeded_draws

SEED_BYTES = 32
MIN_SEED_BYTES = 16

# Draws have 64 bits: with a smaller probability no example would ever be drawn.
_MIN_SAMPLING_PROBABILITY = 2.0**-64

_DOMAIN = b"dpdm_jax.privacy.PoissonSampling.1"
# Examples are drawn in blocks so that memory stays bounded for any data set size.
_BLOCK = 1 << 20


def new_seed() -> bytes:
    """Returns a fresh secret batch-selection seed: 256 bits of the system's entropy.

    The privacy amplification by sampling holds only while the seed stays secret: keep
    it in the private part of a checkpoint, never in a log, report or release.
    """
    return os.urandom(SEED_BYTES)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns L = ceil(N / B), the steps in which an example is expected once.

    Args:
        num_examples: N, the size of the training set, >= 1.
        batch_size: B, the nominal batch size, 1 to N.

    Raises:
        InputError: if a value is out of range.
    """
    num_examples = validate.integer(
        "num_examples", num_examples, minimum=1, maximum=validate.MAX_COUNT
    )
    batch_size = validate.integer(
        "batch_size", batch_size, minimum=1, maximum=validate.MAX_COUNT
    )
    if batch_size > num_examples:
        raise InputError(
            f"batch_size is {batch_size}; allowed: at most the {num_examples} examples."
        )
    return -(-num_examples // batch_size)


def expected_batch_size(
    num_examples: int, batch_size: int, *, exact: bool = False
) -> int:
    """Returns the constant gradient divisor, floor(N / L) with L = ceil(N / B).

    It is public (a function of N and B only) and at most ``batch_size``: 4000 rather
    than 4096 for 60,000 examples.

    Args:
        num_examples: N, the size of the training set, >= 1.
        batch_size: B, the nominal batch size, 1 to N.
        exact: B itself; see ``PoissonSampling.from_batch_size``.

    Raises:
        InputError: if a value is out of range.
    """
    length = steps_per_epoch(num_examples, batch_size)
    size = batch_size if exact else validate.plain(num_examples) // length
    return int(size)


@dataclasses.dataclass(frozen=True)
class PoissonSampling:
    """Poisson sampling: each example enters each step by its own coin flip.

    The choice for (example, step) is an independent Bernoulli(q) draw, computed from
    SHAKE-256 of (seed, step). Every step can therefore be replayed alone, which is what
    an exact resume needs, and a batch reveals nothing about the others to anyone
    without the seed. No example is ever dropped: batches vary in size, possibly to 0.

    The realised rate is floor(q * 2**64) / 2**64: never above q, so that the guarantee
    stated for q holds.

        >>> sampling = PoissonSampling(sampling_probability=0.25, num_steps=100)
        >>> known = bytes(16)  # protects nobody; new_seed() does
        >>> sampling.indices(20, known, step=0).tolist()
        [2, 11, 15]
        >>> sampling.indices(20, known, step=1).tolist()
        [1, 2, 9, 10, 13, 17]

    Attributes:
        sampling_probability: q, the inclusion probability, 2**-64 to 1.
        num_steps: T, how many steps are sampled (and accounted), 1 to 2**63 - 1.
    """

    sampling_probability: float
    num_steps: int

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        validate.real(
            "sampling_probability", self.sampling_probability, above=0, maximum=1
        )
        if self.sampling_probability < _MIN_SAMPLING_PROBABILITY:
            raise InputError(
                f"sampling_probability is {self.sampling_probability!r}; allowed: at "
                "least 2**-64, the sampler's resolution."
            )
        validate.integer(
            "num_steps", self.num_steps, minimum=1, maximum=validate.MAX_COUNT
        )

    @classmethod
    def from_batch_size(
        cls,
        num_examples: int,
        batch_size: int,
        *,
        epochs: int | None = None,
        num_steps: int | None = None,
        exact: bool = False,
    ) -> "PoissonSampling":
        """Returns the sampler of a nominal batch size: q = 1 / ceil(N / B).

        The number of steps is an integer computed from integers (epochs * ceil(N / B)),
        so that the steps accounted are the steps run; inverting the floating-point q
        would lose one step per epoch for some N.

        Args:
            num_examples: N, the size of the training set, >= 1.
            batch_size: B, the nominal batch size, 1 to N.
            epochs: expected passes over the data, >= 1; T = epochs * ceil(N / B).
            num_steps: T itself, >= 1; exactly one of the two is given.
            exact: q = B / N, so that B examples are expected. T stays as it is.

        Raises:
            InputError: if a value is out of range, or both or neither of ``epochs``
                and ``num_steps`` are given.
        """
        length = steps_per_epoch(num_examples, batch_size)
        if epochs is not None and num_steps is None:
            epochs = validate.integer("epochs", epochs, minimum=1)
            num_steps = epochs * length
        elif epochs is not None or num_steps is None:
            raise InputError(
                f"epochs is {epochs} and num_steps is {num_steps}; allowed: exactly "
                "one of the two."
            )
        # Rounded to the nearest float, which is what is drawn with and accounted for.
        whole, part = validate.plain(num_examples), validate.plain(batch_size)
        rate = part / whole if exact else 1.0 / length
        return cls(sampling_probability=rate, num_steps=num_steps)

    def indices(
        self, num_examples: int, seed: bytes, step: int
    ) -> Int64[np.ndarray, " n"]:
        """Returns the examples of one step.

        Args:
            num_examples: N, the size of the training set, >= 1.
            seed: secret bytes, at least 16 (128 bits); see ``new_seed``.
            step: the step, 0 to ``num_steps - 1``.

        Returns:
            Increasing, without repeats; n ~ Binomial(N, q) may be 0.

        Raises:
            InputError: if a value is out of range.
        """
        num_examples = validate.integer("num_examples", num_examples, minimum=1)
        _check_seed(seed)
        step = validate.integer("step", step, minimum=0)
        if step >= self.num_steps:
            raise InputError(
                f"step is {step}; allowed: 0 to {self.num_steps - 1}, the steps that "
                "are accounted for."
            )
        if self.sampling_probability == 1:
            return np.arange(num_examples, dtype=np.int64)
        threshold = np.uint64(math.floor(math.ldexp(self.sampling_probability, 64)))
        selected = [
            start + np.flatnonzero(_draws(seed, step, start, num_examples) < threshold)
            for start in range(0, num_examples, _BLOCK)
        ]
        return np.concatenate(selected).astype(np.int64)

    def batches(
        self,
        num_examples: int,
        seed: bytes,
        *,
        start: int = 0,
        pad_to_multiple_of: int = 1,
    ) -> Iterator[Int64[np.ndarray, " m"]]:
        """Yields the index array of each step from ``start`` to the last.

        Arrays are filled up with -1 (padding, at the end) to a multiple of
        ``pad_to_multiple_of`` and never cut: a large batch is a larger multiple. An
        empty batch is a step of pure noise; it comes as ``pad_to_multiple_of`` entries
        of -1, never as a zero-length array, so that it takes the ordinary path of the
        training step with everything masked.

        Args:
            num_examples: N, the size of the training set, >= 1.
            seed: secret bytes, at least 16 (128 bits); see ``new_seed``.
            start: the first step to yield, 0 to ``num_steps`` (then nothing is left).
            pad_to_multiple_of: the micro-batch size, >= 1.

        Returns:
            An iterator over arrays of m = k * pad_to_multiple_of, k >= 1.

        Raises:
            InputError: if a value is out of range, before the first batch is drawn.
        """
        num_examples = validate.integer("num_examples", num_examples, minimum=1)
        _check_seed(seed)
        start = validate.integer("start", start, minimum=0)
        if start > self.num_steps:
            raise InputError(f"start is {start}; allowed: 0 to {self.num_steps}.")
        pad_to_multiple_of = validate.integer(
            "pad_to_multiple_of", pad_to_multiple_of, minimum=1
        )
        return (
            pad_indices(self.indices(num_examples, seed, step), pad_to_multiple_of)
            for step in range(start, self.num_steps)
        )

    def max_batch_size(
        self, num_examples: int, failure_probability: float = 1e-6
    ) -> int:
        """Returns a batch size that no step of the run exceeds, but for a small chance.

        For planning memory and time only: the sampler never enforces it.

        Args:
            num_examples: N, the size of the training set, >= 1.
            failure_probability: bound on P(any of the T batches is larger), in (0, 1).

        Returns:
            The smallest b with P(max of T Binomial(N, q) > b) < failure_probability.

        Raises:
            InputError: if a value is out of range.
        """
        num_examples = validate.integer("num_examples", num_examples, minimum=1)
        validate.real("failure_probability", failure_probability, above=0, below=1)
        # P(any > b) = 1 - (1 - p)^T < f, solved for the tail p of a single step.
        tail = -math.expm1(math.log1p(-failure_probability) / self.num_steps)
        size = scipy.stats.binom(num_examples, self.sampling_probability)
        bound = int(size.isf(tail))
        while size.sf(bound) >= tail:
            bound += 1
        while bound > 0 and size.sf(bound - 1) < tail:
            bound -= 1
        return bound


def _check_seed(seed: bytes) -> None:
    # The message must not contain the seed: it is secret.
    if not isinstance(seed, bytes):
        raise InputError(
            f"the batch-selection seed is of type {type(seed).__name__}; allowed: at "
            f"least {MIN_SEED_BYTES} secret bytes."
        )
    if len(seed) < MIN_SEED_BYTES:
        raise InputError(
            f"the batch-selection seed has {len(seed)} bytes; allowed: at least "
            f"{MIN_SEED_BYTES} secret bytes."
        )


def _draws(seed: bytes, step: int, start: int, num_examples: int) -> np.ndarray:
    """Returns uint64 [<= _BLOCK], uniform, for the block of examples at ``start``."""
    return seeded_draws.draws(
        _DOMAIN, seed, step, start, min(_BLOCK, num_examples - start)
    )
