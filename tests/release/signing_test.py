"""Signatures say who published a release, and nothing else passes for one."""

import pathlib
import stat
import sys

import pytest

from dpdm_jax import load_release
from dpdm_jax.errors import InputError
from dpdm_jax.release import __main__ as command
from dpdm_jax.release import bundle, signing
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify


@pytest.fixture
def key(tmp_path) -> pathlib.Path:
    path = tmp_path / "key"
    signing.make_key(path)
    return path


def public(key: pathlib.Path) -> pathlib.Path:
    return key.with_name(f"{key.name}.pub")


def test_a_signed_release(bundle_copy, key, tmp_path, capsys):
    assert command.main(["make-key", str(tmp_path / "other")]) == 0
    assert command.main(["sign", str(bundle_copy), "--key", str(key)]) == 0
    check = ["verify", str(bundle_copy), "--public-key"]
    capsys.readouterr()
    assert command.main([*check, str(public(key))]) == 0
    assert f"It is signed by the key {public(key)}." in capsys.readouterr().out
    assert command.main([*check, f"{tmp_path / 'other'}.pub"]) == 1
    assert "is not the signature of SHA256SUMS" in capsys.readouterr().out
    # It is a release as before to whoever does not ask.
    assert command.main(check[:2]) == 0
    assert "by whom, --public-key=FILE checks" in capsys.readouterr().out
    load_release(bundle_copy)


def test_what_was_changed_after_signing_fails(bundle_copy, key):
    signing.sign(bundle_copy, key)
    assert verify(bundle_copy, public(key)).ok
    for name in (bundle.SIGNATURE, bundle.CHECKSUMS):
        path = bundle_copy / name
        kept = path.read_bytes()
        path.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
        assert any(
            "is not the signature" in f
            for f in verify(bundle_copy, public(key)).failures
        )
        path.write_bytes(b"")
        assert not verify(bundle_copy, public(key)).ok
        path.write_bytes(kept)
    (bundle_copy / bundle.SIGNATURE).unlink()
    (failure,) = verify(bundle_copy, public(key)).failures
    assert "signature cannot be checked" in failure


def test_a_release_is_signed_as_it_is_made(make_config, workdir, key):
    folder = release(make_config(release__signing_key=str(key)), workdir)
    assert verify(folder, public(key)).failures == ()
    content = b"".join((folder / n).read_bytes() for n in bundle.file_names(folder))
    assert str(key).encode() not in content
    with pytest.raises(InputError, match="cannot be read"):
        release(make_config(release__signing_key=f"{key}.lost"), workdir)
    assert verify(folder, public(key)).ok


def test_a_release_that_is_not_intact_is_not_signed(bundle_copy, key, capsys):
    (bundle_copy / "PRIVACY.md").write_text("epsilon = 0")
    assert command.main(["sign", str(bundle_copy), "--key", str(key)]) == 1
    assert not (bundle_copy / bundle.SIGNATURE).exists()


def test_private_keys_are_their_owners_alone_and_never_overwritten(key, capsys):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    assert command.main(["make-key", str(key)]) == 1
    assert "exists; allowed: a new name" in capsys.readouterr().err
    key.rename(key.with_name("moved"))
    with pytest.raises(InputError, match=r"key.pub exists"):
        signing.make_key(key)
    assert not key.exists()
    assert key.with_name("moved").read_bytes() == before
    key.with_name("moved").chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        signing.read_private_key(key.with_name("moved"))


def test_files_that_are_no_keys(bundle_copy, key, tmp_path):
    for content in (b"", b"x", public(key).read_bytes()):
        path = tmp_path / "no_key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(InputError, match="no private key of Ed25519"):
            signing.sign(bundle_copy, path)
    with pytest.raises(InputError, match="no public key of Ed25519"):
        verify(bundle_copy, key)
    with pytest.raises(InputError, match="cannot be read"):
        verify(bundle_copy, tmp_path / "nowhere")


def test_a_missing_extra_is_one_sentence(bundle_copy, key, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for arguments in (
        ["make-key", f"{key}2"],
        ["sign", str(bundle_copy), "--key", str(key)],
        ["verify", str(bundle_copy), "--public-key", str(public(key))],
    ):
        assert command.main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "the extra 'sign'" in line
    assert command.main(["verify", str(bundle_copy)]) == 0
