"""What scorers return: small frozen records, so that a person can audit every figure.

Spans are ``(start, end)`` character offsets into the text that was given, so ``text[start:end]`` is the evidence.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

Span = tuple[int, int]
Context = (
    str | Collection[float] | None
)  # what an answer may rest on: a text, or the numbers that its page shows

FailureKind = Literal[
    "no_answer",
    "wrong_number",
    "wrong_unit",
    "missing_keyword",
    "format",
    "refusal",
    "hallucination",
    "wrong_choice",
    "wrong_call",
    "other",
]

Value = float | bool | None


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read from a text, by which rule and where.

    ``value`` is None when nothing was found; ``rule`` then says why ("nothing_found", "out_of_range", ...).
    ``inferred`` marks a value that was guessed from words and never written as a number.
    """

    value: Any
    rule: str
    span: Span | None = None
    inferred: bool = False

    @property
    def found(self) -> bool:
        return self.value is not None


NOTHING = Extraction(None, "nothing_found")


@dataclass(frozen=True, slots=True)
class Reference:
    """A gold answer in the form that its scorer compares with; ``raw`` is what the row said."""

    value: Any
    raw: Any


@dataclass(frozen=True, slots=True)
class GoldError:
    """A gold answer that cannot be read: a finding about the data, never a wrong prediction."""

    reason: str
    raw: Any


@dataclass(frozen=True, slots=True)
class RowScore:
    """Scores of one row.

    ``values`` maps a name to a number, a yes/no, or None for *unscored* (nothing could be extracted), which is
    never the same as wrong. ``primary`` names the headline among them: in [0, 1], or an absolute error.
    ``failure`` is None for a right answer. ``flagged`` are places that a person should look at, such as a number that
    the page does not hold; ``notes`` say why.
    """

    values: dict[str, Value]
    primary: str
    extraction: Extraction | None = None
    failure: FailureKind | None = None
    notes: tuple[str, ...] = ()
    flagged: tuple[Span, ...] = ()

    @property
    def headline(self) -> Value:
        return self.values[self.primary]

    def placed(self, place: Callable[[Span], Span]) -> "RowScore":
        """The same scores with every span moved, for instance from a cleaned text into the response."""
        found = self.extraction
        if found is not None and found.span is not None:
            found = replace(found, span=place(found.span))
        return replace(self, extraction=found, flagged=tuple(place(span) for span in self.flagged))
