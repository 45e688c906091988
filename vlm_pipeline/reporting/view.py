"""The report's own vocabulary: small frozen records that every output (page, figures, workbook, terminal) shares.

`reading.py` fills them from the JSON documents of scoring; nothing below this line knows those documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

MINUS = "\u2212"
EM_DASH = "\u2014"


@dataclass(frozen=True, slots=True)
class Metric:
    """`percent`: values are shares in [0, 1] and are printed as percentages, differences as points.

    `digits` after the point are the same in all figures of a metric, so that columns line up.
    """

    key: str
    label: str
    lower_is_better: bool = False
    percent: bool = False
    unit: str = ""
    digits: int = 2

    def value(self, number: float | None) -> str:
        if not is_number(number):
            return EM_DASH
        return (
            f"{_fixed(100 * number, 1)} %"
            if self.percent
            else self._number(number) + (f" {self.unit}" if self.unit else "")
        )

    def difference(self, number: float | None) -> str:
        """Signed, with a real minus sign; shares become points."""
        if not is_number(number):
            return EM_DASH
        return signed(_fixed(100 * number, 1) if self.percent else self._number(number))

    def interval(self, low: float | None, high: float | None, *, signs: bool = False) -> str:
        if not (is_number(low) and is_number(high)):
            return ""
        if signs:
            return f"[{self.difference(low)}, {self.difference(high)}]"
        bounds = [_fixed(100 * bound, 1) if self.percent else self._number(bound) for bound in (low, high)]
        return f"[{bounds[0]}, {bounds[1]}]"

    def _number(self, number: float) -> str:
        return _fixed(number, self.digits)

    @property
    def difference_unit(self) -> str:
        return "points" if self.percent else self.unit


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval over `n` answered rows, of which `unscored` held nothing that could be read.

    `of_scored` is the same figure over the readable rows only, where that differs.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unscored: int | None = None
    grade: str | None = None
    demonstrated: str | None = None
    of_scored: float | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired difference, predictor minus baseline, on the rows that both have a value for."""

    baseline: str
    predictor: str
    metric: str
    section: str | None
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    p: float | None = None
    p_adjusted: float | None = None
    test: str | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    sides: tuple[Estimate, Estimate] | None = None  # predictor's and baseline's figure on these very rows
    left_out: int = 0  # rows that only one of the two has a value for

    @property
    def p_shown(self) -> float | None:
        return self.p_adjusted if self.p_adjusted is not None else self.p


@dataclass(frozen=True, slots=True)
class Predictor:
    """`slot` picks colour and marker; `status` is measured, pending, failed or not run."""

    name: str
    label: str
    slot: int
    status: str = "measured"
    reason: str = ""
    kind: str = ""
    stand_in: str = ""
    cost: dict[str, float | None] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        return self.status == "measured"

    @property
    def full_label(self) -> str:
        """The label, with what stands in for the model where something does: never one without the other in a table."""
        return f"{self.label} ({self.stand_in})" if self.stand_in else self.label


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict` is one of better, worse, undecided, incomparable, not run."""

    verdict: str
    sentence: str
    predictor: str | None = None
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that scoring said, in one place."""

    task: str
    title: str
    split: str
    decision: Decision
    headline: Metric
    metrics: tuple[Metric, ...]
    predictors: tuple[Predictor, ...]
    baseline: str
    n: int | None
    groups: int | None
    estimates: dict[tuple[str, str], Estimate]  # (predictor, metric)
    section_estimates: dict[tuple[str, str], Estimate]  # (predictor, section), headline metric
    sections: tuple[str, ...]
    differences: tuple[Difference, ...]
    fairness: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def predictor(self, name: str) -> Predictor:
        return next(p for p in self.predictors if p.name == name)

    @property
    def reference(self) -> Predictor:
        """What the decision compares with: the base, unless two other predictors were asked about."""
        paired = self.decision.difference
        return self.predictor(paired.baseline if paired else self.baseline)

    @property
    def candidate(self) -> Predictor:
        """The predictor that the decision is about, else the first measured one that is not the base, else the base."""
        others = [p for p in self.measured if p.name != self.reference.name]
        named = [p for p in others if p.name == self.decision.predictor]
        return (named or others or [self.reference])[0]

    @property
    def measured(self) -> tuple[Predictor, ...]:
        return tuple(p for p in self.predictors if p.measured)

    def metric_label(self, key: str) -> str:
        return next((m.label for m in self.metrics if m.key == key), key)

    def difference(self, predictor: str, metric: str, section: str | None = None) -> Difference | None:
        return next(
            (
                d
                for d in self.differences
                if (d.predictor, d.metric, d.section, d.baseline)
                == (predictor, metric, section, self.baseline)
            ),
            None,
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of cells; numbers stay numbers and are printed by `cell_text`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""

    def transposed(self) -> Table:
        """Lines become columns: for few lines of many columns."""
        columns, *rows = zip(self.columns, *self.rows, strict=True)
        return Table(tuple(map(str, columns)), tuple(rows), self.caption)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def signed(text: str) -> str:
    """`-3` with a real minus sign, `3` with a plus; a rounded zero carries no sign."""
    bare = text.lstrip("-+" + MINUS)
    if not bare.strip("0."):
        return bare
    return (MINUS if text[0] in "-" + MINUS else "+") + bare


def _fixed(number: float, digits: int) -> str:
    text = f"{number:,.{digits}f}"
    return text.replace("-", MINUS) if text.strip("-0.,") else text.lstrip("-")


def _plain(number: float) -> str:
    """Three significant places for small numbers, none after the point for large ones."""
    if number == int(number) and abs(number) < 1e15:
        return _fixed(number, 0)
    size = abs(number)
    return _fixed(
        number, 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3 if size >= 0.01 else 5
    )


def number_text(value: Any) -> str:
    """A cell as people read it: numbers by size, missing as a dash, everything else as it stands."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return EM_DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _plain(float(value))
    return str(value)


def p_text(p: float | None) -> str:
    if not is_number(p):
        return EM_DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
