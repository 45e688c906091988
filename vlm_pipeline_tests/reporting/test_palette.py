"""The colours as the page has them: told apart by everybody, on a light and on a dark ground."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from vlm_pipeline.reporting.figures.palette import contrast, luminance
from vlm_pipeline.reporting.figures.style import DASHES, MARKERS

# Full-strength simulation of Machado, Oliveira and Fernandes (2009), on linear RGB.
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}  # fmt: skip


def colours(page: str) -> dict[str, tuple[str, str]]:
    """Name -> (light, dark), read from the style sheet of a built page."""
    css = page.split("<style>", 1)[1].split("</style>", 1)[0]
    return {m[1]: (m[2], m[3]) for m in re.finditer(r"--([\w-]+):light-dark\((#\w{6}),(#\w{6})\)", css)}


def lab(colour: str, sight: str) -> tuple[float, float, float]:
    """CIE Lab (D65) of a hex colour as it is seen."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    r, g, b = (
        min(1.0, max(0.0, sum(m * c for m, c in zip(row, linear, strict=True)))) for row in SIGHT[sight]
    )
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("sight", list(SIGHT))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_two_of_eight_predictors_are_told_apart(page: str, scheme: str, sight: str) -> None:
    shown = {
        name: pair[scheme == "dark"] for name, pair in colours(page).items() if re.fullmatch(r"p\d", name)
    }
    assert len(shown) == 8
    for (one, first), (two, second) in itertools.combinations(shown.items(), 2):
        assert math.dist(lab(first, sight), lab(second, sight)) >= 15, f"{one} and {two} look alike"
    assert len(set(MARKERS)) == 8 and len(DASHES) == 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_and_texts_stand_out_from_their_ground(page: str, scheme: str) -> None:
    light = {name: luminance(pair[scheme == "dark"]) for name, pair in colours(page).items()}
    for name in light:
        if re.fullmatch(r"p\d", name):
            assert contrast(light[name], light["paper"]) >= 3, name
    for text, ground in (
        ("ink", "paper"), ("ink", "sunken"), ("ink", "mark"), ("muted", "paper"), ("muted", "sunken"), ("link", "paper"),
        ("good", "paper"), ("bad", "paper"), ("good", "good-soft"), ("bad", "bad-soft"), ("ink", "mute-soft"),
    ):  # fmt: skip
        assert contrast(light[text], light[ground]) >= 4.5, f"{text} on {ground}"


def test_figures_use_colours_that_the_page_can_turn(page: str) -> None:
    """A palette colour left as a hex value in an inline drawing would stay light in the dark scheme."""
    drawings = "".join(re.findall(r"<svg .*?</svg>", page, re.DOTALL))
    hexes = {light for name, (light, _) in colours(page).items()}
    assert not hexes & set(re.findall(r"#[0-9a-f]{6}", drawings))
