"""Characters of font files, rendered: labelled public images that need no download.

Something to train on before the private images are: what a network learns of digits in
print need not be learnt of handwriting under noise.

The defaults are round numbers by which characters stay legible. They were not found
without ever looking at handwriting: earlier ones were compared by the accuracy of
classifiers on test images of MNIST and on scikit-learn's digits.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpdm_jax import validate
from dpdm_jax.conditions import of_classes
from dpdm_jax.data import digit_captions, prepared_glyphs
from dpdm_jax.data.font_rendering import (
    FRAMES,
    MAX_STROKE,
    MNIST_SIZE,
    Distortion,
    Renderer,
)
from dpdm_jax.data.sources import (
    SPLITS,
    DataSettings,
    Example,
    Source,
    image_spec,
    resolve_num_classes,
    split_name,
)
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError
from dpdm_jax.user_paths import user_path

_SIZES = (4, 512)
# Beside the numbers of images, of which there are fewer.
_CAPTIONS = 2**40
_TEST_FRACTION = 10
# Pixels of the bitmaps that glyphs are made from: at least, and a pixel of the image.
_EM, _EM_PER_PIXEL = 96, 2.4


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.data.glyphs``: public images, rendered from the fonts in ``data.path``.

    ("" for matplotlib's fonts), with ``data.image_size`` pixels to a side (0 for 28).
    Lengths are in twentieths of the character's longer side: pixels of MNIST.

    Attributes:
        characters: each once; labels are places in this text.
        images_per_character: in each split, >= 1.
        seed: of the distortions, >= 0.
        frame: "mnist": 20 pixels in 28, centre of mass in the middle; "full": as
            scikit-learn's digits, to the edges. Both keep height in proportion to
            width.
        rotation: degrees at most, either way, 0 to 180.
        shear: tangent of the slant at most, either way, 0 to 2.
        scale: smallest and largest factor of width and of height, drawn for each, 0.2
            to 5. What they have in common, the frame undoes.
        stroke: thinnest and thickest mean width of strokes, 0 to 8. What the font draws
            is made thinner, by half at most, or thicker. (0, 0) leaves it.
        elastic_amplitude: standard deviation of what pixels move by, 0 (none) to 5.
        elastic_smoothness: standard deviation of the Gaussian smoothing it, 1 to 20.

    Raises:
        InputError: a field is out of range.
    """

    characters: str = "0123456789"
    images_per_character: int = 6000
    seed: int = 0
    frame: str = "mnist"
    rotation: float = 10.0
    shear: float = 0.3
    scale: tuple[float, float] = (0.8, 1.2)
    stroke: tuple[float, float] = (1.5, 4.0)
    elastic_amplitude: float = 1.2
    elastic_smoothness: float = 4.0

    def __post_init__(self) -> None:
        path, characters = "data.glyphs", self.characters
        if not characters:
            raise InputError(
                f"{path}.characters is ''; allowed: at least one character."
            )
        repeated = [c for c in characters if characters.count(c) > 1]
        if repeated:
            raise InputError(
                f"{path}.characters is {characters!r}, in which {repeated[0]!r} is "
                "repeated; allowed: each character once."
            )
        number = self.images_per_character
        validate.integer(f"{path}.images_per_character", number, minimum=1)
        validate.seed(f"{path}.seed", self.seed)
        validate.one_of(f"{path}.frame", self.frame, FRAMES)
        validate.real(f"{path}.rotation", self.rotation, minimum=0, maximum=180)
        validate.real(f"{path}.shear", self.shear, minimum=0, maximum=2)
        _check_range(f"{path}.scale", self.scale, 0.2, 5)
        _check_range(f"{path}.stroke", self.stroke, 0, MAX_STROKE)
        amplitude, smoothness = self.elastic_amplitude, self.elastic_smoothness
        validate.real(f"{path}.elastic_amplitude", amplitude, minimum=0, maximum=5)
        validate.real(f"{path}.elastic_smoothness", smoothness, minimum=1, maximum=20)


