"""Finds, downloads and reads the published weights of FID's Inception."""

import contextlib
import os
import pathlib
import urllib.request
from typing import NamedTuple

from dpdm_jax import files, progress
from dpdm_jax.errors import InputError, reason
from dpdm_jax.evaluation import cache, inception
from dpdm_jax.interop import torch_checkpoints
from dpdm_jax.user_paths import user_path

FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE_NAME}"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_CHUNK = 1 << 20
_TIMEOUT = 20.0  # seconds without a byte
_WANTED = (
    f"the file {FILE_NAME} of pytorch-fid, given by --inception_weights=FILE; the "
    "metrics whose names end in _lenet need no weights"
)


class Weights(NamedTuple):
    """Weights and where they come from.

    Attributes:
        params: of ``inception.features``.
        sha256: of the file.
        published: whether it is the file that FIDs are computed with.
    """

    params: inception.Params
    sha256: str
    published: bool


def load(path: str | os.PathLike[str] | None, cache_folder: pathlib.Path) -> Weights:
    """Reads the weights; with no path, from a cache or else from the network.

    Args:
        path: a file in the format of pytorch-fid's, or None. Other weights than the
            published ones are read as well, and marked.
        cache_folder: where a download is kept. The cache of PyTorch, in which
            pytorch-fid keeps its own download, is looked into as well.

    Returns:
        The weights.

    Raises:
        InputError: the file is missing, damaged or of another kind, can't be
            downloaded, or PyTorch, which reads it, is not installed.
    """
    # Before a download that would be in vain.
    torch_checkpoints.import_torch()
    if path is None:
        file = _published_file(cache_folder)
    else:
        file = user_path("inception_weights", path)
        if not file.is_file():
            raise InputError(
                f"inception_weights is {path}, no file; allowed: {_WANTED}."
            )
    state = torch_checkpoints.load(file, lambda reason: _foreign(file, reason))
    if not isinstance(state, dict):
        raise _foreign(file, "it is no dictionary of tensors")
    torch = torch_checkpoints.import_torch()
    if not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise _foreign(file, "it is no dictionary of tensors")
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    digest = files.sha256(file)
    return Weights(inception.params_from_state_dict(arrays), digest, digest == SHA256)


def _published_file(cache_folder: pathlib.Path) -> pathlib.Path:
    """Returns a file with the published checksum, downloading it if there is none."""
    ours = cache_folder / FILE_NAME
    for candidate in (ours, _torch_cache() / FILE_NAME):
        if candidate.is_file() and files.sha256(candidate) == SHA256:
            return candidate
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(ours) as temporary:
            _download(temporary)
            found = files.sha256(temporary)
            if found != SHA256:
                raise InputError(
                    f"what {URL} gave has the SHA-256 {found}, so it is not kept; "
                    f"allowed: {_WANTED}."
                )
    # Of sockets, certificates, HTTP and disks alike.
    except OSError as error:
        raise InputError(
            f"the Inception weights are not in {cache_folder} and can't be downloaded "
            f"({reason(error)}); allowed: {_WANTED}."
        ) from error
    return ours


def _download(path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        response = stack.enter_context(urllib.request.urlopen(URL, timeout=_TIMEOUT))
        size = int(response.headers.get("Content-Length") or 0)
        bar = stack.enter_context(progress.progress_bar("downloading", size >> 20))
        file = stack.enter_context(open(path, "wb"))
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(1)


def _torch_cache() -> pathlib.Path:
    """Where ``torch.hub`` keeps downloads."""
    home = os.environ.get("TORCH_HOME") or cache.caches() / "torch"
    return pathlib.Path(home) / "hub" / "checkpoints"


def _foreign(path: pathlib.Path, reason: str) -> InputError:
    return InputError(
        f"{path} holds no Inception weights: {reason}; allowed: {_WANTED}."
    )
