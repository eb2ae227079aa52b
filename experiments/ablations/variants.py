"""What is varied: runs, each with the samplers that are tried on it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

#: Fields by their dotted name in a config.
Fields = Mapping[str, Any]

#: Of every run: images of half the side, a small residual MLP, 400 steps of 1,000.
COMMON: Fields = {
    "data.image_size": 14,
    "data.resize": "box",
    "network.name": "mlp",
    "network.mlp.hidden_width": 128,
    "network.mlp.num_blocks": 1,
    "network.mlp.condition_gain": 5.0,
    "diffusion.noise_multiplicity": 4,
    "train.batch_size": 1000,
    "train.num_steps": 400,
    "train.microbatch_size": 250,
    "train.learning_rate": 4e-3,
    "train.schedule": "cosine",
    "train.ema_decay": 0.99,
    "log.snapshot_every_steps": 0,
    "log.tensorboard": False,
    "sample.num_images": 5000,
    "sample.batch_size": 500,
    "sample.labels": "balanced",
    # Those that take seconds.
    "evaluate.metrics": ("fid_lenet", "logreg", "mlp"),
    "evaluate.seeds": 1,
    "evaluate.dp_sgd.epochs": 0,
}

_SAMPLERS: Mapping[str, Fields] = {
    "ddim": {},
    "ddim_stochastic": {"sampler.ddim.stochastic": True},
    "churn": {
        "sampler.name": "heun",
        "sampler.heun.s_churn": 10.0,
        "sampler.heun.s_min": 0.025,
        "sampler.heun.s_max": 50.0,
    },
}
_DIFFUSION: Mapping[str, Fields] = {
    "vp": {"diffusion.parameterization": "vp", "diffusion.noise_levels": "vp_time"},
    "ve": {"diffusion.parameterization": "ve", "diffusion.noise_levels": "log_uniform"},
    "v": {"diffusion.parameterization": "v", "diffusion.noise_levels": "cosine"},
    "edm": {},
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A run.

    Attributes:
        name: of the run, unique in its ablation.
        fields: of the config, beside ``COMMON``.
        samplers: fields of each sampler that is tried on it, by name.
    """

    name: str
    fields: Fields
    samplers: Mapping[str, Fields] = dataclasses.field(
        default_factory=lambda: {"ddim": {}}
    )


#: The runs of each ablation, with the table of DPDM that it repeats.
ABLATIONS: Mapping[str, tuple[Variant, ...]] = {
    # Table 3, at fixed steps.
    "noise_multiplicity": tuple(
        Variant(f"K={k}", {"privacy.epsilon": 1.0, "diffusion.noise_multiplicity": k})
        for k in (1, 4, 16, 32)
    ),
    # Table 5.
    "diffusion": tuple(
        Variant(f"{name},eps={epsilon:g}", fields | {"privacy.epsilon": epsilon})
        for epsilon in (0.2, 1.0)
        for name, fields in _DIFFUSION.items()
    ),
    # Table 6.
    "sampler": tuple(
        Variant(f"eps={epsilon:g}", {"privacy.epsilon": epsilon}, _SAMPLERS)
        for epsilon in (0.2, 1.0, 10.0)
    ),
    # The curve of privacy against utility.
    "epsilon": tuple(
        Variant(f"eps={epsilon:g}", {"privacy.epsilon": epsilon})
        for epsilon in (0.2, 0.5, 1.0, 3.0, 10.0, float("inf"))
    ),
}
