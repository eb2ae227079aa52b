"""Detached signatures of releases: who published this, whatever has become of it since.

A signature is 64 bytes of Ed25519 (RFC 8032) over the file of sums, which covers every
other file. ``openssl pkeyutl -verify -rawin`` checks it, too. What it cannot tell is
whether the signer is honest, or which of their releases is the one that was asked for.
"""

import os
import pathlib
import stat
from typing import TYPE_CHECKING

from dpdm_jax import files
from dpdm_jax.errors import InputError
from dpdm_jax.release import bundle

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

#: Behind the name of a private key's file.
PUBLIC_SUFFIX = ".pub"


def make_key(path: pathlib.Path) -> pathlib.Path:
    """Makes a key to sign with; no file is overwritten.

    Args:
        path: the file of the private key, PEM, readable by its owner alone.

    Returns:
        The file of the public key beside it, to be made known.

    Raises:
        InputError: one of the files exists or cannot be written, or the package
            cryptography is not installed.
    """
    _require_package()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    for each in (path, public_path):
        if os.path.lexists(each):
            raise InputError(
                f"the key {each} exists; allowed: a new name, since what was signed "
                "with a lost key cannot be signed again."
            )
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for each, content, mode in (path, private, 0o600), (public_path, public, 0o644):
        with files.writing(each):
            # Never another's file or what a link points to: O_EXCL.
            handle = os.open(each, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    return public_path


def sign(folder: pathlib.Path, key: pathlib.Path) -> None:
    """Signs a release, in place of an earlier signature.

    Args:
        folder: the release; whether it is intact is for the caller to check.
        key: the file of the private key.

    Raises:
        InputError: the key cannot be used, the signature cannot be written, or the
            package cryptography is not installed.
    """
    signature = read_private_key(key).sign((folder / bundle.CHECKSUMS).read_bytes())
    with files.replacing(folder / bundle.SIGNATURE) as temporary:
        temporary.write_bytes(signature)


def signature_failures(folder: pathlib.Path, public_key: pathlib.Path) -> list[str]:
    """Returns a sentence if a release is not signed by a key.

    Args:
        folder: the release.
        public_key: the file of the public key.

    Raises:
        InputError: the key cannot be used, or the package is not installed.
    """
    key = _read_public_key(public_key)
    from cryptography.exceptions import InvalidSignature

    try:
        signature = (folder / bundle.SIGNATURE).read_bytes()
        signed = (folder / bundle.CHECKSUMS).read_bytes()
    except OSError as e:
        return [f"The signature cannot be checked ({e.filename}: {e.strerror})."]
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return [
            f"{bundle.SIGNATURE} is not the signature of {bundle.CHECKSUMS} by the key "
            f"{public_key}."
        ]
    return []


def read_private_key(path: pathlib.Path) -> "ed25519.Ed25519PrivateKey":
    """Reads a key to sign with.

    Raises:
        InputError: it cannot be read, is none, or others may read it; or the package
            cryptography is not installed.
    """
    _require_package()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    content = _read(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InputError(
            f"the private key {path} may be read or written by others; allowed: by its "
            "owner alone (chmod 600)."
        )
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(
            f"{path} is no private key of Ed25519 in PEM; allowed: one that "
            "`python -m dpdm_jax.release make-key FILE` made."
        )
    return key


def _read_public_key(path: pathlib.Path) -> "ed25519.Ed25519PublicKey":
    _require_package()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    content = _read(path)
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InputError(
            f"{path} is no public key of Ed25519 in PEM; allowed: the {PUBLIC_SUFFIX} "
            "file that `python -m dpdm_jax.release make-key FILE` made."
        )
    return key


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(
            f"the key {path} cannot be read ({e.strerror}); allowed: a key's file."
        ) from None


def _require_package() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise InputError(
            "the package cryptography, which signatures need, is not installed; "
            "allowed: an installation with the extra 'sign' (pip install "
            "'dpdm_jax[sign]')."
        ) from None
