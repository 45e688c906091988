"""The rows for the page's browser: columns and a pool of strings, so that equal texts are stored once, compressed.

The page may hold only so many bytes: texts are cut to the longest length with which the rows fit (a cut answer's
length is kept and shown), and where even short texts do not fit, the page holds the first rows only and says so.
`rows.parquet` beside the page always holds everything.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.reporting.rows import Answer, Row
from vlm_pipeline.reporting.thumbnails import Thumbnails
from vlm_pipeline.reporting.view import Comparison, Predictor

ROWS_BUDGET = 12_000_000  # bytes in the page, compressed and in base64, pictures apart
UNPACKED_BUDGET = 60_000_000  # bytes of JSON that the browser reads
CUTS = (120_000, 40_000, 20_000, 8_000, 4_000, 2_000, 1_000, 500, 250, 120)  # longest texts, in characters
OUTCOMES = ("right", "wrong", "unscored", "error")
KINDS = ("read", "flagged", "read flagged")  # of marks in an answer

# Outlines of the predictors' marks on a field from -6 to 6, in the order of figures/style.py MARKERS.
SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M0,-5.6L5.6,0L0,5.6L-5.6,0Z",
    "M-4,-4H4V4H-4Z",
    "M0,-5L5,4.4H-5Z",
    "M0,5L5,-4.4H-5Z",
    "M-1.7,-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",
    "M-2.6,-5L0,-2.4L2.6,-5L5,-2.6L2.4,0L5,2.6L2.6,5L0,2.4L-2.6,5L-5,2.6L-2.4,0L-5,-2.6Z",
    "M0,-5L4.5,-2.5V2.5L0,5L-4.5,2.5V-2.5Z",
)


class _Pool:
    """Strings by index; -1 is the empty string."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self._index: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if not text:
            return -1
        index = self._index.get(text)
        if index is None:
            index = self._index[text] = len(self.strings)
            self.strings.append(text)
        return index


@dataclass(frozen=True)
class PackedRows:
    """`text` stands in the page (gzip in base64); `ids` are the rows in it, `left_out` counts those that did not fit."""

    text: str
    ids: frozenset[str]
    left_out: int


def pack_rows(
    rows: Sequence[Row],
    view: Comparison,
    thumbnails: Thumbnails,
    budget: int = ROWS_BUDGET,
    unpacked: int = UNPACKED_BUDGET,
) -> PackedRows:
    """The rows with their texts as long as the budgets allow; see `_page_data` for what is in it."""
    shown, cut = rows, next((cut for cut in CUTS if _texts_bytes(rows, cut) <= unpacked), CUTS[-1])
    while True:
        data = _page_data(shown, view, thumbnails, cut) | {"leftOut": len(rows) - len(shown)}
        plain = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        text = packed(plain) if len(plain) <= unpacked else ""
        excess = max(len(plain) / unpacked, len(text) / budget)
        if excess <= 1 or not shown:
            return PackedRows(text, frozenset(row.id for row in shown), len(rows) - len(shown))
        if cut > CUTS[-1]:
            cut = CUTS[CUTS.index(cut) + 1]
        else:
            shown = shown[: int(len(shown) * min(0.9, 1 / excess))]


