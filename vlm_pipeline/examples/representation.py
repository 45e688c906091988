"""What the rows are made of: counts that show what is over-represented before a model learns it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from vlm_pipeline.examples.facts import Facts

_ANSWERS_KEPT = 50_000


def representation(rows: Iterable[Facts], *, share: float = 0.3, bins: int = 10) -> dict[str, Any]:
    """Counts by split of sections, groups' largest, frequent answers, refusals and scores; JSON-ready.

    `flags` are sentences on what takes more than `share` of a split: one answer, refusals, one score bin, or a
    section with more than twice its even part. Scores are metadata.score, else a numeric metadata.answer; the
    histogram has `bins` equal bins over the scores of all splits. Streams; answers are kept up to 50,000 values.
    """
    splits: dict[str, _Counts] = {}
    for row in rows:
        splits.setdefault(row.split or "unsplit", _Counts()).add(row)
    scores = [score for counts in splits.values() for score in counts.scores]
    edges = _edges(min(scores), max(scores), bins) if scores else []
    report = {name: counts.report(edges) for name, counts in sorted(splits.items())}
    return {"splits": report, "score_bins": edges, "flags": _flags(report, share)}


class _Counts:
    def __init__(self) -> None:
        self.rows = 0
        self.refusals = 0
        self.sections: Counter[str] = Counter()
        self.groups: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.scores: Counter[float] = Counter()

    def add(self, row: Facts) -> None:
        self.rows += 1
        self.refusals += row.refused
        self.sections[row.section or "none"] += 1
        if row.group and not row.group.startswith("id:"):
            self.groups[row.group] += 1
        if row.said in self.answers or len(self.answers) < _ANSWERS_KEPT:
            self.answers[row.said] += 1
        if row.score is not None:
            self.scores[row.score] += 1

    def report(self, edges: list[float]) -> dict[str, Any]:
        histogram = [0] * max(0, len(edges) - 1)
        for score, count in self.scores.items():
            histogram[_bin(score, edges)] += count
        return {
            "rows": self.rows,
            "refusals": self.refusals,
            "sections": dict(sorted(self.sections.items())),
            "largest_groups": dict(self.groups.most_common(5)),
            "top_answers": dict(self.answers.most_common(10)),
            "scored": sum(self.scores.values()),
            "score_histogram": histogram,
        }


def _edges(low: float, high: float, bins: int) -> list[float]:
    if low == high:
        return [low, low]
    return [low + (high - low) * position / bins for position in range(bins + 1)]


def _bin(score: float, edges: list[float]) -> int:
    width = edges[-1] - edges[0]
    last = len(edges) - 2
    return 0 if width == 0 else min(last, int((score - edges[0]) / width * (last + 1)))


def _flags(report: dict[str, Any], share: float) -> list[str]:
    flags = []
    for split, counts in report.items():
        rows = counts["rows"]
        if rows < 10:
            continue
        answer, times = next(iter(counts["top_answers"].items()))
        if times / rows > share:
            flags.append(f"{split}: {times} of {rows} rows answer {answer!r}")
        if counts["refusals"] / rows > share:
            flags.append(f"{split}: {counts['refusals']} of {rows} answers are refusals")
        for section, number in counts["sections"].items():
            if len(counts["sections"]) > 1 and number / rows > 2 / len(counts["sections"]):
                flags.append(f"{split}: section {section!r} has {number} of {rows} rows")
        histogram = counts["score_histogram"]
        if histogram and max(histogram) / max(1, counts["scored"]) > max(share, 2 / len(histogram)):
            flags.append(
                f"{split}: {max(histogram)} of {counts['scored']} scores lie in one of {len(histogram)} bins"
            )
    return flags
