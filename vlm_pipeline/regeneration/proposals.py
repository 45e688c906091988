"""What every teacher is, and how proposals of many pages are put in an order that may be cut off anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from vlm_pipeline.examples.example import Example
from vlm_pipeline.regeneration.candidate import Candidate


class TeacherError(ValueError):
    """This teacher cannot work here; the message says why and what to do."""


class Teacher(Protocol):
    """`exact`: its words are the task's own, so that any other wording of an answer is wrong."""

    name: str
    exact: bool
    cost_usd: float

    def correct(self, rows: Sequence[Example]) -> list[Candidate]:
        """The questions of these train rows, answered again; candidate i answers row i."""
        ...

    def more(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """New questions about the pages of these train rows, as a section's request asks for them."""
        ...

    def negatives(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """Questions of other pages that a page does not answer, with the task's words for that."""
        ...


def pages_of(rows: Iterable[Example]) -> dict[str, list[Example]]:
    """Train rows by page, in order."""
    pages: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        pages[str(row.group)].append(row)
    return dict(sorted(pages.items()))


def choose(pages: Sequence[Sequence[Candidate]], kinds: Mapping[str, int], per_page: int) -> list[Candidate]:
    """At most `per_page` of every page, page by page in turn, each time of the kind that most rows are still wanted of."""
    left = dict(kinds)
    pools = [list(page) for page in pages]
    chosen: list[Candidate] = []
    for _ in range(per_page):
        for pool in pools:
            wanted = [one for one in pool if left.get(one.counts_as, 0) > 0]
            if wanted:
                one = max(wanted, key=lambda one: left[one.counts_as])
                pool.remove(one)
                left[one.counts_as] -= 1
                chosen.append(one)
    return chosen


def in_turn(lists: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """The first of every page, then the second of every page: a cut-off list still covers all pages."""
    longest = max(map(len, lists), default=0)
    return [own[place] for place in range(longest) for own in lists if place < len(own)]
