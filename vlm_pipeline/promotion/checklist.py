"""The checks between an adapter and its promotion: pure functions from facts to pass or fail, each with its reason.

`passed` is None where a check does not apply (no judge is used, no person has to sign): that never stops a promotion,
and is said aloud. A fact that is missing is a failed check: silence is no proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlm_pipeline.formatting.findings import CATALOGUE
from vlm_pipeline.scoring.decisions import p_text, percent

TOKENS = (10, 15, 16, 17, 18, 19)  # failures of the catalogue by what they break
LABELS = (1, 2, 3, 4, 5, 6, 7, 8, 9)
FORMATS = (11, 12, 13, 14, 20, 21)
PROMPTS = (30,)
MAX_UNANSWERED = 0.05  # share of test rows without an answer


@dataclass(frozen=True)
class Item:
    """One line of the checklist."""

    name: str
    passed: bool | None  # None: does not apply
    detail: str
    metadata: dict[str, Any] = field(default_factory=dict)


# Name and what it asks, in the order in which they are shown.
CHECKS = {
    "intact_adapter": "The adapter has a completed record and its files are the ones that were trained.",
    "current_evidence": "Answers, figures and comparison were made from this very adapter and the present rows.",
    "real_tokens": "Control tokens are real, complete and end every answer, in every row that was trained on.",
    "verified_labels": "Labels cover the answers and their end-of-turn token, and nothing else, in every row.",
    "equal_formats": "Training and serving use one base, one chat template and one set of image settings.",
    "parity": "Base and adapter were asked the same rows in the same way, by the same engine.",
    "task_score": "The adapter scores above zero on test rows, with its whole interval.",
    "demonstrated_gain": "The gain over the base is demonstrated on test rows.",
    "no_section_worse": "No section got significantly worse than with the base.",
    "not_worse_than_promoted": "It is not demonstrated to be worse than the adapter that is promoted now.",
    "probes": "The hand-written critical questions pass their bar.",
    "accounting": "Every row was asked once, and every answer is scored or counted as unreadable.",
    "judge_calibration": "Judges that were used agree with people's labels.",
    "not_rolled_back": "Nobody has rolled this adapter back, or a person has signed it off since.",
    "reward_watch": "What was gained by reward is content, and not format, length or refusals; or a person has signed it off.",
    "sign_off": "A person has signed this adapter off.",
    "final_split": "The gain is demonstrated on the final split, which is looked at once per adapter.",
}


def ready(items: Iterable[Item]) -> bool:
    return all(item.passed is not False for item in items)


def failing(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if item.passed is False]


def not_run(reason: str) -> list[Item]:
    """The checklist where there is no adapter to check: nothing passes, nothing is claimed."""
    return [Item(name, False, reason) for name in CHECKS]


def current_evidence(stale: Sequence[str]) -> Item:
    """`stale`: what was made from something else than what lies in the store now."""
    detail = f"{'; '.join(stale)}: materialize it again" if stale else "nothing in between has changed"
    return Item("current_evidence", not stale, detail)


def rows_verified(
    name: str, numbers: Sequence[int], findings: Sequence[Mapping[str, Any]], rows: int, verified: bool
) -> Item:
    """No blocking finding of these failure numbers, and a verification that did run on all rows."""
    mine = [one for one in findings if one["number"] in numbers and one["blocking"]]
    if mine:
        first = mine[0]
        where = f"row {first['row_id']}" if first.get("row_id") else "the set"
        return Item(name, False, f"{len(mine)} findings; {where}: {first['message']}; {first['remedy']}")
    # Another failure may have ended the verification; what it did not look at is not proven.
    others = sorted({one["number"] for one in findings if one["blocking"]})
    if not verified and not others:
        return Item(name, False, "the rows were not verified")
    ruled_out = {
        "failures ruled out": {"md": "\n".join(f"- {number}: {CATALOGUE[number]}" for number in numbers)}
    }
    return Item(name, True, f"no such failure in {rows} rows", ruled_out)


def equal_formats(record: Mapping[str, Any], present: Mapping[str, Any], formats: Item) -> Item:
    """`present`: base fingerprint (None for a base on a hub, which prediction has checked), template hash and image
    settings in force; `formats`: findings of the rows."""
    if formats.passed is False:
        return formats
    from vlm_pipeline.formatting.template import image_settings_differences

    problems = []
    if present["base"] not in (None, record["base"]["fingerprint"]):
        problems.append(f"trained on base {record['base']['fingerprint']}, the task has {present['base']}")
    if record["template_hash"] != present["template_hash"]:
        problems.append(
            f"trained with chat template {record['template_hash']}, the task has {present['template_hash']}"
        )
    problems += image_settings_differences(record["image_settings"], present["image_settings"])
    detail = (
        "; ".join(problems) or "one base, one chat template, one set of image settings; " + formats.detail
    )
    return Item("equal_formats", not problems, detail)


def parity(pair: Mapping[str, Any] | None, prompts: Item) -> Item:
    if prompts.passed is False:
        return Item("parity", False, prompts.detail)
    if pair is None:
        return Item("parity", False, "adapter and base were not compared")
    block = pair["fairness"]
    table = [
        {"check": check["label"], "holds": check["holds"], "detail": check["detail"]}
        for check in block["checks"]
    ]
    return Item(
        "parity", bool(block["holds"]), block["why_not"] or "same conditions", {"checks": {"table": table}}
    )


def task_score(figures: Mapping[str, Any] | None) -> Item:
    """`figures`: metrics of the test split. Errors in points cannot be above zero: there the share of answers that
    can be read stands in for the score."""
    if figures is None:
        return Item("task_score", False, "test rows were not scored")
    headline = figures["headline"]
    if headline.get("kind") in ("rate", "share"):
        basis, what = headline.get("of_all") or headline, f"{headline['metric']} of all answers"
    else:
        basis, what = figures["scorers"][headline["scorer"]]["extraction"], "readable answers"
    if basis.get("estimate") is None or basis.get("low") is None:
        return Item("task_score", False, f"{what}: no figure")
    text = f"{what}: {percent(basis['estimate'])} % [{percent(basis['low'])}, {percent(basis['high'])}]"
    text += f" on {headline.get('n')} test rows"
    return Item("task_score", basis["low"] > 0, text, {"estimate": basis["estimate"], "low": basis["low"]})


def demonstrated_gain(pair: Mapping[str, Any] | None) -> Item:
    if pair is None:
        return Item("demonstrated_gain", False, "adapter and base were not compared")
    decision, test = pair["decision"], pair["headline"] or {}
    figures = {key: test[key] for key in ("difference", "low", "high") if test.get(key) is not None}
    return Item("demonstrated_gain", decision["verdict"] == "better", decision["sentence"], figures)


def worse_sections(pair: Mapping[str, Any], alpha: float) -> list[str]:
    """Sections with a significant loss (Benjamini-Hochberg over the sections), each with its figures."""
    sign = -1 if (pair["headline"] or {}).get("direction") == "lower" else 1
    found = []
    for section, test in pair["sections"].items():
        p_value, difference = test.get("p_bh"), test.get("difference")
        if p_value is not None and p_value < alpha and difference is not None and sign * difference < 0:
            found.append(f"{section} ({difference:+.2f} on {test['n']} rows, {p_text(p_value)})")
    return found


def no_section_worse(pair: Mapping[str, Any] | None, alpha: float) -> Item:
    if pair is None:
        return Item("no_section_worse", False, "adapter and base were not compared")
    if not pair["sections"]:
        return Item("no_section_worse", False, "sections were not compared")
    worse = worse_sections(pair, alpha)
    detail = f"worse: {'; '.join(worse)}" if worse else f"none of {len(pair['sections'])} sections"
    table = [
        {"section": name, **{key: test.get(key) for key in ("n", "difference", "low", "high", "p_bh")}}
        for name, test in pair["sections"].items()
    ]
    return Item("no_section_worse", not worse, detail, {"sections": {"table": table}})


def not_worse_than_promoted(pair: Mapping[str, Any] | None, why_none: str, alpha: float) -> Item:
    """`pair`: candidate against the promoted adapter; None with the reason where there is nothing to compare."""
    name = "not_worse_than_promoted"
    if pair is None:
        return Item(name, None, why_none)
    worse = worse_sections(pair, alpha)
    if pair["decision"]["verdict"] == "worse":
        return Item(name, False, pair["decision"]["sentence"])
    if worse:
        return Item(name, False, f"worse than {pair['b']} in {'; '.join(worse)}")
    return Item(name, True, pair["decision"]["sentence"])


def probes(result: Mapping[str, Any] | None, wanted: str, has_probes: bool) -> Item:
    """`wanted`: "pass" or "demonstrate"; a probe that could not be judged may be the critical one."""
    if not has_probes:
        return Item("probes", None, "the task has no probes")
    if result is None:
        return Item("probes", False, "the probes were not asked")
    passed = bool(result["demonstrated" if wanted == "demonstrate" else "passes"])
    passed = passed and result["n_judged"] == result["n"]
    return Item("probes", passed, result["sentence"], {"failed": ", ".join(result["failed"]) or "none"})


def accounting(
    wanted: Iterable[str], answered: Iterable[str], figures: Mapping[str, Any] | None, extraction_bar: float
) -> Item:
    """`wanted`: ids of the rows that had to be asked; `answered`: ids of the prediction table, as they stand there."""
    wanted, answered = list(wanted), list(answered)
    missing, extra = sorted(set(wanted) - set(answered)), sorted(set(answered) - set(wanted))
    twice = len(answered) - len(set(answered))
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(wanted)} rows were not asked, first {missing[0]}")
    if extra:
        problems.append(f"{len(extra)} answers belong to no row, first {extra[0]}")
    if twice:
        problems.append(f"{twice} rows were answered twice")
    if not wanted or figures is None:
        return Item("accounting", False, "; ".join(problems) or "no rows were scored")
    headline = figures["headline"]
    asked = headline["n"] + headline["n_gold_errors"] or 1
    lost = headline["n_errors"] + headline["n_missing"]
    if lost > MAX_UNANSWERED * asked:
        problems.append(f"{lost} of {asked} test rows have no answer")
    if headline["n_gold_errors"]:
        problems.append(f"the expected answer of {headline['n_gold_errors']} test rows cannot be read")
    extraction = figures["scorers"][headline["scorer"]]["extraction"]
    if extraction.get("estimate") is None or extraction["estimate"] < extraction_bar:
        problems.append(
            f"only {percent(extraction.get('estimate'))} % of the answers can be read, {percent(extraction_bar)} % are asked"
        )
    detail = "; ".join(problems) or (
        f"{len(wanted)} rows asked once each; on test {headline['n']} counted, "
        f"{headline.get('n_unscored', 0)} unreadable, {lost} without answer"
    )
    return Item("accounting", not problems, detail, {"rows": len(wanted), "unanswered": lost})


def judge_calibration(used: bool, summary: Mapping[str, Any] | None, bar: float) -> Item:
    """`summary`: what judging left in the metrics. Judges that nobody compared with people prove nothing."""
    name = "judge_calibration"
    if not used:
        return Item(name, None, "no judge is used")
    if summary is None or summary["status"] != "ready":
        return Item(
            name, False, f"judges are configured, but judging is {(summary or {}).get('status', 'not run')}"
        )
    calibration = summary.get("calibration")
    if not calibration:
        return Item(name, False, "the judges were not compared with people: set judging.calibration")
    problems, said = [], []
    for metric, judges in calibration["metrics"].items():
        for judge, found in judges.items():
            same = found["same_side_of_threshold"]
            text = (
                f"{judge}, {metric}: {percent(same['estimate'])} % of {found['n_scored']} answers as people"
            )
            said.append(text)
            if same["estimate"] is None or same["estimate"] < bar:
                problems.append(text)
    return Item(name, not problems and bool(said), "; ".join(problems or said) or "no answer was judged")


def reward_watch(record: Mapping[str, Any], signed: Mapping[str, Any] | None) -> Item:
    """`record`: the adapter's; one that was not trained by reward has nothing to be watched for."""
    watched = record.get("grpo")
    if watched is None:
        return Item("reward_watch", None, "not trained by reward")
    if watched["suspicions"] and signed is not None:
        return Item("reward_watch", True, f"{watched['sentence']}; signed off by {signed['by']} all the same")
    return Item("reward_watch", not watched["suspicions"], watched["sentence"])


