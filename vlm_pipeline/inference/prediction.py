"""What is asked and what is answered, one row each, and the prediction table on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_pipeline.inference.cache import request_key
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.store import content_hash, write_table

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("section", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("predictor", pa.string()),
        ("prompt_hash", pa.string()),
        ("text", pa.string()),  # raw, as generated; null in an error row
        ("finish_reason", pa.string()),  # "stop", "length", "refused"; null in an error row
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
        ("latency_s", pa.float64()),  # of the call, or the row's share of its batch
        ("cost_usd", pa.float64()),  # price of this answer; with `cached` it was paid in an earlier run
        ("cached", pa.bool_()),
        ("error", pa.string()),  # why there is no answer; null when fine. Asked again in the next run
        ("sample", pa.int32()),
    ]
)
_META = b"vlm_pipeline"
_VERSIONED = ("id", "prompt_hash", "text", "finish_reason", "error", "sample")
_VERSION_ROWS = 10_000  # hashed together


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: which row, what is asked (`body`: a `plan.Prompt` or a `Conversation`), and its content hashes."""

    id: str
    section: str | None
    group: str | None
    split: str | None
    prompt_hash: str
    images: tuple[str, ...]
    body: Any
    sample: int = 0

    def key(self, fingerprint: str, generation: GenerationSettings) -> str:
        """Cache key; answers to equal keys are interchangeable whatever row asks."""
        return request_key(
            images=self.images,
            prompt=self.prompt_hash,
            model=fingerprint,
            generation=generation.model_dump(mode="json", exclude={"preset", "samples"}),
            sample=self.sample,
        )

    def samples(self, count: int) -> list[Ask]:
        return [replace(self, sample=number) for number in range(count)]


def part_of(asks: Iterable[Ask], part: Sequence[int] | None) -> Iterable[Ask]:
    """The rows of one worker of several, `part` being [its number from 0, workers]; None: all rows.

    Questions about the same pictures stay together, so that each worker reads its pages once.
    """
    if part is None:
        return asks
    number, workers = part
    return (ask for ask in asks if int(content_hash(ask.images or ask.prompt_hash), 16) % workers == number)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of a prediction table; columns as in SCHEMA."""

    id: str
    section: str | None
    group: str | None
    split: str | None
    predictor: str
    prompt_hash: str
    text: str | None
    finish_reason: str | None
    tokens_in: int
    tokens_out: int
    latency_s: float
    cost_usd: float
    cached: bool
    error: str | None
    sample: int

    @property
    def stored(self) -> dict[str, Any]:
        """What the row cache keeps: the answer, not the row that asked."""
        return {name: getattr(self, name) for name in _STORED}


_STORED = ("text", "finish_reason", "tokens_in", "tokens_out", "latency_s", "cost_usd")
_FIELDS = tuple(field.name for field in fields(Prediction))


def answered(ask: Ask, predictor: str, *, cached: bool = False, **answer: Any) -> Prediction:
    """The prediction of `ask`; keyword arguments as in `Prediction.stored`."""
    return Prediction(
        ask.id, ask.section, ask.group, ask.split, predictor, ask.prompt_hash,
        cached=cached, error=None, sample=ask.sample, **answer,
    )  # fmt: skip


def failed(
    ask: Ask, predictor: str, reason: str, *, latency_s: float = 0.0, cost_usd: float = 0.0
) -> Prediction:
    """An error row: no text, never a wrong answer."""
    return Prediction(
        ask.id, ask.section, ask.group, ask.split, predictor, ask.prompt_hash, None, None, 0, 0, latency_s, cost_usd,
        False, reason, ask.sample,
    )  # fmt: skip


def prediction_table(predictions: Sequence[Prediction]) -> pa.Table:
    """Rows as columns."""
    return pa.table({name: [getattr(row, name) for row in predictions] for name in _FIELDS}, schema=SCHEMA)


def write_predictions(path: Path, parts: Sequence[pa.Table], about: dict[str, Any]) -> None:
    """Write the table of these `prediction_table`s atomically; `about` (predictor, fingerprint, generation settings)
    goes into its metadata."""
    metadata = {_META: json.dumps(about, sort_keys=True).encode()}
    write_table(path, pa.concat_tables([SCHEMA.empty_table(), *parts]).replace_schema_metadata(metadata))


def read_predictions(path: Path) -> list[Prediction]:
    return [Prediction(**row) for row in pq.read_table(path, columns=list(_FIELDS)).to_pylist()]


def read_about(path: Path) -> dict[str, Any]:
    """What `write_predictions` recorded beside the rows."""
    return json.loads((pq.read_schema(path).metadata or {}).get(_META, b"{}"))


def predictions_version(path: Path) -> str:
    """Data version of a table: who was asked what and answered what; not cost, latency or cache hits."""
    versions = [content_hash(read_about(path))]
    with pq.ParquetFile(path) as table:
        for rows in table.iter_batches(batch_size=_VERSION_ROWS, columns=list(_VERSIONED)):
            versions.append(content_hash(rows.select(_VERSIONED).to_pydict()))
    return content_hash(versions)
