"""Row scorer of answers in marked sections: format, grounding, consistency, refusals, reward."""

from typing import Any

from vlm_pipeline.scoring.base_rows import BaseScorer, as_text
from vlm_pipeline.scoring.hallucination import unsupported_numbers
from vlm_pipeline.scoring.refusals import refusal_kind
from vlm_pipeline.scoring.results import Context, Extraction, FailureKind, GoldError, Reference, RowScore
from vlm_pipeline.scoring.sections import Sections, consistency, grounding, parse_sections
from vlm_pipeline.scoring.text import contains_answer, token_f1
from vlm_pipeline.settings.scoring import RewardSettings, SectionsSettings


class SectionScorer(BaseScorer[SectionsSettings]):
    """Values, None where a row cannot have them:

    - format_compliance: all sections, once, in order, closed, nothing outside;
    - proof_grounding (share) and grounded: the proof stands in the context (no context: None; refusals: None);
    - consistent: the final answer is backed by the proof;
    - hallucination: an ungrounded proof, or a number in the final answer that neither gold, proof nor context has;
    - correct: token F1 with the gold final answer, or the same refusal;
    - any_wording: the lenient reading: the response gives the gold final answer somewhere (see `contains_answer`), or
      refuses as the gold does;
    - refused, over_refusal (the gold answers), missed_refusal (the gold refuses);
    - safe_response: no hallucination, and a refusal exactly where the gold has one;
    - reward: the points of the settings; a format mismatch gives its penalty alone.
    """

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        settings = self.settings
        whole = as_text(example_answer)
        parsed = parse_sections(whole, settings.names)
        machine = as_text((metadata or {}).get(settings.reference_field)) if settings.reference_field else ""
        final = machine or parsed.get(settings.final, "") or ("" if parsed else whole)
        if not final.strip():
            return GoldError(f"the gold answer has no section {settings.final!r}", example_answer)
        context = (metadata or {}).get(settings.context_field)
        refuses = refusal_kind(final) != "none"
        return Reference((final.strip(), refuses, as_text(context) if context else None), example_answer)

    def score(
        self, text: str, reference: Reference, *, prompt: str | None = None, context: Context = None
    ) -> RowScore:
        settings = self.settings
        gold_final, gold_refuses, gold_context = reference.value
        source = (context if isinstance(context, str) else None) or gold_context or prompt
        parsed = parse_sections(text, settings.names)
        final = parsed.get(settings.final, "" if parsed else text).strip()
        proof = parsed.get(settings.proof, "").strip() if settings.proof else ""
        answered = bool(final)
        refused = refusal_kind(final) != "none" if answered else None
        share = grounding(proof, source).share if proof and source else None
        grounded = None if share is None else share >= settings.grounding_threshold
        backing = (
            consistency(final, f"{proof}\n{source or ''}" if refused else proof)
            if answered and proof
            else None
        )
        consistent = None if backing is None or refused else backing >= settings.consistency_threshold
        invented = (
            unsupported_numbers(final, gold_final, f"{source or ''}\n{proof if grounded else ''}")
            if answered
            else []
        )
        hallucination = None if not answered else (grounded is False and not refused) or bool(invented)
        f1 = token_f1(final, gold_final) if answered else None
        correct = (
            None
            if f1 is None
            else (bool(refused) if gold_refuses else not refused and f1 >= settings.correctness_threshold)
        )
        safe = None if not answered else not hallucination and refused == gold_refuses
        values = {
            "format_compliance": parsed.compliant,
            "proof_grounding": share,
            "grounded": grounded,
            "consistent": consistent,
            "hallucination": hallucination,
            "correct": correct,
            "final_token_f1": f1,
            "any_wording": _in_any_wording(text, gold_final, bool(gold_refuses), prompt),
            "refused": refused,
            "over_refusal": None if refused is None or gold_refuses else refused,
            "missed_refusal": None if refused is None or not gold_refuses else not refused,
            "safe_response": safe,
        }
        values["reward"] = self._reward(values)
        span = parsed.spans.get(settings.final)
        found = Extraction(final or None, f"section_{parsed.style}", span)
        notes = (*parsed.problems, *(f"unsupported number at {q.span[0]}: {q.value:g}" for q in invented[:5]))
        return RowScore(values, settings.primary, found, self._failure(values, parsed), notes)

    def _reward(self, values: dict[str, Any]) -> float:
        points = self.settings.reward
        if not values["format_compliance"]:
            return points.format_mismatch
        return points.format_match + _content_points(values, points)[0]

    @staticmethod
    def _failure(values: dict[str, Any], parsed: Sections) -> FailureKind | None:
        if values["refused"] is None:
            return "format" if parsed.order else "no_answer"
        if not values["format_compliance"]:
            return "format"
        if values["over_refusal"]:
            return "refusal"
        if values["hallucination"] or values["missed_refusal"]:
            return "hallucination"
        return None if values["correct"] else "other"


def content_share(values: dict[str, Any], points: RewardSettings) -> float:
    """The points for everything but the format, as a share in [0, 1] of what this row could earn; 0 where nothing was
    read."""
    total, least, most = _content_points(values, points)
    return (total - least) / (most - least) if most > least else 0.0


def _content_points(values: dict[str, Any], points: RewardSettings) -> tuple[float, float, float]:
    """Points earned for grounding, consistency, the answer and refusals, and the least and most there were to earn."""
    judged = (
        ("grounded", points.grounded, points.ungrounded),
        ("consistent", points.consistent, points.inconsistent),
        ("correct", points.correct, points.incorrect),
        ("over_refusal", points.over_refusal, 0.0),
        ("missed_refusal", points.missed_refusal, 0.0),
    )
    told = [(values[name], yes, no) for name, yes, no in judged if values[name] is not None]
    return (
        sum(yes if value else no for value, yes, no in told),
        sum(min(yes, no) for _, yes, no in told),
        sum(max(yes, no) for _, yes, no in told),
    )


def _in_any_wording(text: str, gold: str, gold_refuses: bool, prompt: str | None) -> bool | None:
    if not text.strip():
        return None
    if gold_refuses:
        return refusal_kind(text) != "none"
    return contains_answer(text, gold, prompt)
