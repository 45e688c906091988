"""Which of two answers to a row is better, by the task's own scorer: pure functions over score and prediction tables.

A pair exists only where both answers were scored and one is better by the margin. Everything else is counted with its
reason, so that pairs and reasons together are all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlm_pipeline.settings.preferences import PREFERENCE_SPLITS

GOLD = "gold"  # who gave the better answer, where the row itself did
_SLACK = 1e-9  # 0.7 - 0.5 is a hair less than 0.2


class PreferenceError(ValueError):
    """No pairs can be made; the message says why and what to do."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one row and who gave them; scores are headline values, None for the gold answer."""

    id: str
    chosen: str
    rejected: str
    chosen_by: str
    rejected_by: str
    chosen_score: float | None
    rejected_score: float
    rejected_cut: bool  # it ran into the limit of new tokens


@dataclass(frozen=True)
class _Side:
    name: str
    text: str
    score: float
    right: bool
    cut: bool


def choose_pairs(
    rows: Iterable[Mapping[str, Any]],
    score_rows: Sequence[Mapping[str, Any]],
    prediction_rows: Iterable[Mapping[str, Any]],
    *,
    pair: tuple[str, str],
    scorer: str,
    margin: float,
    gold: Literal["never", "neither_right"] = "never",
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs in the order of `rows` (id, split, answer), and how many rows gave none, by reason.

    Of several samples the first one of each predictor counts. `pair`: the second is to be trained further; where the
    gold answer is the better one and both are equally wrong, it is the second's answer that is the worse one.
    Raises PreferenceError for rows that measure (test, final, probes), or a predictor without scores.
    """
    from vlm_pipeline.scoring.columns import columns_of, higher_is_better

    columns = columns_of(row for row in score_rows if row["scorer"] == scorer)
    missing = [name for name in pair if (name, scorer) not in columns]
    if missing:
        raise PreferenceError(f"no answer of {', '.join(missing)} was scored by {scorer}; measure it first")
    primary = next((columns[name, scorer].primary for name in pair if columns[name, scorer].primary), None)
    if primary is None:
        raise PreferenceError(f"nothing could be read from any answer of {' and '.join(pair)}: no pair")
    up = 1 if higher_is_better(primary, columns[pair[0], scorer].kinds[primary]) else -1
    scores = {name: _first_samples(columns[name, scorer].rows) for name in pair}
    answers: dict[str, list[Mapping[str, Any]]] = {name: [] for name in pair}
    for answer in prediction_rows:
        if answer["predictor"] in answers:
            answers[answer["predictor"]].append(answer)
    texts = {name: _first_samples(found) for name, found in answers.items()}
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        if row["split"] not in PREFERENCE_SPLITS:
            raise PreferenceError(
                f"row {row['id']} is a {row['split']} row: it measures what is trained and may not be trained on"
            )
        found = _of_row(row, [(name, scores[name], texts[name]) for name in pair], up, margin, gold)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            left_out[found] += 1
    return pairs, dict(sorted(left_out.items()))


def _first_samples(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(row["id"]): row for row in rows if not row.get("sample")}


def _of_row(row: Mapping[str, Any], known: list[Any], up: int, margin: float, gold: str) -> Pair | str:
    """The pair of a row, or why there is none."""
    sides = []
    for name, scores, texts in known:
        score, answer = scores.get(str(row["id"])), texts.get(str(row["id"]))
        status = score["status"] if score and answer else "missing"
        if status == "gold_error":
            return "the gold answer cannot be read"
        if status != "scored":
            return f"{name}: {'nothing could be read' if status == 'unscored' else f'no answer ({status})'}"
        text = (answer["text"] or "").strip()
        if not text:
            return f"{name}: empty answer"
        cut = answer.get("finish_reason") == "length"
        sides.append(_Side(name, text, score["headline"], score["failure"] is None, cut))
    gain = (sides[1].score - sides[0].score) * up
    worse, better = (sides[0], sides[1]) if gain > 0 else (sides[1], sides[0])
    wrong = not any(side.right for side in sides)
    if wrong and gold == "neither_right":
        said = str(row["answer"] or "").strip()
        if not said or said == worse.text:
            return "the gold answer is empty or says the same"
        return Pair(row["id"], said, worse.text, GOLD, worse.name, None, worse.score, worse.cut)
    if abs(gain) < margin - _SLACK:
        return (
            "tie: both right"
            if all(side.right for side in sides)
            else f"tie: {'neither right' if wrong else 'within the margin'}"
        )
    if better.cut:
        return f"{better.name}: better, but cut off"
    return Pair(
        row["id"], better.text, worse.text, better.name, worse.name, better.score, worse.score, worse.cut
    )
