"""The prediction payload's work: all predictors of one request, local ones over one loaded base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_pipeline.compute.payload import PayloadError, Reporter
from vlm_pipeline.formatting.table import split_rows
from vlm_pipeline.inference.formats import PatternError, answer_pattern
from vlm_pipeline.inference.local import LocalEngine, LocalPredictor, stream_prompts
from vlm_pipeline.inference.predict import Counts, predict_table
from vlm_pipeline.inference.prediction import Ask, part_of, predictions_version
from vlm_pipeline.inference.predictors import NOT_RUN, availability, is_local
from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.store import TaskStore, content_hash
from vlm_pipeline.task import Task, load_task
from vlm_pipeline.training.record import AdapterError


def run(request: dict[str, Any], reporter: Reporter) -> tuple[dict[str, Any], str | None]:
    """Answer a request; returns (metadata, data version of all tables).

    Request: `task` (folder), `store` (root), `formatted` (paths), `splits`, `predictors` (names; all by default),
    `adapters` ({predictor name: folder}); optional `store_name`, `output` (folder, default predictions/), `run_id`
    (all payloads of one run share what the task may spend), `candidates` (settings of predictors beside the task's),
    `part` ([number, workers]: only this worker's rows; a last run without it finds all greedy answers in the cache and
    writes the table that one worker would have written).
    Metadata are the counts; for several predictors {name: counts}, with {"status": reason} for what did not run.
    """
    task = load_task(request["task"])
    store = TaskStore(request.get("store_name") or task.name, request["store"])
    extra = [TransformersPredictor.model_validate(one) for one in request.get("candidates") or []]
    known = {predictor.name: predictor for predictor in [*task.predictors, *extra]}
    names = request.get("predictors") or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PayloadError(f"{task.name} has no predictor {', '.join(unknown)}; it has {', '.join(known)}")
    chosen = sorted(
        (known[name] for name in names),
        key=lambda one: (not is_local(one), bool(getattr(one, "adapter", None))),
    )
    output = Path(request["output"]) if request.get("output") else store.path("predictions")
    adapters = {name: Path(folder) for name, folder in (request.get("adapters") or {}).items() if folder}
    session = _Session(
        task, store, request["formatted"], request.get("splits") or ["val", "test"], adapters, reporter,
        request.get("run_id"), request.get("part"),
    )  # fmt: skip
    outcome: dict[str, dict[str, Any]] = {}
    for predictor in chosen:
        outcome[predictor.name] = session.answer(predictor, output / f"{predictor.name}.parquet")
    versions = {
        name: predictions_version(output / f"{name}.parquet")
        for name, one in outcome.items()
        if "rows" in one
    }
    return (outcome if len(outcome) > 1 else next(iter(outcome.values()))), content_hash(versions)


class _Session:
    """What the predictors of one request share: rows, the loaded base, the budget."""

    def __init__(
        self, task: Task, store: TaskStore, formatted: Sequence[str], splits: Sequence[str],
        adapters: dict[str, Path], reporter: Reporter, run_id: str | None, part: Sequence[int] | None,
    ) -> None:  # fmt: skip
        self.run_id, self._part = run_id, part
        self.task, self.store, self.reporter, self.adapters = task, store, reporter, adapters
        self.formatted, self.splits = formatted, splits
        self._engine: LocalEngine | None = None
        self._hosted: Any = None

    @property
    def asks(self) -> Iterable[Ask]:
        return part_of(stream_prompts(self.formatted, self.splits), self._part)

    @cached_property
    def rows(self) -> int | None:
        """How many rows there are to answer, where all are this worker's."""
        return None if self._part else split_rows(self.formatted, self.splits)

    @property
    def engine(self) -> LocalEngine:
        if self._engine is None:
            from vlm_pipeline.training.base_model import resolve_base

            self._engine = LocalEngine(
                resolve_base(self.task.base_model_path, self.task.revision),
                image=self.task.image,
                quantization=self.task.quantization,
                precision=self.task.training.precision,
                cache=self.store.cache,
            )
        return self._engine

    def local(self, predictor: TransformersPredictor) -> LocalPredictor:
        adapter = self.adapters.get(predictor.name)
        if predictor.adapter and adapter is None:
            raise PayloadError(
                f"predictor {predictor.name} needs the folder of its adapter: request key adapters.{predictor.name}"
            )
        try:
            return LocalPredictor(
                predictor.name, self.engine, self.task.generation_of(predictor), adapter=adapter if predictor.adapter else None,
                pattern=answer_pattern(predictor, self.task.scorers[0]), batch_size=predictor.batch_size,
            )  # fmt: skip
        except AdapterError as error:
            raise PayloadError(str(error)) from error

    def answer(self, predictor: Any, output: Path) -> dict[str, Any]:
        reason = availability(predictor, adapter=self.adapters.get(predictor.name))
        if reason:
            self.reporter.say(f"{predictor.name} {reason}")
            return {"status": reason}
        if is_local(predictor):
            before = self.engine.images_computed
            try:
                counts = self._table(predictor, self.local(predictor), self.asks, output)
            except PatternError as error:
                return {"status": f"{NOT_RUN}: {error}"}
            return {
                "images_computed": self.engine.images_computed - before,
                **counts.as_dict(),
                "accelerator_seconds": counts.seconds if counts.asked else 0.0,
            }
        if self._hosted is None:
            from vlm_pipeline.inference.hosted_run import HostedSession

            self._hosted = HostedSession(
                self.task, self.store, self.formatted, self.splits, self.run_id, self._part
            )
        return self._hosted.answer(predictor, output, self._table)

    def _table(
        self,
        settings: Any,
        predictor: Any,
        asks: Iterable[Ask],
        output: Path,
        about: Callable[[], dict[str, Any]] = dict,
    ) -> Counts:
        def progress(done: int, total: int) -> None:
            self.reporter.progress(f"{predictor.name}: answers", done, total)

        def described() -> dict[str, Any]:
            return {"settings": settings.model_dump(mode="json", exclude={"generation"}), **about()}

        counts = predict_table(
            predictor, asks, cache_folder=self.store.cache, output=output, about=described, progress=progress,
            expected=self.rows,
        )  # fmt: skip
        self.reporter.say(
            f"{predictor.name}: {counts.rows} rows, {counts.asked} asked, {counts.reused} reused, "
            f"{counts.failed} failed, {counts.seconds:.1f} s, {counts.cost_usd:.4f} USD"
        )
        return counts
