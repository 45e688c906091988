"""`python -m vlm_pipeline sign-off` and `roll-back`: what a person says about promoted adapters."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from vlm_pipeline.promotion.on_hub import NOT_ASKED_FOR, follow_on_hub
from vlm_pipeline.promotion.pointer import PromotionError, read_pointer, roll_back
from vlm_pipeline.promotion.sign_off import sign_off
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import find_task
from vlm_pipeline.training.record import AdapterError

COMMANDS = ("sign-off", "roll-back")


def add_commands(commands: Any) -> None:
    """Add both to the subparsers of the command line."""
    sign = commands.add_parser("sign-off", help="agree, as a person, to the promotion of one adapter")
    sign.add_argument("task")
    sign.add_argument("adapter", help="adapter id, as the checklist and the leaderboard name it")
    sign.add_argument("--by", required=True, help="your name; it stands in the history")
    sign.add_argument("--note", default="")
    back = commands.add_parser("roll-back", help="serve the adapter that was promoted before the present one")
    back.add_argument("task")
    back.add_argument("--to", help="adapter id; default: the one before")
    back.add_argument("--by", default=getpass.getuser())
    back.add_argument("--why", default="")


def run_command(options: argparse.Namespace) -> int:
    """Carry one out; returns the exit status and says what happened."""
    store = TaskStore(options.task)
    try:
        if options.command == "sign-off":
            entry = sign_off(store, options.adapter, options.by, options.note)
            print(
                f"{entry['by']} signed {entry['adapter_id']} off; the next run of promoted_adapter counts it"
            )
        else:
            before = read_pointer(store)["adapter_id"]
            after = roll_back(store, by=options.by, to=options.to, why=options.why)
            print(f"{options.task}: {before} -> {after['adapter_id']}; restart what serves it")
            if (hub := follow_on_hub(find_task(options.task), store, print)) != NOT_ASKED_FOR:
                print(f"on the hub: {hub}")
    except (PromotionError, AdapterError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
