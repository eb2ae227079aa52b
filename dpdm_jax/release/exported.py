"""The sampler of a release in one file, for those who have JAX and NumPy alone.

The file holds the program of ``ReleasedModel.sample``, lowered for each platform by
``jax.export``; the weights stay in params.safetensors, whose numbers it takes as one
array. JAX reads such files for half a year after the version that made them, often
longer; weights and config last, and the program can be made of them anew.
"""

import contextlib
import importlib.util
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from dpdm_jax import files, fusion, jax_settings, rngs, validate
from dpdm_jax.diffusion import from_config
from dpdm_jax.errors import InputError, reason
from dpdm_jax.images import pixels
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import Model
from dpdm_jax.release import bundle
from dpdm_jax.release.card import numbered
from dpdm_jax.sampling.generate import batch_function
from dpdm_jax.sampling.prompts import is_text

#: Whom programs are for, wherever they were exported, by the name of JAX's backend.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
README = "README.md"

_DTYPES = {"F32": "float32", "F16": "float16"}


class Layout(NamedTuple):
    """Where the numbers of params.safetensors lie.

    Attributes:
        offset: of the first, in bytes.
        dtype: of all.
        places: by name, where an array begins, in numbers behind the first, and its
            shape.
    """

    offset: int
    dtype: str
    places: Mapping[str, tuple[int, tuple[int, ...]]]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(int(np.prod(shape)) for _, shape in self.places.values())


