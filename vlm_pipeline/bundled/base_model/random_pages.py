"""Random pages of every layout that the embedded base should be at home with, and questions about them."""

from __future__ import annotations

import random

from vlm_pipeline.bundled.base_model.page_view import Pair
from vlm_pipeline.bundled.base_model.questions import Asker
from vlm_pipeline.bundled.glyphs import COLOURS, GROUNDS, PICTOGRAMS, UNITS
from vlm_pipeline.bundled.pages import Entry, Page, place_entries


def random_entry(rng: random.Random, shape: str, layout: str) -> Entry:
    entry = Entry(shape=shape, colour=rng.choice(list(COLOURS)))
    if layout == "map":
        return entry
    entry.dot = rng.choice([0, 0, 1, 2])
    if layout in ("list", "cards"):
        entry.mode = rng.choice(["none", "tolerance", "range"])
    entry.value = rng.randint(10, 99)
    if entry.mode == "tolerance":
        entry.second = rng.randint(1, 9)
    elif entry.mode == "range":
        entry.value = rng.randint(10, 88)
        entry.second = rng.randint(entry.value + 1, min(99, entry.value + 25))
    if layout != "pairs":
        entry.unit = rng.choice(UNITS)
    return entry


def random_page(rng: random.Random) -> Page:
    """A page of any layout the base should be at home with."""
    layout = rng.choices(["list", "cards", "steps", "pairs", "map", "street"], [5, 4, 2, 2, 2, 3])[0]
    if layout == "street":
        return random_street(rng)
    columns = {"list": rng.choice([1, 2]), "cards": rng.randint(2, 4), "steps": rng.choice([1, 2]),
               "pairs": rng.randint(2, 4), "map": rng.randint(3, 7)}[layout]  # fmt: skip
    rows = {"list": rng.randint(3, 7), "cards": rng.randint(2, 3), "steps": rng.randint(2, 6),
            "pairs": rng.randint(2, 5), "map": rng.randint(2, 5)}[layout]  # fmt: skip
    if layout == "steps":
        columns = 1 if rows > 4 else columns
    number = rows * columns
    repeat = layout == "map" or number > 12 or rng.random() < 0.15
    shapes = rng.choices(PICTOGRAMS, k=number) if repeat else rng.sample(PICTOGRAMS, number)
    one_shape = layout not in ("map", "street") and number <= len(COLOURS) and rng.random() < 0.15
    if one_shape:
        shapes = [rng.choice(PICTOGRAMS)] * number
    entries = [random_entry(rng, shape, layout) for shape in shapes]
    if one_shape:  # told apart by colour alone
        for entry, colour in zip(entries, rng.sample(list(COLOURS), number), strict=True):
            entry.colour = colour
    if layout == "map":
        for entry in entries:
            if rng.random() < 0.3:
                entry.shape = entry.colour = None
    if layout == "steps":
        for index, entry in enumerate(entries):
            entry.step = index + 1
    return place_entries(entries, layout, columns)


def random_street(rng: random.Random) -> Page:
    """A street of random things: sky, a wall, a pavement, a road."""
    columns = rng.randint(5, 8)
    sky = rng.choice(["day sky", "dusk sky", "night sky"])
    wall = rng.choice(["brick wall", "shop wall", "hedge", "concrete wall"])
    walk = rng.choice(["pavement", "grass"])
    ground = [[g] * columns for g in (sky, wall, walk, rng.choice(["road", walk]))]
    assert all(g in GROUNDS for row in ground for g in row)
    high, low = (
        ["window", "broken window", "door", "camera", "graffiti"],
        ["lamp", "dark lamp", "person", "litter", "tree", "bench", "car"],
    )
    high, low = rng.sample(high, 3), rng.sample(low, 4)
    entries = []
    for row in range(4):
        for _ in range(columns):
            pool, chance = ([], 0.0) if row == 0 else (high, 0.5) if row == 1 else (low, 0.4)
            entry = Entry(shape=rng.choice(pool) if rng.random() < chance else None)
            if entry.shape in ("person", "car"):
                entry.colour = rng.choice(list(COLOURS))
            entries.append(entry)
    return place_entries(entries, "map", columns, ground)


def page_and_questions(rng: random.Random, count: int) -> tuple[Page, list[Pair]]:
    page = random_page(rng)
    return page, Asker(page, rng).ask(count)
