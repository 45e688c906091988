"""Are exactly the answers supervised, each with the token that ends it? Failures 1-9.

Turns are found by the model's markers in the text, and mapped to tokens anew; the labels are then compared.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_pipeline.formatting.checks.evidence import UNSUPERVISED, Evidence, Model
from vlm_pipeline.formatting.said import losses

_MASK = "take labels from format_example, which finds turns in the rendered text"
_CUT = "raise the length limit or shorten the row; never let a collator truncate"


@dataclass(frozen=True)
class _Turn:
    """Tokens start..end of an assistant turn (end-of-turn last) among the shortened ids; end None: never ended."""

    start: int
    end: int | None
    supervised: bool
    said: str = ""  # its text, without the token that ends it
    message: dict[str, Any] | None = None  # what it was rendered from, where the row tells


def check_labels(row: Evidence, model: Model) -> None:
    labels = row.short_labels
    supervised = labels != UNSUPERVISED
    turns = _turns(row, model)
    if not supervised.any():
        _nothing(row, model, turns)
        return
    picture = (
        row.ids == model.image_token_id
        if model.image_token_id is not None
        else np.zeros(len(row.ids), dtype=bool)
    )
    pictures = int((row.labels[picture] != UNSUPERVISED).sum())
    share = int((row.labels != UNSUPERVISED).sum())
    if pictures or share == len(row.ids):
        row.add(
            1, f"{share} of {len(row.ids)} tokens are supervised, {pictures} of them picture tokens", _MASK
        )
        return
    if (labels[supervised] != row.short_ids[supervised]).any():
        row.add(
            1,
            "labels differ from the ids that they stand for (shifted by one?)",
            "labels repeat the ids, models shift them",
        )
        return
    if turns is None:  # the ids are not the tokens of any text; check_ids has said so
        return
    if any(turn.end is None for turn in turns):
        _unfinished(row, model)
        return
    expected = np.zeros(len(labels), dtype=bool)
    for turn in turns:
        if turn.supervised:
            expected[turn.start : turn.end] = True
    _missing(row, model, turns, supervised)
    _extra(row, turns, supervised & ~expected, supervised)
    if row.messages is None:
        _check_answer(row, model)
    for number, turn in enumerate(turns, start=1):
        if turn.supervised and turn.message is not None:
            _check_said(row, number, turn, turn.message)


def _turns(row: Evidence, model: Model) -> list[_Turn] | None:
    """Assistant turns that are the row's own, few-shot answers left out."""
    text, encoding = row.text, row.encoding
    if not row.same_ids:
        text = model.decode(row.short_ids)
        encoding = model.encode([text])[0]
        if not np.array_equal(encoding.ids, row.short_ids):
            return None
    opener = model.markers.opener
    ends = (model.markers.end_of_turn, model.markers.inner_end_of_turn)
    spans: list[tuple[int, int | None, str]] = []
    position = text.find(opener)
    while position >= 0:
        start = position + len(opener)
        hits = [(place, end) for end in ends if (place := text.find(end, start)) >= 0]
        place, end = min(hits) if hits else (None, "")
        spans.append((start, place, end))
        position = -1 if place is None else text.find(opener, place + len(end))
    shots = len(model.prompt.few_shot)
    own, messages = spans[shots:], row.answers[shots:]
    told = messages if len(messages) == len(own) else [None] * len(own)
    turns = []
    for number, ((start, place, _), message) in enumerate(zip(own, told, strict=True)):
        first = encoding.char_to_token(start) if start < len(text) else len(encoding.ids)
        last = None if place is None else encoding.char_to_token(place)
        wanted = model.prompt.supervise == "all" or number == len(own) - 1
        turns.append(
            _Turn(
                len(encoding.ids) if first is None else first,
                None if last is None else last + 1,
                wanted and (message or {}).get("weight", 1) != 0,
                text[start:place],
                message,
            )
        )
    return turns


def _nothing(row: Evidence, model: Model, turns: list[_Turn] | None) -> None:
    if not turns:
        row.add(
            4,
            f"nothing is supervised: the row nowhere holds {model.markers.opener!r}",
            "render with the model's own template",
        )
    elif turns[-1].end is None or not row.same_ids:
        row.add(5, "nothing is supervised: the answer was cut off", _CUT)
    elif row.image_runs:
        row.add(2, "nothing is supervised in a row with a picture", _MASK)
    else:
        row.add(3, "nothing is supervised, though the row has an answer", _MASK)


