"""Drills: the shortest texts in which one thing is looked up after another.

A language model of this size finds "name in, value out" within a hundred steps when the value follows the name at
once and every text holds many of them; asked in whole sentences from the start it does not find it in an hour. A
blank before a number is a token of its own and would be a second hop, so the first drills do without one.
"""

from __future__ import annotations

import random
from collections import Counter

from vlm_pipeline.bundled.base_model.naming import shape_name, stranger
from vlm_pipeline.bundled.base_model.page_view import STRANGE, Pair
from vlm_pipeline.bundled.pages import Entry, Page

MOST = 10  # lookups in one drill
GAPS = ["", "", "", " ", ": ", " is "]  # between what is looked up and what is found


class Driller:
    """Each method gives one drill about the page, or None where the page has nothing for it."""

    def __init__(self, page: Page, rng: random.Random, strange: float = STRANGE, gaps: bool = True):
        self.page, self.rng, self.strange = page, rng, strange
        self.gap = rng.choice(GAPS) if gaps else ""
        self.entries = [e for e in page.entries if e.shape]
        shapes = Counter(e.shape for e in self.entries)
        colours = Counter(e.colour for e in self.entries)
        self.unique = [e for e in self.entries if shapes[e.shape] == 1]
        self.valued = [e for e in self.unique if e.value is not None]
        self.own_colour = [e for e in self.entries if e.colour and colours[e.colour] == 1]
        self.shapes = shapes

    def _some(self, entries: list[Entry]) -> list[Entry]:
        return self.rng.sample(entries, min(len(entries), MOST))

    def _or_stranger(self, word: str) -> str:
        return stranger(self.rng) if self.rng.random() < self.strange else word

    def _name(self, entry: Entry) -> str:
        word = shape_name(entry.shape, self.rng) if self.rng.random() < 0.4 else entry.shape
        return self._or_stranger(word)

    def _drill(self, cue: str, items: list[str]) -> Pair | None:
        return (cue, " " + " ".join(items)) if len(items) > 1 else None

    def _found(self, key: str, found: str) -> str:
        """Key and what is found there; words and equal kinds of characters keep a blank between them."""
        apart = found[0].isalpha() or key[-1].isdigit()
        return f"{key}{self.gap or (' ' if apart else '')}{found}"

    @staticmethod
    def _full(entry: Entry) -> str:
        text = entry.number()
        if entry.mode != "none":
            text += {"tolerance": " ±", "range": " -"}[entry.mode] + entry.number("second")
        return text + (f" {entry.unit}" if entry.unit else "")

    def values(self) -> Pair | None:
        return self._drill(
            "Values.", [self._found(self._name(e), e.number()) for e in self._some(self.valued)]
        )

    def full(self) -> Pair | None:
        return self._drill(
            "All of it.", [self._found(self._name(e), self._full(e)) for e in self._some(self.valued)]
        )

    def seconds(self) -> Pair | None:
        picked = self._some([e for e in self.valued if e.mode != "none"])
        return self._drill("Limits.", [self._found(self._name(e), e.number("second")) for e in picked])

    def back(self) -> Pair | None:
        values = Counter(e.value for e in self.entries)
        picked = self._some([e for e in self.valued if values[e.value] == 1])
        return self._drill("Names.", [self._found(e.number(), e.shape) for e in picked])

    def colours(self) -> Pair | None:
        picked = self._some([e for e in self.unique if e.colour])
        return self._drill("Colours.", [self._found(self._name(e), e.colour) for e in picked])

    def by_colour(self) -> Pair | None:
        picked = self._some([e for e in self.own_colour if e.value is not None])
        return self._drill(
            "By colour.", [self._found(self._or_stranger(e.colour), e.number()) for e in picked]
        )

    def colour_names(self) -> Pair | None:
        return self._drill("Symbols.", [self._found(e.colour, e.shape) for e in self._some(self.own_colour)])

    def steps(self) -> Pair | None:
        picked = self._some([e for e in self.valued if e.step])
        if self.rng.random() < 0.5:
            return self._drill("Steps.", [self._found(e.shape, str(e.step)) for e in picked])
        return self._drill("By step.", [self._found(f"{e.step} {e.shape}", e.number()) for e in picked])

    def order(self) -> Pair | None:
        start = self.rng.randrange(max(1, len(self.unique) - 2))
        return self._drill("In order.", [e.shape for e in self.unique[start : start + MOST]])

    def beside(self) -> Pair | None:
        """Left and right of two columns, or any other neighbours."""
        if self.page.ground is not None:
            return None
        places = {e.place: e for e in self.unique}
        lefts = sorted({col for _, col in places})
        tops = sorted({row for row, _ in places})
        pairs = []
        side = self.rng.choice(["right", "left", "below", "above"])
        for entry in self._some(self.unique):
            row, col = entry.place
            i, j = tops.index(row), lefts.index(col)
            i, j = i + {"below": 1, "above": -1}.get(side, 0), j + {"right": 1, "left": -1}.get(side, 0)
            if 0 <= i < len(tops) and 0 <= j < len(lefts) and (tops[i], lefts[j]) in places:
                pairs.append(self._found(entry.shape, places[tops[i], lefts[j]].shape))
        return self._drill(f"{side.capitalize()}.", pairs)

    def counts(self) -> Pair | None:
        if len(self.shapes) == len(self.entries):
            return None
        picked = self.rng.sample(sorted(self.shapes), min(len(self.shapes), MOST))
        return self._drill("Counts.", [self._found(shape, str(self.shapes[shape])) for shape in picked])

    def drill(self) -> Pair | None:
        """A drill of any kind, the plain ones more often."""
        kinds = [
            self.values,
            self.full,
            self.seconds,
            self.back,
            self.colours,
            self.by_colour,
            self.colour_names,
            self.steps,
            self.order,
            self.beside,
            self.counts,
        ]
        weights = [3, 4, 3, 4, 1, 2, 1, 3, 1, 2, 2]
        return self.rng.choices(kinds, weights)[0]()
