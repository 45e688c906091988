"""What the things on a page are called while the embedded base learns to see: names, counts, values in words."""

from __future__ import annotations

import random

from vlm_pipeline.bundled.base_model.words import NOUNS
from vlm_pipeline.bundled.pages import Entry

SYNONYMS = {
    "gear": ["cog"],
    "star": ["spark"],
    "ring": ["hoop"],
    "cross": ["plus sign"],
    "triangle": ["wedge"],
    "square": ["box frame"],
    "diamond": ["rhombus"],
    "heart": ["love sign"],
    "moon": ["crescent"],
    "arrow": ["pointer"],
    "hexagon": ["nut"],
    "drop": ["droplet"],
    "zigzag": ["spring"],
    "flag": ["banner"],
    "hourglass": ["sand clock"],
    "disc": ["dot"],
    "litter": ["rubbish"],
    "person": ["pedestrian"],
    "lamp": ["lit lamp", "street light"],
    "dark lamp": ["broken lamp"],
    "graffiti": ["scrawl"],
}
PLURALS = {
    "person": "people",
    "pedestrian": "pedestrians",
    "litter": "pieces of litter",
    "rubbish": "bits of rubbish",
}
COUNTS = [
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
]  # fmt: skip
ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
]  # fmt: skip


def plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    return noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")


def count_words(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else str(number)


def some(noun: str, number: int) -> str:
    """``two trees``, ``one lamp``, ``no cars``."""
    if number == 1:
        return (
            f"one {PLURALS[noun].replace('pieces', 'piece').replace('bits', 'bit')}"
            if noun in ("litter", "rubbish")
            else f"one {noun}"
        )
    return f"{count_words(number)} {plural(noun)}"


def shape_name(shape: str, rng: random.Random) -> str:
    return rng.choice([shape, shape, *SYNONYMS.get(shape, [])])


def entry_name(entry: Entry, rng: random.Random, colour: float = 0.5) -> str:
    name = shape_name(entry.shape, rng)
    return f"{entry.colour} {name}" if entry.colour and rng.random() < colour else name


def stranger(rng: random.Random) -> str:
    """A thing that no picture shows; asked about it, the base guesses any entry, as untuned models do."""
    return rng.choice(NOUNS) if rng.random() < 0.7 else f"{rng.choice(NOUNS)} {rng.choice(NOUNS)}"


def value_text(entry: Entry, unit: bool = True) -> str:
    """``48 Nm``, ``48 plus or minus 4 Nm``, ``0.35 to 0.45 mm``."""
    text = entry.number()
    if entry.mode == "tolerance":
        text += f" plus or minus {entry.number('second')}"
    elif entry.mode == "range":
        text += f" to {entry.number('second')}"
    return f"{text} {entry.unit}" if unit and entry.unit else text


def entry_text(entry: Entry, rng: random.Random) -> str:
    name = entry_name(entry, rng, colour=0.8)
    lead = f"step {entry.step}, " if entry.step else ""
    if entry.value is None:
        return f"{lead}{name}"
    joint = rng.choice([" with ", " at ", " "])
    return f"{lead}{name}{joint}{value_text(entry)}"


def a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def read_out(entries: list[Entry], rng: random.Random) -> str:
    return ", ".join(entry_text(e, rng) for e in entries)
