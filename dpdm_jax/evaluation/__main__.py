"""Command line: measure images that any system made against real ones.

python -m dpdm_jax.evaluation --real=PATH --synthetic=PATH --metrics=fid,kid,...
"""

from typing import Any

from absl import flags

from dpdm_jax import command_line, json_values
from dpdm_jax.errors import InputError
from dpdm_jax.user_paths import user_path

_SETS = (
    "an .npz file (images uint8 NHWC, perhaps labels), a folder of PNG or JPEG files "
    "(perhaps one sub-folder per class), a folder of IDX files, PATH:SPLIT, or "
    "tfds:NAME:SPLIT"
)
_REAL = flags.DEFINE_string("real", None, f"Real images: {_SETS}.")
_SYNTHETIC = flags.DEFINE_string("synthetic", None, "The images to judge, likewise.")
_REAL_TEST = flags.DEFINE_string(
    "real_test",
    None,
    "Real images that the generator was not trained on: classifiers are tested on them "
    "(on --real without them), and memorisation compares with them.",
)
_METRICS = flags.DEFINE_list(
    "metrics", ["fid"], "Comma-separated; a wrong name lists the right ones."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON line.")
_PICTURES = flags.DEFINE_string(
    "pictures", None, "Folder for memorisation's pictures, which show real images."
)
_INCEPTION_WEIGHTS = flags.DEFINE_string(
    "inception_weights", None, "pytorch-fid's file; downloaded once unless given."
)
_FEATURES = flags.DEFINE_string(
    "features",
    None,
    "What metrics whose names end in _features look at: a function of images in a file "
    "of jax.export, or DINOv2's weights.",
)
_FLOAT_RANGE = flags.DEFINE_string(
    "float_range", "", "Range of float images in .npz files: 0,1 or -1,1 or 0,255."
)
_ROUNDING = flags.DEFINE_string(
    "rounding", "nearest", "Of float images to uint8: nearest | truncate (the papers')."
)
_NEIGHBOUR_IMAGES = flags.DEFINE_integer(
    "neighbour_images", 10_000, "Images of a set that kid and neighbours look at."
)
_CLASSIFIER_SEEDS = flags.DEFINE_integer(
    "classifier_seeds", 3, "Trainings of each classifier."
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "Epochs of each classifier; its own recipe's unless given."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Likewise the batch size.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Likewise the rate.")
_DP_SGD = flags.DEFINE_list(
    "dp_sgd",
    None,
    "EPSILON,DELTA: also train classifiers on --real by DP-SGD, to compare with.",
)
_LENET_STEPS = flags.DEFINE_integer(
    "lenet_steps", 1000, "Training steps of the network behind _lenet metrics."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of everything that is drawn at random.")
_CACHE = flags.DEFINE_string(
    "cache",
    None,
    "Folder for weights and for statistics of real images, as private as the images; "
    "~/.cache/dpdm_jax unless given, no statistics if empty.",
)


def main(argv: list[str]) -> None:
    """Reads the sets, measures, and prints."""
    del argv
    # Imported late: JAX must find the flags set, and errors in flags come at once.
    from dpdm_jax.evaluation import image_sets, metrics
    from dpdm_jax.evaluation.description import describe
    from dpdm_jax.evaluation.dp_sgd import DPSGD
    from dpdm_jax.evaluation.settings import Settings

    fields: dict[str, Any] = {
        "inception_weights": _INCEPTION_WEIGHTS.value,
        "features": _FEATURES.value,
        "neighbour_images": _NEIGHBOUR_IMAGES.value,
        "lenet_steps": _LENET_STEPS.value,
        "classifier_seeds": _CLASSIFIER_SEEDS.value,
        "epochs": _EPOCHS.value,
        "batch_size": _BATCH_SIZE.value,
        "learning_rate": _LEARNING_RATE.value,
        "seed": _SEED.value,
    }
    if _DP_SGD.value is not None:
        try:
            epsilon, delta = map(float, _DP_SGD.value)
        except ValueError:
            raise InputError(
                f"--dp_sgd is {','.join(_DP_SGD.value)}; allowed: EPSILON,DELTA, such "
                "as 10,1e-5."
            ) from None
        fields["dp_sgd"] = DPSGD(epsilon, delta)
    if _CACHE.value is not None:
        fields["cache_folder"] = (
            user_path("--cache", _CACHE.value) if _CACHE.value else None
        )
    settings = Settings(**fields)
    metrics.check_names(_METRICS.value)

    def load(name: str, spec: str | None) -> image_sets.ImageSet:
        if not spec:
            raise InputError(f"--{name} is missing; allowed: {_SETS}.")
        return image_sets.load(
            spec, float_range=_FLOAT_RANGE.value, rounding=_ROUNDING.value
        )

    real = load("real", _REAL.value)
    synthetic = load("synthetic", _SYNTHETIC.value)
    real_test = load("real_test", _REAL_TEST.value) if _REAL_TEST.value else None
    pictures = user_path("--pictures", _PICTURES.value) if _PICTURES.value else None
    results = metrics.measure(
        _METRICS.value,
        real,
        synthetic,
        real_test,
        settings=settings,
        pictures=pictures,
    )
    if _FLOAT_RANGE.value:
        results["settings"]["float_images"] = {
            "range": _FLOAT_RANGE.value,
            "rounding": _ROUNDING.value,
        }
    print(json_values.dumps(results) if _JSON.value else describe(results))


if __name__ == "__main__":
    command_line.run(main)
