"""Evaluating the samples of a run directory on real digits."""

import json

import jax
import numpy as np
import pytest

from dpdm_jax import command_line, data
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import run
from dpdm_jax.model import build_model
from dpdm_jax.sampling import images
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.checkpoints import Checkpoints


def config_of(**fields):
    config = command_line.load_config("configs/digits.py")
    config.network.hidden_width = 8
    config.sampler.num_steps = 3
    config.sample.num_images = 200
    config.evaluate.seeds = 2
    config.evaluate.epochs = 12
    config.evaluate.learning_rate = 3e-3
    for name, value in fields.items():
        config.evaluate[name] = value
    return config


@pytest.fixture
def workdir(tmp_path):
    config = config_of()
    model = build_model(config, (8, 8, 1), 10)
    params = model.network.init(jax.random.key(0))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save_imported(model, 1, params, params, config={}, origin={})
    checkpoints.close()
    return tmp_path


def test_noise_scores_like_chance_and_real_images_do_not(workdir):
    results = run.evaluate(config_of(), workdir)
    rows = {row["trained_on"]: row for row in results["results"]}
    # An untrained model: 360 test images of 10 classes give 10 +- 1.6 % by chance; a
    # biased classifier some more.
    assert rows["synthetic"]["accuracy"] < 0.3
    assert rows["real"]["accuracy"] > 0.8
    assert rows["synthetic"]["settings"]["num_train"] == 160
    written = json.loads((workdir / "evaluation" / run.RESULTS).read_text())
    assert written == results
    text = run.describe(results)
    assert "mlp trained on synthetic images" in text
    assert "2 seeds" in text
    assert "private" in text


def test_real_images_as_samples_score_like_real_images(workdir):
    config = config_of(classifiers=("logreg",))
    folder = sampling_run.sample(config, workdir)
    source = data.load_source(config.data, "train")
    real, labels = source.examples(np.arange(len(source)))
    config.sample.num_images = len(real)
    images.write_npz(folder / sampling_run.ARCHIVE, real, labels)
    rows = run.evaluate(config, workdir)["results"]
    accuracies = [row["accuracy"] for row in rows]
    assert min(accuracies) > 0.8
    assert abs(accuracies[0] - accuracies[1]) < 0.05


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classifiers": ()}, "evaluate.classifiers is empty"),
        ({"classifiers": ("svm",)}, "allowed: logreg, mlp, cnn"),
        ({"classifiers": ("cnn",)}, "8x8"),
        ({"seeds": 0}, "evaluate.seeds is 0"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_bad_settings(workdir, fields, message):
    with pytest.raises(InputError, match=message):
        run.evaluate(config_of(**fields), workdir)
    assert not (workdir / "evaluation").exists()


def test_unlabelled_data(workdir):
    config = config_of()
    config.data.num_classes = 0
    with pytest.raises(InputError, match="no labels"):
        run.evaluate(config, workdir)
