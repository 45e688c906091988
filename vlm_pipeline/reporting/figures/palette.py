"""The colours of figures and page: each has one meaning, a value for a light ground and one for a dark ground.

Figures are drawn in the light values; where they stand inside the page, `inline.py` puts classes in their place, so
that the page's scheme decides. The eight predictor colours of each scheme were searched for the largest smallest
distance: every two stay apart, by at least 15 in CIE Lab, to people with and without the common colour-vision
deficiencies; each predictor also has its own marker and dash, so no figure depends on colour alone.
"""

from __future__ import annotations

_PREDICTORS = (
    ("#6b7480", "#9aa4b0"), ("#0063a3", "#3a9ad2"), ("#df6d0e", "#e37c44"), ("#18986a", "#33d39e"),
    ("#841748", "#b45e75"), ("#815e00", "#dcb037"), ("#6c8fd0", "#8ac7fe"), ("#6f2a74", "#a1669d"),
)  # fmt: skip

COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fdfdfe", "#12171e"),
    "ink": ("#1a2330", "#e7ebf0"),
    "muted": ("#566270", "#a3aebb"),
    "grid": ("#dde2e8", "#2c3541"),
    "frame": ("#b4bcc6", "#566271"),
    "good": ("#00694a", "#57d3a4"),
    "bad": ("#a33a06", "#ff9e66"),
    **{f"p{slot}": pair for slot, pair in enumerate(_PREDICTORS)},
    # These are of the page alone.
    "sunken": ("#f5f7f9", "#1a212a"),
    "link": ("#0a5a9c", "#79bdf2"),
    "focus": ("#0072b2", "#79bdf3"),
    "good-soft": ("#e2f4ec", "#12352a"),
    "bad-soft": ("#fdeee4", "#3d2415"),
    "mute-soft": ("#eceff3", "#27303b"),
    "mark": ("#ffe9a3", "#5c4700"),
    "mark-line": ("#946c00", "#e8c14e"),
}
PAGE_ALONE = ("sunken", "link", "focus", "good-soft", "bad-soft", "mute-soft", "mark", "mark-line")

PAPER, INK, MUTED, GRID, FRAME, GOOD, BAD = (
    COLOURS[name][0] for name in ("paper", "ink", "muted", "grid", "frame", "good", "bad")
)
PREDICTORS = tuple(light for light, _ in _PREDICTORS)

# Hex value in a drawing -> class in the page.
CLASSES = {light: name for name, (light, _) in COLOURS.items() if name not in PAGE_ALONE}


def style_sheet() -> str:
    """Custom properties of all colours, and the classes that fill and stroke figures with them.

    The scheme is the reader's choice ([data-scheme]), else the system's; on paper it is always the light one. Browsers
    that do not know `light-dark()` show the light one, too.
    """
    light = "".join(f"--{name}:{pair[0]};" for name, pair in COLOURS.items())
    both = "".join(f"--{name}:light-dark({pair[0]},{pair[1]});" for name, pair in COLOURS.items())
    classes = "".join(
        f".f-{name} {{fill:var(--{name})}} .s-{name} {{stroke:var(--{name})}}\n" for name in CLASSES.values()
    )
    edges = "".join(
        f".b-{name} {{--edge:var(--{name})}}\n" for name in COLOURS if name[0] == "p" and name[1:].isdigit()
    )
    return f""":root {{color-scheme:light;{light}}}
@supports (color:light-dark(#000,#fff)) {{
:root {{color-scheme:light dark;{both}}}
:root[data-scheme="light"] {{color-scheme:light}} :root[data-scheme="dark"] {{color-scheme:dark}}
@media print {{:root,:root[data-scheme] {{color-scheme:light}}}}
}}
{classes}{edges}"""


def luminance(colour: str) -> float:
    """Relative luminance of a hex colour (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: float, second: float) -> float:
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)
