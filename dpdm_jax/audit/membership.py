"""Can the loss of an image tell whether it was trained on? Private, not to publish.

The curve of Carlini et al., "Membership inference attacks from first principles", 2022
(arXiv 2112.03570), for the plainest attack there is: a training image has a smaller
denoising loss than a fresh one. True positives count most where false ones are rare, so
both axes are logarithmic.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import data, files
from dpdm_jax.diffusion import losses
from dpdm_jax.models.model import Model
from dpdm_jax.padding import pad_indices

#: False-positive rates whose true-positive rate is stated.
RATES = (0.001, 0.01)

#: ``losses(params, source, indices [n]) -> float32 [n]``
ImageLosses = Callable[[Any, data.Source, np.ndarray], np.ndarray]

_BATCH = 16
_MAX_POINTS = 200  # of the curve, in the file
_SIZE = (4.5, 4.0)  # inches
_SMALLEST_RATE = 1e-4  # that is drawn


@dataclasses.dataclass(frozen=True)
class Membership:
    """Training images against held-out ones, by their loss.

    Attributes:
        auc: probability that a training image has the smaller loss, ties counting half;
            0.5 if they are not to be told apart.
        true_positive_rates: at most ``RATES`` of false positives.
        false_positives: float [n], increasing, of the curve.
        true_positives: float [n].
        training_images: how many.
        held_out_images: how many.
        median_loss: of the training images.
        median_loss_held_out: of the others.
    """

    auc: float
    true_positive_rates: tuple[float, ...]
    false_positives: np.ndarray
    true_positives: np.ndarray
    training_images: int
    held_out_images: int
    median_loss: float
    median_loss_held_out: float


def membership(training: np.ndarray, held_out: np.ndarray) -> Membership:
    """Compares losses.

    Args:
        training: float [n], of training images, n >= 1.
        held_out: float [m], of images that were not trained on, m >= 1.

    Returns:
        The comparison.
    """
    from sklearn import metrics  # takes a second to import

    is_member = np.repeat([True, False], [len(training), len(held_out)])
    score = -np.concatenate([training, held_out])
    false_positives, true_positives, _ = metrics.roc_curve(is_member, score)
    return Membership(
        auc=float(metrics.roc_auc_score(is_member, score)),
        true_positive_rates=tuple(
            float(true_positives[false_positives <= rate].max()) for rate in RATES
        ),
        false_positives=false_positives,
        true_positives=true_positives,
        training_images=len(training),
        held_out_images=len(held_out),
        median_loss=float(np.median(training)),
        median_loss_held_out=float(np.median(held_out)),
    )


def highest_rate(rate: float, epsilon: float, delta: float) -> float:
    """Bounds the true-positive rate of any attack on a model with the guarantee.

    Args:
        rate: false-positive rate in [0, 1].
        epsilon: >= 0; may be infinite.
        delta: in [0, 1].

    Returns:
        The bound, in [0, 1]; Kairouz, Oh and Viswanath (arXiv 1311.0776).
    """
    if math.isinf(epsilon):
        return 1.0
    few = math.exp(min(epsilon, 700.0)) * rate + delta  # e^710 overflows
    return min(1.0, few, 1 - math.exp(-epsilon) * (1 - delta - rate))


def make_image_losses(model: Model, config: ml_collections.ConfigDict) -> ImageLosses:
    """Compiles the denoising loss of images, all at the same noise.

    Args:
        model: the denoiser.
        config: ``config.audit``; reads ``noise_draws`` and ``seed``.

    Returns:
        ``losses(params, source, indices [n]) -> float32 [n]``.
    """
    key = jax.random.key(config.seed)
    draws = losses.draw(
        key,
        model.latent_shape,
        model.noise_levels,
        noise_multiplicity=config.noise_draws,
        label_dropout=0.0,
        stratified=True,
    )

    def loss(params: Any, example: data.Example) -> jax.Array:
        seen = model.encoded(params, example, key)
        return losses.denoising_loss(
            model.denoise,
            model.parameterization.loss_weight,
            params,
            seen["image"],
            seen["condition"],
            draws,
            model.condition.null,
            bound=model.bound,
        )

    loss_of_batch = jax.jit(jax.vmap(loss, (None, 0)))

    def losses_of(params: Any, source: data.Source, indices: np.ndarray) -> np.ndarray:
        padded = pad_indices(indices, _BATCH)
        measured = []
        for start in range(0, len(padded), _BATCH):
            batch = data.load_batch(source, padded[start : start + _BATCH])
            measured.append(np.asarray(loss_of_batch(params, batch.examples)))
        return np.concatenate(measured)[: len(indices)]

    return losses_of


def to_dict(found: Membership, epsilon: float, delta: float) -> dict[str, Any]:
    """Returns JSON values, with what the guarantee allows beside what was found.

    Args:
        found: the comparison.
        epsilon: of the run; may be infinite.
        delta: of the run.
    """
    points = len(found.false_positives)
    kept = np.unique(np.linspace(0, points - 1, min(points, _MAX_POINTS)).astype(int))
    curve = found.false_positives[kept]
    return {
        "private": "read off private images, do not publish",
        "auc": found.auc,
        "rates": [
            {
                "false_positives": rate,
                "true_positives": found_rate,
                "highest_true_positives": highest_rate(rate, epsilon, delta),
            }
            for rate, found_rate in zip(RATES, found.true_positive_rates, strict=True)
        ],
        "curve": {
            "false_positives": curve.tolist(),
            "true_positives": found.true_positives[kept].tolist(),
            "highest_true_positives": [highest_rate(x, epsilon, delta) for x in curve],
        },
        "training_images": found.training_images,
        "held_out_images": found.held_out_images,
        "median_loss": found.median_loss,
        "median_loss_held_out": found.median_loss_held_out,
    }


def draw(path: pathlib.Path, found: Membership, epsilon: float, delta: float) -> None:
    """Draws the curve, chance, and what the guarantee allows.

    Args:
        path: PNG file, which its owner alone can read.
        found: the comparison.
        epsilon: of the run; may be infinite.
        delta: of the run.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    rates = np.geomspace(_SMALLEST_RATE, 1, 200)
    allowed = [highest_rate(rate, epsilon, delta) for rate in rates]
    with style.context("default", after_reset=True):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot(
            xscale="log",
            yscale="log",
            xlim=(_SMALLEST_RATE, 1),
            ylim=(_SMALLEST_RATE, 1),
            xlabel="held-out images taken for training images",
            ylabel="training images recognised",
            title="Membership by loss. PRIVATE",
        )
        axes.plot(rates, allowed, "--", color="tab:red", label="guarantee's limit")
        axes.plot(rates, rates, ":", color="grey", label="chance")
        axes.step(
            found.false_positives,
            found.true_positives,
            where="post",
            color="tab:blue",
            label="attack",
        )
        axes.legend()
        with files.replacing(path, private=True) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
