"""The bundled task `street_safety`: drawn street scenes, a safety score from 1 to 10 and one sentence why.

The score follows from the light and from which things can be seen, and from nothing else, so a predictor without the picture can only guess.
"""

from __future__ import annotations

import random
from typing import Any

from vlm_pipeline.bundled.glyphs import COLOURS
from vlm_pipeline.bundled.pages import Entry, Page, page_from_dict, place_entries

NAME = "street_safety"
SECTIONS = ("residential", "commercial", "park", "underpass")
SCENES = {"train": 180, "val": 24, "test": 24}  # of each section
SEEDS = {"train": 5101, "val": 5202, "test": 5303, "probes": 5404}
PROBE_PAGES, PROBES_A_PAGE = 6, 1  # of each section, in no split

COLUMNS = 7
LIGHT = {"day": 3, "dusk": 0, "night": -3}
WEIGHT = {
    "lamp": 1,
    "person": 1,
    "camera": 1,
    "dark lamp": -1,
    "broken window": -1,
    "litter": -1,
    "graffiti": -1,
}
NEUTRAL = ["tree", "bench", "car", "door", "window"]
#: section -> wall behind, ground walked on, road or not
SETTING = {
    "residential": ("brick wall", "pavement", "road"),
    "commercial": ("shop wall", "pavement", "road"),
    "park": ("hedge", "grass", "grass"),
    "underpass": ("concrete wall", "pavement", "pavement"),
}
ON_WALL = {"residential": ["window", "broken window", "door", "camera", "graffiti"],
           "commercial": ["window", "broken window", "door", "camera", "graffiti"],
           "park": ["camera"], "underpass": ["camera", "graffiti", "broken window"]}  # fmt: skip
ON_GROUND = {"residential": ["lamp", "dark lamp", "person", "litter", "tree", "car"],
             "commercial": ["lamp", "dark lamp", "person", "litter", "car", "bench"],
             "park": ["lamp", "dark lamp", "person", "litter", "tree", "bench"],
             "underpass": ["lamp", "dark lamp", "person", "litter"]}  # fmt: skip

QUESTIONS = [
    "How safe does this street look, from 1 to 10? The number first, please.",
    "Rate the safety of this place from 1 to 10. The number, please, and why.",
    "What is the safety of this street, from 1 to 10? The number, please, and why.",
]

Facts = dict[str, Any]


def make_scene(section: str, rng: random.Random) -> Page:
    """A scene whose score is drawn first, so that every score is as likely; then things that give it."""
    wanted = rng.randint(1, 10)
    while True:
        page = _random_scene(section, rng)
        if score(seen(page)) == wanted:
            return page


def _random_scene(section: str, rng: random.Random) -> Page:
    wall, walk, road = SETTING[section]
    while True:
        light = rng.choice(list(LIGHT))
        counts = {thing: rng.choice([0, 0, 0, 1, 1, 2]) for thing in ON_WALL[section] + ON_GROUND[section]}
        above = [t for t in ON_WALL[section] for _ in range(counts[t])]
        below = [t for t in ON_GROUND[section] for _ in range(counts[t])]
        if len(above) <= COLUMNS and len(below) <= 2 * COLUMNS:
            break
    rng.shuffle(above)
    rng.shuffle(below)
    grid: list[str | None] = [None] * (4 * COLUMNS)
    for thing, cell in zip(above, rng.sample(range(COLUMNS, 2 * COLUMNS), len(above)), strict=True):
        grid[cell] = thing
    for thing, cell in zip(below, rng.sample(range(2 * COLUMNS, 4 * COLUMNS), len(below)), strict=True):
        grid[cell] = thing
    colours = list(COLOURS)
    entries = [Entry(shape=t, colour=rng.choice(colours) if t in ("person", "car") else None) for t in grid]
    ground = [[g] * COLUMNS for g in (f"{light} sky", wall, walk, road)]
    return place_entries(entries, "map", COLUMNS, ground)


def seen(page: Page) -> Facts:
    """What matters in a scene: the light and the number of each thing."""
    shapes = [e.shape for e in page.entries if e.shape]
    return {
        "light": page.ground[0][0].split()[0],
        "counts": {t: shapes.count(t) for t in [*WEIGHT, *NEUTRAL]},
    }


def score(facts: Facts) -> int:
    """5, plus the light, plus one for each kind of good thing, minus one for each kind of bad; within 1 to 10."""
    total = 5 + LIGHT[facts["light"]] + sum(w for t, w in WEIGHT.items() if facts["counts"][t])
    return max(1, min(10, total))


def answer(facts: Facts) -> str:
    """``Safety Score: 6 - dusk, with lamp and person, but broken window.``"""
    there = [t for t in WEIGHT if facts["counts"][t]]
    good, bad = ([t for t in there if (WEIGHT[t] > 0) == wanted] for wanted in (True, False))
    text = facts["light"]
    text += f", with {' and '.join(good)}" if good else ""
    text += f", but {' and '.join(bad)}" if bad else ""
    return f"Safety Score: {score(facts)} - {text}."


def page_facts(section: str, page: Page, group: str, split: str, seed: int) -> Facts:
    facts = seen(page)
    return {"group": group, "section": section, "split": split, "image": f"images/{group}.png", "generator_seed": seed,
            "shown": {**facts, "score": score(facts)}, "page": page.as_dict()}  # fmt: skip


def rows_of(facts: Facts, rng: random.Random, kinds: set[str] | None = None) -> list[Facts]:
    """The scene's one row; ``kinds`` is there for the same call as the other task's and must be None."""
    if kinds not in (None, {"score"}):
        raise ValueError(f"street_safety has questions of kind 'score' only, not {sorted(kinds)}")
    shown = seen(page_from_dict(facts["page"]))
    value = score(shown)
    return [
        {
            "image": facts["image"],
            "conversations": [
                {"role": "user", "content": rng.choice(QUESTIONS)},
                {"role": "assistant", "content": answer(shown)},
            ],
            "metadata": {
                "id": f"{facts['group']}-q01",
                "section": facts["section"],
                "group": facts["group"],
                "split": facts["split"],
                "content_type": "score",
                "answer": value,
                "score": value,
                "generator_seed": facts["generator_seed"],
                "evidence": {k: v for k, v in shown["counts"].items() if v} | {"light": shown["light"]},
            },
        }
    ]
