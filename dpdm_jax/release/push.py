"""Publishing: a release that verifies, to a model hub or to another folder.

What is pushed is a copy, and the copy is what is verified: nothing that changes
meanwhile, and nothing that lies beside, gets out. A new kind of target is a class with
the methods of ``Remote`` and an entry in ``_remote``.
"""

import contextlib
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, Protocol

from dpdm_jax import files
from dpdm_jax.errors import InputError, listed, reason
from dpdm_jax.release import bundle
from dpdm_jax.release.verify import Verification, verify
from dpdm_jax.user_paths import user_path

_FILE = "file:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# What a hub puts into a repository by itself.
_OF_HUBS = {".gitattributes", bundle.CARD}


class Remote(Protocol):
    """Where a release can be pushed."""

    def require(self) -> None:
        """Raises InputError if something is missing, before any work."""
        ...

    def staging(self) -> contextlib.AbstractContextManager[pathlib.Path]:
        """Yields a folder to fill; what is in it is published if the block ends well.

        Raises:
            InputError: the place holds something else, or cannot be written.
        """
        ...


def push(
    folder: pathlib.Path,
    target: str,
    *,
    public_key: pathlib.Path | None = None,
    private: bool = False,
) -> Verification:
    """Publishes a release, if it verifies.

    Args:
        folder: the release.
        target: OWNER/NAME, a repository of Hugging Face's hub, which is made if need
            be; or file:FOLDER. An earlier release there gives way.
        public_key: file of the key by which it must be signed; None if it need not be.
        private: whether a repository that is made is private to its owner.

    Returns:
        What was found out about the release; it was pushed if that is ``ok``.

    Raises:
        InputError: the target is none, holds something else or cannot be written; or a
            package or a token is missing.
    """
    remote = _remote(target, private)
    remote.require()
    # Before any of it is copied: it may be something else, such as a run directory.
    outcome = verify(folder, public_key)
    if not outcome.ok:
        return outcome
    with contextlib.suppress(_NotIntactError), remote.staging() as copy:
        # Links stay links, which are refused. What is published is what verifies.
        shutil.copytree(folder, copy, symlinks=True, dirs_exist_ok=True)
        outcome = verify(copy, public_key)
        if not outcome.ok:
            raise _NotIntactError
    return outcome


class _NotIntactError(Exception):
    """Keeps a release from being published."""


def _remote(target: str, private: bool) -> Remote:
    if target.startswith(_FILE):
        path = target.removeprefix(_FILE)
        path = path.removeprefix("//") if path.startswith("///") else path
        return _Folder(user_path("the target", path))
    if _REPOSITORY.fullmatch(target):
        return _Hub(target, private)
    raise InputError(
        f"the target is {target!r}; allowed: OWNER/NAME, a repository of Hugging "
        "Face's hub, or file:FOLDER."
    )


class _Folder:
    """Another folder, such as one that is mirrored."""

    def __init__(self, path: pathlib.Path):
        self._path = path.absolute()

    def require(self) -> None:
        pass

    @contextlib.contextmanager
    def staging(self) -> Iterator[pathlib.Path]:
        files.make_folder(self._path.parent)
        with files.replacing_folder(self._path, bundle.is_bundle, "release") as folder:
            yield folder


class _Hub:
    """A model repository of Hugging Face's hub."""

    def __init__(self, name: str, private: bool):
        self._name = name
        self._private = private

    def require(self) -> None:
        if not _import_hub().get_token():
            raise InputError(
                f"{self._name} is a repository of Hugging Face's hub, and no token for "
                "it is found; allowed: `hf auth login` first, or the environment "
                "variable HF_TOKEN with a token that may write."
            )

    @contextlib.contextmanager
    def staging(self) -> Iterator[pathlib.Path]:
        with tempfile.TemporaryDirectory(prefix="dpdm_jax_push_") as folder:
            yield pathlib.Path(folder)
            self._upload(folder)

    def _upload(self, folder: str) -> None:
        api = _import_hub().HfApi()
        try:
            api.create_repo(self._name, private=self._private, exist_ok=True)
            there = set(api.list_repo_files(self._name))
            if not {bundle.MANIFEST, bundle.CHECKSUMS} <= there:
                self._refuse(sorted(there - _OF_HUBS))
            api.upload_folder(
                repo_id=self._name,
                folder_path=folder,
                commit_message="Release",
                delete_patterns="*",  # of the earlier release, all at once
            )
        except InputError:
            raise
        except Exception as e:  # the hub's, the network's, the file system's
            raise InputError(
                f"{self._name} cannot be pushed to ({reason(e)}); allowed: a "
                "repository that the token may write."
            ) from None

    def _refuse(self, others: list[str]) -> None:
        if others:
            raise InputError(
                f"{self._name} holds other files than a release ({listed(others)}); "
                "allowed: a new repository, or that of an earlier release."
            )


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            "the package huggingface_hub, which pushing to a hub needs, is not "
            "installed; allowed: an installation with the extra 'hub' (pip install "
            "'dpdm_jax[hub]'), or the target file:FOLDER."
        ) from None
    return huggingface_hub
