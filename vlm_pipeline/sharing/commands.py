"""`python -m vlm_pipeline tidy-store TASK`: remove old states of a store on a URL, and content that none names."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vlm_pipeline.sharing.tidy import DAYS, tidy
from vlm_pipeline.sharing.trouble import StoreError
from vlm_pipeline.store import store_url

COMMANDS = ("tidy-store",)


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    purpose = "of a store on a URL, remove old states of a task, and content that no state names any more"
    parser = commands.add_parser("tidy-store", help=purpose, description=purpose)
    parser.add_argument("task")
    parser.add_argument(
        "--days", type=float, default=DAYS, help="leave alone what is younger; default: %(default)s"
    )


def run_command(options: argparse.Namespace) -> int:
    """Carry it out; returns the exit status."""
    from vlm_pipeline.sharing.bucket import Bucket

    try:
        url = store_url()
        if url is None:
            raise ValueError("VLM_PIPELINE_STORE is a folder of this machine: there is nothing to tidy")
        done = tidy(Bucket(url, print), options.task, options.days)
    except (StoreError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.task}: removed {done.states} states and {done.objects} objects")
    return 0
