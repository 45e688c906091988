"""What people see in the UI on predictions, metrics, comparison and weak sections: pictures, readable tables, a way to the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures


def test_events_carry_pictures_readable_tables_and_the_way_to_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch)
        result = graph.loop()
        assert result.success, failures(result)

        def told(*key: str) -> dict[str, Any]:
            event = instance.get_latest_materialization_event(graph.key(*key))
            return {name: value.value for name, value in event.asset_materialization.metadata.items()}

        comparison, tuned, weak = told("comparison"), told("metrics", "tuned"), told("weak_sections")
        for picture in (
            comparison["differences"],
            comparison["sections"],
            comparison["failures"],
            tuned["failures"],
        ):
            assert picture.startswith("![") and "](data:image/png;base64," in picture
        assert comparison["rows_in_the_report"].endswith("report/index.html#outcome=worse")
        assert tuned["rows_in_the_report"].endswith("#predictor=tuned&outcome=wrong")
        assert told("predictions", "base")["rows_in_the_report"].endswith("#predictor=base")
        header, _, *lines = weak["sections"].splitlines()
        assert (
            header.startswith("| section | finding | estimate | low | high | bar | n |")
            and "{" not in weak["sections"]
        )
        assert len(lines) == 2
        for metadata in (comparison, tuned, weak, told("report")):
            assert sum(len(str(value)) for value in metadata.values()) < 400_000, "metadata stays small"
