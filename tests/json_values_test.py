"""What goes into JSON comes back."""

import json
import math

import ml_collections

from dpdm_jax import json_values


def test_json_values():
    config = ml_collections.ConfigDict(
        {"a": (1, 2), "b": {"c": math.inf, "d": -math.inf}, "e": None, "f": 0.5}
    )
    values = json_values.encode(config.to_dict())
    assert values == {"a": [1, 2], "b": {"c": "inf", "d": "-inf"}, "e": None, "f": 0.5}
    json.dumps(values, allow_nan=False)
    assert json_values.decode(values) == config.to_dict()


def test_what_json_lacks_is_text_that_python_reads():
    text = json_values.dumps({"a": math.nan, "b": [-math.inf]})
    assert text == '{"a": "nan", "b": ["-inf"]}'
    assert math.isnan(float(json_values.loads(text)["a"]))
