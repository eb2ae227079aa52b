from dpdm_jax.evaluation import alignment, metrics, on_features, registry
from dpdm_jax.report.explanations import EXPLANATIONS, GROUPS


def test_every_metric_is_explained():
    assert set(EXPLANATIONS) == set(metrics.names())
    assert {explanation.group for explanation in EXPLANATIONS.values()} == set(GROUPS)
    for name, explanation in EXPLANATIONS.items():
        is_share = name in registry.CLASSIFIERS or name == alignment.NAME
        assert explanation.percent == is_share
        assert explanation.title != name


def test_metrics_of_the_small_network_are_not_taken_for_the_others():
    for name in registry.FEATURE_METRICS:
        small = EXPLANATIONS[name + on_features.LENET_SUFFIX]
        assert EXPLANATIONS[name].group != small.group
        assert small.title not in ("FID", "KID")
        assert "comparable only with itself" in GROUPS[small.group]
