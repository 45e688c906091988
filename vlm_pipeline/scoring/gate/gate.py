"""What the gate asks of a prediction table, free of pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vlm_pipeline.scoring.metrics import against_bar, compute_metrics, metric_name, with_misses
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.scoring.stage import page_facts
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline.settings.scoring import bars_of
from vlm_pipeline.sharing.share import pull
from vlm_pipeline.store import TaskStore, write_json
from vlm_pipeline.task import Task, load_task
from vlm_pipeline.task_yaml import TaskFileError

COLUMNS = ["id", "section", "group", "split", "answer", "answer_value", "metadata", "prompt_text"]


class GateError(ValueError):
    """The gate cannot be held: the message says what is missing."""


@dataclass(frozen=True)
class Gate:
    """One predictor's stored answers on one split, against the bars of the task's scorers."""

    task: Task
    store: TaskStore
    model: str
    split: str = "test"
    sections: tuple[str, ...] = ()
    max_samples: int | None = None
    demonstrated: bool = False

    @classmethod
    def from_options(cls, option: Callable[[str], Any]) -> Gate:
        """From pytest's options. GateError where task, model or section does not exist."""
        if not option("--task"):
            raise GateError("say which task: --task data/<task>")
        try:
            task = load_task(option("--task"))
        except (TaskFileError, OSError) as error:
            raise GateError(str(error)) from error
        names = [predictor.name for predictor in task.predictors]
        adapted = [predictor.name for predictor in task.predictors if getattr(predictor, "adapter", None)]
        model = option("--model") or next(iter(adapted), names[0])
        if model not in names:
            raise GateError(f"--model {model} is none of the task's predictors: {', '.join(names)}")
        sections = tuple(name.strip() for name in (option("--sections") or "").split(",") if name.strip())
        if unknown := [name for name in sections if name not in task.sections.names]:
            raise GateError(f"--sections {', '.join(unknown)}: the task has {', '.join(task.sections.names)}")
        gate = cls(
            task, TaskStore(task.name, option("--store")), model, option("--split"), sections,
            option("--max-samples"), option("--demonstrated"),
        )  # fmt: skip
        pull(gate.store)
        if not gate.table_path.exists():
            raise GateError(
                f"no predictions of {model} in {gate.table_path}: run the loop, or name another --store"
            )
        return gate

    @property
    def table_path(self) -> Any:
        return self.store.path("predictions", f"{self.model}.parquet")

    @cached_property
    def formatted(self) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = []
        for section in self.sections or self.task.sections.names:
            path = self.store.section("formatted", section)
            if not path.exists():
                raise GateError(f"{path} is missing: materialize formatted_examples of section {section}")
            found = pq.read_table(path, columns=COLUMNS, filters=[("split", "==", self.split)]).to_pylist()
            rows += found[: self.max_samples]
        if not rows:
            raise GateError(f"no {self.split} rows in {', '.join(self.sections or self.task.sections.names)}")
        return rows

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        wanted = {row["id"] for row in self.formatted}
        return [row for row in pq.read_table(self.table_path).to_pylist() if row["id"] in wanted]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        scorers = [build_scorer(settings) for settings in self.task.scorers]
        scores = score_table(
            scorers, self.formatted, self.predictions, splits=[self.split], facts=page_facts(self.task)
        )
        if not scores:
            raise GateError(f"{self.model} has no stored answer to any {self.split} row: predict them first")
        bars = bars_of(self.task.scorers, self.task.thresholds.primary)
        return compute_metrics(scores, self.predictions, predictor=self.model, bars=bars)

    def bars(self) -> list[dict[str, Any]]:
        """One bar per scorer, over all rows and by section: name, figure, bar, passes, demonstrated."""
        found = []
        for name, bar in bars_of(self.task.scorers, self.task.thresholds.primary).items():
            figures = self.metrics["scorers"][name]
            places = {"all": figures} | figures["sections"]
            for place, found_there in places.items():
                figure = found_there["metrics"].get(metric_name(figures["primary"]) or "") or {}
                basis = with_misses(figure) or {"estimate": None, "low": None, "high": None}
                held = against_bar(basis, bar, figure.get("direction", "higher"))
                found.append(
                    {"name": f"{self.model}-{name}-{place}", "n": found_there["n"], **_limits(basis), **held}
                )
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Rows with their stored answer, for one test each."""
        answers = {row["id"]: row for row in self.predictions if not row.get("sample")}
        return [{**row, "prediction": answers.get(row["id"])} for row in self.formatted]

    def holds(self, bar: Mapping[str, Any]) -> bool:
        return bool(bar["demonstrated"] if self.demonstrated else bar["passes"])

    def write(self, path: str) -> None:
        bars = self.bars()
        write_json(
            path,
            {
                "task": self.task.name,
                "model": self.model,
                "split": self.split,
                "holds": all(self.holds(bar) for bar in bars),
                "bars": bars,
                "metrics": self.metrics,
            },
        )


def _limits(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figure.get(name) for name in ("estimate", "low", "high")}
