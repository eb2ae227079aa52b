"""From a glyph's bitmap to a distorted image of it in a normal form; pure functions.

A glyph is kept as the distances of its pixels from its outline: one look-up in them
gives any affine and elastic distortion and any change of the stroke width, with smooth
edges. The normal forms are those of the data sets that such images stand in for:

- "mnist": the longer side of the bounding box is 20/28 of the image's, and the centre
  of mass is in the middle (LeCun et al., 1998, "Gradient-based learning applied to
  document recognition", III.A).
- "full": the bounding box is in the middle, its longer side is the image's, and a pixel
  counts the inked ones among 4x4 finer pixels (Alpaydin and Kaynak, 1998, "Optical
  Recognition of Handwritten Digits", UCI).

Lengths are in parts, twentieths of the bounding box's longer side: pixels of MNIST.
"""

import dataclasses
import math

import numpy as np
from PIL import Image
from scipy import ndimage

FRAMES = ("mnist", "full")
MNIST_SIZE = 28
#: Strokes may get so wide, in parts.
MAX_STROKE = 8
_PARTS = 20  # in the bounding box's longer side
_BOX_OF_IMAGE = {"mnist": _PARTS / MNIST_SIZE, "full": 1}
_BLOCK = 4  # "full": inked ones are counted among so many finer pixels, squared
# A glyph has so much space around it, of its longer side, that distances are known as
# far as half of MAX_STROKE.
_SPACE = 0.2
# The bounding box has so many points to a side at least, and a pixel to its own.
_BOX_POINTS, _PIXEL_POINTS = 40, 2
# The noise that becomes elastic fields: points per standard deviation of the Gaussian,
# and standard deviations after which that is cut.
_LATTICE, _CUT = 2, 3.0
# Of the mean width of strokes so much is left, or hairlines would vanish.
_KEPT = 0.5


@dataclasses.dataclass(frozen=True)
class Glyph:
    """A glyph of a font, as it is rendered from.

    Attributes:
        distances: float32 [h, w], in pixels: of each pixel's centre from the outline,
            positive inside.
        height: of the bounding box in pixels, which is in the middle.
        width: of the bounding box in pixels.
        stroke: estimate of the mean width of its strokes in pixels.
    """

    distances: np.ndarray
    height: int
    width: int
    stroke: float


@dataclasses.dataclass(frozen=True)
class Distortion:
    """What happens to a glyph besides elastic distortion; the default is nothing.

    Attributes:
        rotation: counterclockwise, in degrees.
        shear: how far to the right a point moves for each unit that it lies higher.
        height: factor of the height, > 0. The normal form undoes what width and height
            have in common.
        width: factor of the width, > 0.
        stroke: the mean width that strokes are brought to, in parts, at most
            ``MAX_STROKE``, by moving all of the outline by one distance; strokes get no
            thinner than half of what they are. 0 leaves them.
    """

    rotation: float = 0.0
    shear: float = 0.0
    height: float = 1.0
    width: float = 1.0
    stroke: float = 0.0

    def matrix(self) -> np.ndarray:
        """Returns the linear map of (down, right), float64 [2, 2]."""
        turn = math.radians(self.rotation)
        cos, sin = math.cos(turn), math.sin(turn)
        rotate = np.array([[cos, -sin], [sin, cos]])
        return rotate @ [[1, 0], [-self.shear, 1]] @ np.diag([self.height, self.width])


def outline(coverage: np.ndarray) -> Glyph:
    """Measures a glyph.

    Args:
        coverage: uint8 [h, w], some of it above 0: how much of each pixel is inked.

    Returns:
        The glyph, with space around it.
    """
    # Hairlines fill no pixel.
    ink = coverage >= max(1, min(128, coverage.max()))
    rows, columns = _bounds(ink)
    ink = ink[rows, columns]
    height, width = ink.shape
    ink = np.pad(ink, math.ceil(_SPACE * max(height, width)) + 1)
    # The outline runs between two pixels, half a pixel from the centre of each.
    inside = ndimage.distance_transform_edt(ink) - 0.5
    outside = ndimage.distance_transform_edt(~ink) - 0.5
    distances = np.where(ink, inside, -outside).astype(np.float32)
    # Across a stroke of width w the distance is w / 4 on average.
    stroke = 4 * float(distances[ink].mean())
    return Glyph(distances, height, width, stroke)


