"""Steps in one process, one run of a task at a time; before the first step, runs that died are closed and their pool
slots freed.

Heavy work happens in payload processes, so a process per step would only pay the imports again (22 trivial steps:
6 s in one process, 61 s in many). After SIGKILL of a run its pool slots stay taken until the daemon notices, and
without a daemon for ever; every run therefore signs with its process, and the next run, and every look of a sensor,
closes what is dead.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import dagster as dg
import psutil
from dagster._core.definitions.executor_definition import IN_PROC_CONFIG, _core_in_process_executor_creation
from dagster._core.errors import raise_execution_interrupts
from dagster._core.events import DagsterEvent
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.executor.in_process import InProcessExecutor

from vlm_pipeline.compute.payload import STARTER_VARIABLE, die_with_parent
from vlm_pipeline.locks import loop_turn
from vlm_pipeline.orchestration.runs import TASK_TAG
from vlm_pipeline.store import TaskStore

PROCESS_TAG = "vlm_pipeline/process"
OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
UNSIGNED_S = 300  # a run signs within seconds of its launch; one that has not by then died before it could


def process_signature(pid: int | None = None) -> str:
    """`host:pid:start` names one process for ever, also after its number is used again."""
    process = psutil.Process(pid or os.getpid())
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def is_dead(signature: str | None) -> bool:
    """True only for a process of this host that is gone; another host's runs are not ours to judge."""
    if signature is None:
        return False
    host, pid, _ = signature.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        return process_signature(int(pid)) != signature
    except psutil.NoSuchProcess:
        return True


def close_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed and free their pool slots; returns their ids."""
    closed = []
    long_ago = datetime.now(UTC) - timedelta(seconds=UNSIGNED_S)
    unsigned = dg.RunsFilter(statuses=[*OPEN, dg.DagsterRunStatus.NOT_STARTED], updated_before=long_ago)
    dead = [
        one for one in instance.get_runs(dg.RunsFilter(statuses=OPEN)) if is_dead(one.tags.get(PROCESS_TAG))
    ]
    dead += [
        one for one in instance.get_runs(unsigned) if PROCESS_TAG not in one.tags and TASK_TAG in one.tags
    ]
    for run in dead:
        instance.report_run_failed(run, "The process of this run is gone (killed or out of memory).")
        closed.append(run.run_id)
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        for run_id in storage.get_concurrency_run_ids():
            run = instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                storage.free_concurrency_slots_for_run(run_id)
    return closed


class LoopExecutor(InProcessExecutor):
    """In-process execution that first waits for its turn and tidies up after killed runs."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        if STARTER_VARIABLE in os.environ:  # started by `make loop`: end with it, so that nothing is orphaned
            die_with_parent()
        plan_context.instance.add_run_tags(plan_context.run_id, {PROCESS_TAG: process_signature()})
        run = plan_context.dagster_run
        with ExitStack() as turns:
            for task in tasks_of(run):
                with raise_execution_interrupts():  # a run that waits can be cancelled
                    who = f"run {run.run_id[:8]} ({run.job_name})"
                    turns.enter_context(loop_turn(TaskStore(task), who, plan_context.log.info))
            close_dead_runs(plan_context.instance)
            yield from super().execute(plan_context, execution_plan)


def tasks_of(run: dg.DagsterRun) -> list[str]:
    """Tasks whose artifacts a run may change, in order."""
    named = {run.tags[TASK_TAG]} if TASK_TAG in run.tags else set()
    return sorted(named | {asset.path[0] for asset in run.asset_selection or () if len(asset.path) > 1})


@dg.executor(name="loop", config_schema=IN_PROC_CONFIG)
def loop_executor(init_context: dg.InitExecutorContext) -> LoopExecutor:
    """All steps of a run in its own process; what is heavy runs in payload processes."""
    plain = _core_in_process_executor_creation(init_context.executor_config)
    return LoopExecutor(
        retries=plain.retries,
        marker_to_close=plain.marker_to_close,
        step_dependency_config=plain.step_dependency_config,
    )
