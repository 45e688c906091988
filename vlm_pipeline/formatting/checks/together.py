"""What only shows when rows are seen together: prompts (30) and splits (31)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from vlm_pipeline.examples.example import Example, ImageRef, text_of
from vlm_pipeline.examples.leakage import find_leakage
from vlm_pipeline.formatting.checks.evidence import Evidence
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.settings.data import PromptSettings


class PromptCensus:
    """30: every row is told what the task tells the compared models, in every split alike."""

    def __init__(self, prompt: PromptSettings, table: dict[str, Any]) -> None:
        self._prompt = prompt
        self._system: dict[str, Counter[bool]] = {}
        self.found: list[Finding] = []
        made_with = table.get("prompt")
        now = json.loads(prompt.model_dump_json())
        if made_with is not None and made_with != now:
            names = sorted(key for key in now if made_with.get(key) != now[key])
            self.found.append(
                Finding(
                    30,
                    f"the rows were made with another prompt: {', '.join(names)} differ",
                    "format the rows again",
                )
            )

    def add(self, row: Evidence) -> None:
        messages = row.messages
        if messages is None:
            return
        lacking = _lacking(messages, self._prompt)
        if lacking:
            row.add(30, f"the row lacks {lacking}, which compared models are given", "format the rows again")
        split = str(row.row.get("split"))
        self._system.setdefault(split, Counter())[messages[0]["role"] == "system"] += 1

    def findings(self) -> list[Finding]:
        """Splits that differ: trained without a system prompt, asked with one (or the reverse)."""
        kinds = {split: set(counts) for split, counts in self._system.items()}
        if len({frozenset(kind) for kind in kinds.values()}) > 1 and any(
            len(kind) == 1 for kind in kinds.values()
        ):
            shown = ", ".join(
                f"{split}: {counts[True]} of {sum(counts.values())} rows have one"
                for split, counts in sorted(self._system.items())
            )
            whole = {next(iter(kind)) for kind in kinds.values() if len(kind) == 1}
            self.found.append(
                Finding(
                    30,
                    f"splits differ in their system prompt ({shown})",
                    "set prompt.system in task.yaml, which gives all rows the same",
                    blocking=len(whole) == 2,
                )
            )
        return self.found


def _lacking(messages: list[dict[str, Any]], prompt: PromptSettings) -> str:
    if prompt.system is not None and (
        messages[0]["role"] != "system" or text_of(messages[0]["content"]) != prompt.system
    ):
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
    """31: nothing stands on two sides of a split; the search itself belongs to vlm_pipeline.examples."""

    def __init__(self) -> None:
        self._rows: list[Example] = []
        self._unsplit = 0

    def add(self, row: dict[str, Any]) -> None:
        if row.get("group") is None or row.get("split") is None or not row.get("messages"):
            self._unsplit += 1
            return
        paths, hashes = row.get("images") or [], row.get("image_sha256") or []
        self._rows.append(
            Example(
                id=str(row["id"]),
                messages=tuple(m for m in json.loads(row["messages"]) if m["role"] in ("user", "assistant")),
                images=tuple(ImageRef(p, None, h, 0, 0, "") for p, h in zip(paths, hashes, strict=False)),
                metadata=json.loads(row.get("metadata") or "{}"),
                section=row.get("section"),
                group=row["group"],
                split=row["split"],
            )
        )

    def findings(self) -> Iterator[Finding]:
        for leak in find_leakage(self._examples(), near=False):
            yield Finding(
                31, f"{leak.reason} (rows {', '.join(leak.rows[:4])})", leak.remedy, blocking=leak.blocking
            )

    def _examples(self) -> Iterable[Example]:
        return self._rows
