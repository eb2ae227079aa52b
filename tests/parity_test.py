"""The project against figures of the official PyTorch code: tests/golden/README.md.

``--golden-dir=DIR`` takes any folder of files in those formats. A file's format is told
by what it holds, so that names, widths, shapes and seeds are free.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import clipped_grad

from dpdm_jax.diffusion import (
    discretizations,
    guidance,
    losses,
    noise_levels,
    parameterizations,
    priors,
    samplers,
)
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.interop import name_maps, torch_checkpoints
from dpdm_jax.interop.convert import convert
from dpdm_jax.networks import Network, Params, ncsnpp

OUTPUT_TOLERANCE = 2e-5
RELATIVE_TOLERANCE = 1e-4
SAMPLE_TOLERANCE = 1e-4

# Constants of the recorded figures: parameterization and noise levels by official name.
PARAMETERIZATIONS = {
    "edm": (parameterizations.EDM(), noise_levels.LogNormal(-1.2, 1.2)),
    "v": (parameterizations.V(), noise_levels.CosineTime(-9.0, 13.0)),
    "ve": (parameterizations.VE(), noise_levels.LogUniform(0.002, 80.0)),
    "vp": (
        parameterizations.VP(0.1, 19.9, num_timesteps=999.0),
        noise_levels.VPTime(0.1, 19.9, eps_t=1e-5),
    ),
}

# Official constructor arguments that no published configuration changes.
FIXED_ARGUMENTS = {
    "dropout": 0.0,
    "resamp_with_conv": True,
    "fir": False,
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "none",
    "embedding_type": "positional",
    "init_scale": 0.0,
    "combine_method": "sum",
    "nonlinearity": "swish",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: a file, and the part of it to look at."""

    check: Callable[[Path, str], None]
    path: Path
    part: str = ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(metafunc.config.getoption("golden_dir"))
    cases = find_cases(folder)
    ids = [f"{c.path.name}-{c.part}" if c.part else c.path.name for c in cases]
    metafunc.parametrize("case", cases, ids=ids)


def find_cases(folder: Path) -> list[Case]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    cases = [
        case
        for path in files
        if path.suffix in (".npz", ".pth")
        for case in cases_of_file(path)
    ]
    return cases or [Case(check_fails, folder, "no .npz or .pth file in this folder")]


def cases_of_file(path: Path) -> list[Case]:
    if path.suffix == ".pth":
        return [Case(check_checkpoint, path)]
    with np.load(path) as arrays:
        names = set(arrays.files)
    if "denoised_ema" in names:
        checkpoint = checkpoint_of(path)
        if checkpoint.is_file():
            return []  # comes with its checkpoint
        return [Case(check_fails, path, f"{checkpoint.name} is missing")]
    if {"time_cond", "out"} <= names:
        return [Case(check_network, path)]
    for pattern, check in (
        (r"out_(\w+)", check_denoiser),
        (r"(\w+):loss_per_example", check_losses_and_gradients),
        (r"(\w+):kwargs", check_sampler),
    ):
        matches = [re.fullmatch(pattern, name) for name in sorted(names)]
        parts = [match[1] for match in matches if match]
        if parts:
            return [Case(check, path, part) for part in parts]
    return [Case(check_fails, path, "unknown contents: " + ", ".join(sorted(names)))]


@pytest.mark.slow
def test_matches_the_official_code(case: Case) -> None:
    case.check(case.path, case.part)


def check_fails(path: Path, reason: str) -> None:
    pytest.fail(f"{path}: {reason}")


def check_network(path: Path, _: str) -> None:
    golden = Golden(path)
    actual = golden.apply(
        golden.params, golden.x, golden["time_cond"], golden.y(len(golden.x))
    )
    assert_images_match(actual, golden.images("out"), OUTPUT_TOLERANCE)


def check_denoiser(path: Path, name: str) -> None:
    golden = Golden(path)
    denoise = make_denoiser(golden.apply, PARAMETERIZATIONS[name][0])
    actual = denoise(golden.params, golden.x, golden["sigma"], golden.y(len(golden.x)))
    assert_images_match(actual, golden.images(f"out_{name}"), OUTPUT_TOLERANCE)


def check_losses_and_gradients(path: Path, name: str) -> None:
    golden = Golden(path)
    batch_size = len(golden.x)
    grad_fn = build_clipped_grad(
        golden.network, golden.null_label, golden.config["clip"]
    )
    total, aux = grad_fn(
        golden.params,
        golden.x,
        golden.y(batch_size),
        golden.draws(name, PARAMETERIZATIONS[name][1]),
        list(PARAMETERIZATIONS).index(name),
    )
    np.testing.assert_allclose(
        aux.values, golden[f"{name}:loss_per_example"], rtol=RELATIVE_TOLERANCE
    )
    np.testing.assert_allclose(
        aux.grad_norms, golden[f"{name}:grad_norm_per_example"], rtol=RELATIVE_TOLERANCE
    )
    expected = golden.tensors(f"{name}:clipped_mean_grad:")
    if expected:
        mean = jax.tree.map(lambda leaf: leaf / batch_size, total)
        assert_gradients_match(mean, golden.convert(expected))


