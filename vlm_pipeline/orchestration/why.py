"""Why a job's last run stopped, in a few lines: `python -m vlm_pipeline.orchestration.why JOB`."""

import sys

import dagster as dg


def reasons(instance: dg.DagsterInstance, job: str) -> dict[str, str]:
    """Step -> reason of the failed steps and blocking checks of the job's last run; empty when it did not fail."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job), limit=1)
    if not runs or not runs[0].is_failure:
        return {}
    found: dict[str, str] = {}
    for entry in instance.all_logs(runs[0].run_id):
        event = entry.dagster_event
        if event is None:
            continue
        if event.is_step_failure and event.step_failure_data.error:
            cause = event.step_failure_data.error
            while cause.cause is not None:
                cause = cause.cause
            found.setdefault(str(event.step_key), cause.message.strip())
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.blocking:
                found[str(event.step_key)] = f"check {check.check_name}: {check.description}"
    return found


def main(job: str) -> None:
    with dg.DagsterInstance.get() as instance:
        found = reasons(instance, job)
    if found:
        print(f"\n{job} stopped:", file=sys.stderr)
    for step, reason in found.items():
        print(f"  {step.replace('__', '/')}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
