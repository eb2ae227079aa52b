"""The project against figures of the official PyTorch code: tests/golden/README.md.

``--golden-dir=DIR`` takes any folder of files in those formats. A file's format is told
by what it holds, so that names, widths, shapes and seeds are free. Files and parts of
files that the project does not read yet are skipped with a word on what is missing.
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
    schedules,
)
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.interop import name_maps, torch_checkpoints
from dpdm_jax.interop.convert import convert
from dpdm_jax.networks import Network, Params, adm, embeddings, ncsnpp

OUTPUT_TOLERANCE = 2e-5
# U-Nets whose blocks scale, shift and resample are worse conditioned.
RESAMPLING_TOLERANCE = 1e-4
TABLE_TOLERANCE = 1e-10
FLOAT32_TABLE_TOLERANCE = 1e-6
NOISED_IMAGE_TOLERANCE = 1e-5
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

# The same of guided-diffusion's U-Net, and of the one of latent diffusion.
FIXED_ADM_ARGUMENTS = {
    "conv_resample": True,
    "dims": 2,
    "use_fp16": False,
    "num_heads_upsample": -1,
    "use_spatial_transformer": False,
    "transformer_depth": 1,
    "context_dim": None,
    "n_embed": None,
    "legacy": True,
}

# Formats that the project does not read yet, by a name that only they have.
UNREAD = {
    "context": "a U-Net with cross-attention",
    "moments": "a KL autoencoder",
    "prequant": "a VQ autoencoder",
    "tokens": "a text transformer",
    "views": "losses of several views of an image",
    "z_scaled": "fine-tuning of latent diffusion",
}
# In a file of schedules: what stands for several parts, and what belongs to no part.
SCHEDULE = r"(adm_linear|adm_cosine|ldm_[\d.]+_[\d.]+)"
UNREAD_WITH_SCHEDULES = {
    r"(adm_fixedlarge|adm_fixedsmall|adm_learned_range):.*": "posterior means",
    r"(adm_\w+:loss)_per_example": "DDPM losses",
    r"(adm_sample|ldm_sample):.*": "samples by DDPM's steps",
}
SCHEDULE_INPUTS = (
    r"x_start|noise|t|y|x_T|z_T|(uncond_)?context|(adm|ldm)_(config|param:.*)"
)


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
        config = json.loads(arrays["config"].item()) if "config" in names else {}
    if "denoised_ema" in names:
        checkpoint = checkpoint_of(path)
        if checkpoint.is_file():
            return []  # comes with its checkpoint
        return [Case(check_fails, path, f"{checkpoint.name} is missing")]
    if {"time_cond", "out"} <= names:
        return [Case(check_network, path)]
    if any(name.endswith(":betas") for name in names):
        return cases_of_schedules(path, names)
    for name, what in UNREAD.items():
        if name in names:
            return [Case(not_read(what), path)]
    if config.get("use_spatial_transformer"):
        return [Case(not_read("a U-Net with transformers"), path)]
    if {"timesteps", "out"} <= names:
        return [Case(check_adm_network, path)]
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


def cases_of_schedules(path: Path, names: set[str]) -> list[Case]:
    """One case a part; every name belongs to one, or is read by one."""
    checks = {
        SCHEDULE + r":(?!loss_per_example).*": check_schedule,
        r"adm_(respacing|respaced_betas):.*": check_respacing,
        r"(ldm_ddim):.*": check_ddim_steps,
        r"(timestep_embedding):.*": check_timestep_embedding,
    } | {pattern: not_read(what) for pattern, what in UNREAD_WITH_SCHEDULES.items()}
    cases = {}
    for name in sorted(names):
        for pattern, check in checks.items():
            if match := re.fullmatch(pattern, name):
                cases[match[1]] = Case(check, path, match[1])
                break
        else:
            if not re.fullmatch(SCHEDULE_INPUTS, name):
                cases[name] = Case(check_fails, path, f"unknown contents: {name}")
    return list(cases.values())


@pytest.mark.slow
def test_matches_the_official_code(case: Case) -> None:
    case.check(case.path, case.part)


def check_fails(path: Path, reason: str) -> None:
    pytest.fail(f"{path}: {reason}")


def not_read(what: str) -> Callable[[Path, str], None]:
    def skip(path: Path, part: str) -> None:
        pytest.skip(f"{path.name} {part}: the project does not read {what} yet")

    return skip


def check_network(path: Path, _: str) -> None:
    golden = Golden(path)
    actual = golden.apply(
        golden.params, golden.x, golden["time_cond"], golden.y(len(golden.x))
    )
    assert_images_match(actual, golden.images("out"), OUTPUT_TOLERANCE)


def check_adm_network(path: Path, _: str) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arguments = json.loads(arrays["config"].item())
    network = build_adm(dict(arguments))
    tensors = {
        name.removeprefix("param:"): array
        for name, array in arrays.items()
        if name.startswith("param:")
    }
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(network.apply)(
            convert(tensors, network),
            np.moveaxis(arrays["x"], 1, -1),
            arrays["timesteps"].astype(np.float32),
            arrays.get("y", np.zeros(len(arrays["x"]))).astype(np.int32),
        )
    resamples = arguments.get("use_scale_shift_norm") or arguments.get(
        "resblock_updown"
    )
    np.testing.assert_allclose(
        actual,
        np.moveaxis(arrays["out"], 1, -1),
        rtol=0,
        atol=RESAMPLING_TOLERANCE if resamples else OUTPUT_TOLERANCE,
    )


def build_adm(arguments: dict[str, Any]) -> Network:
    """The network of the official constructor's arguments."""
    size = arguments.pop("image_size")
    in_channels = arguments.pop("in_channels")
    out_channels = arguments.pop("out_channels")
    num_classes = arguments.pop("num_classes", None) or 0
    arguments.pop("dropout", None)  # none in figures
    multipliers = tuple(arguments.pop("channel_mult", (1, 2, 4, 8)))
    # A factor that no level has is nothing to the official constructor.
    factors = set(arguments.pop("attention_resolutions"))
    settings = adm.Settings(
        base_channels=arguments.pop("model_channels"),
        channel_multipliers=multipliers,
        num_res_blocks=arguments.pop("num_res_blocks"),
        attention_factors=tuple(
            2**i for i in range(len(multipliers)) if 2**i in factors
        ),
        head_channels=max(arguments.pop("num_head_channels", -1), 0),
        num_heads=max(arguments.pop("num_heads", 1), 1),  # -1 with num_head_channels
        new_attention_order=arguments.pop("use_new_attention_order", False),
        scale_shift=arguments.pop("use_scale_shift_norm", False),
        resample_in_blocks=arguments.pop("resblock_updown", False),
        remat=arguments.pop("use_checkpoint", False),
    )
    for name, value in arguments.items():
        assert FIXED_ADM_ARGUMENTS[name] == value, (
            f"the port does not have {name}={value}"
        )
    return adm.from_settings(
        settings, (size, size, in_channels), num_classes, out_channels=out_channels
    )


