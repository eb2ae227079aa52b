"""Evaluating the samples of a run directory on real digits."""

import dataclasses
import json

import jax
import pytest
from reading import images_and_labels

from dpdm_jax import command_line, data, planning, run_dir
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.data import registry
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import run
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import Group, Ledger, PrivacyConfig, make_plan
from dpdm_jax.sampling import images
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.checkpoints import Checkpoints


def config_of(**fields):
    config = digits.network_alone()
    config.network.mlp.hidden_width = 8
    config.sampler.num_steps = 3
    config.sample.num_images = 200
    config.evaluate.seeds = 2
    config.evaluate.epochs = 12
    config.evaluate.lenet_steps = 20
    config.evaluate.metrics = ("fid_lenet", "mlp")
    config.evaluate.learning_rate = 3e-3
    for name, value in fields.items():
        config.evaluate[name] = value
    return config


@pytest.fixture
def workdir(with_checkpoint, tmp_path):
    return with_checkpoint(config_of(), tmp_path)


@pytest.mark.slow
@pytest.mark.optimized  # trains long enough to gain by it
def test_noise_scores_like_chance_and_real_images_do_not(workdir):
    results = run.evaluate(config_of(), workdir)
    # An untrained model: 360 test images of 10 classes give 10 +- 1.6 % by chance; a
    # biased classifier some more.
    assert results["mlp"] < 0.3
    assert results["mlp_real"] > 0.8
    assert results["details"]["mlp"]["settings"]["num_train"] == 160
    assert results["fid_lenet"] > 3 * results["fid_lenet_floor"]
    assert results["sampler"]["num_steps"] == 3
    assert results["sample"]["weights"] == "ema"
    written = json.loads((workdir / "evaluation" / "samples.json").read_text())
    assert written == results
    # An imported model has no budget that DP-SGD could be held to.
    assert "mlp_dp_sgd" not in results


def test_dp_sgd_of_images_is_not_set_beside_a_run_of_people(tmp_path):
    for name, unit in (("images", None), ("people", Group("patient", 2))):
        plan = make_plan(
            PrivacyConfig(50, 5, epsilon=8.0, delta=1e-4, num_steps=2, unit=unit)
        )
        (tmp_path / name).mkdir()
        Ledger.create(tmp_path / name / run_dir.LEDGER, plan)
        found = run._dp_sgd(config_of(), tmp_path / name)
        assert (found is None) == (unit is not None)


@pytest.mark.slow
def test_real_images_as_samples_score_like_real_images(workdir):
    config = config_of(metrics=("logreg",))
    config.sample.name = "other"
    folder = sampling_run.sample(config, workdir)
    source = data.load_source(config.data, "train")
    real, labels = images_and_labels(source)
    config.sample.num_images = len(real)
    images.write_npz(folder / sampling_run.ARCHIVE, real, labels)
    results = run.evaluate(config, workdir)
    accuracies = [results["logreg"], results["logreg_real"]]
    assert min(accuracies) > 0.8
    assert abs(accuracies[0] - accuracies[1]) < 0.05
    assert (workdir / "evaluation" / "other.json").is_file()


def text_config(**fields):
    config = command_line.load_config("configs/digits_text.py")
    config.network.mlp.hidden_width = 8
    config.sampler.num_steps = 3
    config.sample.num_images = 60
    config.evaluate.update({"seeds": 1, "epochs": 2, "metrics": ("alignment",)})
    config.evaluate.update(fields)
    return config


