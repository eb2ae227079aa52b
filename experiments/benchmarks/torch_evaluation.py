"""The same evaluation in PyTorch, with pytorch-fid; runs in a ``worker.Worker``."""

from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import nn

from experiments.benchmarks import evaluation_problem as problem

_BATCH_SIZE = 128
_FEATURES_BATCH_SIZE = 50  # pytorch-fid's default


def sides(
    num_images: int, num_features: int, num_test: int, epochs: int
) -> dict[str, Callable[[], None]]:
    """Features of images, and classifiers trained on images.

    Args:
        num_images: that the classifiers learn and select from.
        num_features: images whose features are computed.
        num_test: images that the classifiers are tested on.
        epochs: of each classifier.

    Returns:
        "torch_features" and one "torch_NAME" a classifier -> function.
    """
    images, labels = problem.labelled(num_images, seed=1)
    network = _inception().to(memory_format=torch.channels_last)
    x, y = _tensors(images, labels)
    chosen = np.arange(num_images) % problem.SELECTION == problem.SELECTION - 1
    test = _tensors(*problem.labelled(num_test, seed=2))
    train, selection = (x[~chosen], y[~chosen]), (x[chosen], y[chosen])

    def compute_features() -> None:
        with torch.inference_mode():
            for start in range(0, num_features, _FEATURES_BATCH_SIZE):
                part = images[start : min(start + _FEATURES_BATCH_SIZE, num_features)]
                rgb = torch.from_numpy(part).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
                network(rgb / 255)[0].numpy()

    return {"torch_features": compute_features} | {
        f"torch_{name}": lambda name=name: _train(name, train, selection, test, epochs)
        for name in problem.CLASSIFIERS
    }


def classifier(name: str) -> nn.Module:
    """The classifier of DPDM's protocol, with PyTorch's initial values."""
    if name == "logreg":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)
        )
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(32, 64, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(64, 128, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1152, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def _inception() -> nn.Module:
    state = {
        name: torch.from_numpy(np.array(array))
        for name, array in problem.inception_state().items()
    }
    imported = problem.imported_pytorch_fid()
    package = next(imported)
    with mock.patch.object(
        package.inception, "load_state_dict_from_url", return_value=state
    ):
        return package.inception.InceptionV3().eval()


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple:
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    return x, torch.from_numpy(labels).long()


def _train(name: str, train: tuple, selection: tuple, test: tuple, epochs: int) -> None:
    torch.manual_seed(0)
    network = classifier(name)
    adam = torch.optim.Adam(network.parameters(), lr=3e-4)
    best = -1.0
    for _ in range(epochs):
        network.train()
        batches = (torch.split(part, _BATCH_SIZE) for part in train)
        for x, y in zip(*batches, strict=True):
            adam.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            adam.step()
        network.eval()
        found = _accuracy(network, *selection)
        if found > best:
            best = found
            _accuracy(network, *test)


def _accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.inference_mode():
        predicted = [network(part).argmax(1) for part in torch.split(x, 500)]
    return (torch.cat(predicted) == y).float().mean().item()
