from __future__ import annotations

from dataclasses import replace

from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.reporting import ReportInputs, build_report
from vlm_pipeline.reporting.judges import judges_block
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.scoring.judge import judge_table
from vlm_pipeline.settings.judging import JudgingSettings

_INTERVAL = {"estimate": 0.8, "low": 0.6, "high": 0.9}
JUDGED = {
    "status": "ready", "judges": [{"name": "gpt", "model": "gpt-4o-2024-08-06", "provider": "openai", "dated": True}],
    "not_run": {"claude": "not run: ANTHROPIC_API_KEY is not set"},
    "metrics": {
        "faithfulness": {
            "threshold": 0.7, "version": "v",
            "judges": {"gpt": {"n": 40, "n_scored": 37, "n_refused": 2, "problems": []}, "local": {"n": 40, "n_scored": 38, "n_refused": 2, "problems": []}},
            "agreement": {"krippendorff_alpha": 0.71, "judges": 2, "level": "interval"}, "noise": {"n": 10, "repeats": 3, "sd": 0.041, "flipped_share": 0.1},
        }
    },
    "calibration": {"n": 30, "metrics": {"faithfulness": {"gpt": {"n_scored": 30, "same_side_of_threshold": _INTERVAL, "mae": {"estimate": 0.12}, "spearman": {"estimate": 0.66}}}}},
    "usage": {"calls": 96, "cache_hits": 14, "tokens_in": 90000, "tokens_out": 4000, "cost_usd": 0.31},
}  # fmt: skip
TOOL = {"status": "ready", "scorer": "lint", "tool": "check", "server": "linter", "server_version": "1.2", "n": 40, "n_scored": 39, "timeouts": 1, "n_silent": 1, "cache_hits": 0}  # fmt: skip


def test_agreement_noise_people_and_cost_of_judges_are_shown(inputs: ReportInputs) -> None:
    block = judges_block({"tuned": {"judging": JUDGED, "lint": TOOL}}, read_comparison(inputs))
    assert block is not None
    judges, people, cost, tools = block.tables
    assert judges.rows == (("Tuned adapter", "faithfulness", "gpt, local", 80, 75, 4, 0.71, 0.041, "10.0 %"),)
    assert people.rows == (("faithfulness", "gpt", 30, "80.0 % [60.0, 90.0]", 0.12, 0.66),)
    assert cost.rows == (("Tuned adapter", 96, 14, 90000, 4000, 0.31),)
    assert tools.rows == (("Tuned adapter", "lint", "linter 1.2", 40, 39, 1, 1, 0),)
    assert block.not_run == (("judge claude", "not run: ANTHROPIC_API_KEY is not set"),)


def test_a_judge_that_is_asked_for_and_missing_is_said_once_and_is_no_number(
    inputs: ReportInputs, tmp_path, monkeypatch
) -> None:
    """The summary is scoring's own, for a task that asks for a judge whose key is not there."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = JudgingSettings.model_validate(
        {"judges": [{"provider": "openai", "model": "gpt-4o-2024-08-06"}]}
    )
    _, summary = judge_table(settings, [], [], cache_folder=tmp_path, budget=Budget(0.0))
    external = {name: {"judging": summary} for name in ("base", "tuned")}
    block = judges_block(external, read_comparison(inputs))
    assert block is not None and block.tables == ()
    assert len(block.not_run) == 1 and block.not_run[0][1].startswith("not run:")
    bare = replace(inputs, rows=None, weak_rows=None, predictions={}, scores={}, external=external)
    page = build_report(bare, tmp_path / "report").index.read_text("utf-8")
    assert page.count("Judges and tools") == 1 and block.not_run[0][1] in page


def test_a_task_without_judges_says_nothing_of_them(inputs: ReportInputs, page: str) -> None:
    assert judges_block({}, read_comparison(inputs)) is None and "Judges and tools" not in page
