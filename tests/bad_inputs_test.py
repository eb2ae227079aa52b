"""Everything that can be got wrong, in one table, and the sentence that each gets."""

import dataclasses
import gzip
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dpdm_jax import command_line, run_dir, settings
from dpdm_jax.release.build import release
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.loop import train

_GOLDEN = pathlib.Path(__file__).parent / "golden"
_TINY = {
    "network.mlp.base_width": 4,
    "network.mlp.hidden_width": 8,
    "diffusion.noise_multiplicity": 2,
    "train.batch_size": 100,
    "train.num_steps": 2,
    "train.microbatch_size": 64,
    "checkpoint.every_steps": 1,
    "log.tensorboard": False,
    "log.snapshot_every_steps": 0,
    "sampler.num_steps": 4,
    "sample.num_images": 20,
    "sample.batch_size": 20,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A mistake, and what is said of it.

    Attributes:
        args: the command line. ``{here}`` is a new folder, ``{run}`` a finished run.
        says: part of the sentence.
        prepare: puts files into ``{here}``; is given it and the finished run.
        module: what is run.
    """

    args: tuple[str, ...]
    says: str
    prepare: Callable[[pathlib.Path, pathlib.Path], None] | None = None
    module: str = "dpdm_jax.main"


def rows_of(mode: str, mistakes: dict[str, str], *before: str) -> list[Row]:
    """Rows of one mode; a mistake is flags, divided by spaces."""
    return [
        Row((f"--mode={mode}", *before, *flags.split()), says)
        for flags, says in mistakes.items()
    ]


def fields(mistakes: dict[str, str]) -> dict[str, str]:
    """Flags of single config fields."""
    return {f"--config.{field}": says for field, says in mistakes.items()}


TINY = tuple(f"--config.{name}={value}" for name, value in _TINY.items())

COMMAND_LINES = rows_of(
    "plan",
    {
        "--config.train.batchsize=3": "unknown field (did you mean batch_size?)",
        "--config.nonsense=3": "--config.nonsense is an unknown field",
        "--config.train.batch_size.x=3": "unknown field",
        "--config.train.batch_size=many": "many",
        "--config.train.batch_size=3.5": "3.5",
        "--config.train.learning_rate=fast": "fast",
        "--config.log.tensorboard=perhaps": "perhaps",
        "--config=configs/mnist.py:eps=3": "allowed: eps=0.2, eps=1, eps=10",
        "--config=configs/digits.py:eps=3": "'eps=3'",
        "--config=configs/nothing.py": "configs/cifar10.py",
        "--config=": "no such file",
        "--workdir=gs://bucket/run": "--workdir is 'gs://bucket/run', a URL; allowed",
        "--mode=report --workdir=s3://bucket/run": "a URL; allowed: a path in this",
        "--config=configs/released.py:gs://bucket/release": "a URL; allowed: a path",
        "--mode=report --config.release.tuning_runs=gs://a/b --workdir={run}": (
            "release.tuning_runs is 'gs://a/b', a URL"
        ),
        "--mode=train --config.name=../x": "config.name is '../x'; allowed: the name",
        "--mode=report --config.name={here}/x": "allowed: the name of one folder",
        "--mode=sample --config.name=a/b": "config.name is 'a/b'",
        "--config.name=..": "config.name is '..'",
        "--config=configs/released.py:nowhere": "with the folder of a release",
        "--mode=fly": "plan",
        "--compile-for=v5e": "--compile-for is 'v5e'",
        "--compile_for=gpu": "allowed: cpu, or a TPU slice",
        "--compile-for=cpu --mode=train": "allowed: with --mode=plan",
        "--config.extend.epsilon=12": "without a run to extend",
        "--mode=extend --workdir={here}/none": "holds no run to extend",
        "--mode=train --workdir={here}/run --config.extend.num_steps=9": (
            "--mode=extend first"
        ),
        "--mode=run --workdir={here}/run --config.extend.epsilon=12": (
            "--mode=extend first"
        ),
        "--fly": "--fly is an unknown flag",
        "--jsonn": "(did you mean json?)",
        "train": "'train' is not a flag",
        "--process_id=1": "without --coordinator_address",
        "--coordinator_address=here": "allowed: HOST:PORT",
        "--coordinator_address=here:1 --process_id=0": "without --num_processes",
        "--coordinator_address=here:1 --num_processes=2 --process_id=2": (
            "--process_id is 2; allowed: 0 to 1"
        ),
        "--coordinator_address=here:1 --num_processes=0 --process_id=0": (
            "--num_processes is 0"
        ),
    },
)


def config_row(says: str, *lines: str) -> Row:
    """A row of a config file of one's own, {here}/mine.py."""

    def prepare(here, run):
        text = "\n".join(("from dpdm_jax.configs import base", *lines))
        (here / "mine.py").write_text(text + "\n")

    return Row(("--mode=plan", "--config={here}/mine.py"), says, prepare)


def config_with(*statements: str) -> tuple[str, ...]:
    return (
        "def get_config():",
        "    config = base.get_config()",
        *(f"    {statement}" for statement in statements),
    )


CONFIG_FILES = [
    config_row(
        "mine.py sets the unknown field privacy.eps (did you mean privacy.epsilon?)",
        *config_with("config.privacy.eps = 1.0", "return config"),
    ),
    config_row(
        "unknown field train.lr; allowed: those of configs/base.py",
        *config_with("config.train.lr = 1e-3", "return config"),
    ),
    config_row(
        "sets the unknown field privcy (did you mean privacy?)",
        *config_with("config.privcy = {'epsilon': 1.0}", "return config"),
    ),
    config_row("returns a NoneType; allowed: the config that", *config_with("pass")),
    config_row("returns a dict", *config_with("return config.to_dict()")),
    config_row(
        "makes a config without the field",
        "def get_config():",
        "    return type(base.get_config())()",
    ),
    config_row("SyntaxError: '(' was never closed in line 2)", "def get_config("),
    config_row(
        "No module named 'nowhere_to_be_found' in line 2)", "import nowhere_to_be_found"
    ),
    config_row("defines no get_config()", "get_config = 3"),
    config_row(
        "mine.py cannot be loaded (AttributeError: ",
        *config_with("config.privcy.epsilon = 1.0", "return config"),
    ),
    config_row(
        "mine.py cannot be loaded (TypeError: ",
        *config_with("config.train.batch_size = 'many'", "return config"),
    ),
]
# What a plan reads, and the sentences for numbers out of range.
PLANS = rows_of(
    "plan",
    fields(
        {
            "privacy.epsilon=0": "epsilon is 0.0",
            "privacy.epsilon=-1": "epsilon is -1.0",
            "privacy.moments_share=1": "privacy.moments_share is 1.0; allowed",
            "privacy.epsilon=nan": "epsilon is nan",
            "privacy.delta=0": "delta is 0.0",
            "privacy.delta=1": "delta is 1.0",
            "privacy.delta=nan": "delta is nan",
            "privacy.accountant=mine": "allowed: pld, rdp",
            "privacy.l2_clip_norm=0": "l2_clip_norm is 0.0",
            "privacy.l2_clip_norm=inf": "l2_clip_norm is inf with noise_multiplier",
            "privacy.noise_multiplier=-1": "noise_multiplier is -1.0",
            "privacy.noise_multiplier=0.1": "noise_multiplier is 0.1, which spends",
            "train.batch_size=0": "batch_size is 0",
            "train.batch_size=5000": "batch_size is 5000",
            "train.num_steps=-1": "num_steps is -1",
            "train.num_steps=1000000000": "num_steps is 1000000000; allowed: an",
            "train.num_steps=100000000000000000000": "an integer <= 10000000",
            "train.num_steps=1e20": "1e20",
            "train.epochs=1000000000": "epochs is 1000000000; allowed: an integer <=",
            "train.epochs=0": "epochs is 0",
            "train.microbatch_size=0": "microbatch_size is 0",
            "train.trainable=lora:4": "of which 'lora:4' selects nothing; allowed with",
            "diffusion.noise_multiplicity=0": "noise_multiplicity is 0",
            "diffusion.views.crop=8": "diffusion.views.crop is 8; allowed for images",
            "diffusion.label_dropout=2": "label_dropout is 2.0",
            "diffusion.parameterization=eps": "allowed: edm, v, ve, vp",
            "diffusion.noise_levels=log": "allowed: log_normal",
            "diffusion.sigma_data=0": "diffusion.sigma_data is 0.0",
            "diffusion.log_normal.p_mean=nan": "diffusion.log_normal.p_mean is nan",
            "diffusion.log_normal.p_std=-1": "diffusion.log_normal.p_std is -1.0",
            "diffusion.noise_levels=cosine --config.diffusion.cosine.max_log_snr=-9": (
                "diffusion.cosine.max_log_snr is -9.0"
            ),
            "diffusion.noise_levels=log_uniform "
            "--config.diffusion.log_uniform.sigma_min=100": (
                "diffusion.log_uniform.sigma_max is 100.0"
            ),
            "diffusion.noise_levels=vp_time --config.diffusion.vp.eps_t=1": (
                "diffusion.vp.eps_t is 1.0"
            ),
            "diffusion.parameterization=vp --config.diffusion.vp.beta_d=0": (
                "diffusion.vp.beta_d is 0.0"
            ),
            "diffusion.parameterization=ddpm --config.diffusion.ddpm.schedule=x": (
                "diffusion.ddpm.schedule is 'x'; allowed: linear, cosine, ldm"
            ),
            "diffusion.noise_levels=time_mixture --config.diffusion.ddpm.intervals=(9,)"
            " --config.diffusion.ddpm.weights=(.5,.6)": (
                "diffusion.ddpm.weights is (0.5, 0.6); allowed: 2 numbers of sum 1"
            ),
            "sampler.name=ancestral --config.sampler.ancestral.variance=learned": (
                "sampler.ancestral.variance is 'learned', and the network learns none; "
                "allowed: fixed_large, fixed_small, or learned with"
            ),
            "network.name=unet": "allowed: adm, latent_unet, mixer",
            "network.mlp.hidden_width=0": "network.mlp.hidden_width is 0",
            "network.mlp.num_blocks=-1": "network.mlp.num_blocks is -1",
            "network.dtype=float64": "network.dtype is 'float64'",
            "network.name=ncsnpp --config.network.ncsnpp.base_width=3": "base_width",
            "network.name=ncsnpp --config.network.ncsnpp.num_res_blocks=0": (
                "network.ncsnpp.num_res_blocks is 0"
            ),
            "network.name=ncsnpp --config.network.ncsnpp.channel_multipliers=()": (
                "is empty"
            ),
            "network.name=ncsnpp --config.network.ncsnpp.channel_multipliers=(1,0)": (
                "network.ncsnpp.channel_multipliers[1] is 0"
            ),
            "network.name=ncsnpp "
            "--config.network.ncsnpp.channel_multipliers=(1,1,1,1,1)": (
                "height and width divisible by 16"
            ),
            "network.low_frequencies.hidden_width=3": (
                "network.low_frequencies.hidden_width is 3, and "
                "network.low_frequencies.count is 0, which does not read it; allowed: "
                "128, its default, or network.low_frequencies.count above 0."
            ),
            "network.low_frequencies=14": (
                "--config.network.low_frequencies is now "
                "--config.network.low_frequencies.count"
            ),
            "network.num_heads=2": "is now --config.network.transformer.num_heads",
            "network.adm.base_channels=64": (
                "network.adm.base_channels is 64, and network.name is 'mlp', which "
                "does not read it; allowed: 192, its default, or network.name='adm'."
            ),
            "network.name=adm --config.network.adm.base_channels=48": (
                "network.adm.base_channels is 48; allowed: a multiple of 32"
            ),
            "data.num_examples=-5": "data.num_examples is -5",
            "data.image_size=-8": "data.image_size is -8",
            "data.channels=2": "data.channels is 2",
            "data.num_classes=-2 --config.data.num_examples=0": "num_classes",
            "data.source=zip --config.data.num_examples=0": "data.source",
            "data.crop=middle --config.data.num_examples=0": "data.crop is 'middle'",
            "data.condition=sound": "data.condition is 'sound'; allowed: labels, capt",
            "data.captions.length=9": "or data.condition='captions'",
            "data.condition=captions --config.data.captions.length=0": (
                "data.captions.length is 0; allowed: an integer >= 1"
            ),
            "data.condition=captions --config.data.captions.vocabulary=no.txt": (
                "data.captions.vocabulary is 'no.txt', which cannot be read"
            ),
            "data.condition=captions --config.network.name=ncsnpp": (
                "network 'ncsnpp' reads class labels and the condition of the data is "
                "captions of 64 tokens"
            ),
            "data.parquet.image=x": "or data.source='parquet'",
            "data.webdataset.label=x": "or data.source='webdataset'",
            "data.class_names=('a','b')": "has 2 names (a, b) for 10 classes",
            "data.class_names=('a','b/c')": "name in data.class_names is 'b/c'; allow",
            "data.class_names=('a','..')": "name in data.class_names is '..'; allow",
            "data.class_names='ab'": "data.class_names",
            "data.group=patient": (
                "data.group is 'patient' and data.source is 'digits', which has no "
                "groups; allowed: camelyon17, huggingface, image_folder, npz"
            ),
            "data.group=a/b --config.data.source=npz": (
                "data.group is 'a/b'; allowed: up to 40 letters"
            ),
            "train.images_per_group=0": (
                "train.images_per_group is 0; allowed: an integer >= 1"
            ),
            "train.images_per_group=4": (
                "train.images_per_group is 4 and data.group is ''; allowed: 1, or"
            ),
        }
    ),
)
# Refused before the run directory is made.
TRAINING = rows_of(
    "train",
    fields(
        {
            "train.optimizer=lion": "allowed: adam, sgd",
            "train.schedule=step": "allowed: constant, cosine, linear",
            "train.learning_rate=0": "train.learning_rate is 0.0",
            "train.learning_rate=nan": "train.learning_rate is nan",
            "train.warmup_steps=-1": "train.warmup_steps is -1",
            "train.b1=1": "train.b1 is 1.0",
            "train.adam_eps=0": "train.adam_eps is 0.0",
            "train.gradient_unit=two": "gradient_unit is 'two'; allowed: one, clip_n",
            "train.ema_decay=1": "train.ema_decay is 1.0",
            "train.power_averages=(0.05,)": "power_averages is (0.05,); allowed: ()",
            "train.power_averages=(0.05,0.5)": "train.power_averages is 0.5; allowed: ",
            "checkpoint.average_every_steps=-1": "checkpoint.average_every_steps is -1",
            "train.engine=fast": "engine is 'fast'",
            "train.engine_microbatch_size=-1": "engine_microbatch_size is -1",
            "train.stop_after_steps=-1": "train.stop_after_steps is -1",
            "train.microbatch_size=0": "microbatch_size is 0",
            "checkpoint.every_steps=0": "checkpoint.every_steps is 0",
            "checkpoint.keep=0": "checkpoint.keep is 0",
            "log.every_steps=0": "log.every_steps is 0",
            "log.snapshot_every_steps=-1": "log.snapshot_every_steps is -1",
            "log.snapshot_per_class=-1": "log.snapshot_per_class is -1",
            "data.num_examples=1000": "is 1000 but the training data has 1437",
            "data.num_classes=5": "go up to 9; allowed: 0 to 4",
            "seed=99999999999999999999": "seed is 99999999999999999999",
            "sample.labels=nowhere.npy": "FileNotFoundError",
            "sample.labels=12": "asks for class 12",
            "sampler.num_steps=1": "sampler.num_steps is 1",
            "sampler.guidance=-1": "sampler.guidance: The guidance scale is -1.0",
            "evaluate.metrics=('fidd',)": "a metric is 'fidd'; allowed: fid, kid",
            "evaluate.seeds=0": "classifier_seeds is 0",
        }
    )
    | {
        "--config=configs/released.py:{run}/release": "allowed: --mode=sample, eval",
        "--config=configs/digits_finetune.py": (
            "initial.weights is '' and the config fine-tunes; allowed: the run "
            "directory, or a release, of configs/digits_public.py"
        ),
        "--config=configs/glyphs_public.py --config.data.path={here}": (
            "and data.public says of the data of glyphs_public that it is public"
        ),
        "--config=configs/digits_public.py --config.data.source=digits": (
            "data.source is 'digits', and data.public says of the data of"
        ),
    },
    *TINY,
    "--workdir={here}/run",
)
# What the later stages would refuse, said before the first.
AHEAD = rows_of(
    "run",
    fields(
        {
            "log.writers=paper": "log.writers has 'paper'; allowed: wandb, mlflow, or",
            "sample.num_images=20": "samples has up to 2 images of a class; allowed: 5",
            "sample.labels=3": "samples has no image of class 0, 1, 2, 4, 5, 6, 7, 8,",
            "sample.labels=nowhere.npy": "FileNotFoundError",
            "sample.seed=-1": "sample.seed is -1",
            "sampler.num_steps=1": "sampler.num_steps is 1",
            "sampler.guidance=-1": "sampler.guidance: The guidance scale is -1.0",
            "sampler.preset=best": "sampler.preset is 'best'",
            "data.image_size=6": "the real images are 6x6x1; allowed for the metrics",
            "data.num_classes=12": "has no image of class 10, 11; allowed: at least",
        }
    ),
    *TINY,
    "--config.sample.num_images=120",
    "--workdir={here}/run",
)
SAMPLING = rows_of(
    "sample",
    fields(
        {
            "sample.num_images=0": "sample.num_images is 0",
            "sample.batch_size=0": "sample.batch_size is 0",
            "sample.labels=cats": "sample.labels is 'cats'",
            "sample.labels=10": "asks for class 10",
            "sample.labels=nowhere.npy": "FileNotFoundError",
            "sample.weights=best": "allowed: ema, raw",
            "sample.average=0.5": "sample.average is 0.5; allowed: ",
            "sample.average=0.05": "holds none to rebuild it from; allowed: 0",
            "sample.step=7": "no checkpoint of step 7; allowed: 1, 2",
            "sample.step=-2": "sample.step is -2",
            "sample.rounding=up": "sample.rounding is 'up'",
            "sample.formats=npz,gif": "sample.formats is 'gif'; allowed: npz, png",
            "sample.name=../x": "sample.name is '../x'",
            "sample.name=..": "sample.name is '..'",
            "sample.seed=-1": "sample.seed is -1",
            "sample.prompt=three": "was trained on 10 classes; allowed: none, and",
            "sample.prompts=no.txt": "sample.prompts is 'no.txt', which cannot be read",
            "sampler.name=euler": "allowed: ddim, heun",
            "sampler.preset=best": "sampler.preset is 'best'",
            "sampler.grid=even": "sampler.grid is 'even'",
            "sampler.num_steps=1": "sampler.num_steps is 1",
            "sampler.sigma_min=0": "sampler.sigma_min is 0.0",
            "sampler.sigma_max=0.1": "sampler.sigma_max is 0.1",
            "sampler.edm.rho=0": "sampler.edm.rho is 0.0",
            "sampler.heun.s_churn=-1": "sampler.heun.s_churn is -1.0",
            "sampler.heun.s_min=2 --config.sampler.heun.s_max=1": (
                "sampler.heun.s_max is 1.0"
            ),
            "sampler.guidance=-1": "sampler.guidance",
            "sampler.guidance=nan": "sampler.guidance",
            "network.mlp.hidden_width=9": "is a checkpoint of another model",
        }
    ),
    *TINY,
    "--workdir={run}",
) + rows_of("sample", {"--workdir={here}/run": "holds no checkpoint"})
EVALUATION = rows_of(
    "evaluate",
    fields(
        {
            "evaluate.metrics=('fidd',)": "a metric is 'fidd'; allowed: fid, kid",
            "evaluate.metrics=()": "metrics is empty",
            "evaluate.metrics=('fid_features',)": "no features are given; allowed: ",
            "evaluate.metrics=('fid_features',) --config.evaluate.features=no.jax": (
                "features is 'no.jax', no file"
            ),
            "evaluate.seeds=0": "classifier_seeds is 0",
            "evaluate.lenet_steps=0": "lenet_steps is 0",
            "evaluate.neighbour_images=0": "neighbour_images is 0",
            "evaluate.epochs=-1": "epochs is -1",
            "evaluate.batch_size=-1": "batch_size is -1",
            "evaluate.learning_rate=-1": "learning_rate is -1.0",
            "evaluate.seed=-1": "seed is -1",
            "evaluate.dp_sgd.epochs=-1": "dp_sgd epochs is -1",
            "evaluate.dp_sgd.l2_clip_norm=0": "dp_sgd l2_clip_norm is 0.0",
            "data.num_classes=0": "no labels to train a classifier with",
            "evaluate.metrics=('alignment',) --config.data.num_classes=0": (
                "evaluate.metrics has alignment, and the data has no labels"
            ),
            "evaluate.prompt_classes=(1,)": "data.condition is 'labels'; allowed: ()",
        }
    ),
    *TINY,
    "--workdir={run}",
)
SELECTION = rows_of(
    "select",
    fields(
        {
            "select.grid.classifier=()": "select.grid.classifier is (); allowed: one",
            "select.grid.classifier=svm": "'svm'; allowed: logreg, mlp, cnn, wrn",
            "select.grid.classifier=cnn": "at least 18x18 pixels",
            "select.grid.learning_rate=(1e-3,1e-3)": "allowed: different values",
            "select.grid.learning_rate=fast": "learning_rate is 'fast'",
            "select.grid.epochs=0": "epochs is 0",
            "select.grid.augmentation=2": "augmentation is 2; allowed: True, False",
            "select.real_test=perhaps": "perhaps",
            "evaluate.seeds=0": "classifier_seeds is 0",
            # Two of each class.
            "sample.num_images=20": "which makes 2 of class 0; allowed: at least 10",
        }
    ),
    *TINY,
    "--workdir={run}",
) + rows_of("select", {"--workdir={here}/run": "holds no checkpoint"})
CURVES = rows_of(
    "learning_curve",
    fields(
        {
            "learning_curve.classifiers=()": "one or more of each",
            "learning_curve.num_images=()": "one or more of each",
            "learning_curve.num_images=many": "learning_curve.num_images is 'many'",
            "learning_curve.num_images=5": "the training set has no image of class",
            "learning_curve.selection_images=0": "selection_images is 0",
            "learning_curve.max_steps=-1": "learning_curve.max_steps is -1",
            "data.num_classes=0": "The real test images are",
        }
    ),
    *TINY,
    "--workdir={run}",
)
RELEASING = rows_of(
    "release",
    fields(
        {
            "release.dtype=int8": "allowed: float32, float16",
            "release.license=Mine!": "release.license is 'Mine!'",
            "release.about=none.md": "release.about is 'none.md', which cannot be read",
            "release.step=-2": "release.step is -2",
            "release.step=7": "no checkpoint of step 7",
            "release.samples=../x": "release.samples is '../x'",
            "release.samples=none": "release.samples is 'none'",
            "release.selection_mean=-1": "release.selection_mean is -1.0",
            "release.selection_mean=0.5": "0.5",
            "release.selection_mean=2 --config.release.selection_shape=-1": "-1.0",
            "release.tuning_runs=nowhere": "nowhere/privacy.json cannot be read",
        }
    ),
    *TINY,
    "--workdir={run}",
) + rows_of("release", {"--workdir={here}/none": "is no folder"})
REPORTS = rows_of("report", {"--workdir={here}": "is no run directory; allowed: "})


# Data --------------------------------------------------------------------------------

_IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
_LABELS = np.array([0, 1, 2, 2, 1, 0])


def archive(**arrays):
    return lambda here, run: np.savez(here / "data.npz", **arrays)


def missing_class(here, run):
    """A training and a test archive, which has no image of the last class."""
    few = _LABELS < 2
    np.savez(here / "train.npz", images=_IMAGES, labels=_LABELS)
    np.savez(here / "test.npz", images=_IMAGES[few], labels=_LABELS[few])


def idx_bytes(array, *, sizes=None):
    sizes = array.shape if sizes is None else sizes
    return (
        bytes((0, 0, 8, len(sizes)))
        + np.array(sizes, ">u4").tobytes()
        + array.tobytes()
    )


def idx(images: bytes, labels: bytes = idx_bytes(_LABELS.astype(np.uint8)), end=""):
    def prepare(here, run):
        (here / f"train-images-idx3-ubyte{end}").write_bytes(images)
        (here / f"train-labels-idx1-ubyte{end}").write_bytes(labels)

    return prepare


def pictures(*sizes, damage=lambda content: content):
    """A folder of PNG files, the last one damaged."""

    def prepare(here, run):
        (here / "data").mkdir()
        for i, size in enumerate(sizes):
            path = here / "data" / f"{i}.png"
            Image.fromarray(np.zeros(size, np.uint8)).save(path)
        if sizes:
            path.write_bytes(damage(path.read_bytes()))

    return prepare


def with_table(*lines):
    """Two PNG files and a metadata.csv of these lines."""

    def prepare(here, run):
        pictures((4, 4, 3), (4, 4, 3))(here, run)
        (here / "data" / "metadata.csv").write_text("\n".join(lines) + "\n")

    return prepare


def patches(here, run):
    """A folder like Camelyon17's, of one patch."""
    name = "patient_004_node_4"
    path = here / "patches" / name / f"patch_{name}_x_0_y_0.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(path)
    (here / "metadata.csv").write_text(
        "patient,node,x_coord,y_coord,tumor,slide,center,split\n004,4,0,0,1,0,0,0\n"
    )


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_pixel(content: bytes) -> bytes:
    at = content.index(b"IDAT") + 10
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def renamed_labels(here, run):
    """An archive one of whose two copies of the name labels.npy is damaged."""
    np.savez(here / "data.npz", images=_IMAGES, labels=_LABELS)
    content = (here / "data.npz").read_bytes()
    at = content.rindex(b"labels")
    (here / "data.npz").write_bytes(content[:at] + b"lapels" + content[at + 6 :])


def wrong_checksum(here, run):
    """An archive with a flipped bit in the last of the pixels."""
    np.savez(here / "data.npz", images=_IMAGES)
    content = bytearray((here / "data.npz").read_bytes())
    content[content.index(_IMAGES.tobytes()[-16:]) + 15] ^= 1
    (here / "data.npz").write_bytes(content)


def data_row(source, path, says, prepare=None, *more):
    return Row(
        (
            "--mode=train",
            "--workdir={here}/run",
            f"--config.data.source={source}",
            f"--config.data.path={path}",
            *(f"--config.data.{name}=0" for name in ("num_examples", "image_size")),
            "--config.data.channels=0",
            "--config.data.num_classes=-1",
            "--config.sampler.guidance=0",  # of images without labels
            "--config.diffusion.parameterization=edm",  # of any size
            "--config.privacy.moments_share=0",
            *more,
        ),
        says,
        prepare,
    )


_NPZ, _PNG = ("npz", "{here}/data.npz"), ("image_folder", "{here}/data")
_CAPTIONS = ("--config.data.condition=captions",)
_PATIENTS = ("--config.data.group=patient",)
_GREY = _IMAGES[..., 0]
DATA = [
    data_row(*_NPZ, "which is missing; allowed: an .npz file"),
    data_row("npz", "", "data.path is ''"),
    data_row(*_NPZ, "holds x; allowed: images", archive(x=_IMAGES)),
    data_row(
        *_NPZ,
        "go up to 2; allowed: 0 to 1",
        archive(images=_IMAGES, labels=_LABELS),
        "--config.data.num_classes=2",
    ),
    data_row(
        *_NPZ,
        "go from 1 to 3; allowed: from 0, or data.num_classes=4",
        archive(images=_IMAGES, labels=_LABELS + 1),
    ),
    data_row(
        *("npz", "{here}"),
        "real testing images has no image of class 2",
        missing_class,
        "--mode=run",
        "--config.evaluate.metrics=('logreg',)",
        "--config.sample.num_images=120",
    ),
    data_row(*_NPZ, "go down to -1", archive(images=_IMAGES, labels=_LABELS - 1)),
    data_row(
        *_NPZ, "go up to 1099511627778", archive(images=_IMAGES, labels=_LABELS + 2**40)
    ),
    data_row(
        *_NPZ,
        "float64 values; allowed: integers",
        archive(images=_IMAGES, labels=_LABELS * 0.5),
    ),
    data_row(
        *_NPZ,
        "allowed: one integer per image",
        archive(images=_IMAGES, labels=_LABELS[:5]),
    ),
    data_row(
        *_NPZ,
        "has no labels; allowed: 0",
        archive(images=_IMAGES),
        "--config.data.num_classes=3",
    ),
    data_row(
        *_NPZ, "float64 values; allowed: uint8 in 0..255", archive(images=_IMAGES / 255)
    ),
    data_row(*_NPZ, "some of them NaN", archive(images=np.full((2, 4, 4), np.nan))),
    data_row(*_NPZ, "with 1 or 3 channels", archive(images=_IMAGES[..., :2])),
    data_row(*_NPZ, "allowed: at least one image", archive(images=_IMAGES[:0])),
    data_row(
        *_NPZ,
        "4x3x3 and would be distorted by resizing to 8x8; allowed: a square image",
        archive(images=_IMAGES[:, :, :3]),
        "--config.data.image_size=8",
    ),
    data_row(*_NPZ, "Object arrays cannot be loaded", archive(images=np.array([{}]))),
    data_row(*_NPZ, "BadZipFile", renamed_labels),
    data_row(*_NPZ, "BadZipFile: Bad CRC-32", wrong_checksum),
    data_row(
        *_NPZ,
        "BadZipFile: File is not a zip file",
        lambda here, run: (here / "data.npz").write_text("no"),
    ),
    data_row(
        *_NPZ,
        "1 of 6 images have no caption in",
        archive(images=_IMAGES, captions=np.array(["a", "b", "", "d", "e", "f"])),
        *_CAPTIONS,
    ),
    data_row(*_NPZ, "holds no array 'captions'", archive(images=_IMAGES), *_CAPTIONS),
    data_row(
        *_NPZ,
        "holds no array 'patient'; allowed: strings, or integers for groups",
        archive(images=_IMAGES),
        *_PATIENTS,
    ),
    data_row(
        *_NPZ,
        "an array 'patient' of float64 of shape (6,)",
        archive(images=_IMAGES, patient=np.array([1, 2, np.nan, 1, 1, 2])),
        *_PATIENTS,
    ),
    data_row(
        *_NPZ,
        "data.npz (image 2, image 4); allowed: one for each, as data.group is",
        archive(images=_IMAGES, patient=np.array(["a", "b", "", "b", "nan", "a"])),
        *_PATIENTS,
    ),
    data_row(
        *_NPZ,
        "data.group is 'patient', which has 5 values for 6 images; allowed: one",
        archive(images=_IMAGES, patient=np.arange(5)),
        *_PATIENTS,
    ),
    data_row(
        *_NPZ,
        "data.num_examples is 6 but the training data has 3 groups by patient",
        archive(images=_IMAGES, patient=_LABELS),
        *_PATIENTS,
        "--config.data.num_examples=6",
    ),
    data_row(
        *_PNG,
        "allowed for captions and groups: one of",
        pictures((4, 4, 3)),
        *_PATIENTS,
    ),
    data_row(
        *_PNG,
        "has no column 'patient'; allowed: file_name, and those that",
        with_table("file_name,subject", "0.png,7"),
        *_PATIENTS,
    ),
    data_row(
        *_PNG,
        "data/metadata.csv (1.png); allowed: one for each",
        with_table("file_name,patient", "0.png,7", "1.png, "),
        *_PATIENTS,
    ),
    data_row(*_PNG, "has no metadata.csv", pictures((4, 4, 3)), *_CAPTIONS),
    data_row("parquet", "{here}", "has no file train.parquet or train-*.parquet"),
    data_row("huggingface", "{here}", "has no state.json, and none called 'train'"),
    data_row("webdataset", "{here}", "has no file train.tar, train-*.tar or train/*"),
    data_row(
        "webdataset",
        "{here}/x-{{00..02}}.tar",
        "3 missing (x-00.tar, x-01.tar, x-02.tar) in",
    ),
    data_row(
        *_NPZ,
        "data.source is 'npz', which is read into memory; allowed: camelyon17, tfds",
        archive(images=_IMAGES),
        "--config.data.on_demand=True",
    ),
    data_row(
        *_PNG,
        "class '1', which is neither in data.class_names nor one of",
        lambda here, run: [
            (
                (here / "data" / name).mkdir(parents=True),
                Image.fromarray(_IMAGES[0]).save(here / "data" / name / "0.png"),
            )
            for name in "01"
        ],
        "--config.data.class_names=('0','2')",
    ),
    data_row("idx", "{here}", "which has none; allowed: digits", None, *_CAPTIONS),
    data_row("idx", "{here}", "has no file train-images-idx3-ubyte"),
    data_row(
        "idx",
        "{here}",
        "holds 48 values; allowed: exactly the 96",
        idx(idx_bytes(_GREY[:3], sizes=(6, 4, 4))),
    ),
    data_row(
        "idx",
        "{here}",
        "holds more than 48 values",
        idx(idx_bytes(_GREY, sizes=(3, 4, 4))),
    ),
    data_row(
        "idx", "{here}", "starts with bytes 00000801", idx(idx_bytes(_GREY.ravel()))
    ),
    data_row(
        "idx",
        "{here}",
        "EOFError",
        idx(cut(gzip.compress(idx_bytes(_GREY))), end=".gz"),
    ),
    data_row(
        "idx", "{here}", "allowed: one integer per image", idx(idx_bytes(_GREY[:3]))
    ),
    data_row("camelyon17", "{here}", "metadata.csv is missing; data.path allows"),
    data_row("camelyon17", "", "data.path is ''; allowed: WILDS's folder"),
    data_row(
        "camelyon17",
        "{here}",
        "data.group is 'node'; allowed: patient",
        patches,
        "--config.data.group=node",
    ),
    data_row(*_PNG, "has no images; allowed: a folder of", pictures()),
    data_row(*_PNG, "1.png is 5x5x3 but", pictures((4, 4, 3), (5, 5, 3))),
    data_row(*_PNG, "1.png is 4x4x1 but", pictures((4, 4, 3), (4, 4))),
    data_row(
        *_PNG, "1.png cannot be decoded", pictures((4, 4, 3), (4, 4, 3), damage=cut)
    ),
    data_row(
        *_PNG,
        "1.png cannot be decoded",
        pictures((4, 4, 3), (4, 4, 3), damage=flip_a_pixel),
    ),
    data_row(
        *_PNG, "would be distorted", pictures((4, 5, 3)), "--config.data.image_size=4"
    ),
]


# Run directories ---------------------------------------------------------------------


def copied(*changes):
    """A copy of the run, {here}/run, with changes made to it."""

    def prepare(here, run):
        shutil.copytree(run, here / "run")
        for change in changes:
            change(here / "run")

    return prepare


def damaged(name, change=cut):
    def damage(folder):
        paths = [p for p in sorted(folder.glob(name)) if p.is_file()]
        assert paths
        for path in paths:
            path.write_bytes(change(path.read_bytes()))

    return damage


def forget(name):
    return lambda folder: (folder / name).unlink()


def count_less(folder):
    ledger = json.loads((folder / run_dir.LEDGER).read_text())
    ledger["events"][0]["authorized_steps"] = 0
    (folder / run_dir.LEDGER).write_text(json.dumps(ledger))


def foreign_ledger(folder):
    shutil.copy(folder / "other.json", folder / run_dir.LEDGER)


def run_row(mode, says, prepare, *more):
    return Row((f"--mode={mode}", *TINY, "--workdir={here}/run", *more), says, prepare)


def a_file(here, run):
    (here / "run").write_text("no folder")


def below_a_file(here, run):
    (here / "file").write_text("no folder")


RUNS = [
    run_row("train", "is spent", copied()),
    run_row(
        "train",
        "the plan differs from the ledger",
        copied(),
        "--config.train.batch_size=90",
    ),
    run_row("train", "delta 0.0001 -> 1e-06", copied(), "--config.privacy.delta=1e-6"),
    run_row("train", "train.learning_rate", copied(), "--config.train.learning_rate=1"),
    run_row(
        "train",
        "no checkpoint before it is sound",
        copied(damaged("checkpoints/*/meta/metadata")),
    ),
    run_row("train", "is damaged", copied(damaged("privacy.json"))),
    run_row("train", "the checksum does not match", copied(count_less)),
    run_row("train", "so what was spent is unknown", copied(forget("privacy.json"))),
    run_row("train", "one run in a directory", copied(foreign_ledger)),
    run_row("train", "cannot be written", a_file),
    run_row("train", "cannot be written", below_a_file, "--workdir={here}/file/run"),
    run_row(
        "sample",
        "cannot be written",
        copied(
            lambda folder: shutil.rmtree(folder / "samples"),
            lambda folder: (folder / "samples").write_text(""),
        ),
    ),
    run_row(
        "train",
        "no checkpoint before it is sound",
        copied(damaged("checkpoints/*/params/**/d/*")),
    ),
    run_row(
        "sample",
        "The item ema_params of the checkpoint",
        copied(damaged("checkpoints/2/ema_params/**/d/*")),
    ),
    run_row(
        "sample", "of the checkpoint", copied(damaged("checkpoints/2/meta/metadata"))
    ),
    run_row(
        "sample",
        "is not what was written",
        copied(
            damaged(
                "checkpoints/2/meta/metadata", lambda c: c.replace(b'"kind"', b'"kine"')
            )
        ),
    ),
    run_row(
        "sample", "holds images of other settings", copied(), "--config.sample.seed=1"
    ),
    run_row("release", "allowed: one run in a directory", copied(foreign_ledger)),
    run_row("release", "cannot be read", copied(forget("privacy.json"))),
    run_row(
        "release",
        "cannot be read",
        copied(damaged("samples/*/samples.npz")),
        "--config.release.samples=samples",
    ),
    run_row("report", "is damaged", copied(damaged("privacy.json"))),
    Row(
        (
            "--mode=sample",
            "--workdir={here}/new",
            "--config=configs/released.py:{here}/run/release",
        ),
        "params.safetensors differs from its checksum",
        copied(
            damaged("release/params.safetensors", lambda c: c[:-1] + bytes([c[-1] ^ 1]))
        ),
    ),
    Row(
        (
            "--mode=sample",
            "--workdir={here}/new",
            "--config=configs/released.py:{here}/run/release",
        ),
        "MANIFEST.json is missing, and SHA256SUMS lists it",
        copied(forget("release/MANIFEST.json")),
    ),
    Row(
        (
            "--mode=sample",
            "--workdir={here}/run",
            "--config=configs/released.py:{run}/release",
        ),
        "holds other checkpoints than those of the release",
        copied(),
    ),
]


# Other commands ----------------------------------------------------------------------


def judged(says, *args, real=None, synthetic=None):
    """A row of the evaluation command, on two archives."""

    def prepare(here, run):
        whole = {"images": _IMAGES, "labels": _LABELS}
        np.savez(here / "real.npz", **(whole if real is None else real))
        np.savez(here / "made.npz", **(whole if synthetic is None else synthetic))

    sets = (
        "--real={here}/real.npz",
        "--synthetic={here}/made.npz",
        "--metrics=fid_lenet",
    )
    return Row(
        (*sets, "--cache=", *args), says, prepare, "dpdm_jax.evaluation.__main__"
    )


_FLOATS = {"images": _IMAGES / 255.0}
EVALUATION_COMMAND = [
    judged("a metric is 'fidd'; allowed: fid, kid", "--metrics=fidd"),
    judged("--synthetic is missing", "--synthetic="),
    judged("is no file or folder", "--real={here}/nothing"),
    judged("has no split test", "--real={here}:test"),
    judged("floats whose range float_range states", synthetic=_FLOATS),
    judged("float_range is '0,2'; allowed: 0,1 or", "--float_range=0,2"),
    judged("a pixel of", "--float_range=0,1", synthetic={"images": _IMAGES / 100.0}),
    judged(
        "is nan; allowed: 0 to 1",
        "--float_range=0,1",
        synthetic={"images": np.full((6, 4, 4), np.nan)},
    ),
    judged("rounding is 'up'", "--rounding=up"),
    judged("4x3x3 and those of", synthetic={"images": _IMAGES[:, :, :3]}),
    judged("go up to 1 and the others", synthetic={"images": _IMAGES // 255}),
    judged("needs labels and", "--metrics=mlp", synthetic={"images": _IMAGES}),
    judged(
        "alignment needs labels",
        "--metrics=alignment",
        synthetic={"images": _IMAGES},
    ),
    judged(
        "has no image of class 2",
        "--metrics=mlp",
        synthetic={"images": _IMAGES[:2], "labels": _LABELS[:2]},
    ),
    judged("--dp_sgd is 10; allowed: EPSILON,DELTA", "--dp_sgd=10"),
    judged("dp_sgd epsilon is 0.0", "--dp_sgd=0,1e-5"),
    judged("classifier_seeds is 0", "--classifier_seeds=0"),
    judged("epochs is 0", "--epochs=0"),
    judged(
        "inception_weights is no.pth", "--metrics=fid", "--inception_weights=no.pth"
    ),
    judged("unknown flag (did you mean metrics?)", "--metric=fid"),
]
_CONVERT = "dpdm_jax.interop.import_checkpoint"


def cut_golden(here, run):
    content = (_GOLDEN / "official_checkpoint_nf8.pth").read_bytes()
    (here / "cut.pth").write_bytes(cut(content))


def of_another_model(here, run):
    shutil.copy(_GOLDEN / "official_checkpoint_nf8.pth", here / "whole.pth")


CONVERSION = [
    Row(("--workdir={here}/run",), "--checkpoint is missing", None, _CONVERT),
    Row(
        (
            "--workdir={here}/run",
            "--config=configs/mnist.py",
            "--checkpoint={here}/cut.pth",
        ),
        "PyTorch can't read it",
        cut_golden,
        _CONVERT,
    ),
    Row(
        (
            "--workdir={here}/run",
            "--config=configs/mnist.py",
            "--checkpoint={here}/whole.pth",
        ),
        "instead of",
        of_another_model,
        _CONVERT,
    ),
]

TABLE = [
    *COMMAND_LINES,
    *CONFIG_FILES,
    *PLANS,
    *TRAINING,
    *AHEAD,
    *SAMPLING,
    *EVALUATION,
    *SELECTION,
    *CURVES,
    *RELEASING,
    *REPORTS,
    *DATA,
    *RUNS,
    *EVALUATION_COMMAND,
    *CONVERSION,
]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    } | {
        f"{path.relative_to(folder)}/": b""
        for path in folder.rglob("*")
        if path.is_dir()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """A run that is trained, sampled from and released, and another one's ledger."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = command_line.load_config("configs/digits.py")
    for name, value in _TINY.items():
        settings.assign(config, name, value)
    train(config, folder)
    sampling_run.sample(config, folder)
    release(config, folder)
    config.train.stop_after_steps = 1
    train(config, folder.with_name("other"))
    shutil.copy(folder.with_name("other") / run_dir.LEDGER, folder / "other.json")
    sums = {name: digest(content) for name, content in contents(folder).items()}
    folder.with_name("contents.json").write_text(json.dumps(sums))
    return folder


@pytest.fixture(scope="module")
def answers(finished, commands, tmp_path_factory):
    """For each row: its folder, exit status, words, and whether files changed."""
    folders = [tmp_path_factory.mktemp(f"row_{i}") for i in range(len(TABLE))]
    tasks, before = [], []
    for row, here in zip(TABLE, folders, strict=True):
        if row.prepare is not None:
            row.prepare(here, finished)
        before.append(contents(here))
        places = {"here": here, "run": finished}
        args = [arg.format(**places) if "{" in arg else arg for arg in row.args]
        tasks.append((row.module, here, args))
    commands.plan()
    commands.plan(**_TINY)
    ends = [
        commands.run(*args, module=module, cwd=here) for module, here, args in tasks
    ]
    return [
        (here, end.returncode, end.stderr, contents(here) == was)
        for here, was, end in zip(folders, before, ends, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(TABLE)), ids=lambda i: " ".join(TABLE[i].args)[-60:]
)
def test_bad_input_gets_one_sentence_and_changes_nothing(answers, number):
    here, status, words, unchanged = answers[number]
    warnings = [w for w in words.splitlines() if w.startswith("warning: ")]
    (sentence,) = [w for w in words.splitlines() if w not in warnings]
    assert sentence.startswith("error: ")
    assert TABLE[number].says in sentence
    assert sentence.endswith(".")
    # A full stop and a capital letter would begin another sentence.
    assert not any(
        a.endswith(".") and b[:1].isupper()
        for a, b in zip(sentence.split()[:-1], sentence.split()[1:], strict=True)
    ), sentence
    assert status == 2
    assert unchanged, sorted(contents(here))
