"""`python -m vlm_pipeline fine-tune list|events|cancel TASK`: hosted fine-tuning jobs, seen from a terminal."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from vlm_pipeline.inference.predictors import availability, fine_tune_info
from vlm_pipeline.redaction import redact
from vlm_pipeline.settings.predictors import OpenAIFineTunedPredictor
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline.task import Task, find_task
from vlm_pipeline.terminal import printable

COMMANDS = ("fine-tune",)
ACTIONS = {
    "list": "the latest jobs of the account, those of this task marked",
    "events": "what the provider said about the job of this task",
    "cancel": "end the job of this task; what it has trained until then is still paid",
}


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    purpose = "hosted fine-tuning jobs: " + "; ".join(f"{name}: {does}" for name, does in ACTIONS.items())
    parser = commands.add_parser("fine-tune", help="list, follow or cancel hosted jobs", description=purpose)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("task")
    parser.add_argument("predictor", nargs="?", help="where the task has several openai_finetuned predictors")


def run_command(options: argparse.Namespace) -> int:
    """Carry it out; returns the exit status."""
    from vlm_pipeline.inference.clients import client_for
    from vlm_pipeline.inference.openai_finetune import FineTuneError, cancel
    from vlm_pipeline.inference.openai_jobs import events, list_jobs
    from vlm_pipeline.inference.patience import RequestFailed

    try:
        task = find_task(options.task)
        predictor = pick(task, options.predictor)
        if reason := availability(predictor):
            raise ValueError(reason)
        info_path, client = fine_tune_info(task, TaskStore(task.name), predictor), client_for(predictor)
        known = read_json(info_path, default={}).get("job_id")
        if options.action == "list":
            for job in list_jobs(client):
                own = "*" if job["job_id"] == known else " "
                print(
                    printable(
                        f"{own} {job['job_id']}  {_at(job['created_at'])}  {job['status']:<10}  {job['model']}  {job['fine_tuned_model'] or ''}"
                    ).rstrip()
                )
        elif options.action == "events":
            if not known:
                raise FineTuneError(f"{info_path} names no job: the loop has submitted none yet")
            for event in events(client, known):
                print(printable(f"{_at(event['time'])}  {event['message']}"))
        else:
            info = cancel(info_path, client)
            print(f"{info['job_id']} is {info['status']}; the next loop starts a new one")
    except (FineTuneError, RequestFailed, ValueError, OSError) as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return 2
    return 0


def pick(task: Task, name: str | None) -> OpenAIFineTunedPredictor:
    """The hosted fine-tune of this name, or the only one. Raises ValueError with the names there are."""
    found = {one.name: one for one in task.predictors if isinstance(one, OpenAIFineTunedPredictor)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise ValueError(
            f"name one openai_finetuned predictor of {task.name}; it has {', '.join(found) or 'none'}"
        )
    return found[name]


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
