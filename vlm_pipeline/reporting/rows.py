"""Join examples, predictions and scores into the rows that people look at.

One `Row` per example with one `Answer` per predictor. Nothing is lost in the join: a row without a prediction, and a
prediction without a row, both stay visible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlm_pipeline.reporting.inputs import ReportInputs, read_table
from vlm_pipeline.reporting.view import Comparison, is_number


@dataclass(slots=True)
class Answer:
    """What one predictor said to one row. `correct` is None when nothing could be scored."""

    text: str
    correct: bool | None = None
    score: float | None = None  # headline value of this row, direction as the metric's
    extracted: str = ""
    expected_number: float | None = None
    extracted_number: float | None = None
    rule: str = ""
    span: tuple[int, int] | None = None
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


def join_rows(inputs: ReportInputs, view: Comparison) -> list[Row]:
    """All rows, in the order of the formatted rows; predictions of unknown rows come after them."""
    rows = {row.id: row for row in _example_rows(inputs)}
    split = view.split
    for predictor in view.predictors:
        scores = _score_index(inputs.scores.get(predictor.name), view)
        table = read_table(inputs.predictions.get(predictor.name))
        size = len(table.get("id", ()))
        columns = {name: table.get(name) or [None] * size for name in _PREDICTION_COLUMNS}
        for index in range(size):
            if columns["sample"][index] not in (None, 0):
                continue  # further samples of the same row are scored, not shown
            if columns["split"][index] not in (None, split):
                continue
            identity = str(columns["id"][index])
            row = rows.get(identity)
            if row is None:
                row = rows[identity] = Row(
                    identity,
                    _text(columns["section"][index]),
                    _text(columns["group"][index]),
                    _text(columns["split"][index]),
                    "",
                    "",
                )
            answer = Answer(text=_text(columns["text"][index]))
            answer.error = _text(columns["error"][index])
            answer.finish_reason = _text(columns["finish_reason"][index])
            for name in ("tokens_in", "tokens_out", "latency_s", "cost_usd", "cached"):
                setattr(answer, name, columns[name][index])
            if identity in scores:
                _apply_scores(answer, scores[identity], view)
            row.answers[predictor.name] = answer
    return list(rows.values())


_PREDICTION_COLUMNS = (
    "id", "section", "group", "split", "text", "finish_reason", "tokens_in", "tokens_out", "latency_s", "cost_usd",
    "cached", "error", "sample",
)  # fmt: skip


def _example_rows(inputs: ReportInputs) -> list[Row]:
    table = read_table(inputs.rows)
    size = len(table.get("id", ()))
    blank: list[Any] = [None] * size
    split = str(inputs.comparison.get("split") or "")
    questions = table.get("question") or table.get("prompt_text") or blank
    rows = []
    for index in range(size):
        if split and table.get("split") and table["split"][index] not in (split, None):
            continue
        rows.append(
            Row(
                id=str(table["id"][index]),
                section=_text(table.get("section", blank)[index]),
                group=_text(table.get("group", blank)[index]),
                split=_text(table.get("split", blank)[index]),
                question=_question(_text(questions[index])),
                expected=_text(table.get("answer", blank)[index]),
                image=_first_of(table.get("images", blank)[index]),
                image_key=_first_of(table.get("image_sha256", blank)[index]),
            )
        )
    return rows


def _question(prompt: str) -> str:
    """The last user turn of a rendered prompt, without control tokens; a plain question stays as it is."""
    marker = "<|im_start|>user"
    if marker in prompt:
        prompt = prompt.rsplit(marker, 1)[1].split("<|im_end|>", 1)[0]
        for token in ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"):
            prompt = prompt.replace(token, "")
    return prompt.strip()


def _score_index(source: Any, view: Comparison) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores of the first sample by row id and scorer; of scorers that do not decide only what they noted."""
    table = read_table(source)
    deciding = view.headline.key.split(".", 1)[0]
    scorers = [str(name) for name in table.get("scorer") or [deciding] * len(table.get("id", ()))]
    samples = table.get("sample")
    if len(set(scorers)) == 1:
        deciding = scorers[0]
    index: dict[str, dict[str, dict[str, Any]]] = {}
    for position, identity in enumerate(table.get("id", ())):
        if samples and samples[position] not in (None, 0):
            continue
        scorer = scorers[position]
        names = table if scorer == deciding else table.keys() & {"kind", "headline", *_SAID}
        row = {name: table[name][position] for name in names}
        for name in ("values", "extracted", "gold"):
            if isinstance(row.get(name), str):
                row[name] = _json(row[name])
        index.setdefault(str(identity), {})[scorer] = row
    return index


