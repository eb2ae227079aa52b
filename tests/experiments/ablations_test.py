"""Every ablation's config is valid, and what is finished is not run again."""

import json

import jax
import jax.numpy as jnp
import pytest

from dpdm_jax import command_line, load_release, planning
from dpdm_jax.diffusion import from_config
from experiments.ablations import __main__ as ablations
from experiments.ablations import gradients
from experiments.ablations.variants import ABLATIONS, COMMON
from experiments.mnist_cpu.runs import RELEASES

_VARIANTS = [
    pytest.param(variant, id=f"{name}:{variant.name}")
    for name, variants in ABLATIONS.items()
    for variant in variants
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*NOT PRIVATE")
@pytest.mark.parametrize("variant", _VARIANTS)
def test_variants_plan(variant):
    config = command_line.load_config("configs/mnist.py")
    config.update_from_flattened_dict({**COMMON, **variant.fields})
    report = planning.plan_report(config, estimate_cost=False)
    assert report["num_steps"] == COMMON["train.num_steps"]
    for fields in variant.samplers.values():
        config.update_from_flattened_dict(fields)
        from_config.sampler(from_config.with_preset(config))


def test_finished_work_is_not_repeated(tmp_path, monkeypatch):
    calls = []

    def pretend(mode, workdir, fields):
        calls.append((mode, fields.get("sample.name")))
        name = {"train": "config", "evaluate": fields.get("sample.name")}[mode]
        folder = workdir / ("evaluation" if mode == "evaluate" else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({"mlp": 0.5, "other": 1}))

    monkeypatch.setattr(ablations, "_main", pretend)
    variant = ABLATIONS["sampler"][0]
    rows = ablations.run(variant, 3, tmp_path / "run", COMMON)
    assert calls == [("train", None)] + [("evaluate", s) for s in variant.samplers]
    assert [row["sampler"] for row in rows] == list(variant.samplers)
    assert all(row["mlp"] == 0.5 and row["seed"] == 3 for row in rows)
    assert "other" not in rows[0]
    assert ablations.run(variant, 3, tmp_path / "run", COMMON) == rows
    assert len(calls) == 1 + len(variant.samplers)


@pytest.mark.slow
def test_gradients_are_compared():
    """Against their law: K draws divide the variance, and random units cancel."""
    key = jax.random.key(0)
    mean = jnp.zeros(300).at[0].set(3.0)
    for k in 1, 4:
        noise = jax.random.normal(key, (2, 2000, 300)) / jnp.sqrt(k)
        found = gradients.summary(
            gradients.Pair(*part) for part in jnp.split(mean + noise, 4, axis=1)
        )
        assert found["variance"] == pytest.approx(300 / k, rel=0.01)
        length = (9 + 300 / k) ** 0.5
        assert found["median_norm"] == pytest.approx(length, rel=0.01)
        assert found["signal"] == pytest.approx(3 / length, rel=0.05)


@pytest.mark.slow
def test_gradients_of_images_differ_by_their_draws():
    model = load_release(min(RELEASES.iterdir()))
    images = jnp.zeros((3, *model.model.sample_shape), jnp.uint8)
    labels = jnp.arange(3)
    (pair,) = gradients.gradients(model, images, labels, jax.random.key(0), 2)
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert pair.first.shape == pair.second.shape == (3, size)
    assert jnp.all(jnp.linalg.norm(pair.first, axis=1) > 0)
    assert not jnp.allclose(*pair)
