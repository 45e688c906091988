"""Resources: what a run may choose, and how payloads are started."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from vlm_pipeline.compute.launch import device_lock_path, payload_command, payload_environment, write_request
from vlm_pipeline.compute.meter import TRAINING, metered
from vlm_pipeline.regeneration.costs import accelerator_ledger
from vlm_pipeline.regeneration.few_shot import with_shots
from vlm_pipeline.store import TaskStore, content_hash, read_json
from vlm_pipeline.task import Task


class LoopOptions(dg.ConfigurableResource):
    """Choices of one run. Example run config: `{resources: {loop: {config: {predictors: [base, tuned]}}}}`."""

    # Only these are predicted and compared, besides the base; of two, the second is judged against the first.
    predictors: list[str] = []  # empty: all of the task
    skip_fine_tune: bool = False  # submit no hosted fine-tuning job; one that runs goes on
    max_examples: int = (
        0  # above 0: a dev run with this many rows per section and split, in a store folder of its own
    )

    full_adapter: bool = False  # with max_examples: evaluate the full run's adapter on these few rows

    def task(self, task: Task) -> Task:
        """The task with this run's limit on rows, and with the worked examples that a round has put before them."""
        told = with_shots(task, self.store(task))
        return told.model_copy(update={"max_examples": self.max_examples}) if self.max_examples else told

    def store(self, task: Task) -> TaskStore:
        """A dev run never touches the artifacts of a full one."""
        limit = self.max_examples or task.max_examples
        return TaskStore(f"{task.name}.dev{limit}" if limit else task.name)

    def adapters(self, task: Task) -> TaskStore:
        """Where the trained adapter lies: in the run's own store, or for a quick evaluation in the full run's."""
        return TaskStore(task.name) if self.full_adapter else self.store(task)

    def picked(self, task: Task, name: str) -> bool:
        return name in task.picked(self.predictors)


class PayloadClient(dg.ConfigurableResource):
    """Runs a payload (training, prediction) outside the run's process and streams its log into the step."""

    def run(
        self, context: dg.AssetExecutionContext, store: TaskStore, module: str, request: dict[str, Any]
    ) -> dict[str, Any]:
        """Start `python -m <module> <request file>`, wait, return the metadata it reported.

        Raises dagster Failure when it ended badly; the payload's own message stands in the step's log.
        """
        kind = module.rsplit(".", 1)[-1]
        result = store.path("requests", f"{kind}-{content_hash(request)}.result.json")
        result.unlink(missing_ok=True)
        lock = str(device_lock_path(store)) if request.get("needs_device", True) else None
        request = {**request, "device_lock": lock, "result": str(result)}
        path = write_request(store, kind, request)
        client = dg.PipesSubprocessClient(env=payload_environment())
        work = request.get("predictors", [TRAINING])
        meter = metered(accelerator_ledger(store), work) if lock else nullcontext({})
        try:
            with meter as counted:
                client.run(context=context, command=payload_command(module, path))
                counted["seconds"] = read_json(result)["metadata"].get("accelerator_seconds", 0.0)
        except DagsterPipesExecutionError as error:
            reason = read_json(result, default={}).get("error", f"{error}; its stderr tells more")
            by_hand = " ".join(payload_command(module, path))
            raise dg.Failure(f"{reason}\n\nTo run this step by hand: {by_hand}") from error
        return read_json(result)["metadata"]
