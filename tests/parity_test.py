"""The project against figures of the official PyTorch code: tests/golden/README.md.

``--golden-dir=DIR`` takes any folder of files in those formats. A file's format is told
by what it holds, so that names, widths, shapes and seeds are free.
"""

import atexit
import dataclasses
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from float_sums import clipped_grad
from official_files import diffusers_of_compvis, write_diffusers

from dpdm_jax.conditions import Condition, of_classes
from dpdm_jax.configs import base
from dpdm_jax.diffusion import (
    discretizations,
    from_config,
    guidance,
    learned_range,
    losses,
    noise_levels,
    parameterizations,
    priors,
    samplers,
    schedules,
)
from dpdm_jax.diffusion.denoiser import Denoiser, make_denoiser
from dpdm_jax.diffusion.samplers.base import denoise_at
from dpdm_jax.interop import latent_diffusion, name_maps, torch_checkpoints
from dpdm_jax.interop.convert import convert, placed
from dpdm_jax.models import partition
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.trainable import select
from dpdm_jax.networks import (
    Network,
    Params,
    build_network,
    embeddings,
    latent_unet,
    ncsnpp,
    text_transformer,
)
from dpdm_jax.networks.codecs import build_codec, kl, vq
from dpdm_jax.networks.network import from_module, functional
from dpdm_jax.networks.parts import is_in
from dpdm_jax.settings import Group

OUTPUT_TOLERANCE = 2e-5
# U-Nets whose blocks scale, shift and resample are worse conditioned.
RESAMPLING_TOLERANCE = 1e-4
TABLE_TOLERANCE = 1e-10
FLOAT32_TABLE_TOLERANCE = 1e-6
# Of autoencoders.
LATENT_TOLERANCE = 3e-5
DECODED_TOLERANCE = 1e-4
# Noised images, means and log variances of reverse steps; clean images on the way.
NOISED_IMAGE_TOLERANCE = 1e-5
CLEAN_IMAGE_TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-4
SAMPLE_TOLERANCE = 1e-4
# The cosine schedule divides by a very small root of abar.
STEPWISE_SAMPLE_TOLERANCE = {"linear": 2e-4, "cosine": 1e-3}

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

# The same of guided-diffusion's U-Net, of the one of latent diffusion, and of its
# autoencoders.
FIXED_UNET_ARGUMENTS = {
    "conv_resample": True,
    "dims": 2,
    "use_fp16": False,
    "n_embed": None,
}
FIXED_AUTOENCODER_ARGUMENTS = {
    "resamp_with_conv": True,
    "use_linear_attn": False,
    "attn_type": "vanilla",
    "give_pre_end": False,
    "tanh_out": False,
}
# In a file of schedules: what begins several parts, and what belongs to no part.
SCHEDULE = r"(adm_linear|adm_cosine|ldm_[\d.]+_[\d.]+)"
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
    if "denoised_ema" in names:
        checkpoint = checkpoint_of(path)
        if checkpoint.is_file():
            return []  # comes with its checkpoint
        return [Case(check_fails, path, f"{checkpoint.name} is missing")]
    if {"time_cond", "out"} <= names:
        return [Case(check_network, path)]
    if any(name.endswith(":betas") for name in names):
        return cases_of_schedules(path, names)
    if "views" in names:
        return [Case(check_views, path)]
    for name, check in (
        ("z_scaled", check_latent_fine_tuning),
        ("moments", check_kl_autoencoder),
        ("prequant", check_vq_autoencoder),
        ("tokens", check_text_transformer),
    ):
        if name in names:
            return [Case(check, path)]
    if {"timesteps", "out"} <= names:
        return [Case(check_unet, path)]
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
        r"(adm_\w+):loss_per_example": check_step_losses,
        r"(adm_fixed\w+):.*": check_fixed_variance,
        r"(adm_learned_range):.*": check_learned_range,
        r"(adm_sample:\w+:\w+):.*": check_step_sampler,
        r"(ldm_sample:\w+):.*": check_latent_sampler,
    }
    cases = {}
    for name in sorted(names):
        for pattern, check in checks.items():
            if match := re.fullmatch(pattern, name):
                cases[match[1], check] = Case(check, path, match[1])
                break
        else:
            if not re.fullmatch(SCHEDULE_INPUTS, name):
                reason = f"unknown contents: {name}"
                cases[name, check_fails] = Case(check_fails, path, reason)
    return list(cases.values())


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


