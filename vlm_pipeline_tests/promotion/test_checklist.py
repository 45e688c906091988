"""Each line of the checklist fails for the fault it is there for, and a missing fact is a fault."""

from __future__ import annotations

from typing import Any

import pytest

from vlm_pipeline.promotion import checklist
from vlm_pipeline.promotion.checklist import CHECKS, Item


def finding(number: int, blocking: bool = True) -> dict[str, Any]:
    return {"number": number, "blocking": blocking, "row_id": "r1", "message": "bad", "remedy": "mend it"}


def pair(
    verdict: str = "better", sections: dict | None = None, direction: str = "higher", fair: bool = True
) -> dict:
    return {
        "a": "tuned",
        "b": "base",
        "decision": {"verdict": verdict, "sentence": f"{verdict}: so it is."},
        "headline": {"direction": direction, "difference": 0.3, "low": 0.2, "high": 0.4},
        "fairness": {"holds": fair, "why_not": None if fair else "engines differ", "checks": []},
        "sections": {"a": section(0.2, 0.001)} if sections is None else sections,
    }


def section(difference: float | None, p_bh: float | None) -> dict[str, Any]:
    return {"n": 40, "difference": difference, "low": None, "high": None, "p_bh": p_bh}


def figures(low: float = 0.2, kind: str = "rate", **changes: Any) -> dict[str, Any]:
    headline = {"scorer": "text", "metric": "exact", "kind": kind, "n": 40, "n_errors": 0, "n_missing": 0}
    headline |= {"n_gold_errors": 0, "n_unscored": 0, "estimate": 0.9, "low": 0.8, "high": 1.0}
    headline |= {"of_all": {"estimate": 0.3, "low": low, "high": 0.4}} | changes
    return {
        "headline": headline,
        "scorers": {"text": {"extraction": {"estimate": 0.95, "low": 0.9, "high": 1.0}}},
    }


def test_each_group_of_failures_stops_its_own_line_only() -> None:
    groups = {
        "real_tokens": checklist.TOKENS,
        "verified_labels": checklist.LABELS,
        "equal_formats": checklist.FORMATS,
    }
    for number in range(1, 22):
        failing = [
            name
            for name, numbers in groups.items()
            if checklist.rows_verified(name, numbers, [finding(number)], 10, False).passed is False
        ]
        assert len(failing) == 1, f"failure {number} stops {failing}"
    assert checklist.rows_verified("real_tokens", checklist.TOKENS, [finding(15, False)], 10, True).passed
    assert checklist.rows_verified("real_tokens", checklist.TOKENS, [], 10, False).passed is False


@pytest.mark.parametrize("change", ["base", "template_hash", "image_settings"])
def test_another_base_template_or_picture_size_stops(change: str) -> None:
    record = {"base": {"fingerprint": "f"}, "template_hash": "t", "image_settings": {"patch_size": 14}}
    present = {"base": "f", "template_hash": "t", "image_settings": {"patch_size": 14}}
    fine = Item("equal_formats", True, "")
    assert checklist.equal_formats(record, present, fine).passed
    other: Any = {"patch_size": 16} if change == "image_settings" else "other"
    assert checklist.equal_formats(record, {**present, change: other}, fine).passed is False
    assert checklist.equal_formats(record, present, Item("equal_formats", False, "bad rows")).passed is False


def test_a_score_counts_from_the_lower_end_of_its_interval_with_unreadable_answers_as_misses() -> None:
    assert checklist.task_score(figures(low=0.2)).passed
    assert checklist.task_score(figures(low=0.0)).passed is False
    assert checklist.task_score(None).passed is False
    assert checklist.task_score(
        figures(kind="abs_error", of_all=None)
    ).passed  # 95 % of the answers can be read


@pytest.mark.parametrize("verdict", ["worse", "not_demonstrated", "unfair", "too_few_rows", "not_run"])
def test_only_a_demonstrated_gain_is_one(verdict: str) -> None:
    assert checklist.demonstrated_gain(pair(verdict)).passed is False
    assert checklist.demonstrated_gain(pair("better")).passed
    assert checklist.demonstrated_gain(None).passed is False


