"""The rows that people look at, with one `Answer` per predictor; which of them changed most."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from vlm_pipeline.reporting.view import Comparison


@dataclass(slots=True)
class Answer:
    """What one predictor said to one row. `correct` is None when nothing could be scored."""

    text: str
    correct: bool | None = None
    score: float | None = None  # headline value of this row, direction as the metric's
    extracted: str = ""
    expected_number: float | None = None  # both numbers in the unit of the expected one, "" without
    extracted_number: float | None = None
    unit: str = ""
    rule: str = ""
    span: tuple[int, int] | None = None  # what was read
    flagged: tuple[
        tuple[int, int], ...
    ] = ()  # what a person should look at, such as numbers that no page bears out
    failure: str = ""
    reason: str = ""  # the deciding scorer's notes, then a line for each other scorer that noted something
    reward: float | None = None
    error: str = ""
    finish_reason: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    latency_s: float | None = None
    cost_usd: float | None = None
    cached: bool | None = None

    @property
    def outcome(self) -> str:
        if self.error:
            return "error"
        return "unscored" if self.correct is None else "right" if self.correct else "wrong"

    def marks(self, cut: int | None = None) -> list[tuple[int, int, str]]:
        """Pieces of the text that are marked, in order and not overlapping: "read", "flagged", or "read flagged"."""
        end = len(self.text) if cut is None else min(cut, len(self.text))
        spans = [("read", self.span)] * bool(self.span) + [("flagged", span) for span in self.flagged]
        spans = [(kind, span) for kind, span in spans if 0 <= span[0] < span[1] <= end]
        edges = sorted({edge for _, span in spans for edge in span})
        pieces = []
        for start, stop in pairwise(edges):
            kinds = dict.fromkeys(kind for kind, span in spans if span[0] <= start and stop <= span[1])
            if kinds:
                pieces.append((start, stop, " ".join(kinds)))
        return pieces


@dataclass(slots=True)
class Row:
    """`expected` is the gold answer as text; `image` a path and `image_key` its content hash, or empty."""

    id: str
    section: str
    group: str
    split: str
    question: str
    expected: str
    image: str = ""
    image_key: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A row whose answer got better or worse from reference to candidate; `gain` is positive for better."""

    row: Row
    gain: float


def largest_changes(rows: list[Row], view: Comparison, count: int = 6) -> tuple[list[Change], list[Change]]:
    """Largest improvements and largest regressions between the two of the decision, ties broken by row id.

    Rows that only one of the two could be scored on count as a change of the whole scale.
    """
    sign = -1.0 if view.headline.lower_is_better else 1.0
    changes = []
    for row in rows:
        before, after = row.answers.get(view.reference.name), row.answers.get(view.candidate.name)
        if before is not None and after is not None:
            gain = _gain(before, after, sign)
            if gain:
                changes.append(Change(row, gain))
    better = sorted((c for c in changes if c.gain > 0), key=lambda c: (-c.gain, c.row.id))
    worse = sorted((c for c in changes if c.gain < 0), key=lambda c: (c.gain, c.row.id))
    return _spread(better, count), _spread(worse, count)


def _gain(before: Answer, after: Answer, sign: float) -> float:
    if before.score is not None and after.score is not None:
        return sign * (after.score - before.score)
    order = {"error": 0, "unscored": 0, "wrong": 0, "right": 1}
    return float(order[after.outcome] - order[before.outcome])


def _spread(changes: list[Change], count: int) -> list[Change]:
    """The largest ones, sections taking turns among equals, so that six rows do not all show one page."""
    chosen: list[Change] = []
    seen: dict[tuple[float, str], int] = {}
    ranked = []
    for position, change in enumerate(changes):
        turn = seen.get((change.gain, change.row.section), 0)
        seen[(change.gain, change.row.section)] = turn + 1
        ranked.append((-abs(change.gain), turn, position, change))
    chosen = [entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3])[:count]]
    return chosen
