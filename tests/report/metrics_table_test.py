import json
import math

import numpy as np
import pytest
from reading import images_and_labels

from dpdm_jax import command_line, data
from dpdm_jax.evaluation import metrics, on_features, registry
from dpdm_jax.evaluation.image_sets import ImageSet
from dpdm_jax.evaluation.settings import Settings
from dpdm_jax.report.metrics_table import Cell, by_class, metrics_table


def cell(results, name="fid"):
    (row,) = [row for row in metrics_table({"a": results}).rows if row.name == name]
    found = row.cells[0]
    # No line breaks within a number; plain spaces are easier to read here.
    plain = (text.replace("\N{NO-BREAK SPACE}", " ") for text in found.notes)
    return Cell(found.value.replace("\N{NO-BREAK SPACE}", " "), tuple(plain))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"fid": 12.34567}, Cell("12.35")),
        ({"fid": 123456.7}, Cell("123,457")),
        ({"fid": 2.0, "fid_floor": 0.5}, Cell("2", ("floor, real against real: 0.5",))),
        ({"fid": math.nan}, Cell("not a number")),
        ({"fid": None}, Cell("not a number")),
        ({"fid": "<b>"}, Cell("not a number")),
        ({"fid": 1, "details": 3}, Cell("1")),
    ],
)
def test_numbers(results, expected):
    assert cell(results) == expected


def test_spread():
    results = {"kid": 0.0078125, "kid_std": 0.001953125}
    assert cell(results, "kid") == Cell("0.007812 ± 0.002")


def test_classifiers_stand_beside_their_baselines():
    results = {
        "cnn": 0.9,
        "cnn_std": 0.01,
        "cnn_ensemble": 0.925,
        "cnn_real": 0.99,
        "cnn_real_std": None,
        "cnn_dp_sgd": 0.95,
        "cnn_dp_sgd_std": 0.02,
        "details": {"cnn": {"accuracies": [0.89, 0.9, 0.91]}},
    }
    assert cell(results, "cnn") == Cell(
        "90.0 ± 1.0 %",
        (
            "the trainings as one ensemble: 92.5 %",
            "trained on real images: 99.0 %",
            "trained on real images by DP-SGD at the same epsilon: 95.0 ± 2.0 %",
            "3 trainings",
        ),
    )


def test_alignment_stands_beside_real_images_and_by_class():
    results = {
        "alignment": 0.5,
        "alignment_real_test": 0.97,
        "details": {
            "alignment": {"of_each_class": {"0": 0.9, "1": 0.1}, "accuracies": [0.5]}
        },
    }
    assert cell(results, "alignment") == Cell(
        "50.0 %",
        (
            "of real test images: 97.0 %",
            "1 training",
        ),
    )
    (table,) = by_class({"samples": results, "fid": {"fid": 1.0}})
    assert (table.column, table.titles) == ("samples", ("Alignment",))
    shares = [(label, share.text, share.percent) for label, (share,) in table.rows]
    space = "\N{NO-BREAK SPACE}"
    assert shares == [("0", f"90.0{space}%", 90.0), ("1", f"10.0{space}%", 10.0)]


def test_classes_are_in_the_order_of_their_numbers_and_some_not_measured():
    shares = {"alignment": {"10": 0.5, "2": math.nan}, "precision": {"2": 1, "3": 0}}
    details = {name: {"of_each_class": each} for name, each in shares.items()}
    (table,) = by_class({"samples": {"details": details}})
    percents = [(label, [s and s.percent for s in row]) for label, row in table.rows]
    assert table.titles == ("Precision", "Alignment")
    assert percents == [("2", [100, None]), ("3", [0, None]), ("10", [None, 50])]


def test_a_column_a_sample_set():
    table = metrics_table(
        {
            "ddim": {"fid": 1.0, "num_synthetic": 5, "caveats": ["few", "both"]},
            "acc": {"mlp": 0.5, "num_real": 7, "caveats": ["both"]},
        }
    )
    assert table.columns == ("ddim", "acc")
    assert table.counts == ("5 synthetic", "7 real")
    assert [(row.name, [c.value for c in row.cells]) for row in table.rows] == [
        ("fid", ["1", "-"]),
        ("mlp", ["-", "50.0\N{NO-BREAK SPACE}%"]),
    ]
    assert table.caveats == ("ddim: few", "both")


def test_results_without_metrics():
    table = metrics_table({"old": {"results": [], "caveats": ["none"]}})
    assert table.rows == table.columns == table.caveats == ()
    table = metrics_table({"old": {"results": []}, "new": {"fid": 1, "caveats": 3}})
    assert table.columns == ("new",)
    assert [row.cells for row in table.rows] == [(Cell("1", (), 1),)]
    assert table.caveats == ()


@pytest.mark.slow
def test_all_that_an_evaluation_returns_is_shown(tmp_path):
    config = command_line.load_config("configs/digits.py").data
    real, labels = images_and_labels(data.load_source(config, "train"), np.arange(300))
    fresh, fresh_labels = images_and_labels(
        data.load_source(config, "test"), np.arange(100)
    )
    names = [name + on_features.LENET_SUFFIX for name in registry.FEATURE_METRICS]
    names += ["logreg", "alignment", "memorisation"]
    results = metrics.measure(
        names,
        ImageSet("real", real[:200], labels[:200], 10),
        ImageSet("made", real[200:], labels[200:], 10),
        ImageSet("test", fresh, fresh_labels, 10),
        settings=Settings(
            lenet_steps=2, epochs=1, classifier_seeds=2, cache_folder=tmp_path
        ),
    )
    results = json.loads(json.dumps(results))
    table = metrics_table({"made": results})
    assert [row.name for row in table.rows] == names
    notes = {row.name: " ".join(row.cells[0].notes) for row in table.rows}
    assert "floor" in notes["fid_lenet"]
    assert "trained on real images" in notes["logreg"]
    assert "2 trainings" in notes["logreg"]
    assert "0 exact copies" in notes["memorisation"]
    values = {row.name: row.cells[0].value for row in table.rows}
    assert "±" in values["logreg"]
    assert "±" in values["kid_lenet"]
    assert "not a number" not in values.values()
    assert table.counts == ("100 synthetic, 200 real, 100 test",)
    assert table.caveats == tuple(results["caveats"])
