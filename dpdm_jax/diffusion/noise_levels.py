"""Distributions of the training noise level sigma.

Each is a monotone map ``sigma`` of a base draw, standard normal or uniform on [0, 1);
``draw`` makes K of them for one example, independent or stratified.
"""

import dataclasses
import itertools
import math
from typing import ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, PRNGKeyArray

from dpdm_jax import validate
from dpdm_jax.diffusion import schedules
from dpdm_jax.errors import InputError


class NoiseLevels(Protocol):
    """A distribution of sigma > 0 given as a map of a base draw."""

    @property
    def base(self) -> Literal["normal", "uniform"]: ...

    def sigma(self, base_draw: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...


@dataclasses.dataclass(frozen=True)
class LogNormal:
    """EDM: ln sigma ~ N(p_mean, p_std^2) (Karras et al. 2022, table 1).

    Attributes:
        p_mean: mean of ln sigma.
        p_std: standard deviation of ln sigma, > 0.

    Raises:
        InputError: a field is out of range.
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    base: ClassVar[Literal["normal"]] = "normal"

    def __post_init__(self) -> None:
        validate.real("diffusion.log_normal.p_mean", self.p_mean)
        validate.real("diffusion.log_normal.p_std", self.p_std, above=0)

    def sigma(self, base_draw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.exp(self.p_mean + self.p_std * base_draw)


@dataclasses.dataclass(frozen=True)
class CosineTime:
    """v-prediction: t uniform between two log-SNRs, sigma = tan(pi t / 2).

    Attributes:
        min_log_snr: smallest ln(1 / sigma^2), at the largest noise.
        max_log_snr: largest ln(1 / sigma^2), at the smallest noise.

    Raises:
        InputError: a field is out of range.
    """

    min_log_snr: float = -9.0
    max_log_snr: float = 13.0
    base: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        low, path = self.min_log_snr, "diffusion.cosine"
        validate.real(f"{path}.min_log_snr", low)
        validate.real(f"{path}.max_log_snr", self.max_log_snr, above=low)

    def sigma(self, base_draw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        t_min, t_max = (
            2.0 / math.pi * math.atan(math.exp(-log_snr / 2.0))
            for log_snr in (self.max_log_snr, self.min_log_snr)
        )
        return jnp.tan(jnp.pi / 2.0 * (t_min + (t_max - t_min) * base_draw))


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """VE: ln sigma uniform between ln sigma_min and ln sigma_max.

    Attributes:
        sigma_min: smallest noise level, > 0.
        sigma_max: largest noise level.

    Raises:
        InputError: a field is out of range.
    """

    sigma_min: float = 0.02
    sigma_max: float = 100.0
    base: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        low, path = self.sigma_min, "diffusion.log_uniform"
        validate.real(f"{path}.sigma_min", low, above=0)
        validate.real(f"{path}.sigma_max", self.sigma_max, above=low)

    def sigma(self, base_draw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return jnp.exp(low + (high - low) * base_draw)


@dataclasses.dataclass(frozen=True)
class VPTime:
    """VP: t uniform on [eps_t, 1], sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1.

    Attributes:
        beta_min: beta at t = 0, > 0.
        beta_d: beta(1) - beta(0), > 0.
        eps_t: smallest time drawn, > 0 and < 1.

    Raises:
        InputError: a field is out of range.
    """

    beta_min: float = 0.1
    beta_d: float = 19.9
    eps_t: float = 1e-5
    base: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_d"):
            validate.real(f"diffusion.vp.{name}", getattr(self, name), above=0)
        validate.real("diffusion.vp.eps_t", self.eps_t, above=0, below=1)

    def sigma(self, base_draw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        t = self.eps_t + (1.0 - self.eps_t) * base_draw
        return jnp.sqrt(jnp.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t))


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How often steps are drawn, in ``config.diffusion.ddpm``; all alike by default.

    arXiv 2302.13861 has (30, 600) with (0.015, 0.785, 0.2) for CIFAR-10, (200, 800)
    with (0.05, 0.9, 0.05) for MNIST.

    Attributes:
        intervals: steps at which intervals end and the next ones begin, rising, in
            1..T-1. (30, 600) makes [0, 30), [30, 600) and [600, T).
        weights: probability of each interval, >= 0, of sum 1; one more than the cuts.
    """

    intervals: tuple[int, ...] = ()
    weights: tuple[float, ...] = (1.0,)


@dataclasses.dataclass(frozen=True)
class TimeMixture:
    """DDPM's steps, uniform within each of some intervals (arXiv 2302.13861).

    DP fine-tuning draws more of the steps in the middle. The loss is not weighted
    against that: what is learned changes, on purpose.

    Attributes:
        settings: of the schedule, whose T steps are drawn.
        drawn: how often.

    Raises:
        InputError: intervals or weights do not fit the steps, or each other.
    """

    settings: schedules.Settings
    drawn: Intervals = Intervals()
    base: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        cuts, weights = self.drawn.intervals, self.drawn.weights
        num_steps = self.settings.num_steps
        ends = (0, *cuts, num_steps)
        if any(end <= start for start, end in itertools.pairwise(ends)):
            raise InputError(
                f"diffusion.ddpm.intervals is {cuts}; allowed: rising integers above 0 "
                f"and below diffusion.ddpm.num_steps, {num_steps}."
            )
        for i, weight in enumerate(weights):
            validate.real(f"diffusion.ddpm.weights[{i}]", weight, minimum=0)
        if len(weights) != len(cuts) + 1 or abs(sum(weights) - 1) > 1e-6:
            raise InputError(
                f"diffusion.ddpm.weights is {weights}; allowed: {len(cuts) + 1} "
                "numbers of sum 1, one more than diffusion.ddpm.intervals has."
            )

    @property
    def probabilities(self) -> Float64[np.ndarray, " t"]:
        """Of each of the T steps, of sum 1."""
        ends = (0, *self.drawn.intervals, self.settings.num_steps)
        lengths = np.diff(ends)
        weights = np.array(self.drawn.weights) / np.sum(self.drawn.weights)
        return np.repeat(weights / lengths, lengths)

    def sigma(self, base_draw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        probabilities = self.probabilities
        # A draw that is rounded to 1 still gets a step that may be drawn.
        last = np.flatnonzero(probabilities)[-1]
        passed = jnp.asarray(np.cumsum(probabilities)[:last], base_draw.dtype)
        step = jnp.searchsorted(passed, base_draw, side="right", method="scan_unrolled")
        return jnp.asarray(self.settings.tables.sigmas, base_draw.dtype)[step]


def draw(
    key: PRNGKeyArray, noise_levels: NoiseLevels, num: int, *, stratified: bool = False
) -> Float[Array, " {num}"]:
    """Draws the noise levels of one example.

    Args:
        key: of the draw.
        noise_levels: the distribution.
        num: how many, K >= 1.
        stratified: draw the k-th one from the k-th of K slices of equal probability.
            Each draw taken at random among the K has the stated distribution, so the
            mean over K stays unbiased and its variance falls. Beyond the papers.

    Returns:
        The noise levels sigma.
    """
    if not stratified:
        normal = noise_levels.base == "normal"
        base = jax.random.normal if normal else jax.random.uniform
        return noise_levels.sigma(base(key, (num,)))
    u = (jnp.arange(num) + jax.random.uniform(key, (num,))) / num
    if noise_levels.base == "normal":
        tiny = jnp.finfo(u.dtype).eps
        u = jax.scipy.special.ndtri(jnp.clip(u, tiny, 1.0 - tiny))
    return noise_levels.sigma(u)
