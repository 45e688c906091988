"""What the checks look at: a row's ids and labels, its text tokenized anew, and the model's markers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vlm_pipeline.formatting.findings import Finding, picture_in_words
from vlm_pipeline.formatting.pictures import picture_counter
from vlm_pipeline.formatting.template import Markers, control_tokens, markers, takes_parts, tokenizer_of
from vlm_pipeline.settings.data import PromptSettings

UNSUPERVISED = -100


class Model:
    """A processor with what the checks ask of it."""

    def __init__(self, processor: Any, prompt: PromptSettings) -> None:
        self.processor = processor
        self.tokenizer = tokenizer_of(processor)
        self.prompt = prompt
        self.markers: Markers = markers(processor, prompt.template_args)
        self.controls = control_tokens(self.tokenizer)
        self.parts = takes_parts(processor)
        self.image_token: str | None = getattr(processor, "image_token", None)
        self.image_token_id: int | None = getattr(processor, "image_token_id", None)
        self.pictures = picture_counter(processor)
        self.pad_id: int | None = self.tokenizer.pad_token_id

    def encode(self, texts: list[str]) -> list[Any]:
        return (
            self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False).encodings
            if texts
            else []
        )

    def decode(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


@dataclass
class Evidence:
    """One row. `ids` and `labels` as trained on; the `short` ones have one token a picture."""

    row: dict[str, Any]
    ids: np.ndarray
    labels: np.ndarray
    short_ids: np.ndarray
    short_labels: np.ndarray
    image_runs: list[int]  # tokens of each placeholder run
    text: str
    encoding: Any = None  # of text
    prompt_ids: list[int] | None = None  # of the prompt_text column
    found: list[Finding] = field(default_factory=list)

    @property
    def same_ids(self) -> bool:
        """Are the ids the tokens of the whole text?"""
        return self.encoding is not None and np.array_equal(self.encoding.ids, self.short_ids)

    @cached_property
    def messages(self) -> list[dict[str, Any]] | None:
        return json.loads(self.row["messages"]) if self.row.get("messages") else None

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """The assistant messages, worked examples included; nothing where the row does not tell its messages."""
        return [message for message in self.messages or () if message["role"] == "assistant"]

    @cached_property
    def tools(self) -> Any:
        return json.loads(self.row["tools"]) if self.row.get("tools") else None

    def add(self, number: int, message: str, remedy: str, blocking: bool = True) -> None:
        self.found.append(
            Finding(
                number, message, remedy, str(self.row.get("id")), self.row.get("section"), blocking=blocking
            )
        )

    def picture(self, model: Model) -> str:
        return picture_in_words(self.ids, self.labels, model.tokenizer, model.image_token_id)


def gather(rows: Sequence[dict[str, Any]], model: Model) -> list[Evidence]:
    """Evidence of rows that are not `broken`, tokenized together; of their other columns what is there is used."""
    gathered = [_evidence(row, model) for row in rows]
    prompts = [row.get("prompt_text") for row in rows]
    encoded = iter(
        model.encode(
            [evidence.text for evidence in gathered] + [text for text in prompts if text is not None]
        )
    )
    for evidence in gathered:
        evidence.encoding = next(encoded)
    for evidence, prompt in zip(gathered, prompts, strict=True):
        if prompt is not None:
            evidence.prompt_ids = next(encoded).ids
    return gathered


def broken(row: dict[str, Any]) -> Finding | None:
    """What keeps a row from being looked at: ids or labels that are missing, no whole numbers, or of two lengths."""
    problem, lengths = "", []
    for name in ("input_ids", "labels"):
        try:
            lengths.append(len(np.asarray(row.get(name), dtype=np.int64)))
        except (TypeError, ValueError, OverflowError):
            problem = problem or f"{name} is {type(row.get(name)).__name__}, not a list of whole numbers"
    if not problem and lengths[0] != lengths[1]:
        problem = f"the row has {lengths[0]} ids but {lengths[1]} labels"
    if not problem and not lengths[0]:
        problem = "the row has no tokens"
    if not problem:
        return None
    remedy = "write one label for each id, -100 where nothing is supervised"
    return Finding(3, problem, remedy, str(row.get("id")), row.get("section"))


def _evidence(row: dict[str, Any], model: Model) -> Evidence:
    ids = np.asarray(row["input_ids"], dtype=np.int64)
    labels = np.asarray(row["labels"], dtype=np.int64)
    picture = (
        ids == model.image_token_id if model.image_token_id is not None else np.zeros(len(ids), dtype=bool)
    )
    follows = picture & np.concatenate([[False], picture[:-1]])
    short = ids[~follows]
    starts = np.flatnonzero(picture & ~follows)
    ends = np.flatnonzero(picture & ~np.concatenate([picture[1:], [False]]))
    text = row.get("text")
    return Evidence(
        row,
        ids,
        labels,
        short,
        labels[~follows],
        (ends - starts + 1).tolist(),
        model.decode(short) if text is None else text,
    )
