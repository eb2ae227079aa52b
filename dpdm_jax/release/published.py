"""Which settings, metrics and samples of a run a release may show.

A config names places on a machine, and perhaps people and projects by way of them; it
may hold the seed of fixed keys; the labels of samples may be read from a file that
somebody counted off private data, and prompts may be private captions. So a field is
published because it is listed here, and not because nobody thought of it. All that is
listed is public by the privacy contract: sizes, classes and settings.
"""

import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from dpdm_jax import json_values
from dpdm_jax.conditions import is_file
from dpdm_jax.models.trainable import ALL, FIELD
from dpdm_jax.sampling import maker

_AUTOENCODER = (
    "base_channels channel_multipliers num_res_blocks attention_factors inner_channels "
    "latent_channels scale_factor"
)
_UNET = (
    "base_channels channel_multipliers num_res_blocks attention_factors head_channels "
    "num_heads scale_shift resample_in_blocks dropout remat"
)
_CONDITIONED = "base_width hidden_width num_blocks condition_gain"
#: The fields of the config that are published, by group; "" has those of no group.
FIELDS = {
    group: frozenset(fields.split())
    for group, fields in {
        "": "format name seed",
        "data": "source path public train_split test_split num_examples group "
        "image_size channels num_classes class_names crop resize on_demand "
        "condition",
        "data.captions": "length vocabulary column",
        "data.image_folder": "value_range",
        "data.huggingface": "image label",
        "data.parquet": "image label",
        "data.webdataset": "label",
        "data.tfds": "name label first_label transpose",
        "data.glyphs": "characters images_per_character seed frame rotation shear "
        "scale stroke elastic_amplitude elastic_smoothness",
        "data.camelyon17": "center",
        "codec": "name weights public cache",
        "codec.kl": _AUTOENCODER,
        "codec.vq": f"{_AUTOENCODER} num_codes",
        "codec.training": "batch_size num_steps learning_rate error penalty_weight "
        "codebook_weight perceptual_weights perceptual_weight adversarial_weight "
        "adversarial_start discriminator_width discriminator_layers scale_images",
        "network": "name patch_size dtype",
        "network.ncsnpp": "base_width channel_multipliers num_res_blocks "
        "attention_resolutions",
        "network.mlp": _CONDITIONED,
        "network.mixer": _CONDITIONED,
        "network.transformer": f"{_CONDITIONED} num_heads",
        "network.low_frequencies": "count base_width hidden_width condition_gain",
        "network.adm": f"{_UNET} new_attention_order",
        "network.latent_unet": f"{_UNET} depth context_width null_row",
        "network.text_transformer": "depth num_heads head_channels positions remat",
        "diffusion": "parameterization noise_levels sigma_data noise_multiplicity "
        "stratified label_dropout draws_at_once",
        "diffusion.edm_dct": "mean_data corner",
        "diffusion.edm_moments": "clip components",
        "diffusion.log_normal": "p_mean p_std",
        "diffusion.cosine": "min_log_snr max_log_snr",
        "diffusion.log_uniform": "sigma_min sigma_max",
        "diffusion.vp": "beta_min beta_d num_timesteps eps_t",
        "diffusion.views": "crop flip count",
        "diffusion.ddpm": "schedule num_steps beta_first beta_last intervals weights "
        "learned_range",
        "initial": "weights parent public label_table other_data",
        "privacy": "epsilon delta l2_clip_norm accountant noise_multiplier "
        "moments_noise_multiplier moments_share fixed_keys_seed",
        "train": "trainable batch_size images_per_group exact_batch_size epochs "
        "num_steps microbatch_size engine engine_microbatch_size sharded_state "
        "optimizer learning_rate schedule warmup_steps b1 b2 adam_eps weight_decay "
        "gradient_unit ema_decay power_averages stop_after_steps",
        "sampler": "preset name num_steps grid sigma_min sigma_max clip_denoised "
        "guidance",
        "sampler.ddim": "stochastic",
        "sampler.heun": "s_churn s_min s_max s_noise churn_limit",
        "sampler.ancestral": "variance",
        "sampler.ddim_eta": "eta",
        "sampler.edm": "rho",
        "sampler.ddpm": "respacing",
        "sample": "num_images batch_size labels weights average step rounding formats "
        "png name seed",
        "evaluate": "metrics inception_weights features lenet_steps "
        "neighbour_images seeds epochs batch_size learning_rate seed",
        "evaluate.dp_sgd": "epochs batch_size learning_rate l2_clip_norm",
    }.items()
}
# Under a name of the user's own each.
_PRESETS = "sampler_presets"
# These may have been chosen after training; they use nothing private.
_AS_OF_NOW = ("sampler", _PRESETS, "sample", "evaluate")

