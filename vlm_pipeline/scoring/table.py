"""Score a prediction table: one row per (example, predictor, sample, scorer), pure, from stored tables only.

Nothing is generated here: every row carries the version of its scorer, so a changed scorer scores the stored
predictions again and touches nothing else. What could not be scored stays in the table with its ``status``:

``scored``      the headline value is there
``unscored``    the response was read and nothing could be extracted: not the same as wrong, and counted
``error``       there is no response (the request failed): neither right nor wrong, counted apart
``missing``     the row was never asked
``gold_error``  the gold answer cannot be read: a finding about the data, never a wrong prediction
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_pipeline.progress import Progress
from vlm_pipeline.scoring.page_facts import PageFacts, facts_of
from vlm_pipeline.scoring.results import Context, GoldError, RowScore
from vlm_pipeline.store import write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from vlm_pipeline.scoring.row_scorers import RowScorer

STATUSES = ("scored", "unscored", "error", "missing", "gold_error")
log = logging.getLogger(__name__)


def score_table(
    scorers: Sequence[RowScorer],
    formatted_rows: Iterable[Mapping[str, Any]],
    prediction_rows: Iterable[Mapping[str, Any]],
    *,
    splits: Sequence[str] | None = None,
    facts: PageFacts | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Scores of all predictions, in the order of the formatted rows.

    ``formatted_rows`` need id, section, group, split, answer, answer_value, metadata, prompt_text;
    ``prediction_rows`` need id, predictor, text, error and may hold sample, finish_reason. ``splits`` says which
    rows should have been asked (default: every split that the predictor has predictions of); ``facts`` what the pages
    show, by group; ``progress`` says how far it is.

    Raises ValueError where a row was predicted twice by the same predictor, RuntimeError naming scorer and row where
    a scorer fails (a defect of the scorer: it must accept any string).
    """
    rows = {str(row["id"]): row for row in formatted_rows}
    by_predictor = _by_predictor(prediction_rows, rows)
    contexts = {row_id: _RowContext(row, facts or {}) for row_id, row in rows.items()}
    references = {
        scorer.name: {
            row_id: scorer.reference(context.answer, context.metadata) for row_id, context in contexts.items()
        }
        for scorer in scorers
    }
    scored: list[dict[str, Any]] = []
    progress = progress or Progress(log.debug, quiet=True)
    for predictor, predictions in by_predictor.items():
        asked = set(splits) if splits is not None else {rows[row_id]["split"] for row_id, _ in predictions}
        samples = sorted({sample for _, sample in predictions})
        for row_id, row in progress.over(f"{predictor}: rows scored", rows.items(), len(rows)):
            if row["split"] not in asked:
                continue
            for sample in samples:
                prediction = predictions.get((row_id, sample))
                for scorer in scorers:
                    result = _score(
                        scorer,
                        contexts[row_id],
                        references[scorer.name][row_id],
                        prediction,
                        row_id,
                        predictor,
                    )
                    scored.append(_identity(row, predictor, sample, scorer) | result)
    return scored