class GlyphSource:
    """Images that are rendered when they are first asked for; see ``Source``.

    Image i shows character i mod n, in the fonts of the split in turn. Its distortion
    is drawn from a stream of its own, so that neither the order of reading nor the
    number of images changes it.
    """

    def __init__(
        self,
        files: Sequence[Path],
        settings: Settings,
        config: DataSettings,
        split: str,
    ):
        """Renders the first image.

        Args:
            files: the font files of the split, each with all characters.
            settings: what is rendered.
            config: reads image_size, num_classes and what ``Preparation`` does.
            split: "train" or "test".

        Raises:
            InputError: the images do not fit into memory or the config's crop.
        """
        self._fonts, self._settings = files, settings
        self._stream = (settings.seed, SPLITS.index(split))
        self._classes = len(settings.characters)
        size = config.image_size or MNIST_SIZE
        self._renderer = Renderer(
            size,
            settings.frame,
            settings.elastic_amplitude,
            settings.elastic_smoothness,
        )
        self._em = max(_EM, math.ceil(_EM_PER_PIXEL * size))
        self._prepare = Preparation.from_config(config)
        first = self._render(0)
        num_classes = resolve_num_classes(
            config.num_classes, self._classes, "data.glyphs.characters"
        )
        self.condition = of_classes(num_classes)
        self.spec = image_spec(first.shape, self.condition)
        count = self._classes * settings.images_per_character
        try:
            self._images = np.zeros((count, *first.shape), np.uint8)
            self._is_rendered = np.zeros(count, bool)
        except (MemoryError, ValueError) as error:
            raise InputError(
                f"data.glyphs.images_per_character is {settings.images_per_character}, "
                f"{count} images in all; allowed: as many as fit into memory."
            ) from error

    def __len__(self) -> int:
        return len(self._images)

    def examples(self, indices: np.ndarray) -> Example:
        """Reads examples; see ``Source.examples``."""
        indices = np.asarray(indices)
        for i in indices[~self._is_rendered[indices]]:
            self._images[i] = self._render(int(i))
            self._is_rendered[i] = True
        labels = indices % self._classes if self.condition.num_classes else 0 * indices
        return {"image": self._images[indices], "condition": labels.astype(np.int32)}

    def _render(self, index: int) -> np.ndarray:
        from dpdm_jax.data import fonts  # brings matplotlib

        copy, label = divmod(index, self._classes)
        font = self._fonts[copy % len(self._fonts)]
        glyph = fonts.glyph_of(font, self._settings.characters[label], self._em)
        # RandomState is frozen by NumPy, unlike Generator: images outlive versions.
        seeds = np.random.SeedSequence((*self._stream, index))
        draws = np.random.RandomState(np.random.PCG64(seeds))
        rotation, shear = self._settings.rotation, self._settings.shear
        distortion = Distortion(
            draws.uniform(-rotation, rotation),
            draws.uniform(-shear, shear),
            draws.uniform(*self._settings.scale),
            draws.uniform(*self._settings.scale),
            draws.uniform(*self._settings.stroke),
        )
        noise = draws.standard_normal(self._renderer.noise_shape)
        image = self._renderer(glyph, distortion, noise)
        return self._prepare(image[..., None])


def load(settings: Settings, config: DataSettings, split: str) -> Source:
    """Finds the fonts that draw all of the characters, and renders from them.

    A tenth of these fonts, at least one, is the test split's, chosen by the hash of the
    file's name; the others are the training split's. Fonts that lack one of the
    characters are passed over: otherwise the font would tell something of the label.

    Args:
        settings: what is rendered.
        config: ``path`` is "" for matplotlib's fonts, else a folder with .ttf and .otf
            files in it and in its sub-folders, ``image_size`` 0 for 28. A folder of
            ``prepared_glyphs`` is read as it is: nothing is rendered, and of the
            settings the characters count alone.
        split: "train" or "test".

    Returns:
        The source; images [N, H, W, 1] unless the config asks for others.

    Raises:
        InputError: a setting is not allowed, a font file is damaged, or fewer than two
            fonts draw the characters.
    """
    name = split_name(config, split)
    validate.one_of(f"data.{split}_split", name, SPLITS)
    folder = user_path("data.path", config.path)
    if config.path and prepared_glyphs.are_in(folder):
        return prepared_glyphs.load(folder, settings.characters, config, split)
    smallest, largest = _SIZES
    if config.image_size and not smallest <= config.image_size <= largest:
        raise InputError(
            f"data.image_size is {config.image_size}; allowed: {smallest} to {largest} "
            "for glyphs, or 0 for 28."
        )
    from dpdm_jax.data import fonts  # brings matplotlib

    files = fonts.fonts_with(settings.characters, fonts.font_files(config.path))
    test_fonts = max(1, round(len(files) / _TEST_FRACTION))
    chosen = files[:test_fonts] if name == "test" else files[test_fonts:]
    return GlyphSource(chosen, settings, config, name)


def captions(
    settings: Settings, config: DataSettings, column: str, split: str
) -> list[str]:
    """Returns a caption for each of ``load``'s images, such as "the digit three".

    Each is one of ``digit_captions.WORDINGS``, drawn at random by the seed.

    Args:
        settings: what is rendered: figures alone.
        config: see ``load``.
        column: of a table, which there is none of.
        split: "train" or "test".

    Raises:
        InputError: a character is no figure, or another split is asked for.
    """
    del column
    name = split_name(config, split)
    validate.one_of(f"data.{split}_split", name, SPLITS)
    if not set(settings.characters) <= set("0123456789"):
        raise InputError(
            f"data.glyphs.characters is {settings.characters!r} and data.condition is "
            "'captions'; allowed: figures, of which there are captions, or labels."
        )
    number = settings.images_per_character
    figures = number * [int(character) for character in settings.characters]
    # A stream for each split, and none of the images'.
    seeds = np.random.SeedSequence((settings.seed, SPLITS.index(name), _CAPTIONS))
    seed = int(seeds.generate_state(1)[0])
    return digit_captions.written(digit_captions.drawn(len(figures), seed), figures)


def _check_range(
    name: str, value: tuple[float, float], minimum: float, maximum: float
) -> None:
    """Raises InputError unless the numbers are in order and in the range."""
    for part in value:
        validate.real(f"a bound of {name}", part, minimum=minimum, maximum=maximum)
    if value[0] > value[1]:
        raise InputError(f"{name} is {value!r}; allowed: the smaller number first.")
