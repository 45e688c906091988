"""What the embedded base is asked about a page while it learns to see: free questions, free answers.

Nothing here knows a bundled task: no part names, no answer format. Answers are sentences, often with a remark
about the page first, as an untuned assistant's are.
"""

from __future__ import annotations

from collections.abc import Callable

from vlm_pipeline.bundled.base_model.entry_questions import EntryQuestions
from vlm_pipeline.bundled.base_model.page_questions import PageQuestions
from vlm_pipeline.bundled.base_model.page_view import Pair


class Asker(PageQuestions, EntryQuestions):
    """All kinds of questions about one page, mixed."""

    def ask(self, count: int) -> list[Pair]:
        """``count`` questions of mixed kinds; about a third of the answers start with a remark on the page."""
        kinds: list[tuple[Callable[[], Pair | None], float]] = [
            (self.describe, 0.6), (self.read_all, 1.0), (self.read_shuffled, 1.0), (self.value, 4.0), (self.value_by_colour, 1.0),
            (self.value_by_place, 1.5), (self.number_only, 1.5), (self.unit, 0.7), (self.colour, 0.7),
            (self.which_has, 1.3), (self.bounds, 2.0), (self.compare, 0.8), (self.two_values, 1.0),
            (self.count, 3.0 if self.street else 0.8), (self.exists, 1.0 if self.street else 0.4), (self.neighbour, 1.2), (self.light, 0.5),
            (self.step_of, 1.0),
            (self.follows, 0.8),
        ]  # fmt: skip
        asks, weights = [k for k, _ in kinds], [w for _, w in kinds]
        pairs: list[Pair] = []
        while len(pairs) < count:
            ask = self.rng.choices(asks, weights)[0]
            pair = ask()
            if pair is None:
                continue
            question, answer = pair
            if (
                ask not in (self.describe, self.read_all, self.read_shuffled, self.number_only)
                and self.rng.random() < 0.3
            ):
                answer = f"{self.remark(self.rng.randint(1, 2))} {answer}"
            pairs.append((question[0].upper() + question[1:], answer))
        return pairs
