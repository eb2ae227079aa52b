"""The table of all systems is what the committed results say."""

import json

from dpdm_jax.configs import digits_public, digits_text_public
from experiments import summary


def test_the_page_has_what_the_script_prints(capsys):
    summary.main([])
    printed = capsys.readouterr().out
    page = summary.PAGE.read_text()
    assert printed in page
    assert summary.on_page(page, printed.removesuffix("\n")) == page


def test_rows_are_of_all_systems_and_have_their_figures():
    rows = summary.rows()
    assert {row.system.partition(",")[0] for row in rows} == {
        "DPDM",
        "DP fine-tuning",
        "DP-LDM",
    }
    found = {row.command: row for row in rows}
    row = found[
        "python -m experiments.mnist_cpu.check --release=mnist_eps10 --data=FOLDER"
    ]
    folder = summary.PAGE.parent / "mnist_cpu" / "results"
    check = json.loads((folder / "mnist_eps10_check.json").read_text())
    trained = json.loads((folder / "mnist_eps10.json").read_text())
    assert row.accuracies["cnn"].on_samples == f"{100 * check['accuracy']:.2f}"
    assert float(row.minutes.split(",")[0]) == round(trained["seconds"] / 60)
    assert check["commit"] in row.commit
    public = [row for row in rows if "digits_" in row.command]
    for row, parent in zip(public, (digits_public, digits_text_public), strict=True):
        assert row.public_data == parent.get_config().data.public


def test_every_classifier_of_a_check_is_in_its_row():
    check = {"release": "mnist_eps1", "epsilon": "1.0", "commit": "b"}
    check |= {"classifier": "cnn", "accuracy": 0.95, "others": {"mlp": 0.91}}
    check |= {"fid_lenet": 70.0, "fid_lenet_floor": 0.4}
    row = summary._of_check("DPDM", check, "none", "command")
    own = {name: row.accuracies[name].on_samples for name in summary.CLASSIFIERS}
    assert (own["cnn"], own["mlp"]) == ("95.00", "91.00")
    assert isinstance(own["logreg"], summary.Empty)


def test_what_is_missing_has_its_reason():
    row = summary.rows()[0]._replace(
        accuracies=dict.fromkeys(
            summary.CLASSIFIERS, summary.Accuracy(summary.Empty("lost"), "91.0")
        ),
        minutes=summary.Empty("untimed"),
        commit=summary.Empty("untimed"),
        alignment="88.4",
    )
    text = summary.table([row])
    assert "| [a] (91.0) |" in text
    assert "| 88.4 | [b] | [b] |" in text
    assert "[a] lost; [b] untimed." in text
