"""Resources: what a run may choose, and how payloads are started."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from vlm_pipeline.compute.launch import (
    PlaceError,
    device_lock_path,
    payload_command,
    payload_environment,
    write_request,
)
from vlm_pipeline.compute.meter import TRAINING, metered
from vlm_pipeline.locks import Busy, loop_turn
from vlm_pipeline.orchestration.places import run_at
from vlm_pipeline.regeneration.costs import accelerator_ledger
from vlm_pipeline.regeneration.few_shot import with_shots
from vlm_pipeline.settings.compute import LocalPlace, ModalPlace, PlaceSettings, RemotePlace
from vlm_pipeline.sharing.share import (
    LOG,
    is_shared,
    kept_safe,
    publish,
    pull,
    shared,
    travelling_environment,
)
from vlm_pipeline.sharing.trouble import Say, StoreError
from vlm_pipeline.store import TaskStore, content_hash, read_json
from vlm_pipeline.task import Task

_LOOK_S = 20.0  # how long a sensor waits for a store that is away: a tick has a minute


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

    @contextmanager
    def opened(self, task: Task, say: Say = LOG) -> Iterator[TaskStore]:
        """The store around one step: as it lies at its URL, and there again before anything is recorded of the step."""
        if self.full_adapter:
            pull(self.adapters(task), say)
        with shared(self.store(task), say) as store:
            yield store

    def seen(self, task: Task) -> TaskStore:
        """The store for a look: brought up to its URL, unless a run of this machine is at work on it."""
        store = self.store(task)
        if is_shared(store):
            with suppress(Busy), loop_turn(store, "a sensor"):
                pull(store, patience_s=_LOOK_S)
        return store

    def adapters(self, task: Task) -> TaskStore:
        """Where the trained adapter lies: in the run's own store, or for a quick evaluation in the full run's."""
        return TaskStore(task.name) if self.full_adapter else self.store(task)

    def picked(self, task: Task, name: str) -> bool:
        return name in task.picked(self.predictors)


class PayloadClient(dg.ConfigurableResource):
    """Runs a payload (training, prediction) outside the run's process and streams its log into the step."""

    def runner(
        self, context: dg.AssetExecutionContext, store: TaskStore, module: str, task: Task
    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """`run` for the domain code, which knows requests and nothing of steps."""
        return partial(self.run, context, store, module, task=task)

    def run(
        self,
        context: dg.AssetExecutionContext,
        store: TaskStore,
        module: str,
        request: dict[str, Any],
        task: Task | None = None,
    ) -> dict[str, Any]:
        """Start `python -m <module> <request file>` where the task wants it, wait, return the metadata it reported.

        Raises dagster Failure when it ended badly; the payload's own message stands in the step's log. A worker that is
        lost away from this machine is tried again.
        """
        kind = module.rsplit(".", 1)[-1]
        name = f"{kind}-{content_hash(request)}"
        result = store.path("requests", f"{name}.result.json")
        result.unlink(missing_ok=True)
        needs_device = request.get("needs_device", True)
        place = _place(task, kind) if needs_device else LocalPlace()  # what asks hosted models stays here
        remote = isinstance(place, RemotePlace)
        lock = str(device_lock_path(store)) if needs_device and not remote else None
        path = write_request(store, kind, {**request, "device_lock": lock, "result": str(result)})
        command = payload_command(module, path, place, task.root if task else Path())
        work = request.get("predictors", [TRAINING])
        meter = metered(accelerator_ledger(store), work) if needs_device else nullcontext({})
        environment = payload_environment(place) | (travelling_environment(store, request) if remote else {})
        around = _fetched_back if remote else kept_safe
        try:
            with meter as counted:
                waited = partial(counted.__setitem__, "waited")
                folder, ships = store.root.absolute(), _ships(place, task)
                with around(store, context.log.info):
                    run_at(place, context, command, environment, name, folder, waited, ships)
                counted["seconds"] = read_json(result)["metadata"].get("accelerator_seconds", 0.0)
        except Exception as error:
            own_words = read_json(result, default={}).get("error")
            if remote and not own_words and not isinstance(error, PlaceError | StoreError):
                context.log.warning(f"{name} was lost on {place.kind}: {error}")
                raise dg.RetryRequested(place.retries, place.retry_delay_s) from error
            told = (
                str(error)
                if isinstance(error, PlaceError | StoreError)
                else f"{error}; its stderr tells more"
            )
            reason = own_words or told
            raise dg.Failure(f"{reason}\n\nTo run this step by hand: {shlex.join(command)}") from error
        return read_json(result)["metadata"]


def _ships(place: PlaceSettings, task: Task | None) -> list[Path]:
    """Folders beside the store that a payload reads, for a place that takes them along: the task's, and a base model
    that is no name on the hub.
    """
    if task is None or not isinstance(place, ModalPlace):
        return []
    base = Path(task.base_model_path)
    return [task.root, *([base] if base.is_dir() else [])]


@contextmanager
def _fetched_back(store: TaskStore, say: Say) -> Iterator[None]:
    """Around a payload on another machine: the request is at the store's URL before, what it made is here after."""
    publish(store, say)
    try:
        yield
    finally:
        pull(store, say)


def _place(task: Task | None, kind: str) -> PlaceSettings:
    if task is None:
        return LocalPlace()
    return task.compute.training if kind == TRAINING else task.compute.prediction