@functools.cache
def build_clipped_grad(
    network: Network, null_label: int | None, clip_norm: float
) -> Callable[..., Any]:
    """Clipped sum of the denoising loss, compiled once for all parameterizations."""

    def loss(
        params: Params,
        image: jax.Array,
        label: jax.Array,
        draws: losses.Draws,
        index: jax.Array,
    ) -> jax.Array:
        chosen = ChosenParameterization(index)
        return losses.denoising_loss(
            make_denoiser(network.apply, chosen),
            chosen.loss_weight,
            params,
            image,
            label,
            draws,
            null_label,
        )

    return jax.jit(
        clipped_grad(
            loss,
            l2_clip_norm=clip_norm,
            batch_argnums=(1, 2, 3),
            return_values=True,
            return_grad_norms=True,
        )
    )


class ChosenPrior(priors.Flat):
    """The prior of one of PARAMETERIZATIONS, by an index that may be traced."""

    def __init__(self, index: jax.Array):
        object.__setattr__(self, "index", index)

    def c_skip(self, sigma: jax.Array) -> jax.Array:
        return switch(self.index, lambda p: p.prior.c_skip)(sigma)

    def c_out(self, sigma: jax.Array) -> jax.Array:
        return switch(self.index, lambda p: p.prior.c_out)(sigma)


class ChosenParameterization:
    """One of PARAMETERIZATIONS, by an index that may be traced."""

    def __init__(self, index: jax.Array):
        self.prior = ChosenPrior(index)
        self.c_in = switch(index, lambda p: p.c_in)
        self.c_noise = switch(index, lambda p: p.c_noise)
        self.loss_weight = switch(index, lambda p: p.loss_weight)


def switch(index: jax.Array, method_of: Callable) -> Callable[[jax.Array], jax.Array]:
    branches = [method_of(p) for p, _ in PARAMETERIZATIONS.values()]
    return lambda sigma: jax.lax.switch(index, branches, sigma)


def check_sampler(path: Path, run: str) -> None:
    golden = Golden(path)
    kwargs = json.loads(golden[f"{run}:kwargs"].item())
    grid = discretizations.edm_grid(
        kwargs.pop("num_steps"),
        kwargs.pop("tmin"),
        kwargs.pop("tmax"),
        kwargs.pop("rho"),
    )
    denoise = guidance.guide(
        make_denoiser(golden.network.apply, parameterizations.EDM()),
        kwargs.pop("guid_scale", None) or 0.0,
        golden.null_label,
    )
    if run.startswith("ddim") or "stochastic" in kwargs:
        sampler: samplers.Sampler = samplers.DDIM(grid, **kwargs)
    else:
        sampler = samplers.Heun(grid, **kwargs)

    noisy = sampler.noisy_steps()
    noise = np.zeros((len(grid), *golden.x.shape), np.float32)
    if noisy:
        recorded = golden[f"{run}:noise"]
        assert len(recorded) == len(noisy), "steps that use noise"
        noise[list(noisy)] = np.moveaxis(recorded, 2, -1)
    label = golden.y(len(golden.x))

    @jax.jit
    def generate(params: Params, start: jax.Array, noise: jax.Array) -> jax.Array:
        return samplers.sample(
            sampler,
            lambda x, sigma: denoise(params, x, sigma, label),
            start,
            lambda step: noise[step],
        )

    actual = generate(golden.params, golden.x, noise)
    assert_images_match(actual, golden.images(f"{run}:out"), SAMPLE_TOLERANCE)


def check_checkpoint(path: Path, _: str) -> None:
    pytest.importorskip("torch")
    checkpoint = torch_checkpoints.read_official_checkpoint(path)
    expected = path.with_name(f"{path.stem}_expected.npz")
    if not expected.is_file():
        pytest.fail(f"{path}: {expected.name} is missing")
    golden = Golden(expected)
    golden.convert(checkpoint.model)
    denoise = make_denoiser(golden.apply, parameterizations.EDM())
    actual = denoise(
        golden.convert(checkpoint.ema),
        golden.x,
        golden["sigma"],
        golden.y(len(golden.x)),
    )
    assert_images_match(actual, golden.images("denoised_ema"), OUTPUT_TOLERANCE)