_SAID = ("reason", "notes", "detail")


def _apply_scores(answer: Answer, scores: Mapping[str, Mapping[str, Any]], view: Comparison) -> None:
    """The deciding scorer says what was read and whether it is right; what the others noted stands beside it."""
    deciding = view.headline.key.split(".", 1)[0]
    if deciding not in scores and len(scores) == 1:
        deciding = next(iter(scores))
    if deciding in scores:
        _apply_score(answer, scores[deciding], view)
    others = [(name, score) for name, score in scores.items() if name != deciding]
    notes = [answer.reason, *(_labelled(name, score) for name, score in others)]
    answer.reason = "\n".join(note for note in notes if note)


def _apply_score(answer: Answer, score: Mapping[str, Any], view: Comparison) -> None:
    values = score.get("values") or {}
    metric = view.headline.key.rsplit(".", 1)[-1]
    status = score.get("status")
    if status == "scored":
        answer.correct = score.get("failure") is None
    value = values.get(metric, score.get("headline"))
    if value is None and view.headline.percent and status == "unscored":
        value = 0.0  # as the comparison counts it: nothing readable is no right answer
    answer.score = float(value) if is_number(value) or isinstance(value, bool) else None
    answer.extracted = _text(score.get("extracted"))
    answer.extracted_number, answer.expected_number = (
        _number(score.get("extracted")),
        _number(score.get("gold")),
    )
    answer.rule = _text(score.get("rule"))
    span = score.get("span")
    if span and len(span) == 2 and 0 <= span[0] < span[1] <= len(answer.text):
        answer.span = (int(span[0]), int(span[1]))
    answer.failure = _text(score.get("failure"))
    answer.reason = _said(score)
    answer.reward = _number(values.get("reward"))


def _labelled(scorer: str, score: Mapping[str, Any]) -> str:
    """`faithfulness 0.40: the page shows no torque`; nothing where a scorer only gave its figure."""
    said = _said(score)
    headline = score.get("headline")
    figure = f" {headline:.2f}" if score.get("kind") == "judge" and is_number(headline) else ""
    return f"{scorer.replace('_', ' ')}{figure}: {said}" if said else ""


def _said(score: Mapping[str, Any]) -> str:
    """What a scorer noted about a row: a judge's reasons, notes, why there is no score."""
    return "; ".join(text for name in _SAID if (text := _text(score.get(name))))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _first_of(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return str(value[0]) if value else ""
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # Lone surrogates cannot be encoded; show them as the replacement character.
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return "; ".join(value)
    return (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, (dict, list, tuple))
        else str(value)
    )


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


@dataclass(frozen=True, slots=True)
class Change:
    """A row whose answer got better or worse between baseline and predictor; `gain` is positive for better."""

    row: Row
    gain: float


def largest_changes(
    rows: list[Row], view: Comparison, predictor: str, count: int = 6
) -> tuple[list[Change], list[Change]]:
    """Largest improvements and largest regressions against the baseline, ties broken by row id.

    Rows that only one of the two could be scored on count as a change of the whole scale.
    """
    sign = -1.0 if view.headline.lower_is_better else 1.0
    changes = []
    for row in rows:
        before, after = row.answers.get(view.baseline), row.answers.get(predictor)
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
