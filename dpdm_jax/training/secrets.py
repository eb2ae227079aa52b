"""The private randomness of a run: noise, batches, and the draws of the loss."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.privacy.batch_selection import new_seed
from dpdm_jax.privacy.noise import new_noise_key
from dpdm_jax.privacy.threefry import KEY_BYTES, secret_key


@dataclasses.dataclass(frozen=True, repr=False)  # no repr: it would end up in a log
class Secrets:
    """What must stay secret for the guarantee to hold, and be kept to resume a run.

    Attributes:
        noise_words: uint32 [n, 2], what ``noise_key`` is made of.
        selection_seed: bytes, see ``privacy.PoissonSampling``.
        loss_seed: bytes, see ``loss_key``.
    """

    noise_words: np.ndarray
    selection_seed: bytes
    loss_seed: bytes

    @property
    def noise_key(self) -> jax.Array:
        """Typed PRNG keys [n] in memory of their own; see ``gaussian_noise``."""
        return jax.random.wrap_key_data(
            jnp.array(self.noise_words), impl="threefry2x32"
        )

    def query_key(self, name: str) -> jax.Array:
        """Typed PRNG keys [n] for the noise of a query, others than the steps'.

        Args:
            name: of the query; each has keys of its own.
        """
        digest = hashlib.blake2b(
            name.encode(),
            key=self.noise_words.tobytes(),
            digest_size=self.noise_words.nbytes,
            person=b"query",
        ).digest()
        words = np.frombuffer(digest, np.uint32).reshape(self.noise_words.shape)
        return jax.random.wrap_key_data(jnp.array(words), impl="threefry2x32")

    def loss_key(self, step: int) -> jax.Array:
        """Typed PRNG key of the loss's draws (noise levels, noise, label drop-out).

        Secret, too: an example's draws depend on its place in the data, so that with
        known draws, removing one example would change what others add to the sum. Drawn
        anew from a secret, they are independent of the data, and neighbouring data
        sets can be compared draw by draw.

        Args:
            step: steps taken before, >= 0.

        Returns:
            A key of 128 bits, [], as are those that it is folded into.
        """
        digest = hashlib.blake2b(
            step.to_bytes(8, "little"),
            key=self.loss_seed,
            digest_size=KEY_BYTES,
            person=b"loss",
        ).digest()
        return secret_key(digest)

    def of_extension(self, extension_id: str) -> "Secrets":
        """Returns the secrets of an extension of the run.

        Other ones than the run's: two copies of a run directory may be extended in
        different ways, and one noise on both sums could be subtracted.

        Args:
            extension_id: of the ledger; empty for the run as it was begun.

        Returns:
            Secrets of the same sizes, which follow from these and the name.
        """
        if not extension_id:
            return self

        def derive(secret: bytes, purpose: bytes, size: int) -> bytes:
            return hashlib.blake2b(
                extension_id.encode(), key=secret, person=purpose, digest_size=size
            ).digest()

        words = derive(
            self.noise_words.tobytes(), b"ext noise", self.noise_words.nbytes
        )
        return Secrets(
            np.frombuffer(words, np.uint32).reshape(self.noise_words.shape),
            derive(self.selection_seed, b"ext selection", len(self.selection_seed)),
            derive(self.loss_seed, b"ext loss", len(self.loss_seed)),
        )

    def data_digest(self, content: bytes) -> str:
        """Returns what tells the run's data from other data, and nothing else.

        Keyed, so that whoever came by it could not check guesses of the data with it.

        Args:
            content: of all of the data; see ``data.bind``.
        """
        return hashlib.blake2b(
            content,
            key=self.loss_seed,
            digest_size=32,
            person=b"data",  # apart from the loss's keys
        ).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values.

        For the private part of a checkpoint, and the other processes of the run, only.
        """
        return {
            "noise_key": self.noise_words.tolist(),
            "selection_seed": self.selection_seed.hex(),
            "loss_seed": self.loss_seed.hex(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Secrets":
        """Restores what ``to_dict`` gave.

        Raises:
            InputError: a field is missing or damaged.
        """
        try:
            words = np.array(fields["noise_key"], np.uint32).reshape(-1, 2)
            seeds = (fields["selection_seed"], fields["loss_seed"])
            return cls(words, *(bytes.fromhex(seed) for seed in seeds))
        except (KeyError, OverflowError, TypeError, ValueError):
            # The values stay out of the message: they are secret.
            raise InputError(
                "The private part of the checkpoint is damaged; allowed: the keys and "
                "seeds that the run was started with."
            ) from None


def fresh_secrets() -> Secrets:
    """Draws secrets from the operating system's entropy: 128 bits, 256 and 256."""
    words = np.asarray(jax.random.key_data(new_noise_key()))
    return Secrets(words, new_seed(), new_seed())


def fixed_secrets(seed: int) -> Secrets:
    """Derives secrets from a public seed. For tests: such a run is NOT PRIVATE."""
    noise, selection, loss = (
        hashlib.sha256(f"dpdm_jax fixed secrets {seed} {name}".encode()).digest()
        for name in ("noise", "selection", "loss")
    )
    words = np.frombuffer(noise[:16], np.uint32).reshape(2, 2)
    return Secrets(words, selection, loss)
