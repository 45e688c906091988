"""Join examples, predictions and scores into `Row`s with their `Answer`s.

Nothing is lost in the join: a row without a prediction, and a prediction without a row, both stay visible.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from vlm_pipeline.reporting.inputs import ReportInputs, TableLike, read_table
from vlm_pipeline.reporting.rows import Answer, Row
from vlm_pipeline.reporting.view import Comparison, Predictor, is_number


def join_rows(inputs: ReportInputs, view: Comparison) -> list[Row]:
    """All rows of the compared split, in the order of the formatted rows; predictions of unknown rows come after them."""
    rows = {row.id: row for row in _example_rows(inputs.rows, str(inputs.comparison.get("split") or ""))}
    _answer(rows, inputs, view, view.predictors, view.split)
    return list(rows.values())


def weak_rows(inputs: ReportInputs, view: Comparison) -> dict[str, Row]:
    """The rows by which weak sections are known, by id; they are of another split than the compared one."""
    sections = (inputs.weak or {}).get("sections") or ()
    named = {str(i) for s in sections for f in s.get("failures") or () for i in f.get("rows") or ()}
    split = str((inputs.weak or {}).get("split", "val"))
    rows = {row.id: row for row in _example_rows(inputs.weak_rows, split) if row.id in named}
    shown = {view.baseline, str((inputs.weak or {}).get("predictor"))}
    _answer(rows, inputs, view, [p for p in view.predictors if p.name in shown], split, only=rows.keys())
    return rows


def _answer(
    rows: dict[str, Row],
    inputs: ReportInputs,
    view: Comparison,
    predictors: Iterable[Predictor],
    split: str,
    only: Iterable[str] | None = None,
) -> None:
    """Put the predictors' answers of one split into the rows; with `only` no row is added for an unknown prediction."""
    for predictor in predictors:
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
                if only is not None:
                    continue
                known = {name: _text(columns[name][index]) for name in ("section", "group", "split")}
                row = rows[identity] = Row(id=identity, question="", expected="", **known)
            answer = Answer(text=_text(columns["text"][index]))
            answer.error = _text(columns["error"][index])
            answer.finish_reason = _text(columns["finish_reason"][index])
            for name in ("tokens_in", "tokens_out", "latency_s", "cost_usd", "cached"):
                setattr(answer, name, columns[name][index])
            if identity in scores:
                _apply_scores(answer, scores[identity], view)
            row.answers[predictor.name] = answer


_PREDICTION_COLUMNS = (
    "id", "section", "group", "split", "text", "finish_reason", "tokens_in", "tokens_out", "latency_s", "cost_usd",
    "cached", "error", "sample",
)  # fmt: skip


def _example_rows(source: TableLike, split: str) -> list[Row]:
    table = read_table(source)
    size = len(table.get("id", ()))
    blank: list[Any] = [None] * size
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
        told = {"kind", "headline", "status", "flagged", *_SAID}
        if "kind" in table and table["kind"][position] in NUMERIC:
            told |= {"values", "extracted", "gold"}
        names = table if scorer == deciding else table.keys() & told
        row = {name: table[name][position] for name in names}
        for name in ("values", "extracted", "gold"):
            if isinstance(row.get(name), str):
                row[name] = _json(row[name])
        index.setdefault(str(identity), {})[scorer] = row
    return index


_SAID = ("reason", "notes", "detail")
NUMERIC = ("score", "quantity", "number")  # kinds of scorers whose answers are numbers


def _apply_scores(answer: Answer, scores: Mapping[str, Mapping[str, Any]], view: Comparison) -> None:
    """The deciding scorer says what was read and whether it is right; what the others noted stands beside it."""
    deciding = view.headline.key.split(".", 1)[0]
    if deciding not in scores and len(scores) == 1:
        deciding = next(iter(scores))
    if deciding in scores:
        _apply_score(answer, scores[deciding], view)
    by_rank = sorted(scores, key=lambda name: name != deciding)
    numeric = next((scores[name] for name in by_rank if scores[name].get("kind") in NUMERIC), None)
    if numeric:
        answer.expected_number, answer.extracted_number, answer.unit = numbers_of(numeric)
    flagged = dict.fromkeys(tuple(span) for score in scores.values() for span in score.get("flagged") or ())
    answer.flagged = tuple(flagged)
    notes = [answer.reason]
    for name, score in scores.items():
        if (
            name != deciding and score.get("status") != "gold_error"
        ):  # it has nothing to do with rows of this kind
            notes.append(_labelled(name, score, known=answer.reason))
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
    answer.rule = _text(score.get("rule"))
    span = score.get("span")
    if span and len(span) == 2 and 0 <= span[0] < span[1] <= len(answer.text):
        answer.span = (int(span[0]), int(span[1]))
    answer.failure = _text(score.get("failure"))
    answer.reason = "; ".join(_notes(score))
    answer.reward = _number(values.get("reward"))


def numbers_of(score: Mapping[str, Any]) -> tuple[float | None, float | None, str]:
    """What was expected, what was read, and the unit of both, as scoring compared them."""
    values, gold = score.get("values") or {}, score.get("gold")
    if "expected" not in values:
        return _number(gold), _number(score.get("extracted")), ""
    # "42 Nm, 90 deg": the first quantity is the one that was compared
    unit = gold.split(", ", 1)[0].partition(" ")[2] if isinstance(gold, str) else ""
    return _number(values["expected"]), _number(values.get("value")), unit


def _labelled(scorer: str, score: Mapping[str, Any], known: str) -> str:
    """`faithfulness 0.40: the page shows no torque`; nothing where a scorer gave a figure only, or what is known."""
    said = "; ".join(note for note in _notes(score) if note not in known)
    headline = score.get("headline")
    figure = f" {headline:.2f}" if score.get("kind") == "judge" and is_number(headline) else ""
    return f"{scorer.replace('_', ' ')}{figure}: {said}" if said else ""


def _notes(score: Mapping[str, Any]) -> list[str]:
    """What a scorer noted about a row: a judge's reasons, notes, why there is no score."""
    found = [_text(score.get("reason")), *map(_text, score.get("notes") or ()), _text(score.get("detail"))]
    return [note for note in found if note]


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