def read_layout(folder: pathlib.Path) -> Layout:
    """Reads the header of the weights of a release that is intact."""
    with open(folder / bundle.PARAMETERS, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    (dtype,) = {_DTYPES[field["dtype"]] for field in header.values()}
    width = np.dtype(dtype).itemsize
    places = {
        name: (field["data_offsets"][0] // width, tuple(field["shape"]))
        for name, field in header.items()
    }
    return Layout(8 + length, dtype, places)


def write(
    folder: pathlib.Path, *, preset: str = "", batch_size: int | None = None
) -> None:
    """Writes the sampler of a release into its folder.

    Args:
        folder: of the release; weights, config and manifest are there.
        preset: the name of one of its sampler presets; "" for its default sampler.
        batch_size: images of one call, >= 1; None for the release's
            ``sample.batch_size``.

    Raises:
        InputError: the model reads captions, something in it cannot be exported, or an
            argument is out of range.
    """
    manifest, config = bundle.read_manifest(folder), bundle.read_config(folder)
    model = bundle.read_model(folder, config, manifest)
    if preset:
        config.sampler.preset = preset
    if batch_size is None:
        batch_size = config.sample.batch_size
    validate.integer("batch_size", batch_size, minimum=1)
    programs = _export(model, config, read_layout(folder), batch_size)
    with (
        files.replacing(folder / bundle.SAMPLER) as temporary,
        open(temporary, "wb") as file,
    ):
        np.savez_compressed(file, **programs)  # type: ignore[arg-type]  # not allow_pickle


def write_apart(
    release: pathlib.Path,
    target: pathlib.Path,
    *,
    preset: str = "",
    batch_size: int | None = None,
) -> pathlib.Path:
    """Writes a folder with the sampler of a release, its weights, and how to use them.

    Args:
        release: the release, which stays as it is.
        target: the folder; it appears whole or not at all.
        preset: see ``write``.
        batch_size: see ``write``.

    Returns:
        The folder.

    Raises:
        InputError: the release is damaged, or see ``write``; or the target is something
            else.
    """
    bundle.check_loads(release)
    target = target.absolute()
    files.make_folder(target.parent)
    with files.replacing_folder(target, _is_one, "exported sampler") as folder:
        for name in (bundle.MANIFEST, bundle.CONFIG, bundle.PARAMETERS):
            shutil.copyfile(release / name, folder / name)
        write(folder, preset=preset, batch_size=batch_size)
        manifest = bundle.read_manifest(folder)
        text = (
            f"# A sampler of {manifest['name']}\n\n{how_to_sample(folder, manifest)}\n"
        )
        (folder / README).write_text(text, encoding="utf-8")
        for name in (bundle.MANIFEST, bundle.CONFIG):
            (folder / name).unlink()
    return target


def how_to_sample(folder: pathlib.Path, manifest: Mapping[str, Any]) -> str:
    """Returns the lines that sample with an exported sampler, in Markdown.

    Args:
        folder: of the sampler and its weights.
        manifest: of the release.
    """
    layout = read_layout(folder)
    with np.load(folder / bundle.SAMPLER) as programs:
        *_, labels_of = jax.export.deserialize(bytearray(programs["cpu"])).in_avals
    (batch_size,) = labels_of.shape
    height, width, channels = manifest["model"]["image_shape"]
    num_classes = manifest["model"]["num_classes"]
    labels, of_labels = f"numbers % {num_classes}", "has the class of each image"
    if names := bundle.class_names(manifest):
        of_labels += f": {numbered(names)}"
    if not num_classes:
        labels, of_labels = "0 * numbers", "is zero: there are no classes"
    return f"""\
With JAX and NumPy alone, on CPU, GPU or TPU (`pip install jax flatbuffers`):

```python
import jax, jax.export
import numpy as np

program = np.load("{bundle.SAMPLER}")[jax.default_backend()]
sampler = jax.export.deserialize(bytearray(program))
weights = np.fromfile("{bundle.PARAMETERS}", np.{layout.dtype}, offset={layout.offset})
numbers, seed = np.arange({batch_size}, dtype=np.int32), np.uint32(0)
images = np.asarray(sampler.call(weights, seed, numbers, {labels}))
print(images.dtype, images.shape)  # uint8 ({batch_size}, {height}, {width}, {channels})
```

A call makes {batch_size} images, each of the seed and its number: other numbers, more
images. The last argument {of_labels}."""


def _is_one(folder: pathlib.Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return names == {bundle.SAMPLER, bundle.PARAMETERS, README}


def _export(
    model: Model, config: ml_collections.ConfigDict, layout: Layout, batch_size: int
) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError(
            "the package flatbuffers, with which JAX writes exported programs, is not "
            "installed; allowed: an installation with the extra 'export' (pip install "
            "'dpdm_jax[export]')."
        )
    if is_text(model.condition):
        raise InputError(
            f"the model was trained on {model.condition}, which an exported sampler "
            "could not read; allowed: class labels, or none."
        )
    # Of one batch size and each for one platform: of any, or for all at once, compilers
    # round some last bits otherwise than they do for us.
    each = jax.ShapeDtypeStruct((batch_size,), np.int32)
    arguments = (
        jax.ShapeDtypeStruct((layout.size,), layout.dtype),
        jax.ShapeDtypeStruct((), np.uint32),
        each,
        each,
    )
    program = jax.jit(_sampler(model, config, layout))
    try:
        with jax_settings.pinned(), _without_places():
            return {
                backend: np.frombuffer(
                    jax.export.export(program, platforms=[platform])(
                        *arguments
                    ).serialize(),
                    np.uint8,
                )
                for backend, platform in PLATFORMS.items()
            }
    except InputError:
        raise
    except Exception as e:  # JAX has a kind of its own for each reason
        raise InputError(
            f"the sampler of this model cannot be exported ({reason(e)}); allowed: "
            "release.export=False."
        ) from None


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keeps the paths of source files, and so of people's homes, out of programs."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _sampler(
    model: Model, config: ml_collections.ConfigDict, layout: Layout
) -> Callable[..., jax.Array]:
    sampler = from_config.with_preset(config)
    draw = batch_function(
        model, from_config.sampler(sampler), guidance_scale=sampler.guidance
    )
    names = list(named_leaves(model.shapes))
    rounding = config.sample.rounding

    def sample(
        weights: jax.Array, seed: jax.Array, numbers: jax.Array, labels: jax.Array
    ) -> jax.Array:
        leaves = []
        for name in names:
            begin, shape = layout.places[name]
            part = weights[begin : begin + int(np.prod(shape))]
            leaves.append(part.reshape(shape).astype(np.float32))
        params = jax.tree.unflatten(jax.tree.structure(model.shapes), leaves)
        # Compiled as they are for us: nothing of what surrounds them joins in.
        params = fusion.materialize(params)
        made = draw(rngs.stream(seed, "sample"), params, numbers, labels)
        return pixels.to_uint8(fusion.materialize(made), rounding)

    return sample
