"""Small run directories, written by what writes real ones."""

import dataclasses
import math
import pathlib
import warnings

import numpy as np
import pytest

from dpdm_jax import files, run_dir
from dpdm_jax.configs import digits
from dpdm_jax.evaluation import memorisation, metrics, neighbours
from dpdm_jax.privacy import Ledger, PrivacyConfig, make_plan
from dpdm_jax.sampling import images
from dpdm_jax.training.metrics import MetricsLog


@dataclasses.dataclass
class Writer:
    """Writes the parts of a run directory, each of them alone."""

    workdir: pathlib.Path

    def config(self, **fields) -> None:
        config = digits.network_alone()
        config.update(fields)
        files.write_json(self.workdir / run_dir.CONFIG, config.to_dict())

    def ledger(
        self, *, epsilon=3.0, steps=20, fixed_keys=False, origin=None, **changes
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = make_plan(
                PrivacyConfig(
                    **{
                        "num_examples": 1437,
                        "batch_size": 479,
                        "epsilon": epsilon,
                        "delta": 1e-4,
                        "num_steps": 30,
                        "accountant": "rdp",
                        **changes,
                    }
                )
            )
        path = self.workdir / run_dir.LEDGER
        ledger = Ledger.create(path, plan, fixed_keys=fixed_keys, origin=origin)
        ledger.authorize(steps)

    def samples(
        self, name="samples", *, num_classes=10, count=120, side=8, **settings
    ) -> np.ndarray:
        folder = self.workdir / run_dir.SAMPLES / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(len(name))
        made = rng.integers(256, size=(count, side, side, 1), dtype=np.uint8)
        labels = np.arange(count) % num_classes if num_classes else None
        images.write_npz(folder / "samples.npz", made, labels)
        described = {
            "step": 20,
            "labels": "balanced",
            "sampler": {"name": "heun", "preset": "", "num_steps": 12, "guidance": 0.5},
        }
        files.write_json(folder / "settings.json", described | settings)
        return made

    def metrics(self, *, loss=0.8125, steps=(10, 20)) -> None:
        log = MetricsLog(self.workdir, tensorboard=False)
        for step in steps:
            log.write(
                step,
                {
                    "epsilon": step / 10,
                    "private/loss": loss + 1 / step,
                    "private/grad_norm": 1.25,
                    "private/clip_fraction": 0.9375,
                    "private/images_per_second": 4321.5,
                },
            )
        log.close()

    def evaluation(self, name="samples", **changes) -> None:
        results = {
            "fid_lenet": 17.25,
            "fid_lenet_floor": 4.5,
            "kid": 0.0078125,
            "kid_std": 0.001953125,
            "mlp": 0.875,
            "mlp_std": 0.03125,
            "mlp_real": 0.96875,
            "mlp_real_std": 0.0078125,
            "mlp_dp_sgd": 0.90625,
            "mlp_dp_sgd_std": 0.015625,
            "memorisation": 0.515625,
            "num_real": 1437,
            "num_synthetic": 120,
            "num_real_test": 360,
            "details": {
                "mlp": {"accuracies": [0.84375, 0.90625], "runs": [{"seed": 0}]},
                "memorisation": {
                    space: {"auc": auc, "exact_copies": 2, "exact_copies_held_out": 1}
                    for space, auc in (("features", 0.515625), ("pixels", 0.484375))
                },
            },
            "settings": {"seed": 0},
            "caveats": ["too few images to be sure"],
            "private": metrics.PRIVATE,
            "samples": f"samples/{name}",
            "sampler": {"name": "heun"},
            "sample": {"seed": 0},
        }
        folder = self.workdir / run_dir.EVALUATION
        files.write_json(folder / f"{name}.json", results | changes)

    def pictures(self, name="samples", *, seed=0) -> pathlib.Path:
        rng = np.random.default_rng(seed)
        training = rng.integers(256, size=(20, 8, 8, 1), dtype=np.uint8)
        made = rng.integers(256, size=(10, 8, 8, 1), dtype=np.uint8)
        near = neighbours.nearest(made.reshape(10, -1), training.reshape(20, -1))
        folder = self.workdir / run_dir.EVALUATION / name
        path = folder / memorisation.CLOSEST_PIXELS
        memorisation.write_closest_pairs(path, made, training, near)
        return path

    def everything(self) -> None:
        self.config()
        self.ledger()
        self.samples()
        self.samples("fid", side=8)
        self.metrics()
        self.evaluation()
        self.evaluation("fid", fid_lenet=16.5, caveats=[])
        self.pictures()

    def not_private(self) -> None:
        self.config()
        self.ledger(epsilon=math.inf)
        self.samples()


@pytest.fixture
def writer(tmp_path):
    folder = tmp_path / "my_run"
    folder.mkdir()
    return Writer(folder)
