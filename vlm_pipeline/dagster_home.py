"""Where Dagster keeps its records, for commands that start a Dagster process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from filelock import FileLock


def dagster_home() -> str | None:
    """DAGSTER_HOME as Dagster finds it: from the environment, else from `.env` of the working folder."""
    return os.environ.get("DAGSTER_HOME") or dotenv_values(".env").get("DAGSTER_HOME")


def create_storage(home: Path, environment: Mapping[str, str]) -> None:
    """Let Dagster make its tables in a new home once: two processes that both make them break each other."""
    made = home / ".storage-made"
    if made.exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".storage.lock"):
        if not made.exists():
            command = [sys.executable, "-W", "ignore", "-m", "dagster", "instance", "info"]
            if not subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
                made.touch()  # else the command that needs the home says what is wrong with it