def test_a_loss_in_one_section_is_read_in_the_direction_of_the_metric() -> None:
    good, bad = {"a": section(0.2, 0.001), "b": section(-0.3, 0.4)}, {"a": section(-0.2, 0.01)}
    assert checklist.no_section_worse(pair(sections=good), 0.05).passed
    assert checklist.no_section_worse(pair(sections=bad), 0.05).passed is False
    assert checklist.no_section_worse(pair(sections=bad, direction="lower"), 0.05).passed
    assert (
        checklist.no_section_worse(pair(sections={"a": section(2.0, 0.01)}, direction="lower"), 0.05).passed
        is False
    )
    assert checklist.no_section_worse(pair(sections={}), 0.05).passed is False


def test_parity_needs_equal_prompts_and_equal_conditions() -> None:
    fine, other = Item("parity", True, ""), Item("parity", False, "told differently")
    assert checklist.parity(pair(), fine).passed
    assert checklist.parity(pair(fair=False), fine).detail == "engines differ"
    assert checklist.parity(pair(), other).passed is False and checklist.parity(None, fine).passed is False


def test_probes_that_pass_without_demonstrating_it_pass_where_that_is_asked() -> None:
    found = {
        "n": 30,
        "n_judged": 30,
        "passes": True,
        "demonstrated": False,
        "sentence": "26 of 30",
        "failed": ["p"],
    }
    assert checklist.probes(found, "pass", True).passed
    assert checklist.probes(found, "demonstrate", True).passed is False
    assert checklist.probes({**found, "n_judged": 29}, "pass", True).passed is False
    assert checklist.probes(None, "pass", True).passed is False
    assert checklist.probes(None, "pass", False).passed is None


@pytest.mark.parametrize(
    ("wanted", "answered", "changes", "why"),
    [
        (["a", "b"], ["a"], {}, "were not asked, first b"),
        (["a"], ["a", "z"], {}, "belong to no row, first z"),
        (["a"], ["a", "a"], {}, "answered twice"),
        (["a"], ["a"], {"n_errors": 3}, "3 of 40 test rows have no answer"),
        (["a"], ["a"], {"n_gold_errors": 1}, "expected answer of 1 test rows"),
        ([], [], {}, "no rows were scored"),
    ],
)
def test_rows_that_are_lost_doubled_or_unreadable_stop(wanted, answered, changes, why) -> None:
    item = checklist.accounting(wanted, answered, figures(**changes), 0.9)
    assert item.passed is False and why in item.detail
    assert checklist.accounting(["a"], ["a"], figures(), 0.9).passed
    assert checklist.accounting(["a"], ["a"], figures(), 0.99).passed is False


def test_judges_count_only_when_compared_with_people() -> None:
    def summary(share: float | None) -> dict[str, Any]:
        judged = {"same_side_of_threshold": {"estimate": share}, "n_scored": 20}
        return {"status": "ready", "calibration": {"metrics": {"correctness": {"judge-1": judged}}}}

    assert checklist.judge_calibration(False, None, 0.7).passed is None
    assert checklist.judge_calibration(True, summary(0.8), 0.7).passed
    assert checklist.judge_calibration(True, summary(0.6), 0.7).passed is False
    assert checklist.judge_calibration(True, summary(None), 0.7).passed is False
    assert checklist.judge_calibration(True, {"status": "ready", "calibration": None}, 0.7).passed is False
    assert checklist.judge_calibration(True, {"status": "not run: no key"}, 0.7).passed is False
    assert checklist.judge_calibration(True, None, 0.7).passed is False


def test_what_does_not_apply_stops_nothing_and_what_was_not_run_stops_everything() -> None:
    assert checklist.ready([Item("a", True, ""), Item("b", None, "")])
    assert not checklist.ready([Item("a", True, ""), Item("b", False, "")])
    assert [item.name for item in checklist.failing(checklist.not_run("no adapter"))] == list(CHECKS)


def test_an_adapter_that_hacked_its_reward_does_not_ship_unless_a_person_says_so() -> None:
    watched = {"suspicions": ["length grew"], "sentence": "val reward up; length grew"}
    item = checklist.reward_watch({"grpo": watched}, None)
    assert item.passed is False and "length grew" in item.detail
    signed = checklist.reward_watch({"grpo": watched}, {"by": "Ada", "at": 1.0})
    assert signed.passed and "signed off by Ada all the same" in signed.detail
    assert checklist.reward_watch({"grpo": {"suspicions": [], "sentence": "fine"}}, None).passed
    assert checklist.reward_watch({}, None).passed is None