def check_unet(path: Path, _: str) -> None:
    golden = LatentGolden(path)
    arguments = json.loads(golden["config"].item())
    network = build_unet(arguments, golden.condition)
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(network.apply)(
            golden.unet_params(network),
            golden.images("x"),
            golden["timesteps"].astype(np.float32),
            golden.values(len(golden["x"])),
        )
    resamples = any(
        arguments.get(name) for name in ("use_scale_shift_norm", "resblock_updown")
    )
    # A gate by another GELU is seen below the wider one alone.
    has_gates = arguments.get("use_spatial_transformer", False)
    np.testing.assert_allclose(
        actual,
        golden.images("out"),
        rtol=0,
        atol=(
            RESAMPLING_TOLERANCE if resamples and not has_gates else OUTPUT_TOLERANCE
        ),
    )


def written(tensors: Mapping[str, np.ndarray]) -> Path:
    """Writes tensors into a file, for those who read files."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(dict(tensors), path)
    return path


def tensors_of(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors whose names begin so, by the rest of them."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


@dataclasses.dataclass(frozen=True)
class GivenContext:
    """A condition whose values are a network's context as it is."""

    spec: jax.ShapeDtypeStruct
    num_classes = None


class AsGiven(nnx.Module):
    """The embedding of such a condition."""

    def __call__(self, context: jax.Array) -> jax.Array:
        return context


