"""Pairs as files: a Parquet table in TRL's conversational preference format, and JSONL for OpenAI's DPO.

`trl/pairs.parquet`: `prompt`, `chosen` and `rejected` are lists of messages in the form that the base's template takes,
`images` (only where a row has pictures) an Image feature with the bytes of the files, `tools` JSON text (only where a
row has tools); what else a pair has says where it is from. `openai/pairs.jsonl`: text only, as the provider demands.

Both sides of a pair are rendered as training would render them; the prompt must come out, letter for letter, as the
one that was answered, or the pair is left out. Control tokens in an answer are refused there, as in every row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vlm_pipeline.preferences.pairs import Pair
from vlm_pipeline.store import atomic_path

COLUMNS = ["id", "section", "split", "answer", "messages", "tools", "images", "image_sha256", "prompt_text"]
_BATCH_ROWS = 256


class PairFormatter:
    """Pairs as rows of the table, proven against the prompt that was answered."""

    def __init__(self, processor: Any, template_args: dict[str, Any] | None = None) -> None:
        from vlm_pipeline.formatting.render import Renderer

        self._renderer = Renderer(processor, template_args)

    def row(self, pair: Pair, formatted: Mapping[str, Any]) -> dict[str, Any]:
        """The table row of a pair and its formatted row. Raises RenderError with the catalogue's number."""
        from vlm_pipeline.formatting.conversation import Conversation, template_messages
        from vlm_pipeline.formatting.template import RenderError

        tools = json.loads(formatted["tools"]) if formatted["tools"] else None
        prompt = [_plain(message) for message in json.loads(formatted["messages"])[:-1]]
        for text in (pair.chosen, pair.rejected):
            talk = Conversation([*prompt, {"role": "assistant", "content": text}], [], tools)
            rendered = self._renderer.render(talk, frozenset([len(prompt)]))
            if rendered.prompt != formatted["prompt_text"]:
                raise RenderError(
                    11,
                    "messages of role and content alone do not give the prompt that was answered",
                    "leave the row out: it holds calls or reasoning that a table of pairs cannot say",
                )

        def said(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return template_messages(Conversation(messages, []), self._renderer.parts)

        return {
            "prompt": said(prompt),
            "chosen": said([{"role": "assistant", "content": pair.chosen}]),
            "rejected": said([{"role": "assistant", "content": pair.rejected}]),
            "tools": formatted["tools"],
            "images": list(formatted["images"]),
            "image_sha256": list(formatted["image_sha256"]),
            **{name: formatted[name] for name in ("id", "section", "split")},
            **{
                name: getattr(pair, name)
                for name in ("chosen_by", "rejected_by", "chosen_score", "rejected_score", "rejected_cut")
            },
        }

    @property
    def parts(self) -> bool:
        """Whether content is a list of parts; else one string."""
        return self._renderer.parts


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Role and content; calls become the text that scorers read."""
    from vlm_pipeline.formatting.conversation import answer_text

    called = message["role"] == "assistant" and message.get("tool_calls")
    return {"role": message["role"], "content": answer_text(message) if called else message["content"]}


def rendered_rows(
    pairs: Sequence[Pair],
    formatted: Iterable[Mapping[str, Any]],
    processor: Any,
    template_args: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Table rows of the pairs that can be said without loss, and how many could not, by reason."""
    from vlm_pipeline.formatting.template import RenderError

    formatter, by_id = PairFormatter(processor, template_args), {str(row["id"]): row for row in formatted}
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for pair in pairs:
        try:
            rows.append(formatter.row(pair, by_id[pair.id]))
        except RenderError as error:
            left_out[f"cannot be rendered (failure {error.number})"] += 1
    return rows, dict(sorted(left_out.items()))


def write_trl(rows: Sequence[Mapping[str, Any]], target: Path, parts: bool) -> None:
    """The Parquet table, atomically, with `images` and `tools` only where a row has some: TRL goes by the columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlm_pipeline.formatting.dataset_files import picture_schema, picture_writer, write_pictured

    pictured, called = (any(row[name] for row in rows) for name in ("images", "tools"))
    schema = _schema(parts, pictured, called)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(target))
        described = picture_schema(schema) if pictured else schema
        writer = stack.enter_context(
            picture_writer(temporary, described)
            if pictured
            else pq.ParquetWriter(temporary, schema, compression="zstd")
        )
        for batch in _batches(rows):
            table = pa.Table.from_pylist(batch, schema=schema)
            if pictured:
                write_pictured(writer, table, described)
            else:
                writer.write_table(table)


def _schema(parts: bool, pictured: bool, called: bool) -> Any:
    import pyarrow as pa

    text = pa.string()
    content = pa.list_(pa.struct([("type", text), ("text", text)])) if parts else text
    messages = pa.list_(pa.struct([("role", text), ("content", content)]))
    shown = [("images", pa.list_(text)), ("image_sha256", pa.list_(text))] if pictured else []
    return pa.schema(
        [("prompt", messages), ("chosen", messages), ("rejected", messages)]
        + ([("tools", text)] if called else [])
        + shown
        + [(name, text) for name in ("id", "section", "split", "chosen_by", "rejected_by")]
        + [("chosen_score", pa.float64()), ("rejected_score", pa.float64()), ("rejected_cut", pa.bool_())]
    )


def _batches(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    for start in range(0, len(rows), _BATCH_ROWS):
        yield list(rows[start : start + _BATCH_ROWS])


def write_openai(
    rows: Sequence[Mapping[str, Any]], formatted: Iterable[Mapping[str, Any]], target: Path
) -> tuple[int, dict[str, int]]:
    """The JSONL file, atomically; returns its lines and how many rows are not in it, by reason."""
    by_id = {str(row["id"]): row for row in formatted}
    lines, left_out = 0, Counter[str]()
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        for row in rows:
            if row["images"]:
                left_out["its picture is needed, and the provider's DPO takes text only"] += 1
            elif row["tools"]:
                left_out["it has tools, which the provider's models call in fields of their own"] += 1
            else:
                line = json.dumps(openai_line(row, by_id[str(row["id"])]), ensure_ascii=False)
                file.write(line.encode() + b"\n")
                lines += 1
    return lines, dict(sorted(left_out.items()))


def openai_line(row: Mapping[str, Any], formatted: Mapping[str, Any]) -> dict[str, Any]:
    """One example of the provider's DPO: what a hosted predictor is asked, and the two answers."""
    from vlm_pipeline.formatting.conversation import Conversation
    from vlm_pipeline.inference.chat import openai_chat

    prompt = [_plain(message) for message in json.loads(formatted["messages"])[:-1]]
    return {
        "input": openai_chat(Conversation(prompt, [])),
        "preferred_output": [{"role": "assistant", "content": _text(row["chosen"])}],
        "non_preferred_output": [{"role": "assistant", "content": _text(row["rejected"])}],
    }


def _text(messages: list[dict[str, Any]]) -> str:
    from vlm_pipeline.examples.example import text_of

    return text_of(messages[0]["content"])
