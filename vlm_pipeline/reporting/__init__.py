"""The report of a comparison: figures, one HTML file, a workbook, and summaries for terminal and Markdown.

`build_report(inputs, folder)` is the one door. Nothing here computes a statistic that scoring has not computed:
this package shows numbers, it does not make them. Heavy imports (matplotlib, pyarrow) happen on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_pipeline.reporting.build import BuiltReport, build_report
    from vlm_pipeline.reporting.inputs import ReportInputs

__all__ = ["BuiltReport", "ReportInputs", "build_report"]


def __getattr__(name: str) -> Any:
    if name in ("build_report", "BuiltReport"):
        from vlm_pipeline.reporting import build

        return getattr(build, name)
    if name == "ReportInputs":
        from vlm_pipeline.reporting.inputs import ReportInputs

        return ReportInputs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