def checkpoint_of(expected: Path) -> Path:
    return expected.with_name(expected.stem.removesuffix("_expected") + ".pth")


class Golden:
    """One .npz file, read as NHWC images, our parameters and recorded draws."""

    def __init__(self, path: Path):
        with np.load(path) as arrays:
            self._arrays = dict(arrays)
        self.config = json.loads(self["config"].item())
        arguments = self.config.get("network", self.config)
        self.num_classes = arguments.get("label_dim", 10) or 0
        self._has_null_row = arguments.get("use_cfg", True)
        self.null_label = (
            self.num_classes if self.num_classes and self._has_null_row else None
        )
        self.network, self.apply = build(json.dumps(arguments))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    @property
    def x(self) -> np.ndarray:
        return self.images("x")

    def images(self, name: str) -> np.ndarray:
        return np.moveaxis(self[name], -3, -1)

    def y(self, num: int) -> np.ndarray:
        return self._arrays.get("y", np.zeros(num)).astype(np.int32)

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(prefix): array
            for name, array in self._arrays.items()
            if name.startswith(prefix)
        }

    @property
    def params(self) -> Params:
        return self.convert(self.tensors("param:"))

    def convert(self, tensors: Mapping[str, np.ndarray]) -> Params:
        if self.num_classes and not self._has_null_row:
            # Without guidance the official table has no row for the null label.
            table = tensors["all_modules.0.weight"]
            padded = np.concatenate([table, np.zeros_like(table[:1])])
            tensors = {**tensors, "all_modules.0.weight": padded}
        return convert(tensors, self.network)

    def draws(self, name: str, levels: noise_levels.NoiseLevels) -> losses.Draws:
        recorded = self.tensors(f"{name}:draw")  # "<i>:<kind>"
        by_kind = {key.split(":")[1]: array for key, array in recorded.items()}
        batch_size = len(self.x)
        drop_label = by_kind.pop("bernoulli", np.zeros(batch_size))
        noise = by_kind.pop("randn_like")
        base = by_kind.pop({"normal": "randn", "uniform": "rand"}[levels.base])
        assert not by_kind, "unknown draws"
        assert base.shape[1] == self.config["K"]
        return losses.Draws(
            drop_label=jnp.asarray(drop_label.reshape(batch_size), bool),
            sigma=levels.sigma(jnp.asarray(base)),
            noise=jnp.moveaxis(noise, -3, -1),
        )


@functools.cache
def build(arguments_json: str) -> tuple[Network, Callable[..., jax.Array]]:
    """The network of the official constructor's arguments, and its compiled apply."""
    arguments: dict[str, Any] = json.loads(arguments_json)
    size = arguments.pop("image_size")
    in_channels = arguments.pop("num_in_channels", 1)
    num_classes = arguments.pop("label_dim", 10) or 0
    arguments.pop("use_cfg", None)  # see Golden.convert
    architecture = ncsnpp.Architecture(
        base_width=arguments.pop("nf", 32),
        channel_multipliers=tuple(arguments.pop("ch_mult", (1, 2, 2))),
        num_res_blocks=arguments.pop("num_res_blocks", 2),
        attention_resolutions=tuple(arguments.pop("attn_resolutions")),
        out_channels=arguments.pop("num_out_channels", 1),
    )
    for name, value in arguments.items():
        assert FIXED_ARGUMENTS[name] == value, f"the port does not have {name}={value}"
    network = ncsnpp.from_architecture(
        architecture, (size, size, in_channels), num_classes
    )
    return network, jax.jit(network.apply)


def assert_images_match(
    actual: jax.Array, expected: np.ndarray, tolerance: float
) -> None:
    """Absolutely on images of order one; a larger image scales its tolerance."""
    assert actual.shape == expected.shape
    size = np.maximum(1.0, np.abs(expected).max(axis=(1, 2, 3)))
    error = np.abs(np.asarray(actual) - expected).max(axis=(1, 2, 3))
    np.testing.assert_array_less(error, tolerance * size)


def assert_gradients_match(actual: Params, expected: Params) -> None:
    """Tensor by tensor, relative to the tensor's norm.

    Some gradients are zero but for rounding (a bias of the keys shifts all logits of a
    softmax alike), hence the floor relative to the whole gradient.
    """
    whole = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(expected)))
    for name, target in name_maps.official_names(expected).items():
        a, e = actual, expected
        for key in target.path:
            a, e = a[key], e[key]
        error = np.linalg.norm(a - e)
        allowed = RELATIVE_TOLERANCE * np.linalg.norm(e) + 1e-6 * whole
        assert error <= allowed, f"{name}: {error} > {allowed}"
