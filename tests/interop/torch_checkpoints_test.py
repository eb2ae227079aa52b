import sys

import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.interop.torch_checkpoints import read_official_checkpoint


@pytest.fixture
def content():
    torch = pytest.importorskip("torch")
    model = {
        "module.model.all_modules.0.weight": torch.arange(6.0).reshape(2, 3),
        "module.model.all_modules.0.bias": torch.ones(2, dtype=torch.float64),
    }
    return {
        "model": model,
        "ema": {
            "decay": 0.999,
            "num_updates": 7,
            "shadow_params": [tensor + 10 for tensor in model.values()],
        },
        "optimizer": {"state": {}, "param_groups": []},
        "step": 28,
    }


def saved(content, tmp_path):
    import torch

    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    return path


def test_reads_weights_averages_and_step(content, tmp_path):
    checkpoint = read_official_checkpoint(saved(content, tmp_path))
    assert checkpoint.step == 28
    names = ["all_modules.0.weight", "all_modules.0.bias"]
    assert list(checkpoint.model) == list(checkpoint.ema) == names
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(checkpoint.model[names[0]], weight)
    np.testing.assert_array_equal(checkpoint.ema[names[0]], weight + 10)
    assert checkpoint.model[names[1]].dtype == np.float32


def test_missing_file_is_refused(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="allowed: an existing file"):
        read_official_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_damaged_file_is_refused(content, tmp_path, kept):
    path = saved(content, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert_foreign(path, "PyTorch can't read it")


@pytest.mark.parametrize(
    "data", [b"hello world\n" * 50, b"\x80\x02K\x01.", b"PK\x03\x04" + 99 * b"\0"]
)
def test_file_of_another_kind_is_refused(tmp_path, data):
    pytest.importorskip("torch")
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(data)
    assert_foreign(path, "")


def test_file_that_would_run_code_is_refused(content, tmp_path):
    content["optimizer"] = Touch(str(tmp_path / "ran"))
    assert_foreign(saved(content, tmp_path), "more than tensors and plain values")
    assert not (tmp_path / "ran").exists()


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("model"), "no entry model"),
        (lambda c: c.pop("ema"), "no entry ema.shadow_params"),
        (lambda c: c["ema"].pop("shadow_params"), "no entry ema.shadow_params"),
        (lambda c: c.pop("step"), "no entry step"),
        (lambda c: c.update(step="many"), "step"),
        (lambda c: c.update(model=[1.0]), "names"),
        (lambda c: c["model"].update(conv=c["ema"]["shadow_params"][0]), "names"),
        (lambda c: c["ema"]["shadow_params"].pop(), "averaged weights differ"),
        (lambda c: c["ema"]["shadow_params"].reverse(), "averaged weights differ"),
        (lambda c: c["ema"].update(shadow_params=[1.0, 2.0]), "not tensors"),
        (lambda c: c["ema"].update(shadow_params=3), "not tensors"),
    ],
)
def test_other_contents_are_refused(content, tmp_path, change, reason):
    change(content)
    assert_foreign(saved(content, tmp_path), reason)


def test_plain_state_dict_is_refused(content, tmp_path):
    assert_foreign(saved(content["model"], tmp_path), "no entry model")


def test_missing_pytorch_is_explained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"pip install 'dpdm_jax\[torch\]'"):
        read_official_checkpoint(tmp_path / "checkpoint.pth")


def assert_foreign(path, reason):
    with pytest.raises(InputError) as error:
        read_official_checkpoint(path)
    message = str(error.value)
    assert "is not a checkpoint of the official DPDM code: " in message
    assert reason in message
    assert "\n" not in message
