import hashlib
import io
import urllib.error

import jax
import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import inception, inception_weights


@pytest.fixture
def file(inception_state, tmp_path):
    """Random weights as pytorch-fid's file holds them."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    state = {name: torch.from_numpy(a.copy()) for name, a in inception_state.items()}
    torch.save(state, path)
    return path


@pytest.fixture
def published(file, monkeypatch):
    """Lets the random weights pass for the published ones; returns their bytes."""
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(inception_weights, "SHA256", digest)
    monkeypatch.setenv("TORCH_HOME", str(file.parent / "torch"))
    return content


class Response(io.BytesIO):
    headers = {"Content-Length": "0"}  # noqa: RUF012


def test_reads_a_file(file, inception_state, tmp_path):
    weights = inception_weights.load(file, tmp_path / "cache")
    assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not weights.published
    expected = inception.params_from_state_dict(inception_state)
    jax.tree.map(np.testing.assert_array_equal, weights.params, expected)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_downloads_once(published, monkeypatch, tmp_path):
    urls = []

    def urlopen(url, timeout):
        urls.append(url)
        return Response(published)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    folder = tmp_path / "new" / "cache"
    assert inception_weights.load(None, folder).published
    assert (folder / inception_weights.FILE_NAME).read_bytes() == published
    assert inception_weights.load(None, folder).published
    assert urls == [inception_weights.URL]


@pytest.mark.slow
def test_takes_what_pytorch_fid_downloaded(published, monkeypatch, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / inception_weights.FILE_NAME).write_bytes(published)
    monkeypatch.setattr("urllib.request.urlopen", None)
    assert inception_weights.load(None, tmp_path / "cache").published


def test_a_download_of_something_else_is_not_kept(published, monkeypatch, tmp_path):
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: Response(b"other"))
    with pytest.raises(InputError, match=r"SHA-256 .* not kept"):
        inception_weights.load(None, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline(published, monkeypatch, tmp_path):
    def urlopen(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(InputError, match=r"no route to host.*--inception_weights=FILE"):
        inception_weights.load(None, tmp_path / "cache")


def test_the_published_checksum_is_that_in_the_file_name():
    assert f"-{inception_weights.SHA256[:8]}." in inception_weights.FILE_NAME
    assert len(inception_weights.SHA256) == 64


def test_other_files_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    with pytest.raises(
        InputError, match=r"weights.pth, no file; allowed: the file pt_"
    ):
        inception_weights.load(path, tmp_path)
    torch.save({"fc.bias": torch.zeros(9)}, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="no Inception weights: PyTorch can't read it"):
        inception_weights.load(path, tmp_path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(InputError, match="no dictionary of tensors"):
        inception_weights.load(path, tmp_path)
    torch.save({"fc.bias": 1}, path)
    with pytest.raises(InputError, match="no dictionary of tensors"):
        inception_weights.load(path, tmp_path)
