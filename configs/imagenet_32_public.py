"""DP fine-tuning, public stage: an 80 M U-Net on ImageNet at 32x32, without privacy.

arXiv 2302.13861, whose tables of settings were not at hand: docs/dp_finetuning.md says
of each figure where it is from. cifar10_finetune and camelyon17_finetune begin with
what this trains.

    python -m dpdm_jax.main --mode=train --config=configs/imagenet_32_public.py \
        --workdir=runs/imagenet_32_public
"""

import ml_collections

from dpdm_jax.configs import base, imagenet_32


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config; there are no variants."""
    base.parse_variant(variant, ())
    config = base.get_config()
    config.name = "imagenet_32_public"
    config.data = imagenet_32.get_config().data
    config.data.public = "ImageNet 32x32"

    # Section 1 of docs/dp_finetuning.md: 81,150,723 weights with 1,000 classes. The
    # defaults of network.adm are the paper's network.
    config.network.name = "adm"

    # Section 2: 1,000 steps of linear beta from 1e-4 to 0.02, squared error of the
    # noise; all steps alike, in the words of the paper's mixture.
    config.diffusion.parameterization = "ddpm"
    config.diffusion.noise_levels = "time_mixture"
    config.diffusion.ddpm.intervals = (30, 800)
    config.diffusion.ddpm.weights = (0.03, 0.77, 0.2)
    config.diffusion.noise_multiplicity = 1
    # Section 5: no guidance.
    config.diffusion.label_dropout = 0.0

    # Section 4. One source alone has rate and warm-up; others train such networks at
    # 3e-4.
    config.train.batch_size = 1024
    config.train.exact_batch_size = True
    config.train.num_steps = 200_000
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 5000
    config.train.ema_decay = 0.999

    # Ours, from here on (section 5): DDPM's own sampler, and quicker ones.
    config.sampler.name = "ancestral"
    config.sampler.grid = "ddpm"
    config.sampler_presets = ml_collections.ConfigDict(
        {
            spacing: {"name": "ddim_eta", "ddpm": {"respacing": spacing}}
            for spacing in ("ddim50", "ddim250")
        }
    )
    # So many images at once fit into 80 GB.
    config.train.engine_microbatch_size = 16
    config.checkpoint.every_steps = 2000
    config.log.every_steps = 100
    config.log.snapshot_every_steps = 50_000
    config.log.snapshot_per_class = 1
    config.evaluate.metrics = ("fid",)
    return config
