"""Probes: hand-written critical questions, each passed or failed, against a bar.

That a model passes the bar and that it is shown to are two facts: 26 of 30 passes 85 %, and its interval reaches down
to 70 %; with 30 probes only 30 right answers demonstrate 85 %. Both are reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from vlm_pipeline.scoring.intervals import CONFIDENCE, proportion
from vlm_pipeline.scoring.metrics import against_bar
from vlm_pipeline.scoring.power import successes_needed, trials_needed
from vlm_pipeline.scoring.results import GoldError, RowScore
from vlm_pipeline.settings.base import Settings
from vlm_pipeline.settings.scoring import DEFAULT_THRESHOLDS, KeywordSettings

if TYPE_CHECKING:
    from vlm_pipeline.scoring.row_scorers import RowScorer

MAX_POINTS_OFF = 1.0  # a probe on a rating scale passes within one point, unless it says otherwise


class Probe(Settings):
    """One question. Where both an answer and keywords are expected, both must be there."""

    id: str = Field(min_length=1)
    category: str = "general"
    image: str | None = None  # relative to the task folder
    system: str | None = None  # the system turn, where the task's rows have one of their own
    question: str = Field(min_length=1)
    expected_answer: str | float | int | None = None
    expected_keywords: list[str] = []
    max_error: float = Field(MAX_POINTS_OFF, ge=0)  # for answers that are scored in points

    @model_validator(mode="after")
    def _something_is_expected(self) -> Probe:
        if self.expected_answer is None and not self.expected_keywords:
            raise ValueError("a probe needs expected_answer or expected_keywords")
        return self


def read_probes(path: Path | str) -> list[Probe]:
    """Probes of a YAML file (a list, or a mapping with the key ``probes``).

    Raises ValueError naming file, probe and field for the first mistake, and for ids that stand twice.
    """
    import yaml

    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    entries = data.get("probes") if isinstance(data, Mapping) else data
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{path}: a list of probes is expected (id, category, image, question, expected_answer)"
        )
    probes = []
    for position, entry in enumerate(entries):
        name = (
            entry.get("id", f"number {position + 1}")
            if isinstance(entry, Mapping)
            else f"number {position + 1}"
        )
        try:
            probes.append(Probe.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "probe"
            raise ValueError(
                f"{path}: probe {name}: {field}: {first['msg'].removeprefix('Value error, ')}"
            ) from error
    twice = [probe_id for probe_id, n in Counter(probe.id for probe in probes).items() if n > 1]
    if twice:
        raise ValueError(f"{path}: probe ids must differ, these stand twice: {', '.join(twice)}")
    return probes


def score_probes(
    probes: Sequence[Probe],
    prediction_rows: Iterable[Mapping[str, Any]],
    *,
    predictor: str,
    answer_scorer: RowScorer,
    bar: float = DEFAULT_THRESHOLDS["probes"],
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """Pass or fail of every probe, and the share that passes, as a JSON dict.

    ``prediction_rows`` answer the probes by id; ``answer_scorer`` (the task's headline scorer) reads expected
    answers. A probe that was not answered, or whose expectation cannot be read, is listed and left out of the share;
    then nothing is demonstrated: the missing one may be the critical one.
    """
    answers = {str(row["id"]): row for row in prediction_rows if row["predictor"] == predictor}
    keyword_scorer = _keyword_scorer() if any(probe.expected_keywords for probe in probes) else None
    results = [_score_probe(probe, answers.get(probe.id), answer_scorer, keyword_scorer) for probe in probes]
    judged = [one for one in results if one["passed"] is not None]
    estimate = proportion([one["passed"] for one in judged], confidence=confidence)
    facts = against_bar({"estimate": estimate.estimate, "low": estimate.low, "high": estimate.high}, bar)
    complete = len(judged) == len(results)
    facts["demonstrated"] = bool(facts["demonstrated"]) and complete
    n_passed = sum(1 for one in judged if one["passed"])
    return {
        "predictor": predictor,
        "n": len(results),
        "n_judged": len(judged),
        "n_passed": n_passed,
        **{name: getattr(estimate, name) for name in ("estimate", "low", "high", "method")},
        **facts,
        "passes_needed_to_demonstrate": successes_needed(len(judged), bar, confidence=confidence),
        "sentence": _sentence(n_passed, len(judged), len(results), estimate.low, estimate.high, bar, facts),
        "categories": _categories(judged),
        "failed": [one["id"] for one in judged if not one["passed"]],
        "not_judged": [{"id": one["id"], "why": one["why"]} for one in results if one["passed"] is None],
        "probes": results,
    }


def _keyword_scorer() -> RowScorer:
    from vlm_pipeline.scoring.row_scorers import build_scorer

    return build_scorer(KeywordSettings())


def _score_probe(
    probe: Probe,
    prediction: Mapping[str, Any] | None,
    answer_scorer: RowScorer,
    keyword_scorer: RowScorer | None,
) -> dict[str, Any]:
    result = {
        "id": probe.id,
        "category": probe.category,
        "passed": None,
        "why": None,
        "failure": None,
        "text": None,
    }
    if prediction is None:
        return result | {"why": "not asked"}
    if prediction.get("error") is not None:
        return result | {"why": f"no answer: {prediction['error']}"}
    text = prediction.get("text") or ""
    result["text"] = text
    expectations = []
    if probe.expected_answer is not None:
        expectations.append((answer_scorer, {"answer": probe.expected_answer}))
    if probe.expected_keywords and keyword_scorer:
        expectations.append((keyword_scorer, {"expected_keywords": probe.expected_keywords}))
    passed, failures = True, []
    for scorer, metadata in expectations:
        reference = scorer.reference(str(probe.expected_answer or ""), metadata)
        if isinstance(reference, GoldError):
            return result | {"why": f"the expectation cannot be read: {reference.reason}"}
        score = scorer.score(text, reference, prompt=probe.question)
        if not _passed(score, scorer, probe):
            passed = False
            failures.append(score.failure or "other")
    return result | {"passed": passed, "failure": failures[0] if failures else None}


def _passed(score: RowScore, scorer: RowScorer, probe: Probe) -> bool:
    headline = score.headline
    if headline is None or isinstance(headline, bool):
        return bool(headline)
    if score.primary in ("abs_error", "absolute_error"):
        return headline <= probe.max_error
    return headline >= scorer.bar


def _categories(judged: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for one in judged:
        category = counts.setdefault(one["category"], {"n": 0, "n_passed": 0})
        category["n"] += 1
        category["n_passed"] += bool(one["passed"])
    return counts


def _sentence(
    passed: int,
    judged: int,
    asked: int,
    low: float | None,
    high: float | None,
    bar: float,
    facts: Mapping[str, Any],
) -> str:
    if not judged or low is None or high is None:
        return f"None of {asked} probes could be judged."
    text = (
        f"{passed} of {judged} probes passed ({passed / judged * 100:.0f} % [{low * 100:.0f}, {high * 100:.0f}]): "
        f"{'passes' if facts['passes'] else 'fails'} the {bar * 100:.0f} % bar"
    )
    if judged < asked:
        return text + f", not demonstrated: {asked - judged} of {asked} could not be judged."
    if facts["demonstrated"]:
        return text + ", demonstrated."
    if not facts["passes"]:
        return text + "."
    needed = trials_needed(passed / judged, bar)
    more = f"; at this rate about {needed} probes would show it" if needed else ""
    return text + f", not demonstrated{more}."
