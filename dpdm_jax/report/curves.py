"""Training curves as SVG that takes its colours from the page around it."""

import io
import math
import re
from collections.abc import Mapping, Sequence

from matplotlib import style
from matplotlib.figure import Figure

# Stand for colours of the page, which are light or dark; no other colour occurs.
_TEXT, _GRID, _LINE, _LIMIT = "#010203", "#010204", "#010205", "#010206"
#: Curves that one drawing can tell apart.
MAX_CURVES = 8
_RUNS = tuple(f"#0103{number:02x}" for number in range(1, MAX_CURVES + 1))
_PAGE_COLOURS = {
    _TEXT: "currentColor",
    _GRID: "var(--line)",
    _LINE: "var(--accent)",
    _LIMIT: "var(--private)",
}
_RUN_COLOURS = {
    colour: f"var(--run-{number})" for number, colour in enumerate(_RUNS, 1)
}
_SIZE = (4.4, 2.3)  # inches; the page scales it
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _TEXT,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "lines.linewidth": 1.5,
}
_FEW = 30  # points that are marked, so that one alone is seen


def draw(
    name: str, points: Sequence[tuple[int, float]], limit: float | None = None
) -> str:
    """Draws a curve over steps.

    Args:
        name: unique on the page; letters, digits and underscores.
        points: (step, value), by step. Infinite values leave gaps.
        limit: a height that is drawn as a broken line; None for none.

    Returns:
        An ``<svg>`` element for an HTML page, the same for the same arguments.
    """
    return _draw(name, {_LINE: points}, limit)


def draw_together(name: str, curves: Sequence[Sequence[tuple[int, float]]]) -> str:
    """Draws curves over steps, in colours of the page: --run-1, --run-2 and so on.

    Args:
        name: as of ``draw``.
        curves: at most ``MAX_CURVES``, each as of ``draw``; empty where a run has none.

    Returns:
        As ``draw``.
    """
    return _draw(name, dict(zip(_RUNS, curves, strict=False)), None)


def _draw(
    name: str,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    limit: float | None,
) -> str:
    """Draws curves in colours that stand for those of the page."""
    # The user's own matplotlibrc must not matter; the salt makes the same names anew.
    with style.context({**_STYLE, "svg.hashsalt": name}, after_reset=True):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        if limit is not None:
            axes.axhline(limit, color=_LIMIT, linestyle="--", linewidth=1)
        for colour, points in curves.items():
            axes.plot(
                [step for step, _ in points],
                [value if math.isfinite(value) else math.nan for _, value in points],
                color=colour,
                marker="." if len(points) <= _FEW else None,
            )
        axes.set_xlabel("step")
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.locator_params(axis="y", nbins=5)
        file = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _for_page(file.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """Turns a file of its own into a part of a page."""
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    # Its style sheet would be one for the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    # Names are unique in a page, not in a drawing alone.
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for stand_in, colour in (_PAGE_COLOURS | _RUN_COLOURS).items():
        body = body.replace(stand_in, colour)
    return f'<svg {box} aria-hidden="true">{body.strip()}'