#: Fields that name a place on this machine, or a secret, or what a release has not
#: (its weights are the average), and what they become.
EMPTIED = {
    "data.path": "",
    "codec.training.perceptual_weights": "",
    "codec.weights": "",
    "data.captions.vocabulary": "",
    "initial.weights": "",
    "evaluate.inception_weights": "",
    "evaluate.features": "",
    "privacy.fixed_keys_seed": None,
    "sample.average": 0.0,
}

#: What a release may be called, and that for people: statements are headed by it.
NAME = (
    re.compile(r"[\w.+-]([\w .+-]{0,98}[\w.+-])?"),
    "up to 100 letters, digits, blanks, . + - and _",
)
_NOT_IN_NAMES = re.compile(r"[^\w .+-]")

# Absolute paths, homes, drives, shares and URLs, anywhere in a text.
_PLACE = re.compile(r"(?:^|[\s\"'=(,;:\[])(?:/|~[/\w]|[A-Za-z]:[\\/]|\\\\|file:)\S")


def published_config(
    trained: dict[str, Any], present: ml_collections.ConfigDict
) -> tuple[dict[str, Any], list[str]]:
    """Returns what of a run's settings may be published.

    Args:
        trained: the config that the weights were trained with, as JSON values.
        present: the config of the release: sampler, samples and evaluation.

    Returns:
        JSON values, and the names of the fields that are not as in training.
    """
    now = json_values.encode(present.to_dict())
    values, emptied = clean_config(trained | {name: now[name] for name in _AS_OF_NOW})
    group, _, field = FIELD.partition(".")
    if values.get(group, {}).get(field, ALL) != ALL:
        # It is of an ordinary network; ledger and statement say what was trained.
        values[group] = values[group] | {field: ALL}
        emptied.append(FIELD)
    name = _NOT_IN_NAMES.sub("_", values.get("name", ""))[:100].strip()
    return values | {"name": name or "model"}, emptied


def clean_config(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Leaves out what of a config is not published, and empties fields.

    Args:
        values: a config as JSON values.

    Returns:
        JSON values, and the names of the fields that were emptied.
    """
    emptied: list[str] = []

    def clean(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {
                field: clean(inner, inside)
                for field, inner in value.items()
                if _is_published(inside := _join(name, field), inner)
            }
        if name in EMPTIED:
            replacement = EMPTIED[name]
        elif name == "sample.labels" and is_file(value):
            replacement = "uniform"
        else:
            replacement = without_places(value)
        if replacement != value:
            emptied.append(name)
        return replacement

    return clean(values, ""), emptied


def unknown_fields(values: Mapping[str, Any]) -> list[str]:
    """Returns the names of fields of a config that no release has.

    Args:
        values: a config as JSON values.
    """
    unknown: list[str] = []

    def search(value: Mapping[str, Any], name: str) -> None:
        for field, inner in value.items():
            inside = _join(name, field)
            if not _is_published(inside, inner):
                unknown.append(inside)
            elif isinstance(inner, dict):
                search(inner, inside)

    search(values, "")
    return unknown


def _join(group: str, field: str) -> str:
    return f"{group}.{field}" if group else field


def _is_published(name: str, value: Any) -> bool:
    first, _, preset = name.partition(".")
    if first == _PRESETS:
        _, is_inside, inside = preset.partition(".")
        if not is_inside:
            return isinstance(value, dict)
        # A preset has fields and groups of the sampler.
        name = f"sampler.{inside}"
    if isinstance(value, dict):
        return name in FIELDS
    group, _, field = name.rpartition(".")
    return field in FIELDS.get(group, ())


def without_places(value: Any) -> Any:
    """Returns JSON values in which texts that name a place on a machine are empty."""
    if isinstance(value, dict):
        return {without_places(k): without_places(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_places(v) for v in value]
    if isinstance(value, str) and _PLACE.search(value):
        return ""
    return value


def metrics(values: Any) -> Any:
    """Returns what of an evaluation's results may be published.

    Args:
        values: JSON values, as ``evaluation`` writes them.

    Returns:
        Numbers and settings, without places, and of how samples were made without
        prompts and labels from a file, which may be private.
    """
    if isinstance(values, dict) and isinstance(values.get("sample"), dict):
        made = maker.without_labels_file(values["sample"])
        made = {k: v for k, v in made.items() if k != "prompts"}
        values = values | {"sample": made}
    return without_places(values)