@pytest.mark.slow
def test_images_by_prompts_are_judged_by_the_class_of_each(tmp_path):
    config = text_config()
    model = build_model(config, (8, 8, 1), data.tokenizer(config.data).condition)
    params = model.init(jax.random.key(0))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save_imported(model, 1, params, params, config={}, origin={})
    checkpoints.close()
    run.check(config, tmp_path)
    results = run.evaluate(config, tmp_path)
    # An untrained model.
    assert results["alignment"] < 0.5
    assert results["prompt_classes"] == [i // 3 for i in range(30)]
    assert results["sample"]["prompts"] == config.sample.prompt.splitlines()
    of_each = results["details"]["alignment"]["of_each_class"]
    assert list(of_each) == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("fields", "sample", "message"),
    [
        ({}, {"prompt": ""}, "are empty and the model reads captions"),
        ({"prompt_classes": (1,)}, {}, "has 1 classes for 30 prompts"),
        ({"prompt_classes": ()}, {}, "30 of 30 prompts are no caption"),
    ],
)
def test_prompts_without_classes_are_refused_before_training(
    tmp_path, fields, sample, message
):
    config = text_config(**fields)
    config.sample.update(sample)
    with pytest.raises(InputError, match=message):
        run.check(config, tmp_path)


def test_what_is_checked_before_training_is_what_is_trained_on(tmp_path, monkeypatch):
    loads = []
    digits = registry.ROOM.kinds["digits"]
    counting = dataclasses.replace(
        digits, build=lambda *args: loads.append(args[-1]) or digits.build(*args)
    )
    monkeypatch.setitem(registry.ROOM.kinds, "digits", counting)
    config = config_of()
    with data.loaded_once():
        run.check_ahead(config, tmp_path)
        data.load_source(config.data, "train")
        run.check(config, tmp_path)
    assert sorted(loads) == ["test", "train"]


def test_before_training_alone_no_test_data_is_read(tmp_path):
    config = config_of()
    config.data.test_split = ""
    run.check_sampling(config, tmp_path)
    config.data.num_classes = 0
    config.sampler.guidance = 0.0
    with pytest.warns(UserWarning, match="has mlp, and the data has no labels"):
        run.check_sampling(config, tmp_path)
    config.sampler.num_steps = 1
    with pytest.raises(InputError, match="num_steps is 1"):
        run.check_sampling(config, tmp_path)


def test_classes_of_prompts_are_refused_where_there_are_labels(tmp_path):
    with pytest.raises(InputError, match=r"prompt_classes is .* is 'labels'; allowed"):
        run.check(config_of(prompt_classes=(1,)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [8.0, float("inf")])
def test_dp_sgd_is_held_to_the_budget_of_the_run(workdir, epsilon):
    config = config_of(metrics=("logreg",))
    # Less training than the other classifier gets, and noise.
    config.evaluate.dp_sgd.epochs = 8
    config.evaluate.dp_sgd.learning_rate = 3e-3
    config.privacy.epsilon = epsilon
    model = build_model(config, (8, 8, 1), of_classes(10))
    plan = planning.privacy_plan(config, 1437, model)
    Ledger.create(workdir / run_dir.LEDGER, plan)
    results = run.evaluate(config, workdir)
    assert ("logreg_dp_sgd" in results) == (epsilon == 8.0)
    if epsilon == 8.0:
        settings = results["details"]["logreg_dp_sgd"]["settings"]
        assert (settings["epsilon"], settings["delta"]) == (plan.epsilon, plan.delta)
        assert 7.99 < plan.epsilon <= 8.0
        assert 0.5 < results["logreg_dp_sgd"] < results["logreg_real"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ()}, "metrics is empty"),
        ({"metrics": ("svm",)}, "'svm'; allowed: fid, .*logreg, mlp, cnn"),
        ({"metrics": ("cnn",)}, "8x8"),
        ({"metrics": ("fid",), "inception_weights": "none.pth"}, "none.pth, no file"),
        ({"seeds": 0}, "seeds is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
    ],
)
def test_bad_settings(workdir, fields, message):
    with pytest.raises(InputError, match=message):
        run.evaluate(config_of(**fields), workdir)
    assert not (workdir / "evaluation").exists()
    assert not (workdir / "samples").exists()


def test_unlabelled_data(workdir):
    config = config_of()
    config.data.num_classes = 0
    with pytest.raises(InputError, match="no labels"):
        run.evaluate(config, workdir)
