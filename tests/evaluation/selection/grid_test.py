import dataclasses

import pytest

from dpdm_jax.configs import base
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import registry
from dpdm_jax.evaluation.recipes import Recipe
from dpdm_jax.evaluation.selection import grid


def entries(**axes):
    config = base.get_config().select.grid
    for name, values in axes.items():
        config[name] = values
    return grid.entries(config, registry.recipe, "select.grid")


def test_every_combination_is_there_once():
    found = entries(
        classifier=("mlp", "wrn"), learning_rate=(1e-3, 1e-2), epochs=(1, 2, 3)
    )
    kept = [(e.classifier, e.recipe.learning_rate, e.recipe.epochs) for e in found]
    assert kept == [
        (name, rate, epochs)
        for name in ("mlp", "wrn")
        for epochs in (1, 2, 3)
        for rate in (1e-3, 1e-2)
    ]
    # All else is the classifier's own.
    for entry in found:
        own = registry.recipe(entry.classifier)
        same = {"learning_rate": 0.5, "epochs": 9}
        assert dataclasses.replace(entry.recipe, **same) == dataclasses.replace(
            own, **same
        )


def test_a_recipe_has_no_field_that_the_config_lacks():
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert set(base.get_config().select.grid) == fields | {grid.CLASSIFIER}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"classifier": ()}, r"select.grid.classifier is \(\); allowed: one or more"),
        ({"classifier": ("mlp", "svm")}, "'svm'; allowed: logreg, mlp, cnn, wrn"),
        ({"classifier": ("mlp", "mlp")}, "allowed: different values"),
        ({"learning_rate": (1e-3, 1e-3)}, "grid.learning_rate is .*different values"),
        ({"learning_rate": (0.0,)}, "learning_rate is 0.0"),
        ({"epochs": (1.5,)}, "epochs is 1.5"),
        ({"optimizer": ("lion",)}, "optimizer is 'lion'; allowed: adam, sgd"),
        ({"augmentation": ("yes",)}, "augmentation is 'yes'; allowed: True, False"),
    ],
)
def test_what_is_no_grid(axes, message):
    with pytest.raises(InputError, match=message):
        entries(**axes)
