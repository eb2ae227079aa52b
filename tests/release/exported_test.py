"""The exported sampler: the same images, without the software that made it."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from commands import CHECKOUT

import dpdm_jax
from dpdm_jax.conditions import Tokens
from dpdm_jax.errors import InputError
from dpdm_jax.release import __main__ as command
from dpdm_jax.release import bundle, exported
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify

# What a stranger has not: importing it fails.
_ABSENT = """
import sys
for name in ("flax", "dpdm_jax", "ml_collections", "optax", "orbax", "safetensors"):
    sys.modules[name] = None
"""
_KEEP = "np.save(sys.argv[1], images)\n"


def lines_of(readme) -> str:
    return re.findall(r"```python\n(.*?)```", readme.read_text(), re.S)[-1]


def images_of_a_stranger(folder, tmp_path, lines) -> np.ndarray:
    script, made = tmp_path / "lines.py", tmp_path / "images.npy"
    script.write_text(_ABSENT + lines + _KEEP)
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(made)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == re.search(r"# (uint8 .*)", lines)[1]
    return np.load(made)


@pytest.fixture
def folder(make_config, workdir):
    """A release with its sampler."""
    return release(make_config(release__export=True), workdir)


@pytest.mark.slow
def test_a_stranger_makes_the_same_images(folder, tmp_path):
    outcome = verify(folder)
    assert outcome.ok
    assert outcome.notes[0].startswith(
        "sampler.npz is the file that was released; that"
    )
    assert bundle.SAMPLER in bundle.read_json(folder, bundle.PRIVACY)["files"]
    made = images_of_a_stranger(folder, tmp_path, lines_of(folder / "README.md"))
    expected, _ = dpdm_jax.load_release(folder).sample(8, labels="balanced", seed=0)
    np.testing.assert_array_equal(made, expected)
    # Which platforms there are, and that no program names a place.
    with np.load(folder / bundle.SAMPLER) as programs:
        assert set(programs) == {"cpu", "gpu", "tpu"}
        for program in programs.values():
            for place in (b".py", b"site-packages", bytes(CHECKOUT), b"/home"):
                assert place not in program.tobytes()


@pytest.mark.slow
def test_a_release_without_is_exported_apart(released, tmp_path, capsys):
    before = bundle.identity(released)
    out = tmp_path / "new" / "sampler"
    flags = [str(released), "--out", str(out)]
    assert command.main(["export", *flags]) == 0
    assert command.main(["export", *flags, "--preset=ddim", "--batch_size=5"]) == 0
    assert f"{out}/README.md says how" in capsys.readouterr().out
    assert bundle.identity(released) == before
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "params.safetensors",
        "sampler.npz",
    ]
    lines = lines_of(out / "README.md")
    seed = 2**32 - 1
    made = images_of_a_stranger(
        out, tmp_path, lines.replace("np.uint32(0)", f"np.uint32({seed})")
    )
    expected, _ = dpdm_jax.load_release(released).sample(
        5, labels="balanced", seed=seed, preset="ddim"
    )
    np.testing.assert_array_equal(made, expected)
    (out / "mine.txt").write_text("notes")
    assert command.main(["export", *flags]) == 1
    assert "is no exported sampler; allowed" in capsys.readouterr().err
    assert (out / "mine.txt").exists()


@pytest.mark.parametrize("dtype", bundle.DTYPES)
def test_layout_of_the_weights(tmp_path, dtype):
    arrays = {"b": np.ones((2, 3), dtype), "a/c": np.full(5, 2, dtype)}
    safetensors.numpy.save_file(arrays, tmp_path / bundle.PARAMETERS)
    layout = exported.read_layout(tmp_path)
    numbers = np.fromfile(tmp_path / bundle.PARAMETERS, dtype, offset=layout.offset)
    assert len(numbers) == layout.size == 11
    for name, (begin, shape) in layout.places.items():
        found = numbers[begin : begin + int(np.prod(shape))].reshape(shape)
        np.testing.assert_array_equal(found, arrays[name])


def test_what_cannot_be_exported(released, tmp_path, monkeypatch):
    out = tmp_path / "sampler"
    with pytest.raises(InputError, match="batch_size is 0"):
        exported.write_apart(released, out, batch_size=0)
    with pytest.raises(InputError, match=r"sampler\.preset is 'none'"):
        exported.write_apart(released, out, preset="none")
    with pytest.raises(InputError, match="is no intact release"):
        exported.write_apart(tmp_path, out)
    model = dpdm_jax.load_release(released).model
    texts = dataclasses.replace(model, condition=Tokens(4, 9))
    monkeypatch.setattr(bundle, "read_model", lambda *_: texts)
    with pytest.raises(InputError, match=r"trained on captions.*allowed: class labels"):
        exported.write_apart(released, out)
    monkeypatch.setattr(exported.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"flatbuffers.*dpdm_jax\[export\]"):
        exported.write_apart(released, out)
    assert list(tmp_path.iterdir()) == []
