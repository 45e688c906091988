"""One built report for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_pipeline.reporting import BuiltReport, ReportInputs, build_report
from vlm_pipeline_tests.reporting.synthetic import make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    return make_inputs(tmp_path_factory.mktemp("report_inputs"), count=60, pages=12, hostile=True)


@pytest.fixture(scope="session")
def built(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> BuiltReport:
    return build_report(inputs, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def page(built: BuiltReport) -> str:
    return built.index.read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "report"
