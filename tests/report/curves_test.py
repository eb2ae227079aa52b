import math
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from dpdm_jax.report import curves

POINTS = [(10 * i, 1 / (i + 1)) for i in range(40)]


def parsed(svg):
    """As a browser reads it inside of HTML, where these names need no declaration."""
    return ElementTree.fromstring(
        svg.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
    )


def test_the_same_points_give_the_same_drawing():
    first = curves.draw("curve", POINTS, 0.5)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30}):
        assert curves.draw("curve", POINTS, 0.5) == first
    assert curves.draw("curve", POINTS[:-1], 0.5) != first


def test_colours_are_the_pages():
    svg = curves.draw("curve", POINTS, 0.5)
    for colour in curves._PAGE_COLOURS.values():
        assert colour in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "rgb(" not in svg


def test_names_are_unique_in_a_page():
    drawings = [curves.draw(name, POINTS) for name in ("a", "b")]
    ids = [
        element.get("id")
        for svg in drawings
        for element in parsed(svg).iter()
        if element.get("id")
    ]
    assert ids
    assert len(set(ids)) == len(ids)
    for svg in drawings:
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
        assert used
        assert {a or b for a, b in used} <= set(ids)


def test_scales_with_the_page():
    root = parsed(curves.draw("curve", POINTS))
    assert set(root.attrib) == {"viewBox", "aria-hidden"}
    assert not list(root.iter("style"))


@pytest.mark.parametrize(
    "points",
    [
        [(10, 0.5)],
        [(10, math.nan), (20, math.inf), (30, 1.0)],
        [(10, math.nan)],
        [(0, 1e30), (1, -1e30)],
    ],
)
def test_odd_points(points):
    parsed(curves.draw("curve", points))
