"""Only what verifies is published, all of it, and nothing else."""

import dataclasses
import shutil
import sys

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.release import __main__ as command
from dpdm_jax.release import bundle
from dpdm_jax.release import push as module
from dpdm_jax.release.push import push
from dpdm_jax.release.verify import verify


@dataclasses.dataclass
class Hub:
    """What stands in for Hugging Face's hub: repositories are folders."""

    root: object
    token: str | None = "hf_secret"
    failure: Exception | None = None
    made: list = dataclasses.field(default_factory=list)

    def get_token(self):
        return self.token

    def HfApi(self):
        return self

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        if self.failure:
            raise self.failure
        self.made.append((name, private))
        (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / name / ".gitattributes").write_text("*.npz filter=lfs\n")

    def list_repo_files(self, name):
        return bundle.file_names(self.root / name)

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        assert commit_message
        assert delete_patterns == "*"
        kept = self.root / repo_id / ".gitattributes"
        attributes = kept.read_text()
        shutil.rmtree(self.root / repo_id)
        shutil.copytree(folder_path, self.root / repo_id)
        kept.write_text(attributes)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(module, "_import_hub", lambda: made)
    return made


@pytest.mark.slow
def test_a_release_is_pushed_to_a_hub(released, hub, capsys):
    assert command.main(["push", str(released), "ann/digits", "--private"]) == 0
    out = capsys.readouterr().out
    assert "is intact" in out
    assert out.endswith("Pushed to ann/digits.\n")
    assert hub.made == [("ann/digits", True)]
    there = hub.root / "ann" / "digits"
    assert set(bundle.file_names(there)) - set(bundle.file_names(released)) == {
        ".gitattributes"
    }
    (there / ".gitattributes").unlink()
    assert verify(there).ok
    # Again: what the earlier release alone had is gone.
    (there / "evaluation").mkdir()
    (there / "evaluation" / "old.json").touch()
    assert push(released, "ann/digits").ok
    assert not (there / "evaluation").exists()


def test_a_folder_is_a_target(released, tmp_path):
    for target in (f"file:{tmp_path}/new/there", f"file://{tmp_path}/new/there"):
        assert push(released, target).ok
        assert verify(tmp_path / "new" / "there").ok
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["there"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(InputError, match="exists and is no release"):
        push(released, f"file:{tmp_path}/mine")
    assert (tmp_path / "mine" / "notes.txt").exists()


def spoiled(folder):
    (folder / "config.json").write_text("{}")


def extra(folder):
    (folder / "notes.txt").write_text("whose scans these are")


def linked(folder):
    (folder / "secrets").symlink_to(folder.parent)


@pytest.mark.parametrize("spoil", [spoiled, extra, linked])
def test_nothing_is_pushed_that_does_not_verify(
    spoil, bundle_copy, hub, tmp_path, capsys
):
    spoil(bundle_copy)
    for target in ("ann/digits", f"file:{tmp_path}/there"):
        assert command.main(["push", str(bundle_copy), target]) == 1
        said = capsys.readouterr()
        assert said.err.endswith(
            "is no intact release and was not pushed; allowed: one that verifies.\n"
        )
        assert said.out
    assert hub.made == []
    assert not (tmp_path / "there").exists()
    assert not list(tmp_path.glob(".there*"))


def test_nothing_of_what_is_no_release_is_copied(tmp_path, capsys, monkeypatch):
    """A forgotten /release: the run directory beside it holds keys and latents."""
    monkeypatch.setattr(shutil, "copytree", None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "privacy.json").write_text("{}")
    assert command.main(["push", str(tmp_path / "run"), f"file:{tmp_path}/there"]) == 1
    assert "is a run directory" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_signature_may_be_required(released, hub, tmp_path, capsys):
    pytest.importorskip("cryptography")
    assert command.main(["make-key", str(tmp_path / "key")]) == 0
    flags = ["--public-key", str(tmp_path / "key.pub")]
    assert command.main(["push", str(released), "ann/digits", *flags]) == 1
    assert "The signature cannot be checked" in capsys.readouterr().out
    assert hub.made == []


def test_one_sentence_where_something_is_missing(released, hub, tmp_path, monkeypatch):
    hub.token = None
    with pytest.raises(InputError, match=r"no token.*`hf auth login`"):
        push(released, "ann/digits")
    hub.token, hub.failure = "x", ConnectionError("no route to host")
    with pytest.raises(InputError, match=r"\(ConnectionError: no route to host\)"):
        push(released, "ann/digits")
    hub.failure = None
    (hub.root / "ann" / "other").mkdir(parents=True)
    (hub.root / "ann" / "other" / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match=r"other files than a release \(pytorch_model"):
        push(released, "ann/other")
    for target in ("digits", "https://huggingface.co/ann/digits", "a/b/c", "../x/y"):
        with pytest.raises(InputError, match="allowed: OWNER/NAME"):
            push(released, target)
    assert not push(tmp_path / "nowhere", "ann/digits").ok
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"not installed.*dpdm_jax\[hub\]"):
        push(released, "ann/digits")


def test_the_hub_has_what_is_called():
    """The package's own functions take what stands-in takes."""
    library = pytest.importorskip("huggingface_hub")
    import inspect

    for name in ("create_repo", "list_repo_files", "upload_folder"):
        ours = inspect.signature(getattr(Hub, name)).parameters
        theirs = inspect.signature(getattr(library.HfApi, name)).parameters
        keywords = [p for p, v in ours.items() if v.kind is v.KEYWORD_ONLY]
        assert set(keywords) <= set(theirs)
    assert callable(library.get_token)
