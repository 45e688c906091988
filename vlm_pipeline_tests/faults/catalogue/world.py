"""A small world of healthy rows to break, and how its broken versions are registered as cases of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_pipeline.formatting import Finding, format_section, load_processor, verify
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.formatting.template import tokenizer_of
from vlm_pipeline.task import Task
from vlm_pipeline_tests.formatting.worlds import asked, dialogue, picture, picture_model, task, text_model

Cases = dict[str, Callable[[Path], tuple[int, list[Finding]]]]  # by number and name


class World:
    """A model folder, its processor and task, and a set of healthy formatted rows to break."""

    def __init__(self, folder: Path, kind: str, **settings: Any) -> None:
        self.folder = folder
        self.model = (picture_model if kind == "picture" else text_model)(folder.parent / f"model-{kind}")
        if kind == "text":
            settings.setdefault("prompt", {"template_args": {"date_string": "1 May 2025"}})
        self.task: Task = task(self.model, **settings)
        self.processor = load_processor(self.model)
        self.tokenizer = tokenizer_of(self.processor)
        self.kind = kind

    def examples(self) -> list[Any]:
        shown = () if self.kind == "text" else (picture(self.folder, "page.png"),)
        return [asked("one", "Torque of the sump plug?", "31 Nm", *shown), dialogue("talk", *shown)]

    def rows(self, examples: list[Any] | None = None, processor: Any = None) -> list[dict[str, Any]]:
        path = self.folder / "formatted.parquet"
        made = format_section(
            examples or self.examples(), processor or self.processor, self.task.prompt, path
        )
        assert not made.quarantined
        return list(read_formatted_rows(path))

    def verify(self, rows: Any, processor: Any = None, **table: Any) -> list[Finding]:
        return verify(self.task, rows, processor or self.processor)

    def foreign(self, rendered: str, /, labels: str = "all", **columns: Any) -> dict[str, Any]:
        """A row as another tool leaves it: ids and labels only."""
        ids = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return {
            "id": "foreign",
            "input_ids": ids,
            "labels": ids if labels == "all" else [-100] * len(ids),
            **columns,
        }


def registry(cases: Cases) -> Callable[..., Any]:
    """The decorator of a module's cases: a function breaks a world and returns what verification finds."""

    def case(number: int, name: str, kind: str = "picture", **settings: Any) -> Callable[..., Any]:
        def register(function: Callable[[World], list[Finding]]) -> Callable[[World], list[Finding]]:
            def run(tmp_path: Path) -> tuple[int, list[Finding]]:
                return number, function(World(tmp_path, kind, **settings))

            cases[f"{number:02d} {name}"] = run
            return function

        return register

    return case


def edited(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**row, **changes}


def only_ids(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "input_ids", "labels")}
