"""Where Dagster keeps its records, for commands that start a Dagster process."""

from __future__ import annotations

import os

from dotenv import dotenv_values


def dagster_home() -> str | None:
    """DAGSTER_HOME as Dagster finds it: from the environment, else from `.env` of the working folder."""
    return os.environ.get("DAGSTER_HOME") or dotenv_values(".env").get("DAGSTER_HOME")
