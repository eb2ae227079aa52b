"""The private randomness of a run: its noise key and its batch-selection seed."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.privacy.batch_selection import new_seed
from dpdm_jax.privacy.noise import new_noise_key


@dataclasses.dataclass(frozen=True, repr=False)  # no repr: it would end up in a log
class Secrets:
    """What must stay secret for the guarantee to hold, and be kept to resume a run.

    Attributes:
        noise_words: uint32 [n, 2], what ``noise_key`` is made of.
        selection_seed: bytes, see ``privacy.PoissonSampling``.
    """

    noise_words: np.ndarray
    selection_seed: bytes

    @property
    def noise_key(self) -> jax.Array:
        """Typed PRNG keys [n] in memory of their own; see ``gaussian_noise``."""
        return jax.random.wrap_key_data(
            jnp.array(self.noise_words), impl="threefry2x32"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; for the private part of a checkpoint only."""
        return {
            "noise_key": self.noise_words.tolist(),
            "selection_seed": self.selection_seed.hex(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Secrets":
        """Restores what ``to_dict`` gave.

        Raises:
            InputError: a field is missing or damaged.
        """
        try:
            words = np.array(fields["noise_key"], np.uint32).reshape(-1, 2)
            return cls(words, bytes.fromhex(fields["selection_seed"]))
        except (KeyError, OverflowError, TypeError, ValueError):
            # The values stay out of the message: they are secret.
            raise InputError(
                "The private part of the checkpoint is damaged; allowed: the noise key "
                "and the selection seed that the run was started with."
            ) from None


def fresh_secrets() -> Secrets:
    """Draws secrets from the operating system's entropy: 128 and 256 bits."""
    words = np.asarray(jax.random.key_data(new_noise_key()))
    return Secrets(words, new_seed())


def fixed_secrets(seed: int) -> Secrets:
    """Derives secrets from a public seed. For tests: such a run is NOT PRIVATE."""
    digest = hashlib.sha256(f"dpdm_jax fixed secrets {seed}".encode()).digest()
    return Secrets(np.frombuffer(digest[:16], np.uint32).reshape(2, 2), digest)
