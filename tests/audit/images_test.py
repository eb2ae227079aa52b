import jax
import numpy as np
import pytest
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.audit import images
from dpdm_jax.audit.mechanism import shortened
from dpdm_jax.audit.run import contradictions
from dpdm_jax.models.model import build_model
from dpdm_jax.planning import privacy_plan
from dpdm_jax.privacy import accounting
from dpdm_jax.queries.class_moments import MomentsQuery


def test_joined_sources():
    def source(values):
        pixels = np.array(values, np.uint8)[:, None, None, None]
        return data.ArraySource(pixels, np.array(values), num_classes=9)

    joined = images._Joined(source([0, 1, 2]), source([3, 4]))
    assert (len(joined), shape_of(joined), joined.condition.num_classes) == (
        5,
        (1, 1, 1),
        9,
    )
    pixels, labels = images_and_labels(joined, np.array([4, 0, 3, 2]))
    assert labels.tolist() == pixels.ravel().tolist() == [4, 0, 3, 2]
    assert images_and_labels(joined, np.array([1]))[1].tolist() == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
@pytest.mark.parametrize(("noise_multiplier", "seen"), [(0.1, True), (20.0, False)])
def test_images_of_noise_are_recognised_where_there_is_little_noise(
    noise_multiplier, seen, make_config
):
    config = make_config(
        network__mlp__hidden_width=32,
        privacy__epsilon=float("inf"),
        privacy__noise_multiplier=noise_multiplier,
        train__batch_size=1437,
        train__learning_rate=1e-2,
        train__num_steps=60,
        train__ema_decay=0.0,
        train__microbatch_size=64,
        audit__image_canaries=200,
        audit__noise_draws=8,
    )
    source = data.load_source(config.data, "train")
    model = build_model(config, shape_of(source), source.condition)
    # Few images, among which a canary counts.
    few = data.ArraySource(*images_and_labels(source, np.arange(10)), num_classes=10)
    plan = privacy_plan(config, 1437, model)
    found = images.audit_images(config, plan, model, few, {})
    assert (found.bounds[0].shown > 0.5) == seen
    assert contradictions(found) == []
    assert found.num_steps == 60


@pytest.mark.slow
def test_moments_are_measured_and_claimed(make_config, monkeypatch, same_entropy):
    config = make_config(
        diffusion__parameterization="edm_moments",
        diffusion__edm_moments__components=2,
        privacy__moments_noise_multiplier=5.0,
        train__num_steps=3,
    )
    source = data.load_source(config.data, "train")
    model = build_model(config, shape_of(source), source.condition)
    plan = privacy_plan(config, len(source), model)
    steps = shortened(plan, 2)
    assert [query.noise_multiplier for query in steps.queries] == [5.0]
    alone = accounting.epsilon_of_events(plan.query_events, plan.delta, plan.accountant)
    assert alone < steps.epsilon == plan.epsilon_spent(2) < plan.epsilon_spent(3)
    before = model.init(jax.random.key(0))
    measured = []

    answer = MomentsQuery.answer

    def recorded(query, *args):
        measured.append((query, args, answer(query, *args)["moments"]))
        return {"moments": measured[-1][-1]}

    monkeypatch.setattr(MomentsQuery, "answer", recorded)
    after, _ = images._train(config, steps, model, before, source)
    ((query, (seen, *_), moments),) = measured
    assert seen is source
    assert query.noise_multiplier == 5.0
    for name, assumed in before["moments"].items():
        np.testing.assert_allclose(after["moments"][name], moments[name], rtol=1e-5)
        assert (moments[name] != assumed).any()
    trained = jax.tree.leaves(jax.device_get(after["network"]))
    for now, then in zip(trained, jax.tree.leaves(before["network"]), strict=True):
        assert (now != then).any()
