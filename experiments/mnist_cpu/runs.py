"""The runs of this experiment, and where what they give is kept."""

import pathlib

RELEASES = pathlib.Path(__file__).parent / "releases"
RESULTS = pathlib.Path(__file__).parent / "results"

#: Config of each run.
RUNS = {
    "mnist_eps10": "configs/mnist_cpu.py:eps=10",
    "mnist_eps1": "configs/mnist_cpu.py:eps=1",
    "mnist_eps0.2": "configs/mnist_cpu.py:eps=0.2",
    "fashion_mnist_eps10": "configs/fashion_mnist_cpu.py:eps=10",
}
