import pytest

from dpdm_jax import command_line, planning
from dpdm_jax.errors import InputError


@pytest.mark.parametrize(
    ("examples", "size", "expected"), [(0, 8, 1), (1, 8, 1), (8, 8, 1), (9, 8, 2)]
)
def test_num_microbatches(examples, size, expected):
    assert planning.num_microbatches(examples, size) == expected


def test_microbatches_divide_over_devices():
    planning.check_microbatch(8, 4)
    with pytest.raises(InputError, match="multiples of 4"):
        planning.check_microbatch(6, 4)


def test_facts_come_from_the_data_where_the_config_is_silent():
    config = command_line.load_config("configs/digits.py")
    stated = planning.public_problem(config)
    config.data.num_examples = 0
    config.data.image_size = 0
    config.data.num_classes = -1
    assert planning.public_problem(config) == stated


def test_cost_grows_with_the_work(monkeypatch):
    monkeypatch.setattr(planning, "_matrix_product_rate", lambda: 1e11)
    config = command_line.load_config("configs/digits.py")
    report = planning.plan_report(config)
    config.diffusion.noise_multiplicity *= 2
    double = planning.plan_report(config)
    assert double["flops_per_step"] == pytest.approx(2 * report["flops_per_step"])
    wider = command_line.load_config("configs/digits.py")
    wider.train.microbatch_size *= 2
    memory = "estimated_device_memory_bytes"
    assert planning.plan_report(wider)[memory] > report[memory]


def test_mnist_flops_are_the_references():
    """319.2 M multiply-adds a forward pass, three passes, K = 32, 4000 examples."""
    report = planning.plan_report(command_line.load_config("configs/mnist.py"))
    expected = 2 * 319.2e6 * 3 * 32 * 4000
    assert report["flops_per_step"] == pytest.approx(expected, rel=0.1)
