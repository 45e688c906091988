"""The end of a hosted fine-tuning job."""

import json
import time
from typing import Any

import dagster as dg

from vlm_pipeline.inference.predictors import fine_tune_info
from vlm_pipeline.manifest import missing
from vlm_pipeline.orchestration.assets.common import key
from vlm_pipeline.orchestration.executor import close_dead_runs
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.orchestration.runs import TASK_TAG, next_try, unfinished_runs
from vlm_pipeline.redaction import redact
from vlm_pipeline.settings.predictors import OpenAIFineTunedPredictor
from vlm_pipeline.store import read_json
from vlm_pipeline.task import Task

FIRST_WAIT_S, LONGEST_WAIT_S = 30.0, 600.0


def fine_tune_sensor(task: Task, predictor: OpenAIFineTunedPredictor) -> dg.SensorDefinition:
    """Notices the end of a hosted fine-tuning job, asking ever more seldom, and brings its predictor in.

    The run key is job and outcome, so that one end starts one run, whatever is restarted in between; a run that died
    is started again. It waits for runs that are at work, and for the figures that the model is compared with.
    """
    selection = [
        key(task, "openai_finetune", predictor.name),
        key(task, "predictions", predictor.name),
        key(task, "metrics", predictor.name),
        *(key(task, name) for name in ("comparison", "weak_sections", "report")),
    ]

    compared_with = [f"metrics/{one.name}" for one in task.predictors if one.name != predictor.name]

    @dg.sensor(
        name=f"{task.name}_{predictor.name}_fine_tune",
        asset_selection=dg.AssetSelection.assets(*selection),
        minimum_interval_seconds=int(FIRST_WAIT_S),
        description=f"Brings {predictor.name} in when its fine-tuning job has ended.",
    )
    def sensor(context: dg.SensorEvaluationContext, loop: LoopOptions) -> dg.SensorResult | dg.SkipReason:
        close_dead_runs(context.instance)
        store = loop.seen(task)
        info_path = fine_tune_info(task, store, predictor)
        known = read_json(info_path, default={})
        if not known.get("job_id"):
            return dg.SkipReason("no fine-tuning job has been submitted")
        state = json.loads(context.cursor) if context.cursor else {}
        if state.get("job") != known["job_id"]:
            state = {"job": known["job_id"], "wait": FIRST_WAIT_S, "next": 0.0}
        if time.time() < state["next"]:
            return dg.SkipReason(
                f"job {known['job_id']} is looked at again in {state['next'] - time.time():.0f} s"
            )
        info, problem = _look(info_path, predictor)
        if info.get("status") in ("succeeded", "failed", "cancelled"):
            ended = f"{predictor.name} {info['job_id']} {info['status']}"
            run_key, why_not = next_try(context.instance, task.name, ended)
            if run_key is None:
                return dg.SkipReason(f"{ended}: {why_not}")
            if absent := missing(store, compared_with):  # a run before that would fail, and use up a try
                return dg.SkipReason(f"{ended}: waiting until {', '.join(absent)} are made")
            if running := unfinished_runs(context.instance, task.name):
                return dg.SkipReason(f"{ended}: {running} runs of {task.name} are not finished")
            request = dg.RunRequest(run_key, asset_selection=selection, tags={TASK_TAG: task.name})
            return dg.SensorResult(run_requests=[request], cursor=context.cursor or json.dumps(state))
        state["next"] = time.time() + state["wait"]
        state["wait"] = min(LONGEST_WAIT_S, state["wait"] * 1.5)
        reason = problem or f"job {info['job_id']} is {info['status']}"
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(state))

    return sensor


def _look(info_path: Any, predictor: OpenAIFineTunedPredictor) -> tuple[dict[str, Any], str]:
    """The job's state, or the last known one and why it could not be asked (a service may be away for a while)."""
    from vlm_pipeline.inference.clients import client_for
    from vlm_pipeline.inference.openai_finetune import refresh
    from vlm_pipeline.inference.patience import RequestFailed

    try:  # a tick has a minute; the next one asks again
        return refresh(info_path, client_for(predictor), attempts=1), ""
    except (RequestFailed, KeyError, OSError) as error:
        return read_json(info_path), f"the job could not be asked ({redact(str(error))}); trying again later"