def assert_fixed(arguments: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    others = {k: v for k, v in arguments.items() if k not in fixed or fixed[k] != v}
    assert not others, f"the port does not have {others}"


def build_unet(
    arguments: Mapping[str, Any], condition: Condition | GivenContext
) -> Network:
    """The network of the official constructor's arguments, by a config."""
    arguments = dict(arguments)
    size = arguments.pop("image_size")
    in_channels = arguments.pop("in_channels")
    out_channels = arguments.pop("out_channels")
    arguments.pop("num_classes", None)  # the condition's
    arguments.pop("dropout", None)  # none in figures
    multipliers = tuple(arguments.pop("channel_mult", (1, 2, 4, 8)))
    # A factor that no level has is nothing to the official constructor.
    factors = set(arguments.pop("attention_resolutions"))
    has_transformers = arguments.pop("use_spatial_transformer", False)
    config = base.get_config().network
    config.name = "latent_unet" if has_transformers else "adm"
    group = config[config.name]
    group.update(
        base_channels=arguments.pop("model_channels"),
        channel_multipliers=multipliers,
        num_res_blocks=arguments.pop("num_res_blocks"),
        attention_factors=tuple(
            2**i for i in range(len(multipliers)) if 2**i in factors
        ),
        head_channels=max(arguments.pop("num_head_channels", -1), 0),
        num_heads=max(heads := arguments.pop("num_heads", 1), 1),  # or -1
        scale_shift=arguments.pop("use_scale_shift_norm", False),
        resample_in_blocks=arguments.pop("resblock_updown", False),
        remat=arguments.pop("use_checkpoint", False),
    )
    assert arguments.pop("num_heads_upsample", -1) in (-1, heads)
    arguments.pop("legacy", None)  # how wide heads are whose widths are not stated
    new_order = arguments.pop("use_new_attention_order", False)
    depth = arguments.pop("transformer_depth", 1)
    context_width = arguments.pop("context_dim", None)
    if has_transformers:
        group.depth = depth
        group.context_width = context_width or group.context_width
        assert (context_width is None) == (condition == of_classes(0))
    else:
        assert (depth, context_width) == (1, None)
        group.new_attention_order = new_order
    assert_fixed(arguments, FIXED_UNET_ARGUMENTS)
    outputs, rest = divmod(out_channels, in_channels)
    assert rest == 0, f"the port does not have {out_channels} output channels"
    shape = (size, size, in_channels)
    if not isinstance(condition, GivenContext):
        return build_network(config, shape, condition, outputs=outputs)
    settings = Group("network.latent_unet", latent_unet.Settings).read(config)
    return from_module(
        lambda rngs: latent_unet.LatentUNet(
            settings,
            in_channels,
            out_channels,
            AsGiven(),
            dtype=jnp.float32,
            rngs=rngs,
        ),
        shape,
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


class StepGolden:
    """A file of schedules, with images as NHWC and what its ADM network makes."""

    def __init__(self, path: Path):
        with np.load(path) as arrays:
            self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def images(self, name: str) -> np.ndarray:
        return np.moveaxis(self[name], -3, -1)

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        return tensors_of(self._arrays, prefix)

    def labels(self, num: int) -> np.ndarray:
        return self._arrays.get("y", np.zeros(num)).astype(np.int32)

    def denoiser(self, schedule: str) -> tuple[Denoiser, Params]:
        arguments = json.loads(self["adm_config"].item())
        network = build_unet(arguments, of_classes(arguments.get("num_classes") or 0))
        params = convert(tensors_of(self._arrays, "adm_param:"), network)
        return make_denoiser(network.apply, ddpm(schedule)), params


def ddpm(schedule: str) -> parameterizations.DDPM:
    return parameterizations.DDPM(schedules.Settings(schedule))


def noise_levels_of(schedule: str, steps: np.ndarray) -> np.ndarray:
    return ddpm(schedule).settings.tables.sigmas[steps].astype(np.float32)


def check_step_losses(path: Path, part: str) -> None:
    golden = StepGolden(path)
    schedule = part.removeprefix("adm_")
    denoise, params = golden.denoiser(schedule)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
    def loss(
        params: Params,
        image: jax.Array,
        label: jax.Array,
        sigma: jax.Array,
        noise: jax.Array,
    ) -> jax.Array:
        draws = losses.Draws(jnp.asarray(False), sigma[None], noise[None])
        weight = ddpm(schedule).loss_weight
        return losses.denoising_loss(denoise, weight, params, image, label, draws, None)

    with jax.default_matmul_precision("highest"):
        actual = loss(
            params,
            golden.images("x_start"),
            golden.labels(len(golden["t"])),
            noise_levels_of(schedule, golden["t"]),
            golden.images("noise"),
        )
    expected = golden[f"{part}:loss_per_example"]
    np.testing.assert_allclose(actual, expected, rtol=RELATIVE_TOLERANCE)


def check_fixed_variance(path: Path, part: str) -> None:
    """The sampler's step from a given prediction, image by image."""
    golden = StepGolden(path)
    variance = {"adm_fixedlarge": "fixed_large", "adm_fixedsmall": "fixed_small"}[part]
    schedule = schedules.linear()
    sampler = samplers.Ancestral(
        discretizations.step_grid(schedule), variance, clip_denoised=True
    )
    x_t = golden.images("adm_learned_range:x_t")
    predicted = golden.images("adm_learned_range:model_output")[..., : x_t.shape[-1]]
    mean, log_variance, clean = (
        golden.images(f"{part}:{kind}")
        for kind in ("mean", "log_variance", "pred_xstart")
    )
    for i, t in enumerate(golden["adm_learned_range:t"]):
        one = slice(i, i + 1)
        denoise = make_denoiser(lambda *_, one=one: predicted[one], ddpm("linear"))
        bound = denoise.bind({}, np.zeros(1, int))
        x = x_t[one] / np.float32(np.sqrt(schedule.alphas_cumprod[t]))
        np.testing.assert_allclose(
            denoise_at(bound, x, schedule.sigmas[t], clip=True),
            clean[one],
            rtol=0,
            atol=CLEAN_IMAGE_TOLERANCE,
        )
        if t == 0:
            # The official step has a variance here, too, and then adds no noise.
            after = sampler.finish(bound, x, None)
        else:
            at = len(sampler.grid) - 1 - t
            row = jax.tree.map(lambda table, at=at: table[at], sampler.rows())
            root = np.sqrt(schedule.alphas_cumprod_prev[t])
            after = root * sampler.step(bound, x, row, np.zeros_like(x))
            np.testing.assert_allclose(
                2 * np.log(root * row.diffusion),
                log_variance[i].ravel()[0],
                rtol=0,
                atol=NOISED_IMAGE_TOLERANCE,
            )
            assert np.ptp(log_variance[i]) == 0
        np.testing.assert_allclose(
            after, mean[one], rtol=0, atol=NOISED_IMAGE_TOLERANCE
        )


def check_learned_range(path: Path, part: str) -> None:
    """Loss and reverse step of a config, from a given output, image by image."""
    golden = StepGolden(path)
    output, x_t = (golden.images(f"{part}:{name}") for name in ("model_output", "x_t"))
    steps = golden[f"{part}:t"]
    with np.load(path) as arrays:
        names = {n.split(":")[1] for n in arrays.files if n.startswith(f"{part}:")}
    for name in names - {"model_output", "x_t", "t"}:
        config = learned_range_config(name)
        schedule = schedule_of(f"adm_{name}")
        parameterization, prior = from_config.parameterization(
            config.diffusion, x_t.shape[1:]
        )
        sampler = from_config.sampler(from_config.with_preset(config))
        loss = from_config.bound(config.diffusion)
        assert loss is not None
        for i, t in enumerate(steps):
            one = slice(i, i + 1)

            def expected(kind: str, one: slice = one, name: str = name) -> np.ndarray:
                return golden.images(f"{part}:{name}:{kind}")[one]

            denoise = make_denoiser(
                lambda *_, one=one: output[one], parameterization, prior
            ).bind({}, np.zeros(1, int))
            x = x_t[one] / np.float32(np.sqrt(schedule.alphas_cumprod[t]))
            clean = denoise_at(denoise, x, schedule.sigmas[t], clip=True)
            assert_close(clean, expected("pred_xstart"), CLEAN_IMAGE_TOLERANCE)
            if t == 0:
                # The official step has a variance here, too, and then adds no noise.
                after = sampler.finish(denoise, x, None)
            else:
                at = len(sampler.grid) - 1 - t
                row = jax.tree.map(lambda table, at=at: table[at], sampler.rows())
                root = np.sqrt(schedule.alphas_cumprod_prev[t])
                after = root * sampler.step(denoise, x, row, np.zeros_like(x))
                more = denoise.predict(x, noise_levels_of(name, steps[one])).more
                found = learned_range.log_variance(more, row.smallest, row.largest)
                assert_close(
                    2 * np.log(root) + found,
                    expected("log_variance"),
                    NOISED_IMAGE_TOLERANCE,
                )
            assert_close(after, expected("mean"), NOISED_IMAGE_TOLERANCE)
        denoise = make_denoiser(lambda *_: output, parameterization, prior)
        sigma = noise_levels_of(name, steps)
        image, noise = golden.images("x_start"), golden.images("noise")
        noisy = image + sigma[:, None, None, None] * noise
        said = denoise.predict({}, noisy, sigma, np.zeros(len(steps), int))
        errors = np.mean((said.clean - image) ** 2, axis=(1, 2, 3))
        squared = parameterization.loss_weight(sigma) * errors
        bound = loss(said, image, sigma)
        for kind, actual in (
            ("mse", squared),
            ("vb", bound),
            ("loss", squared + bound),
        ):
            np.testing.assert_allclose(
                actual,
                golden[f"{part}:{name}:loss_{kind}"],
                rtol=RELATIVE_TOLERANCE,
                err_msg=f"{name} {kind}",
            )


def learned_range_config(schedule: str) -> ml_collections.ConfigDict:
    config = base.get_config()
    config.diffusion.parameterization = "ddpm"
    config.diffusion.ddpm.update(schedule=schedule, learned_range=True)
    config.sampler.update(name="ancestral", grid="ddpm")
    config.sampler.ancestral.variance = "learned"
    return config


def assert_close(
    actual: jax.Array, expected: np.ndarray, tolerance: float, name: str = ""
) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)


def check_step_sampler(path: Path, part: str) -> None:
    golden = StepGolden(path)
    schedule = part.split(":")[1]
    denoise, params = golden.denoiser(schedule)
    kwargs = json.loads(golden[f"{part}:kwargs"].item())
    grid = discretizations.step_grid(
        schedule_of(f"adm_{schedule}"), kwargs.pop("timestep_respacing")
    )
    small = kwargs.pop("sigma_small")
    clip = kwargs.pop("clip_denoised", True)
    if "eta" in kwargs:
        sampler = samplers.DDIMEta(grid, kwargs.pop("eta"), clip_denoised=clip)
    else:
        variance = "fixed_small" if small else "fixed_large"
        sampler = samplers.Ancestral(grid, variance, clip_denoised=clip)
    assert not kwargs, f"the port does not have {kwargs}"
    start = golden.images("x_T")
    noise = np.zeros((len(grid), *start.shape), np.float32)
    if sampler.noisy_steps():
        noise = golden.images(f"{part}:noise")
        assert len(noise) == len(grid)
    label = golden.labels(len(start))

    generate = generator(sampler, denoise, label)
    with jax.default_matmul_precision("highest"):
        actual = generate(params, start, noise)
    np.testing.assert_allclose(
        actual,
        golden.images(f"{part}:out"),
        rtol=0,
        atol=STEPWISE_SAMPLE_TOLERANCE[schedule],
    )


def check_views(path: Path, _: str) -> None:
    """Views of an example are averaged, then clipped together."""
    golden = StepGolden(path)
    config = json.loads(golden["config"].item())
    arguments = config["network"]
    network = build_unet(arguments, of_classes(arguments.get("num_classes") or 0))
    denoise = make_denoiser(network.apply, ddpm("linear"))
    weight = ddpm("linear").loss_weight
    with np.load(path) as arrays:
        params, expected = (
            convert(tensors_of(arrays, prefix), network)
            for prefix in ("param:", "clipped_mean_grad:")
        )
    views, noise = golden.images("views"), golden.images("noise")
    batch_size, multiplicity = views.shape[:2]
    assert multiplicity == config["K"]
    label = golden.labels(batch_size)
    sigma = noise_levels_of("linear", golden["t"])

    def loss(
        params: Params,
        views: jax.Array,
        label: jax.Array,
        sigma: jax.Array,
        noise: jax.Array,
    ) -> jax.Array:
        draws = losses.Draws(jnp.asarray(False), sigma, noise)
        return losses.denoising_loss(denoise, weight, params, views, label, draws, None)

    grad_fn = jax.jit(
        clipped_grad(
            loss,
            l2_clip_norm=config["clip"],
            batch_argnums=(1, 2, 3, 4),
            return_values=True,
            return_grad_norms=True,
        )
    )
    loss_of_each = jax.jit(jax.vmap(loss, (None, 0, 0, 0, 0)))
    with jax.default_matmul_precision("highest"):
        total, aux = grad_fn(params, views, label, sigma, noise)
        each = loss_of_each(
            params,
            views.reshape(-1, 1, *views.shape[2:]),
            np.repeat(label, multiplicity),
            sigma.reshape(-1, 1),
            noise.reshape(-1, 1, *noise.shape[2:]),
        )
    for actual, name in (
        (each.reshape(batch_size, multiplicity), "loss_per_view"),
        (aux.values, "loss_per_example"),
        (aux.grad_norms, "grad_norm_per_example"),
    ):
        np.testing.assert_allclose(
            actual, golden[name], rtol=RELATIVE_TOLERANCE, err_msg=name
        )
    leaves = jax.tree_util.tree_leaves_with_path(total)
    for (where, actual), leaf in zip(leaves, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(
            actual / batch_size,
            leaf,
            rtol=0,
            atol=RELATIVE_TOLERANCE * np.abs(leaf).max() + 1e-6,
            err_msg=jax.tree_util.keystr(where),
        )


class LatentGolden(StepGolden):
    """A file of one of latent diffusion's networks; its arrays by official names."""

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self["config"].item())

    @property
    def table(self) -> np.ndarray | None:
        """Of classes, one token each."""
        return self._arrays.get("param_cond:embedding.weight")

    @property
    def condition(self) -> Condition | GivenContext:
        if self.table is not None:
            return of_classes(len(self.table))
        if "context" in self._arrays:
            return GivenContext(jax.ShapeDtypeStruct(self["context"].shape[1:], float))
        return of_classes(self.config.get("num_classes") or 0)

    def values(self, num: int) -> np.ndarray:
        """What the network takes as the condition."""
        if isinstance(self.condition, GivenContext):
            return self["context"]
        return self.labels(num)

    def unet_params(self, network: Network) -> Params:
        """Parameters of a U-Net and of what embeds its condition."""
        condition = {
            f"{name_maps.CONDITION}.{name}": array
            for name, array in self.tensors("param_cond:").items()
        }
        of_unet = self.tensors("param:") | self.tensors("param_unet:")
        # As a whole model's file has them.
        tensors = {f"model.diffusion_model.{k}": v for k, v in of_unet.items()}
        found = torch_checkpoints.read_state_dict(written(tensors | condition))
        return convert(latent_diffusion.network_tensors(found), network)


def build_autoencoder(
    config: Mapping[str, Any], name: str, scale_factor: float = 1.0
) -> kl.KLCodec | vq.VQCodec:
    """The codec of the official constructor's arguments, by a config."""
    arguments = dict(config["ddconfig"])
    size = arguments.pop("resolution")
    channels = arguments.pop("in_channels")
    multipliers = tuple(arguments.pop("ch_mult", (1, 2, 4, 8)))
    sizes = arguments.pop("attn_resolutions")
    arguments.pop("dropout", None)  # none in figures
    assert arguments.pop("double_z", True) == (name == "kl")
    codec = base.get_config().codec
    codec.name = name
    codec[name].update(
        base_channels=arguments.pop("ch"),
        channel_multipliers=multipliers,
        num_res_blocks=arguments.pop("num_res_blocks"),
        attention_factors=tuple(
            2**i for i in range(len(multipliers)) if size // 2**i in sizes
        ),
        inner_channels=arguments.pop("z_channels"),
        latent_channels=config["embed_dim"],
        scale_factor=scale_factor,
    )
    if name == "vq":
        codec.vq.num_codes = config["n_embed"]
    assert arguments.pop("out_ch", channels) == channels
    assert_fixed(arguments, FIXED_AUTOENCODER_ARGUMENTS)
    return build_codec(codec, (size, size, channels))


def autoencoder_params(
    codec: kl.KLCodec | vq.VQCodec, tensors: Mapping[str, np.ndarray]
) -> Params:
    """Read from a file of a whole model; of ``kl`` also from a folder of diffusers."""
    whole = {f"first_stage_model.{name}": array for name, array in tensors.items()}
    params = latent_diffusion.read_autoencoder(written(whole), codec)
    if isinstance(codec, kl.KLCodec):
        with tempfile.TemporaryDirectory() as folder:
            write_diffusers(
                Path(folder) / "vae",
                diffusers_of_compvis(tensors),
                codec.settings.scale_factor,
            )
            found = latent_diffusion.read_autoencoder(Path(folder) / "vae", codec)
        jax.tree.map(np.testing.assert_array_equal, found, params)
    return params


def check_kl_autoencoder(path: Path, _: str) -> None:
    golden = LatentGolden(path)
    codec = build_autoencoder(golden.config, "kl")
    params = autoencoder_params(codec, golden.tensors("param:"))

    def encode(params: Params, x: jax.Array, noise: jax.Array) -> dict[str, jax.Array]:
        law = codec.posterior(params, x)
        return {
            "moments": codec.bind(params).encode(x),
            "posterior_mean": law.mean,
            "posterior_logvar": law.log_variance,
            "posterior_std": law.std,
            "z_sample": law.sample(noise),
        } | {"kl_per_example": law.divergence()}

    with jax.default_matmul_precision("highest"):
        noise = golden.images("noise")
        encoded = jax.jit(encode)(params, golden.images("x"), noise)
        decode = jax.jit(codec.decode)
        decoded = {
            name: decode(params, golden.images(latents))
            for name, latents in (
                ("dec_mean", "posterior_mean"),
                ("dec_sample", "z_sample"),
            )
        }
    divergence = encoded.pop("kl_per_example")
    np.testing.assert_allclose(
        divergence, golden["kl_per_example"], rtol=RELATIVE_TOLERANCE
    )
    for name, actual in encoded.items():
        assert_close(actual, golden.images(name), LATENT_TOLERANCE, name)
    for name, actual in decoded.items():
        assert_close(actual, golden.images(name), DECODED_TOLERANCE, name)

    clamped = kl.posterior(golden.images("clamp_moments"))
    for name, actual in (
        ("clamp_logvar", clamped.log_variance),
        ("clamp_std", clamped.std),
    ):
        np.testing.assert_allclose(
            actual, golden.images(name), rtol=RELATIVE_TOLERANCE, err_msg=name
        )
    np.testing.assert_allclose(
        clamped.divergence(), golden["clamp_kl"], rtol=RELATIVE_TOLERANCE
    )


def check_vq_autoencoder(path: Path, _: str) -> None:
    golden = LatentGolden(path)
    codec = build_autoencoder(golden.config, "vq")
    params = autoencoder_params(codec, golden.tensors("param:"))

    @jax.jit
    def run(params: Params, x: jax.Array, latents: jax.Array) -> dict[str, jax.Array]:
        module = codec.bind(params)
        quantized = module.quantized(latents)
        return {
            "indices": module.indices(latents),
            "prequant": module.encode(x),
            "quantized": quantized,
            "codebook_loss": vq.codebook_loss(latents, quantized),
            "dec": codec.decode(params, latents),
            "dec_unquantized": module.decode(latents),
        }

    with jax.default_matmul_precision("highest"):
        found = run(params, golden.images("x"), golden.images("prequant"))
    np.testing.assert_array_equal(found["indices"], golden["indices"])
    np.testing.assert_allclose(
        found["codebook_loss"], golden["codebook_loss"], rtol=RELATIVE_TOLERANCE
    )
    for name, tolerance in (
        ("prequant", LATENT_TOLERANCE),
        ("quantized", LATENT_TOLERANCE),
        ("dec", DECODED_TOLERANCE),
        ("dec_unquantized", DECODED_TOLERANCE),
    ):
        assert_close(found[name], golden.images(name), tolerance, name)


def check_text_transformer(path: Path, _: str) -> None:
    golden = LatentGolden(path)
    arguments = golden.config
    settings = text_transformer.Settings(
        depth=arguments.pop("n_layer"),
        num_heads=arguments.pop("heads", 8),
        head_channels=arguments.pop("dim_head", 64),
        positions=arguments.pop("max_seq_len", 77),
    )
    width, vocabulary = arguments.pop("n_embed"), arguments.pop("vocab_size", 30522)
    assert not arguments, f"the port does not have {arguments}"
    transformer = functional(
        lambda rngs: text_transformer.TextTransformer(
            settings, vocabulary, width, dtype=jnp.float32, rngs=rngs
        )
    )
    shapes = jax.eval_shape(transformer.init, jax.random.key(0))
    params = placed(
        golden.tensors("param:"), name_maps.condition_names(shapes), "the transformer"
    )
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(lambda p, tokens: transformer.bind(p)(tokens))(
            params, golden["tokens"].astype(np.int32)
        )
    assert_close(actual, golden["out"], OUTPUT_TOLERANCE)


def latent_ddpm(first: float, last: float) -> parameterizations.DDPM:
    return parameterizations.DDPM(schedules.Settings("ldm", 1000, first, last))


def check_latent_sampler(path: Path, part: str) -> None:
    golden = StepGolden(path)
    kwargs = json.loads(golden[f"{part}:kwargs"].item())
    ends = kwargs.pop("linear_start"), kwargs.pop("linear_end")
    schedule = schedules.sqrt_linear(1000, *ends)
    grid = discretizations.ldm_grid(schedule, kwargs.pop("S"))
    sampler = samplers.DDIMEta(grid, kwargs.pop("eta"), end=float(schedule.sigmas[0]))
    scale = kwargs.pop("unconditional_guidance_scale", 1.0)
    assert not kwargs, f"the port does not have {kwargs}"
    context = golden["context"]
    condition = GivenContext(jax.ShapeDtypeStruct(context.shape[1:], float))
    network = build_unet(json.loads(golden["ldm_config"].item()), condition)
    params = convert(golden.tensors("ldm_param:"), network)
    denoise = guidance.guide(
        make_denoiser(network.apply, latent_ddpm(*ends)),
        scale - 1.0,
        golden["uncond_context"],
    )
    start = golden.images("z_T")
    noise = np.zeros((len(grid), *start.shape), np.float32)
    if sampler.noisy_steps():
        noise = golden.images(f"{part}:noise")
        assert len(noise) == len(grid)
    generate = generator(sampler, denoise, context)
    with jax.default_matmul_precision("highest"):
        actual = generate(params, start, noise)
    assert_close(
        actual, golden.images(f"{part}:out"), STEPWISE_SAMPLE_TOLERANCE["linear"]
    )


def check_selected(network: Network, first: int, official: set[str]) -> None:
    """The official choice is what a selector chooses, and what has no gradient."""
    leaves, parts = named_leaves(network.shapes), network.parts
    blocks = parts.of_role("attention")
    items = ["attention" if first == -1 else f"attention:{first}-{len(blocks)}"]
    items += ["condition"] if parts.of_role("condition") else []
    trained = leaves.keys() - select(",".join(items), network).frozen
    assert trained <= official
    left_out = official - trained
    assert all(any(is_in(name, path) for path in parts.inert) for name in left_out)
    assert bool(left_out) == bool(parts.inert)


def check_latent_fine_tuning(path: Path, _: str) -> None:
    """Losses of latents, and clipped gradients of the part that is trained."""
    golden = LatentGolden(path)
    config = golden.config
    codec = build_autoencoder(config, "kl", config["scale_factor"])
    of_codec = autoencoder_params(codec, golden.tensors("param_ae:"))
    network = build_unet(config["unet"], golden.condition)
    params = golden.unet_params(network)
    parameterization = latent_ddpm(config["linear_start"], config["linear_end"])
    denoise = make_denoiser(network.apply, parameterization)
    names = {
        re.sub("^unet:", "", re.sub("^cond:", f"{name_maps.CONDITION}.", name)): name
        for name in json.loads(golden["trainable"].item())
    }
    targets = name_maps.official_names(params)
    paths = {"/".join(targets[name].path) for name in names}
    trained, fixed = partition.split(params, paths.__contains__)
    check_selected(network, config["ablation_blocks"], paths)

    images, noise = golden.images("x"), golden.images("posterior_noise")
    with jax.default_matmul_precision("highest"):
        law = jax.jit(codec.posterior)(of_codec, images)
        latents = config["scale_factor"] * law.sample(noise)
    assert_close(latents, golden.images("z_scaled"), LATENT_TOLERANCE)
    steps = golden["t"]
    sigma = parameterization.settings.tables.sigmas[steps].astype(np.float32)

    def loss(
        trained: Params,
        latent: jax.Array,
        label: jax.Array,
        sigma: jax.Array,
        noise: jax.Array,
    ) -> jax.Array:
        draws = losses.Draws(jnp.asarray(False), sigma[None], noise[None])
        weight = parameterization.loss_weight
        everything = partition.join(trained, fixed)
        return losses.denoising_loss(
            denoise, weight, everything, latent, label, draws, None
        )

    grad_fn = jax.jit(
        clipped_grad(
            loss,
            l2_clip_norm=config["clip"],
            batch_argnums=(1, 2, 3, 4),
            return_values=True,
            return_grad_norms=True,
        )
    )
    with jax.default_matmul_precision("highest"):
        total, aux = grad_fn(
            trained, latents, golden.values(len(steps)), sigma, golden.images("noise")
        )
    for actual, name in (
        (aux.values, "loss_per_example"),
        (aux.grad_norms, "grad_norm_per_example"),
    ):
        np.testing.assert_allclose(
            actual, golden[name], rtol=RELATIVE_TOLERANCE, err_msg=name
        )
    found = named_leaves(total)
    assert found.keys() == paths
    for official, name in names.items():
        target = targets[official]
        expected = np.transpose(golden[f"clipped_mean_grad:{name}"], target.axes)
        expected = expected.reshape(target.shape)
        actual = found["/".join(target.path)] / len(steps)
        tolerance = RELATIVE_TOLERANCE * np.abs(expected).max() + 1e-6
        assert_close(actual, expected, tolerance, name)


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


def generator(
    sampler: samplers.Sampler, denoise: Callable[..., jax.Array], label: jax.Array
) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
    """A compiled sampler whose noise [steps, n, h, w, c] is given."""

    @jax.jit
    def generate(params: Params, start: jax.Array, noise: jax.Array) -> jax.Array:
        return samplers.sample(
            sampler,
            lambda x, sigma: denoise(params, x, sigma, label),
            start,
            lambda step: noise[step],
        )

    return generate


def still_compiled(apply: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A jitted network that is one program also where all else runs step by step."""

    def call(*arguments: Any) -> jax.Array:
        with jax.disable_jit(False):
            return apply(*arguments)

    return call


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
        make_denoiser(still_compiled(golden.apply), parameterizations.EDM()),
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

    params = jax.tree.map(jnp.asarray, golden.params)
    noise = jnp.asarray(noise)
    # Step by step: a compiled sampler has up to three copies of the network in it.
    with jax.disable_jit():
        actual = samplers.sample(
            sampler,
            lambda x, sigma: denoise(params, x, sigma, jnp.asarray(label)),
            jnp.asarray(golden.x),
            lambda step: noise[step],
        )
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
        return tensors_of(self._arrays, prefix)

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
    settings = ncsnpp.Settings(
        base_width=arguments.pop("nf", 32),
        channel_multipliers=tuple(arguments.pop("ch_mult", (1, 2, 2))),
        num_res_blocks=arguments.pop("num_res_blocks", 2),
        attention_resolutions=tuple(arguments.pop("attn_resolutions")),
    )
    out_channels = arguments.pop("num_out_channels", 1)
    assert_fixed(arguments, FIXED_ARGUMENTS)
    network = ncsnpp.build(
        settings, (size, size, in_channels), num_classes, out_channels=out_channels
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
