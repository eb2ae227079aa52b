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

#: What was aimed at: percent of the CNN on real test images.
TARGETS = {
    "mnist_eps10": 96.0,
    "mnist_eps1": 93.5,
    "mnist_eps0.2": 85.0,
    "fashion_mnist_eps10": 81.0,
}

#: DPDM, arXiv 2210.09929, table 1.
PAPER = {
    "mnist_eps10": 98.1,
    "mnist_eps1": 95.3,
    "mnist_eps0.2": 86.3,
    "fashion_mnist_eps10": 86.2,
}
