"""What the columns of the store's tables mean: one dictionary, so that every table shown anywhere can say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COLUMNS = {
    "id": "name of the row in every table and message",
    "section": "content type that is measured and regenerated on its own",
    "group": "what never straddles a split: a page, photo or document",
    "split": "train, val, test or final; probe for hand-written questions",
    "content_hash": "hash of what the model sees and must say",
    "messages": "the chat turns as JSON",
    "tools": "tools on offer as JSON, or null",
    "metadata": "everything else the source says about the row, as JSON",
    "images": "pictures in order of appearance",
    "source_file": "file the row came from",
    "source_line": "line or row number in that file, from 1",
    "source_digest": "hash of its line, in JSON lines; else null",
    "source_format": "format it was read as",
    "source_split": "split that the source itself names, or null",
    "input_ids": "token ids of the whole row, pictures expanded",
    "labels": "token ids to be learned, -100 where nothing is supervised",
    "n_prompt": "tokens of the generation prompt",
    "n_tokens": "tokens of the whole row",
    "n_supervised": "tokens that are learned",
    "image_sha256": "hash of every picture's bytes",
    "image_grid": "patches of every picture: time, height, width",
    "image_tokens": "tokens that the pictures take",
    "text": "the row as the chat template renders it, one placeholder a picture",
    "prompt_text": "the generation prompt as text",
    "question": "the last user turn",
    "answer": "the assistant's answer",
    "answer_value": "metadata.answer as JSON, or null",
    "predictor": "who answered",
    "prompt_hash": "hash of the prompt that was sent",
    "finish_reason": "stop, length or refused; null in an error row",
    "tokens_in": "tokens of the prompt",
    "tokens_out": "tokens of the answer",
    "latency_s": "seconds of the call, or the row's share of its batch",
    "cost_usd": "price of this answer; paid in an earlier run where cached",
    "cached": "whether the answer was known already",
    "error": "why there is no answer; null when there is one",
    "sample": "number of the sample, where a row is asked several times",
    "scorer": "column prefix of the scorer",
    "version": "version of the scorer",
    "status": "scored, unscored (nothing could be read), error, missing or gold_error",
    "primary": "the value that the scorer is about",
    "headline": "that value as a number; null when unscored",
    "values": "all values of the scorer as JSON",
    "extracted": "what was read from the answer, as JSON",
    "gold": "what it was compared with, as JSON",
    "rule": "rule by which it was read",
    "span": "where in the answer it stands: begin and end",
    "inferred": "whether it was inferred from words rather than read",
    "failure": "kind of failure, or null",
    "notes": "what else the scorer saw",
    "flagged": "places in the answer that a person should look at: begin and end",
    "detail": "one sentence of explanation, or null",
}
_OF_TABLE = {
    "predictions": {"text": "the answer, raw as generated; null in an error row"},
    "metrics": {"kind": "kind of the scorer"},
    "report": {
        "stand_in": "what stood in for the real service, or empty",
        "expected": "the right answer",
        "answer": "what the predictor answered",
        "outcome": "right, wrong, unscored or error",
        "score": "value of the deciding scorer",
        "read_as": "what was read from the answer",
        "image": "picture of the row, below the report",
        "reason": "what the scorer or judge says about it",
    },
    "trl": {
        "prompt": "the messages that were answered",
        "chosen": "the better answer, as a list of one message",
        "rejected": "the worse answer, as a list of one message",
        "chosen_by": "who gave the better answer; gold: the row itself",
        "rejected_by": "who gave the worse answer",
        "chosen_score": "value of the deciding scorer; null for the gold answer",
        "rejected_score": "value of the deciding scorer",
        "rejected_cut": "whether the worse answer ran into the limit of new tokens",
    },
    "quarantine": {
        "file": "file of the row that was set aside",
        "line": "line or row number in that file, from 1",
        "kind": "short name of the reason, to count by",
        "reason": "why the row cannot be used",
        "row_id": "id of the row, where it has one",
        "raw": "the row's text, cut off when long",
        "rows": "how many rows this record stands for",
    },
}


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    description: str


@dataclass(frozen=True)
class Table:
    """Rows and columns of a Parquet table that may lie in several files of one folder."""

    rows: int
    columns: tuple[Column, ...]


def table_of(files: Sequence[Path]) -> Table | None:
    """The table among an artifact's files: its first Parquet file and those beside it; None where there is none."""
    import pyarrow.parquet as pq

    present = [file for file in files if file.suffix == ".parquet" and file.is_file()]
    if not present:
        return None
    parts = [file for file in present if file.parent == present[0].parent]
    own = _OF_TABLE.get(present[0].parent.name, {})
    columns = (
        Column(field.name, str(field.type), own.get(field.name) or _COLUMNS.get(field.name, ""))
        for field in pq.read_schema(present[0])
    )
    return Table(sum(pq.read_metadata(file).num_rows for file in parts), tuple(columns))
