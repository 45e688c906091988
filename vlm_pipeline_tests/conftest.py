"""Shared set-up: quiet libraries, no network by accident, and skipped real-data tests counted aloud."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Everything random is seeded: the same examples on every machine. `--hypothesis-profile=explore` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DEEPEVAL_TELEMETRY_OPT_OUT", "1")
os.environ.setdefault("DEEPEVAL_DISABLE_DOTENV", "1")
os.environ.setdefault("DEEPEVAL_NO_INSPECT_PROMPT", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    real_data = [report for report in skipped if "VLM_PIPELINE_TEST_DATA" in str(report.longrepr)]
    if real_data:
        terminalreporter.write_line(
            f"{len(real_data)} tests need the real data sets and were skipped: set VLM_PIPELINE_TEST_DATA to their folder",
            yellow=True,
            bold=True,
        )