class Renderer:
    """Renders glyphs in one size and normal form, with elastic distortion."""

    def __init__(
        self, size: int, frame: str, amplitude: float = 0.0, smoothness: float = 4.0
    ):
        """Lays out the points at which glyphs are looked up.

        Args:
            size: side of the images in pixels, >= 4.
            frame: one of ``FRAMES``.
            amplitude: standard deviation of the elastic displacement along each axis,
                in parts, >= 0.
            smoothness: standard deviation of the Gaussian that smooths it, in parts,
                > 0 (Simard et al., 2003, "Best practices for convolutional neural
                networks applied to visual document analysis", section 2).
        """
        self._size, self._frame = size, frame
        self._box = round(_BOX_OF_IMAGE[frame] * size)
        self._part = self._box / _PARTS
        self._density = max(_PIXEL_POINTS, _BOX_POINTS / self._box)
        self._amplitude = amplitude * self._part
        # Strokes seldom need all of theirs, which is then left to the displacement.
        margin = MAX_STROKE / 2 * self._part + 2 * self._amplitude
        count = math.ceil((self._box + 2 * margin) * self._density)
        # From the middle, in pixels of the image.
        self._points = (np.arange(count) - (count - 1) / 2) / self._density
        self._weights = _smoothing(self._points, smoothness * self._part)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """The shape of the noise that ``__call__`` takes."""
        lattice = self._weights.shape[1]
        return (2, lattice, lattice)

    def __call__(
        self, glyph: Glyph, distortion: Distortion, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Renders one image.

        Args:
            glyph: what to render.
            distortion: how.
            noise: float64 of ``noise_shape``, standard normal, for the elastic
                distortion; None does without.

        Returns:
            uint8 [size, size], 0 is paper and 255 is ink.
        """
        matrix = distortion.matrix()
        sides = np.abs(matrix) @ [glyph.height, glyph.width]
        # Pixels of the glyph in one of the image, before and after the linear map.
        per_pixel = sides.max() / self._box
        own_per_pixel = per_pixel / math.sqrt(abs(np.linalg.det(matrix)))
        distances = self._look_up(glyph, np.linalg.inv(matrix) * per_pixel, noise)
        distances /= own_per_pixel
        if distortion.stroke:
            stroke = glyph.stroke / own_per_pixel
            wanted = max(distortion.stroke * self._part, _KEPT * stroke)
            distances += (wanted - stroke) / 2
        coverage = np.clip(distances * self._density + 0.5, 0, 1)
        place = _place_mnist if self._frame == "mnist" else _place_full
        return np.rint(255 * place(coverage, self._box, self._size)).astype(np.uint8)

    def _look_up(
        self, glyph: Glyph, back: np.ndarray, noise: np.ndarray | None
    ) -> np.ndarray:
        """Returns the distances at the points that ``back`` takes the image's to."""
        down, right = self._points[:, None], self._points[None, :]
        if noise is not None and self._amplitude:
            moved = self._amplitude * (self._weights @ noise @ self._weights.T)
            down, right = down + moved[0], right + moved[1]
        middle = (np.array(glyph.distances.shape) - 1) / 2
        places = [row[0] * down + row[1] * right for row in back]
        places = [place + at for place, at in zip(places, middle, strict=True)]
        return ndimage.map_coordinates(glyph.distances, places, order=1, mode="nearest")


def _smoothing(points: np.ndarray, deviation: float) -> np.ndarray:
    """Returns what makes smooth noise at the points from noise on a lattice, [n, k]."""
    spacing = deviation / _LATTICE
    half = math.ceil((points[-1] + _CUT * deviation) / spacing)
    lattice = spacing * np.arange(-half, half + 1)
    weights = np.exp(-(((points[:, None] - lattice) / deviation) ** 2) / 2)
    # Applied from both sides it keeps a variance of one.
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def _place_mnist(coverage: np.ndarray, box: int, size: int) -> np.ndarray:
    fitted = _fit(coverage, box)
    image = np.zeros((size, size), np.float32)
    total = fitted.sum()
    starts = []
    for axis in (0, 1):
        length = fitted.shape[axis]
        centre = fitted.sum(axis=1 - axis) @ np.arange(length) / total
        # MNIST's centres of mass are at 14 of 0..27. The glyph is not cut.
        start = round(size / 2 - float(centre))
        starts.append(slice(at := min(max(start, 0), size - length), at + length))
    image[starts[0], starts[1]] = fitted
    return image


def _place_full(coverage: np.ndarray, box: int, size: int) -> np.ndarray:
    fitted = _fit(coverage, box * _BLOCK)
    side = size * _BLOCK
    fine = np.zeros((side, side), np.float32)
    top, left = ((side - length) // 2 for length in fitted.shape)
    fine[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted >= 0.5
    return fine.reshape(size, _BLOCK, size, _BLOCK).mean(axis=(1, 3))


def _fit(coverage: np.ndarray, box: int) -> np.ndarray:
    """Cuts out what is inked and gives its longer side ``box`` pixels."""
    rows, columns = _bounds(coverage >= 0.5)
    inked = coverage[rows, columns]
    longer = max(inked.shape)
    height, width = (max(1, round(box * side / longer)) for side in inked.shape)
    resized = Image.fromarray(inked).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized)


def _bounds(ink: np.ndarray) -> tuple[slice, slice]:
    """Returns the rows and columns of the bounding box of what is True."""
    sides = []
    for axis in (1, 0):
        inked = np.flatnonzero(ink.any(axis=axis))
        sides.append(slice(inked[0], inked[-1] + 1))
    return sides[0], sides[1]
