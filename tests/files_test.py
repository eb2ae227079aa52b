"""Files are whole, or not there."""

import json
import os

import pytest

from dpdm_jax import files


def test_write_replaces_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"x": 1})
    assert json.loads(path.read_text()) == {"x": 1}

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            files.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
