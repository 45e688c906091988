"""The whole graph of a small task in this process: real assets, checks and sensors, answers of known quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline.compute.payload import Reporter
from vlm_pipeline.definitions import build_defs
from vlm_pipeline.inference.predictors import is_local
from vlm_pipeline.inference.run import run as ask_models
from vlm_pipeline.manifest import FOLDER
from vlm_pipeline.orchestration.executor import PROCESS_TAG, process_signature
from vlm_pipeline.orchestration.jobs import RANGE_END, RANGE_START
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.promotion.world import SECTIONS, Answers, World

_CURRENT: dict[str, World] = {}  # a resource holds plain settings only


class PayloadsOfWorld(PayloadClient):
    """Starts no process: training writes an adapter, local predictors' answers are written (see promotion.world).
    Hosted models are asked for real."""

    def run(
        self, context: Any, store: Any, module: str, request: dict[str, Any], task: Any = None
    ) -> dict[str, Any]:
        world = _CURRENT["world"]
        world.payloads.append(module)
        if module.endswith("training"):
            return world._train(request)
        (name,) = request["predictors"]
        known = {predictor.name: predictor for predictor in world.task.predictors}
        if name in known and not is_local(known[name]):
            return ask_models(request, Reporter(silent=True))[0]
        return world.answers(request)


class GraphWorld:
    """A world with its definitions and a Dagster instance of its own."""

    def __init__(
        self,
        folder: Path,
        instance: dg.DagsterInstance,
        monkeypatch: pytest.MonkeyPatch,
        more: str = "",
        rivals: dict[str, float] | None = None,
        predictors: str = "",
    ) -> None:
        """`rivals`: predictors besides base and tuned, with their shares of right answers."""
        monkeypatch.setenv("VLM_PIPELINE_STORE", str(folder / "store"))
        shares = {"base": 0.1, "tuned": 0.95, **(rivals or {})}
        self.world = World(
            folder, Answers(shares), more=more, rivals=tuple(rivals or ()), predictors=predictors
        )
        self.instance = instance
        _CURRENT["world"] = self.world
        self.task = self.world.task
        self.defs = build_defs({"payloads": PayloadsOfWorld()}, tasks=[self.task])
        self.cursors: dict[str, str | None] = {}

    def key(self, *parts: str) -> dg.AssetKey:
        return dg.AssetKey([self.task.name, *parts])

    def run(
        self, *keys: dg.AssetKey, partition: str | None = None, tags: dict[str, str] | None = None
    ) -> Any:
        """Materialize assets with their checks, as a run request of a sensor would."""
        job = self.defs.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance, asset_selection=list(keys), partition_key=partition, tags=tags, raise_on_error=False
        )  # fmt: skip

    def kill(self, request: dg.RunRequest) -> None:
        """Let the daemon start what a sensor asked for, and kill the run before it has recorded anything."""
        tags = {**request.tags, "dagster/run_key": str(request.run_key)}
        job = self.defs.resolve_implicit_global_asset_job_def()
        start_and_kill(self.instance, job, tags, asset_selection=frozenset(request.asset_selection or ()))

    def loop(self, job: str = "retrain_and_eval", **choices: Any) -> Any:
        """One job of the task; `choices` as in LoopOptions."""
        return self.defs.resolve_job_def(f"{job}_{self.task.name}").execute_in_process(
            run_config={"resources": {"loop": {"config": choices}}},
            instance=self.instance,
            raise_on_error=False,
        )

    def artifacts(self) -> dict[str, Any]:
        """Every artifact's manifest by name."""
        root = self.world.store.path(FOLDER)
        return {
            str(path.relative_to(root).with_suffix("")): read_json(path)
            for path in sorted(root.rglob("*.json"))
        }

    def tick(self, sensor: str) -> dg.SensorResult:
        """One look of a sensor; its cursor is kept, as the daemon keeps it."""
        name = f"{self.task.name}_{sensor}"
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(name),
            resources={"loop": LoopOptions()},
            repository_def=self.defs.get_repository_def(),
        ) as context:
            result = self.defs.get_sensor_def(name)(context)
        if isinstance(result, dg.SkipReason):
            return dg.SensorResult(skip_reason=result)
        self.cursors[name] = result.cursor
        return result

    def whole_range(self) -> dict[str, str]:
        return {RANGE_START: SECTIONS[0], RANGE_END: SECTIONS[-1]}


def start_and_kill(instance: dg.DagsterInstance, job: Any, tags: dict[str, str], **run: Any) -> dg.DagsterRun:
    """What the run storage holds after SIGKILL of a run at work: it is started, and its process is gone."""
    dead = {PROCESS_TAG: process_signature().rsplit(":", 1)[0] + ":1.00"}
    return instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={**tags, **dead}, **run)


def failures(result: Any) -> list[str]:
    return [f"{event.step_key}: {event.message}" for event in result.all_events if event.is_failure]
