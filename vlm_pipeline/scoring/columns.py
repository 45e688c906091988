"""Score rows as columns, and what their value names mean: which are rates, which are errors, which way is up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

ValueKind = Literal["rate", "share", "abs_error", "signed_error", "mean"]

ABSOLUTE_ERRORS = frozenset({"abs_error", "absolute_error"})
SIGNED_ERRORS = frozenset({"error", "signed_error"})
UNBOUNDED = frozenset({"reward", "rel_error", "unsupported_numbers", "n_calls", "n_malformed"})
# Figures of something bad. Everything else that is no error counts upwards.
LOWER_IS_BETTER = frozenset(
    {"hallucination", "over_refusal", "missed_refusal", "rel_error", "unsupported_numbers", "n_malformed"}
)
LENIENT = frozenset({"any_number", "any_wording"})  # readings that forgive the format
NEUTRAL = frozenset({"inferred", "refused", "n_calls"})  # described, never ranked or tested
DESCRIPTIVE = frozenset({"value", "expected", "worst_error"})  # read, wanted, possible: no figures of merit

COUNTED = ("scored", "unscored")  # statuses of rows that have a response and a readable gold answer


@dataclass(frozen=True)
class ScoreColumns:
    """The rows of one (predictor, scorer), in table order. Arrays have one element per row.

    ``values[name]`` is float with NaN where the scorer gave None; ``kinds[name]`` says what the numbers are.
    """

    predictor: str
    scorer: str
    kind: str
    version: str
    primary: str | None
    ids: np.ndarray
    samples: np.ndarray
    sections: np.ndarray
    clusters: np.ndarray
    status: np.ndarray
    values: dict[str, np.ndarray]
    kinds: dict[str, ValueKind]
    extracted: np.ndarray
    gold: np.ndarray
    worst: np.ndarray  # the largest error that the scale allows, where the scorer has one
    rows: Sequence[Mapping[str, Any]]

    def select(self, mask: np.ndarray) -> ScoreColumns:
        """The same columns, fewer rows."""
        return ScoreColumns(
            predictor=self.predictor, scorer=self.scorer, kind=self.kind, version=self.version, primary=self.primary,
            ids=self.ids[mask], samples=self.samples[mask], sections=self.sections[mask],
            clusters=self.clusters[mask], status=self.status[mask],
            values={name: value[mask] for name, value in self.values.items()}, kinds=self.kinds,
            extracted=self.extracted[mask], gold=self.gold[mask], worst=self.worst[mask],
            rows=[row for row, keep in zip(self.rows, mask, strict=True) if keep],
        )  # fmt: skip

    @property
    def counted(self) -> np.ndarray:
        return np.isin(self.status, COUNTED)

    @property
    def section_names(self) -> list[str]:
        return sorted(set(self.sections.tolist()))

    def count(self, status: str) -> int:
        return int((self.status == status).sum())

    def with_unscored_as_misses(self, name: str) -> np.ndarray:
        """The values where a response that nothing could be read from is no success: a rate or share of 0, an absolute
        error as large as the scale allows.

        NaN stays where there is no response, where the value does not apply to a row that was read (no tool call
        was wanted), for errors without a scale, and for rates of something bad: an unreadable answer is no
        hallucination.
        """
        values = self.values[name].copy()
        unread = np.isnan(values) & (self.status == "unscored")
        if self.kinds[name] == "abs_error":
            values[unread] = self.worst[unread]
        elif self.kinds[name] in ("rate", "share") and name not in LOWER_IS_BETTER:
            values[unread] = 0.0
        return values


def columns_of(score_rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], ScoreColumns]:
    """Columns of every (predictor, scorer), in order of appearance."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in score_rows:
        grouped.setdefault((row["predictor"], row["scorer"]), []).append(row)
    # Kinds are decided over all predictors: a reward that happens to stay within [0, 1] for one of them is no share.
    kinds = _kinds(score_rows_by_scorer(grouped))
    return {key: _columns(key, rows, kinds[key[1]]) for key, rows in grouped.items()}


def score_rows_by_scorer(
    grouped: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
) -> dict[str, list[Mapping[str, Any]]]:
    by_scorer: dict[str, list[Mapping[str, Any]]] = {}
    for (_, scorer), rows in grouped.items():
        by_scorer.setdefault(scorer, []).extend(rows)
    return by_scorer


def higher_is_better(name: str, kind: ValueKind) -> bool:
    return kind != "abs_error" and name not in LOWER_IS_BETTER


def _kinds(by_scorer: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, ValueKind]]:
    return {scorer: _kinds_of(rows) for scorer, rows in by_scorer.items()}


def _kinds_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, ValueKind]:
    seen: dict[str, ValueKind] = {}
    for row in rows:
        for name, value in row["values"].items():
            if name in DESCRIPTIVE:
                continue
            known = seen.get(name)
            if known in ("abs_error", "signed_error", "mean") or (value is None and known):
                continue
            seen[name] = _widest(known, _kind(name, value))
    return seen


def _kind(name: str, value: Any) -> ValueKind:
    if name in ABSOLUTE_ERRORS:
        return "abs_error"
    if name in SIGNED_ERRORS:
        return "signed_error"
    if name in UNBOUNDED:
        return "mean"
    if value is None or isinstance(value, bool):
        return "rate"
    return "share" if 0 <= value <= 1 else "mean"


def _widest(first: ValueKind | None, second: ValueKind) -> ValueKind:
    order = ("rate", "share", "mean")
    if first is None or first not in order or second not in order:
        return second
    return order[max(order.index(first), order.index(second))]


def _columns(
    key: tuple[str, str], rows: list[Mapping[str, Any]], kinds: dict[str, ValueKind]
) -> ScoreColumns:
    def floats(name: str) -> np.ndarray:
        found = (row["values"].get(name) for row in rows)
        return np.array([np.nan if value is None else float(value) for value in found])

    def numbers(name: str) -> np.ndarray:
        found = (row.get(name) for row in rows)
        return np.array(
            [float(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else np.nan for v in found]
        )

    primaries = [row["primary"] for row in rows if row["primary"]]
    return ScoreColumns(
        predictor=key[0],
        scorer=key[1],
        kind=rows[0]["kind"],
        version=rows[0]["version"],
        primary=primaries[0] if primaries else None,
        ids=np.array([row["id"] for row in rows], dtype=object),
        samples=np.array([row.get("sample") or 0 for row in rows]),
        sections=np.array([str(row["section"]) for row in rows], dtype=object),
        clusters=np.array([row["group"] for row in rows], dtype=object),
        status=np.array([row["status"] for row in rows]),
        values={name: floats(name) for name in kinds},
        kinds=kinds,
        extracted=_either(floats("value"), numbers("extracted")),
        gold=_either(floats("expected"), numbers("gold")),
        worst=floats("worst_error"),
        rows=rows,
    )


def _either(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The scorer's own number (in the gold's unit) where it gave one."""
    return np.where(np.isnan(first), second, first)