def _unfinished(row: Evidence, model: Model) -> None:
    if any(finding.number in (5, 6) for finding in row.found):
        return
    answer = str(row.row.get("answer") or "").strip()
    decoded = model.decode(row.short_ids).rstrip()
    whole = bool(answer) and decoded.endswith(unicodedata.normalize("NFC", answer))
    row.add(
        6 if whole else 5,
        f"the row ends without {model.markers.end_of_turn}: {'only that token is' if whole else 'the answer is'} cut off",
        _CUT,
    )


def _missing(row: Evidence, model: Model, turns: list[_Turn], supervised: np.ndarray) -> None:
    for number, turn in enumerate(turns):
        if not turn.supervised:
            continue
        inside = supervised[turn.start : turn.end]
        if inside.all():
            continue
        last = number == len(turns) - 1
        if not inside.any():
            row.add(9, f"assistant turn {number + 1} of {len(turns)} is not supervised", _MASK)
        elif inside[:-1].all():
            end_id = int(row.short_ids[turn.end - 1])
            padding = end_id == model.pad_id
            row.add(
                7 if padding else 6 if last else 8,
                f"the token that ends assistant turn {number + 1}, {model.tokenizer.decode([end_id])}, is not supervised",
                "mask padding by the attention mask, never by the id of the padding token"
                if padding
                else _MASK,
            )
        else:
            row.add(
                9,
                f"{int((~inside).sum())} tokens inside assistant turn {number + 1} are not supervised",
                _MASK,
            )


def _extra(row: Evidence, turns: list[_Turn], extra: np.ndarray, supervised: np.ndarray) -> None:
    if not extra.any():
        return
    inside_other = np.zeros(len(extra), dtype=bool)
    for turn in turns:
        if not turn.supervised:
            inside_other[turn.start : turn.end] = True
    runs_on = [
        turn for turn in turns if turn.supervised and turn.end < len(extra) and supervised[turn.end :].all()
    ]
    after_open_end = any(
        turn.supervised and not supervised[turn.end - 1] and extra[turn.end : turn.end + 4].any()
        for turn in turns
    )
    count = int(extra.sum())
    if after_open_end:
        row.add(
            8, f"{count} tokens of the next message are supervised in place of the end-of-turn token", _MASK
        )
    elif runs_on and not extra[: runs_on[0].start].any():
        row.add(9, f"supervision runs on for {count} tokens after an answer, to the end of the row", _MASK)
    elif not (extra & ~inside_other).any():
        row.add(
            9, f"{count} tokens of assistant turns that the task does not supervise are supervised", _MASK
        )
    else:
        row.add(1, f"{count} tokens outside the answers are supervised", _MASK)


def _check_said(row: Evidence, number: int, turn: _Turn, message: dict[str, Any]) -> None:
    """5: what is learned is what the row says; white space that a template trims is told, but stops nothing."""
    found = list(losses(message, turn.said))
    lost = next((what for kind, what in found if kind == "lost"), None)
    if lost is not None:
        row.add(
            5,
            f"the template leaves out or changes a part of answer {number}: {lost[:60]!r}",
            "learn this turn from a row that ends with it, or write it as the template does",
        )
    elif found:
        row.add(
            5,
            f"the template changes white space of answer {number}, so that is what is learned: {found[0][1][:60]!r}",
            "nothing to do if the white space means nothing; else use a model whose template keeps it",
            blocking=False,
        )


def _check_answer(row: Evidence, model: Model) -> None:
    """5: the gold answer is what is supervised, whole; for rows that do not tell their messages."""
    answer = row.row.get("answer")
    if not answer or row.found or row.row.get("tools"):
        return
    last = model.decode(row.short_ids[row.short_labels != UNSUPERVISED])
    wanted = unicodedata.normalize("NFC", str(answer)).strip()
    if wanted not in unicodedata.normalize("NFC", last) and wanted.split("</think>")[-1].strip() not in last:
        row.add(5, f"the supervised text does not hold the whole answer {wanted[:60]!r}", _CUT)
