import dataclasses

import jax
import numpy as np
import pytest

from dpdm_jax.evaluation import fitting, recipes, registry
from dpdm_jax.padding import batch_indices


@pytest.mark.parametrize("shuffle", [False, True])
def test_order_of_training(digits, monkeypatch, shuffle):
    orders = []
    train_epoch = fitting.train_epoch

    def record(*args):
        batches = args[6]
        orders.append(batches[batches >= 0])
        return train_epoch(*args)

    monkeypatch.setattr(fitting, "train_epoch", record)
    classifier = registry.build_classifier("logreg", (8, 8, 1), 10)
    recipe = registry.recipe("logreg", epochs=2)
    for seed in (0, 1):
        fitting.fit(classifier, *digits[:2], seed=seed, recipe=recipe, shuffle=shuffle)
    in_order = np.arange(1237)
    assert len(orders) == 4
    for i, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), in_order)
        assert np.array_equal(order, in_order) != shuffle
        for other in orders[:i]:
            assert np.array_equal(order, other) != shuffle


class Recording:
    """Images that are read as asked for, which remembers how many at a time."""

    def __init__(self, images):
        self._images = images
        self.shape, self.dtype = images.shape, images.dtype
        self.read = []

    def __len__(self):
        return len(self._images)

    def __getitem__(self, indices):
        self.read.append(len(indices))
        return self._images[indices]


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_set_in_pieces_trains_as_the_whole_does(digits, monkeypatch, shuffle):
    (images, labels), selection, _ = digits
    images, labels = images[:500], labels[:500]
    classifier = registry.build_classifier("logreg", (8, 8, 1), 10)
    # Each step draws what it shifts and mirrors.
    recipe = dataclasses.replace(
        registry.recipe("logreg", epochs=2, batch_size=32), augmentation=True
    )

    def train(images):
        return fitting.fit(
            classifier,
            (images, labels),
            selection,
            seed=0,
            recipe=recipe,
            shuffle=shuffle,
        )

    whole = Recording(images)
    expected = train(whole)
    assert whole.read == [500]
    monkeypatch.setattr(fitting, "_ON_DEVICE_BYTES", images.nbytes - 1)
    # Five batches in a piece, the sixteen of an epoch in four.
    monkeypatch.setattr(fitting, "_PIECE_BYTES", 5 * 32 * 64 + 1)
    pieces = Recording(images)
    found = train(pieces)
    assert pieces.read == 2 * [160, 160, 160, 20]
    assert found[1:] == expected[1:]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        found.params,
        expected.params,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logreg", "mlp"])
def test_epoch_equals_pytorch(digits, name):
    torch = pytest.importorskip("torch")
    images, labels = (a[:300] for a in digits[0])
    classifier = registry.build_classifier(name, (8, 8, 1), 10)
    state = fitting.init_state(classifier, recipes.DPDM, 3, jax.random.key(0))

    layers = []
    for layer in state.params.values():
        linear = torch.nn.Linear(*layer["kernel"].shape)
        linear.weight.data = torch.tensor(np.asarray(layer["kernel"]).T.copy())
        linear.bias.data = torch.tensor(np.asarray(layer["bias"]))
        layers += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers[:-1])
    adam = torch.optim.Adam(network.parameters(), lr=3e-4)
    x = torch.tensor(images / np.float32(255) * 2 - 1)
    y = torch.tensor(labels).long()
    # The last batch has 44 images.
    for start in (0, 128, 256):
        part = slice(start, start + 128)
        adam.zero_grad()
        torch.nn.functional.cross_entropy(network(x[part]), y[part]).backward()
        adam.step()

    state = fitting.train_epoch(
        classifier,
        recipes.DPDM,
        3,
        state,
        images,
        labels,
        batch_indices(np.arange(300), 128),
        jax.random.key(1),
    )
    for layer, linear in zip(state.params.values(), layers[::2], strict=True):
        # A step of Adam moves a parameter by up to 3e-4.
        kernel, bias = linear.weight.detach().numpy().T, linear.bias.detach().numpy()
        np.testing.assert_allclose(layer["kernel"], kernel, atol=2e-6)
        np.testing.assert_allclose(layer["bias"], bias, atol=2e-6)


def test_padding_has_no_influence(digits):
    # Whatever image stands where the padding index points to, the last.
    images, labels = (a[:50] for a in digits[0])
    classifier = registry.build_classifier("mlp", (8, 8, 1), 10)
    batches = batch_indices(np.arange(49), 20)

    def train(last):
        other = np.concatenate([images[:49], np.full_like(images[:1], last)])
        state = fitting.init_state(classifier, recipes.DPDM, 3, jax.random.key(0))
        return fitting.train_epoch(
            classifier,
            recipes.DPDM,
            3,
            state,
            other,
            labels,
            batches,
            jax.random.key(1),
        )

    jax.tree.map(np.testing.assert_array_equal, train(0), train(255))


@pytest.mark.slow
def test_augmentation_mirrors_and_shifts():
    images = np.random.default_rng(0).uniform(-1, 1, (400, 12, 10, 3))
    images = images.astype(np.float32)
    changed = np.asarray(fitting.augmented(jax.random.key(0), images))
    around = ((0, 0), (4, 4), (4, 4), (0, 0))
    found = {}
    for mirrored in (False, True):
        padded = np.pad(images[:, :, ::-1] if mirrored else images, around, "reflect")
        for i in range(9):
            for j in range(9):
                window = padded[:, i : i + 12, j : j + 10]
                equal = (window == changed).all(axis=(1, 2, 3))
                found[mirrored, i, j] = np.flatnonzero(equal)
    # Every image is one of the 162 views of itself, and all parts of a view occur.
    assert sorted(np.concatenate(list(found.values()))) == list(range(400))
    count = sum(len(found[True, i, j]) for i in range(9) for j in range(9))
    assert abs(count - 200) < 5 * 10
    for axis in (1, 2):
        assert {view[axis] for view, of in found.items() if len(of)} == set(range(9))


@pytest.mark.slow
def test_sgd_recipe_equals_pytorch():
    # Momentum, decay, smoothing and schedule, on a quadratic's worth of data.
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(40) % 10
    recipe = recipes.Recipe(
        epochs=2,
        batch_size=10,
        learning_rate=0.1,
        optimizer="sgd",
        schedule="cosine",
        weight_decay=5e-3,
        label_smoothing=0.1,
    )
    classifier = registry.build_classifier("logreg", (4, 4, 1), 10)
    state = fitting.init_state(classifier, recipe, 8, jax.random.key(0))
    linear = torch.nn.Linear(16, 10)
    linear.weight.data = torch.tensor(np.asarray(state.params["linear"]["kernel"]).T)
    linear.bias.data = torch.tensor(np.asarray(state.params["linear"]["bias"]))
    sgd = torch.optim.SGD(
        linear.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-3
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 8)
    x = torch.tensor(images.reshape(40, 16) / np.float32(127.5) - 1)
    for step in range(8):
        part = slice(step % 4 * 10, step % 4 * 10 + 10)
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(
            linear(x[part]), torch.tensor(labels[part]), label_smoothing=0.1
        ).backward()
        sgd.step()
        schedule.step()
    batches = batch_indices(np.arange(40), 10)
    for epoch in range(2):
        key = jax.random.key(epoch)
        state = fitting.train_epoch(
            classifier, recipe, 8, state, images, labels, batches, key
        )
    expected = linear.weight.detach().numpy().T
    np.testing.assert_allclose(state.params["linear"]["kernel"], expected, atol=1e-5)
