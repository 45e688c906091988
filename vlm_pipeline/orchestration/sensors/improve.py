"""The loop that goes on alone: one more round whenever the last one left weak sections. Off until it is switched on."""

import dagster as dg

from vlm_pipeline.manifest import data_version
from vlm_pipeline.orchestration.executor import close_dead_runs
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.orchestration.runs import next_try, unfinished_runs
from vlm_pipeline.regeneration.costs import ahead
from vlm_pipeline.regeneration.rounds import history, unfinished, why_stop
from vlm_pipeline.store import content_hash, read_json
from vlm_pipeline.task import Task


def improve_sensor(task: Task) -> dg.SensorDefinition:
    """Asks for the next round (job `improve_<task>`) until a stop rule holds.

    It needs to be switched on twice, since a round trains: the sensor itself in the UI, `automation.train` in
    task.yaml. The run key names the weak sections and the rounds so far, so one state of the loop starts one run,
    whatever is restarted in between; a round that was killed is asked for again.
    """

    @dg.sensor(
        name=f"{task.name}_improve",
        job_name=f"improve_{task.name}",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="One more round while sections are weak, within the budget of the task; off by default.",
    )
    def sensor(context: dg.SensorEvaluationContext, loop: LoopOptions) -> dg.RunRequest | dg.SkipReason:
        close_dead_runs(context.instance)
        store = loop.seen(task)
        weak = read_json(store.path("weak_sections.json"), default=None)
        if weak is None:
            return dg.SkipReason("no loop has run yet")
        if not task.automation.train:
            return dg.SkipReason(
                "automation.train is not set in task.yaml: rounds train, so they are yours to start"
            )
        if task.regeneration.teacher is None:
            return dg.SkipReason("no regeneration.teacher is set in task.yaml")
        if running := unfinished_runs(context.instance, task.name):
            return dg.SkipReason(f"{running} runs of {task.name} are not finished")
        rounds = history(store)
        begun = unfinished(rounds)
        more = ahead(task, store, weak["predictor"])
        stop = None if begun else why_stop(weak, rounds, task.budget, task.regeneration, more)
        if stop:
            return dg.SkipReason(stop)
        state = content_hash(
            [data_version(store, "weak_sections"), [[r["round"], r["status"]] for r in rounds]]
        )
        number = begun["round"] if begun else len(rounds) + 1
        run_key, why_not = next_try(context.instance, task.name, f"round {number} {state}")
        return dg.RunRequest(run_key=run_key) if run_key else dg.SkipReason(why_not)

    return sensor
