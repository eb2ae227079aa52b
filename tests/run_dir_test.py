import json
import math
import os

import ml_collections
import pytest

from dpdm_jax import run_dir


def test_json_values():
    config = ml_collections.ConfigDict(
        {"a": (1, 2), "b": {"c": math.inf, "d": -math.inf}, "e": None, "f": 0.5}
    )
    values = run_dir.to_json_values(config)
    assert values == {"a": [1, 2], "b": {"c": "inf", "d": "-inf"}, "e": None, "f": 0.5}
    json.dumps(values, allow_nan=False)
    assert run_dir.from_json_values(values) == config.to_dict()


def test_write_replaces_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    run_dir.write_json(path, {"x": 1})
    assert json.loads(path.read_text()) == {"x": 1}

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_dir.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