def to_arrow(score_rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as an Arrow table; values, extracted and gold values are JSON text (their names differ per scorer)."""
    import pyarrow as pa

    text = pa.string()
    schema = pa.schema(
        [
            (name, text)
            for name in ("id", "section", "group", "split", "predictor", "scorer", "kind", "version")
        ]
        + [("sample", pa.int32()), ("status", text), ("primary", text), ("headline", pa.float64())]
        + [(name, text) for name in ("values", "extracted", "gold", "rule")]
        + [("span", pa.list_(pa.int64())), ("inferred", pa.bool_()), ("failure", text)]
        + [("notes", pa.list_(text)), ("flagged", pa.list_(pa.list_(pa.int64()))), ("detail", text)]
    )
    packed = [
        {**row, **{name: json.dumps(row[name], default=str) for name in ("values", "extracted", "gold")}}
        for row in score_rows
    ]
    return pa.Table.from_pylist(packed, schema=schema)


def from_arrow(table: pa.Table) -> list[dict[str, Any]]:
    """The rows that `to_arrow` packed."""
    rows = table.to_pylist()
    for row in rows:
        for name in ("values", "extracted", "gold"):
            row[name] = json.loads(row[name])
    return rows


def write_scores(path: Path | str, score_rows: Sequence[Mapping[str, Any]]) -> None:
    write_table(path, to_arrow(score_rows))


def read_scores(path: Path | str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return from_arrow(pq.read_table(path))


def scorer_versions(score_rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Version of every scorer in the rows. ValueError where rows of two versions are mixed."""
    versions: dict[str, str] = {}
    for row in score_rows:
        if versions.setdefault(row["scorer"], row["version"]) != row["version"]:
            raise ValueError(
                f"scores of {row['scorer']!r} come from two versions of the scorer "
                f"({versions[row['scorer']]} and {row['version']}): score the prediction tables again"
            )
    return versions


class _RowContext:
    """What scorers see of a formatted row, parsed once."""

    __slots__ = ("answer", "facts", "metadata", "prompt")

    def __init__(self, row: Mapping[str, Any], facts: PageFacts) -> None:
        metadata = row.get("metadata")
        self.metadata = json.loads(metadata) if isinstance(metadata, str) else dict(metadata or {})
        value = row.get("answer_value")
        value = json.loads(value) if isinstance(value, str) else value
        if value is not None:
            self.metadata.setdefault("answer", value)
        self.answer = row.get("answer")
        self.prompt = row.get("prompt_text")
        self.facts = facts_of(facts, self.metadata.get("group"), row.get("group"))

    def of(self, scorer: RowScorer) -> Context:
        """What the answer may rest on: the context, under the name that the scorer's settings give it, else what the
        page is known to show."""
        name = getattr(getattr(scorer, "settings", None), "context_field", "context")
        return self.metadata.get(name) or self.facts


def _by_predictor(
    prediction_rows: Iterable[Mapping[str, Any]], rows: Mapping[str, Any]
) -> dict[str, dict[tuple[str, int], Mapping[str, Any]]]:
    by_predictor: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
    stale: dict[str, int] = {}
    for prediction in prediction_rows:
        row_id, predictor = str(prediction["id"]), prediction["predictor"]
        key = (row_id, int(prediction.get("sample") or 0))
        table = by_predictor.setdefault(predictor, {})
        if row_id not in rows:
            stale[predictor] = stale.get(predictor, 0) + 1
        elif key in table:
            raise ValueError(
                f"{predictor} answered row {row_id!r} (sample {key[1]}) twice: one table, one answer"
            )
        else:
            table[key] = prediction
    for predictor, count in stale.items():
        log.warning("%s: %d stored predictions belong to no present row and are left out", predictor, count)
    return by_predictor


def _identity(row: Mapping[str, Any], predictor: str, sample: int, scorer: RowScorer) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "section": row.get("section"),
        "group": str(row["group"]) if row.get("group") is not None else str(row["id"]),
        "split": row.get("split"),
        "predictor": predictor,
        "scorer": scorer.name,
        "kind": scorer.kind,
        "version": scorer.version,
        "sample": sample,
    }


def _score(
    scorer: RowScorer,
    context: _RowContext,
    reference: Any,
    prediction: Mapping[str, Any] | None,
    row_id: str,
    predictor: str,
) -> dict[str, Any]:
    if isinstance(reference, GoldError):
        return _blank("gold_error", f"{reference.reason}: {reference.raw!r}")
    gold = _plain(reference.value)
    if prediction is None:
        return _blank("missing", "not asked", gold)
    if prediction.get("error") is not None:
        return _blank("error", str(prediction["error"]), gold)
    try:
        result: RowScore = scorer.score(
            prediction.get("text") or "", reference, prompt=context.prompt, context=context.of(scorer)
        )
    except Exception as error:
        raise RuntimeError(
            f"scorer {scorer.name!r} failed on row {row_id!r} of {predictor}: {error}"
        ) from error
    found = result.extraction
    headline = result.headline
    return {
        "status": "unscored" if headline is None else "scored",
        "primary": result.primary,
        "headline": None if headline is None else float(headline),
        "values": dict(result.values),
        "extracted": _plain(found.value) if found else None,
        "gold": gold,
        "rule": found.rule if found else None,
        "span": list(found.span) if found and found.span else None,
        "inferred": bool(found and found.inferred),
        "failure": result.failure,
        "notes": list(result.notes),
        "flagged": [list(span) for span in result.flagged],
        "detail": "cut off" if prediction.get("finish_reason") == "length" else None,
    }


def _blank(status: str, detail: str, gold: Any = None) -> dict[str, Any]:
    return {
        "status": status, "primary": None, "headline": None, "values": {}, "extracted": None, "gold": gold,
        "rule": None, "span": None, "inferred": False, "failure": None, "notes": [], "flagged": [], "detail": detail,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """JSON values as they are, everything else as its text: `42 Nm, 90 deg` of several quantities."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
