"""What only shows when rows are seen together: prompts (30) and splits (31)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example, ImageRef, text_of
from vlm_pipeline.examples.facts import Facts
from vlm_pipeline.examples.leakage import Leak, LeakSearch
from vlm_pipeline.formatting.checks.evidence import Evidence
from vlm_pipeline.formatting.conversation import shot_images
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.settings.data import PromptSettings


def check_told(row: Evidence, prompt: PromptSettings, systems: dict[str, list[int]]) -> None:
    """30: the row is told what the task tells the compared models.

    systems: counts by split, [rows that begin with a system prompt, rows]; see `systems_differ`.
    """
    messages = row.messages
    if messages is None:
        return
    lacking = _lacking(messages, prompt)
    if lacking:
        row.add(30, f"the row lacks {lacking}, which compared models are given", "format the rows again")
    counts = systems.setdefault(str(row.row.get("split")), [0, 0])
    counts[0] += messages[0]["role"] == "system"
    counts[1] += 1


def prompts_differ(prompt: PromptSettings, tables: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    """30: tables that say they were made with another prompt than the task's. tables: their metadata."""
    now = json.loads(prompt.model_dump_json())
    for table in tables:
        made_with = table.get("prompt")
        if made_with is not None and made_with != now:
            names = sorted(key for key in now if made_with.get(key) != now[key])
            yield Finding(
                30,
                f"the rows were made with another prompt: {', '.join(names)} differ",
                "format the rows again",
            )


def systems_differ(systems: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    """30: splits that differ: trained without a system prompt, asked with one (or the reverse)."""
    kinds = {
        split: {kind for kind, count in ((True, told), (False, rows - told)) if count}
        for split, (told, rows) in systems.items()
    }
    whole = {next(iter(kind)) for kind in kinds.values() if len(kind) == 1}
    if len({frozenset(kind) for kind in kinds.values()}) > 1 and whole:
        shown = ", ".join(
            f"{split}: {told} of {rows} rows have one" for split, (told, rows) in sorted(systems.items())
        )
        yield Finding(
            30,
            f"splits differ in their system prompt ({shown})",
            "set prompt.system in task.yaml, which gives all rows the same",
            blocking=len(whole) == 2,
        )


def _lacking(messages: list[dict[str, Any]], prompt: PromptSettings) -> str:
    told = text_of(messages[0]["content"]) if messages[0]["role"] == "system" else ""
    if prompt.preamble and not told.startswith(prompt.preamble):
        return "the task's preamble"
    if prompt.system is not None and told.removeprefix(f"{prompt.preamble}\n\n") != prompt.system:
        return "the task's system prompt"
    texts = [(m["role"], text_of(m["content"])) for m in messages]
    for shot in prompt.few_shot:
        if ("user", shot.question) not in texts or ("assistant", shot.answer) not in texts:
            return f"the worked example {shot.question[:40]!r}"
    asked = [text for role, text in texts if role == "user"]
    if prompt.instruction and not (asked and asked[-1].endswith(prompt.instruction)):
        return "the task's instruction"
    return ""


class SplitWatch:
    """31: nothing stands on two sides of a split; the search itself belongs to vlm_pipeline.examples.

    Worked examples stand before every row, so they count once, as a part of what is trained on.
    """

    def __init__(self, prompt: PromptSettings, root: Path | None = None) -> None:
        self._search = LeakSearch(near=False)
        pictures = iter(shot_images(prompt, root))
        self._shown = 0  # pictures that every row begins with
        for number, shot in enumerate(prompt.few_shot, start=1):
            images = () if shot.image is None else (next(pictures),)
            self._shown += len(images)
            name = f"worked example {number}"
            said = ({"role": "user", "content": shot.question}, {"role": "assistant", "content": shot.answer})
            self._search.add(Example(name, said, images, group=f"id:{name}", split="train"))

    def add(self, row: dict[str, Any]) -> None:
        """row: formatted columns; rows without group, split and content cannot be placed."""
        content = row.get("question") is not None or row.get("messages")
        if row.get("group") is None or row.get("split") is None or not content:
            return
        paths = (row.get("images") or [])[self._shown :]
        hashes = (row.get("image_sha256") or [])[self._shown :]
        self._search.add(
            Example(
                id=str(row["id"]),
                messages=_dialogue(row),
                images=tuple(ImageRef(p, None, h, 0, 0, "") for p, h in zip(paths, hashes, strict=False)),
                metadata=json.loads(row.get("metadata") or "{}"),
                section=row.get("section"),
                group=row["group"],
                split=row["split"],
            )
        )

    def add_facts(self, facts: Facts) -> None:
        """The same for a row whose facts are known."""
        self._search.add_facts(facts)

    def findings(self) -> Iterator[Finding]:
        return leak_findings(self._search.find())


def leak_findings(leaks: Iterable[Leak]) -> Iterator[Finding]:
    for leak in leaks:
        yield Finding(
            31, f"{leak.reason} (rows {', '.join(leak.rows[:4])})", leak.remedy, blocking=leak.blocking
        )


def _dialogue(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    if row.get("question") is not None:
        return (
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row.get("answer") or ""},
        )
    return tuple(m for m in json.loads(row["messages"]) if m["role"] in ("user", "assistant"))