def sign_off(wanted: bool, found: Mapping[str, Any] | None, command: str) -> Item:
    if found is not None:
        return Item("sign_off", True, f"signed off by {found['by']}")
    if not wanted:
        return Item("sign_off", None, "promotion.sign_off is not set")
    return Item("sign_off", False, f"nobody has signed this adapter off yet: {command}")


def not_rolled_back(move: Mapping[str, Any] | None, signed: Mapping[str, Any] | None) -> Item:
    """`move`: the latest roll-back away from this adapter."""
    if move is None:
        return Item("not_rolled_back", True, "never rolled back")
    if signed is not None and signed["at"] > move["at"]:
        return Item("not_rolled_back", True, f"signed off by {signed['by']} after its roll-back")
    return Item(
        "not_rolled_back", False, f"rolled back by {move['by']}; it takes a new sign-off to promote it again"
    )


def final_split(look: Mapping[str, Any] | None, why_none: str, held_back: bool = False) -> Item:
    """`look`: the recorded look at the final split; held_back: there is one, and it is kept for a ready adapter."""
    if look is None:
        return Item("final_split", False if held_back else None, why_none)
    text = f"look {look['number']}: {look['sentence']}"
    return Item(
        "final_split", look["verdict"] == "better", text, {"looks": look["number"], "alpha": look["alpha"]}
    )
