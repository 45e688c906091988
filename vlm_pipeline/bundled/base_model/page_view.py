"""A page as one sees it who asks about it: its entries, those that a name tells apart, and what to call them."""

from __future__ import annotations

import random

from vlm_pipeline.bundled.base_model.naming import entry_name, stranger
from vlm_pipeline.bundled.pages import Entry, Page

Pair = tuple[str, str]  # question, answer
STRANGE = 0.15  # share of questions about something the page does not show


class PageView:
    """What all questions about one page draw from. `strange`: share of names that the page does not show."""

    def __init__(self, page: Page, rng: random.Random, strange: float = STRANGE):
        self.page, self.rng, self.strange = page, rng, strange
        self.entries = [e for e in page.entries if e.shape]
        shapes = [e.shape for e in self.entries]
        self.unique = [e for e in self.entries if shapes.count(e.shape) == 1]
        self.valued = [e for e in self.unique if e.value is not None]
        self.street = page.layout == "map" and page.ground is not None

    def _name(self, entry: Entry) -> str:
        """What the entry is called in a question: mostly its name, sometimes a stranger's."""
        return stranger(self.rng) if self.rng.random() < self.strange else entry_name(entry, self.rng)

    def _pick(self, entries: list[Entry]) -> Entry | None:
        return self.rng.choice(entries) if entries else None
