"""Public stage of digits_finetune: characters of fonts at 8x8, a minute on a laptop.

Model, and how it is trained, are this project's.

    python -m dpdm_jax.main --mode=train --config=configs/digits_public.py
"""

import ml_collections

from dpdm_jax.configs import base, digits


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config: a larger model than that of digits, on other images."""
    base.parse_variant(variant, ())
    config = digits.network_alone()
    config.name = "digits_public"
    config.data.source = "glyphs"
    config.data.public = "characters of matplotlib's fonts"
    config.data.num_examples = 20_000
    config.data.glyphs.images_per_character = 2000
    config.data.glyphs.frame = "full"

    # 93,888 weights: what they learn in public gathers no noise.
    config.network.mlp.base_width = 32
    config.network.mlp.num_blocks = 2
    # Ordinary training: many steps, another image for every draw of noise.
    config.diffusion.noise_multiplicity = 1
    config.diffusion.stratified = False
    config.train.batch_size = 512
    config.train.num_steps = 2000
    config.train.microbatch_size = 640
    config.train.schedule = "cosine"
    config.train.warmup_steps = 50
    config.train.ema_decay = 0.999
    config.checkpoint.every_steps = 500
    config.log.snapshot_every_steps = 1000
    return config
