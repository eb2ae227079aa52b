"""Public stage of mnist_finetune: characters of fonts, for two CPU cores.

60,000 digits in print, rendered with distortions from the fonts that come with
matplotlib, or from more: those of a folder. Model, and how it is trained, are this
project's.

    python -m dpdm_jax.main --mode=train --config=configs/glyphs_public.py \
        --config.data.path=FONTS --config.data.public="characters of Debian's fonts"
"""

import ml_collections

from dpdm_jax.configs import base, mnist_cpu


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config: the model of mnist_cpu at epsilon 10, on other images."""
    base.parse_variant(variant, ())
    config = mnist_cpu.network_alone()
    config.name = "glyphs_public"
    config.data = base.get_config().data
    config.data.source = "glyphs"
    config.data.public = "characters of matplotlib's fonts"
    config.data.num_examples = 60_000
    config.data.image_size = 28
    config.data.channels = 1
    config.data.num_classes = 10

    # Ordinary training: many steps, another image for every draw of noise.
    config.diffusion.noise_multiplicity = 1
    config.diffusion.stratified = False
    config.train.batch_size = 256
    config.train.num_steps = 10_000
    config.train.microbatch_size = 64
    # So many noisy images at once: what they need stays in a core's cache.
    config.train.engine_microbatch_size = 32
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 200
    config.train.ema_decay = 0.999
    config.checkpoint.every_steps = 1000
    config.log.every_steps = 100
    config.log.snapshot_every_steps = 2000
    return config