def schedule_of(name: str) -> schedules.Schedule:
    """The schedule that a file calls ``adm_linear`` or ``ldm_<first>_<last>``."""
    if name.startswith("ldm_"):
        first, last = map(float, name.split("_")[1:])
        return schedules.sqrt_linear(1000, first, last)
    return {"adm_linear": schedules.linear, "adm_cosine": schedules.cosine}[name]()


def check_schedule(path: Path, name: str) -> None:
    schedule = schedule_of(name)
    with np.load(path) as arrays:
        for table in arrays.files:
            kind = table.removeprefix(f"{name}:")
            if kind in (table, "loss_per_example"):
                continue  # of another case
            if kind == "q_sample":
                x, noise = arrays["x_start"], arrays["noise"]
                abar, sigma = (
                    a[arrays["t"]].reshape(-1, 1, 1, 1)
                    for a in (schedule.alphas_cumprod, schedule.sigmas)
                )
                actual = np.sqrt(abar) * (x + sigma * noise)
                tolerance: dict[str, float] = {"atol": NOISED_IMAGE_TOLERANCE}
            else:
                actual = getattr(schedule, kind)
                tolerance = {"rtol": TABLE_TOLERANCE}
            np.testing.assert_allclose(
                actual,
                arrays[table],
                **{"rtol": 0, "atol": 0} | tolerance,
                err_msg=kind,
            )


def check_respacing(path: Path, part: str) -> None:
    with np.load(path) as arrays:
        for name in arrays.files:
            if not name.startswith(f"adm_{part}:"):
                continue
            *schedule, spec = name.split(":")[1:]
            if schedule:
                respaced = schedule_of(f"adm_{schedule[0]}").respaced(spec)
                np.testing.assert_allclose(
                    respaced.betas, arrays[name], rtol=TABLE_TOLERANCE, err_msg=name
                )
            else:
                kept = schedules.respacing(spec, 1000)
                np.testing.assert_array_equal(kept, arrays[name], name)


def check_ddim_steps(path: Path, _: str) -> None:
    schedule = schedules.sqrt_linear(1000, 0.0015, 0.0155)
    with np.load(path) as arrays:
        counts = {n.split(":")[1] for n in arrays.files if n.startswith("ldm_ddim:")}
        for count in counts:
            actual = schedules.ddim_steps(schedule, int(count))
            expected = {
                kind: arrays[f"ldm_ddim:{count}:{kind}"]
                for kind in ("timesteps", "alphas", "alphas_prev", "sigmas_eta1")
            }
            np.testing.assert_array_equal(actual.steps, expected["timesteps"])
            for values, kind in (
                (actual.alphas, "alphas"),
                (actual.alphas_prev, "alphas_prev"),
            ):
                np.testing.assert_allclose(
                    values, expected[kind], rtol=FLOAT32_TABLE_TOLERANCE
                )
            # Differences of alphas that the official code has rounded to float32.
            np.testing.assert_allclose(
                actual.sigmas(1.0),
                expected["sigmas_eta1"],
                rtol=0,
                atol=FLOAT32_TABLE_TOLERANCE,
            )


def check_timestep_embedding(path: Path, part: str) -> None:
    with np.load(path) as arrays:
        steps = arrays[f"{part}:t"]
        # Half of a last digit of a frequency, seen through the largest step.
        tolerance = 2.0**-24 * np.abs(steps).max() + 1e-6
        widths = {n.split(":")[1] for n in arrays.files if n.startswith(f"{part}:")}
        for width in widths - {"t"}:
            np.testing.assert_allclose(
                embeddings.timestep(jnp.asarray(steps), int(width)),
                arrays[f"{part}:{width}"],
                rtol=0,
                atol=tolerance,
                err_msg=width,
            )


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
