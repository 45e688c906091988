from __future__ import annotations

import base64

from vlm_pipeline.markdown import escape
from vlm_pipeline.reporting import BuiltReport, ReportInputs
from vlm_pipeline.reporting.blocks import make_blocks
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.summary import PICTURE_LIMIT, figure_table, picture_markdown, summary_markdown


def test_summary_holds_decision_predictors_and_weak_sections(inputs: ReportInputs) -> None:
    view = read_comparison(inputs)
    text = summary_markdown(view, make_blocks(inputs, view, []))
    assert escape(view.decision.sentence) in text
    assert text.count("\n| ") == 7 and "| pending | the hosted fine-tune job is still running |" in text
    assert "Weak sections: diagrams" in text


def test_pictures_are_small_and_whole(built: BuiltReport) -> None:
    for figure in built.figures:
        text = picture_markdown(figure)
        data = base64.b64decode(text.split("base64,", 1)[1].rstrip(")"))
        assert data.startswith(b"\x89PNG") and len(data) <= PICTURE_LIMIT
    assert picture_markdown(built.figures[0], limit=10) == figure_table(built.figures[0])