def packed(data: bytes) -> str:
    """Equal data give equal text: no time stamp."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def _page_data(rows: Sequence[Row], view: Comparison, thumbnails: Thumbnails, cut: int) -> dict[str, Any]:
    """Plain JSON. Answer codes: `t` text (-2: no prediction), `o` outcome, `s` score, `x` read as, `r` rule, `j` reason,
    `f` failure, `m` marks (start, end, index of its kind; in UTF-16 units), `n` tokens out, `l` seconds, `c` dollars."""
    predictors = shown_predictors(rows, view)
    pool = _Pool()
    sections = sorted({row.section for row in rows})
    failures = ["", *sorted({a.failure for row in rows for a in row.answers.values() if a.failure})]
    section_index = {name: i for i, name in enumerate(sections)}
    failure_index = {name: i for i, name in enumerate(failures)}
    pictures = {key: i for i, key in enumerate(thumbnails.images)}
    reasons = ["", *sorted(set(thumbnails.left_out.values()))]
    columns: dict[str, list[Any]] = {
        "id": [row.id for row in rows],
        "section": [section_index[row.section] for row in rows],
        "group": [pool(row.group) for row in rows],
        "q": [pool(row.question[:cut]) for row in rows],
        "e": [pool(row.expected[:cut]) for row in rows],
        "img": [pictures.get(row.image_key, -1) for row in rows],
        "nopic": [reasons.index(thumbnails.left_out.get(row.image_key, "")) for row in rows],
    }
    answers = []
    for predictor in predictors:
        column: dict[str, list[Any]] = {name: [] for name in _NOTHING}
        for row in rows:
            _append(column, row.answers.get(predictor.name), pool, cut, failure_index)
        answers.append(column)
    return {
        "predictors": [
            {"name": p.name, "label": p.label, "slot": p.slot, "standIn": p.stand_in} for p in predictors
        ],
        "baseline": next((i for i, p in enumerate(predictors) if p.name == view.reference.name), 0),
        "metric": {
            "label": view.headline.label,
            "lowerIsBetter": view.headline.lower_is_better,
            "percent": view.headline.percent,
        },
        "shapes": list(SHAPES),
        "sections": sections,
        "failures": failures,
        "noPicture": reasons,
        "strings": pool.strings,
        "columns": columns,
        "answers": answers,
    }


def shown_predictors(rows: Sequence[Row], view: Comparison) -> list[Predictor]:
    """Predictors that answered at least one row, in the order of the comparison."""
    names = {name for row in rows for name in row.answers}
    return [p for p in view.predictors if p.name in names]


def script_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it, nor open a comment in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_NOTHING: dict[str, Any] = {
    "t": -2, "cut": 0, "o": 2, "s": None, "x": -1, "r": -1, "j": -1, "f": 0, "m": 0, "n": None, "l": None, "c": 0,
    "err": -1,
}  # fmt: skip


def _append(
    column: dict[str, list[Any]], answer: Answer | None, pool: _Pool, cut: int, failures: dict[str, int]
) -> None:
    if answer is None:
        for name, value in _NOTHING.items():
            column[name].append(value)
        return
    text = answer.text[:cut]
    marks = [
        (_utf16(text, start), _utf16(text, end), KINDS.index(kind)) for start, end, kind in answer.marks(cut)
    ]
    for name, value in {
        "t": pool(text), "cut": len(answer.text) if len(answer.text) > cut else 0, "o": OUTCOMES.index(answer.outcome),
        "s": _rounded(answer.score, 4), "x": pool(answer.extracted[:200]), "r": pool(answer.rule[:200]),
        "j": pool(_clipped(answer.reason, cut)), "f": failures[answer.failure], "m": marks or 0, "n": answer.tokens_out,
        "l": _rounded(answer.latency_s, 4), "c": _rounded(answer.cost_usd, 6) or 0, "err": pool(_clipped(answer.error, cut)),
    }.items():  # fmt: skip
        column[name].append(value)


def _utf16(text: str, offset: int) -> int:
    """The same place as the browser counts it."""
    return offset if text.isascii() else len(text[:offset].encode("utf-16-le")) // 2


def _clipped(text: str, cut: int) -> str:
    limit = min(cut, 2_000)
    return text if len(text) <= limit else text[:limit] + " …"


def _texts_bytes(rows: Sequence[Row], cut: int) -> int:
    """Bytes of the distinct texts with this cut, a little less than they will take: no numbers, no punctuation."""
    return sum(len(text[:cut].encode()) for text in {text for row in rows for text in _texts(row)})


def _texts(row: Row) -> Iterable[str]:
    yield from (row.id, row.question, row.expected)
    for answer in row.answers.values():
        yield from (answer.text, answer.reason[:2_000], answer.error[:2_000])


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)
