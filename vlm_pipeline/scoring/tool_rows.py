"""Row scorer of tool calls."""

import json
from collections.abc import Mapping
from typing import Any

from vlm_pipeline.scoring.base_rows import BaseScorer, as_text
from vlm_pipeline.scoring.call_matching import GoldCall, compare_calls, gold_call, gold_from_possible_answer
from vlm_pipeline.scoring.refusals import refusal_kind
from vlm_pipeline.scoring.results import Context, Extraction, FailureKind, GoldError, Reference, RowScore
from vlm_pipeline.scoring.tools import parse_tool_calls
from vlm_pipeline.settings.scoring import ToolCallSettings


class ToolCallScorer(BaseScorer[ToolCallSettings]):
    """Values: valid_json (no malformed call, none that is no JSON; a call where one is wanted), name_match, arguments_exact, argument_f1,
    n_calls, n_malformed, and no_call_correct on rows where no call is right (None on the others)."""

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        possible = (metadata or {}).get(self.settings.possible_answer_field)
        if possible is not None:
            return _from_possible(possible)
        raw = self._gold(example_answer, metadata)
        if isinstance(raw, Mapping) or (isinstance(raw, list) and raw):
            raw_text = json.dumps(raw, ensure_ascii=False)
        elif isinstance(raw, list):
            return Reference((), raw)
        else:
            raw_text = as_text(raw)
        found = parse_tool_calls(raw_text)
        if found.malformed:
            return GoldError(f"the gold call is malformed: {found.malformed[0].reason}", raw)
        if not found.calls and isinstance(raw, Mapping | list):
            return GoldError("the gold answer is JSON, but no call with a name and arguments", raw)
        return Reference(tuple(gold_call(call.name, call.arguments) for call in found.calls), raw)

    def score(
        self, text: str, reference: Reference, *, prompt: str | None = None, context: Context = None
    ) -> RowScore:
        gold: tuple[GoldCall, ...] = reference.value
        found = parse_tool_calls(text)
        in_json = all(call.form != "pythonic" for call in found.calls)
        valid = not found.malformed and in_json and (bool(found.calls) or not gold)
        scores = compare_calls(found.calls, gold, ignore_case=self.settings.ignore_case)
        clean = not found.malformed
        values = {
            "valid_json": valid,
            "name_match": scores.name_match and clean,
            "arguments_exact": scores.arguments_exact and clean,
            "argument_f1": scores.argument_f1 if clean or gold else 0.0,
            "n_calls": float(len(found.calls)),
            "n_malformed": float(len(found.malformed)),
            "no_call_correct": (not found.calls and clean) if not gold else None,
        }
        right = bool(values["arguments_exact"])
        names = ", ".join(call.name for call in found.calls)
        span = found.calls[0].span if found.calls else (found.malformed[0].span if found.malformed else None)
        notes = tuple(f"malformed: {bad.reason}" for bad in found.malformed)
        return RowScore(
            values,
            self.settings.primary,
            Extraction(names or None, "calls", span),
            self._failure(right, text, found, gold),
            notes,
        )

    @staticmethod
    def _failure(right: bool, text: str, found: Any, gold: tuple[GoldCall, ...]) -> FailureKind | None:
        if right:
            return None
        if found.malformed:
            return "format"
        if found.calls or not gold:
            return "wrong_call"
        return "refusal" if refusal_kind(text) != "none" else "no_answer"


def _from_possible(possible: Any) -> Reference | GoldError:
    if isinstance(possible, str):
        try:
            possible = json.loads(possible)
        except ValueError as error:
            return GoldError(f"the acceptable calls are no JSON: {error}", possible)
    entries = [possible] if isinstance(possible, Mapping) else possible
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        return GoldError("the acceptable calls must be a list of {name: {argument: [values]}}", possible)
    try:
        return Reference(tuple(gold_from_possible_answer(entry) for entry in entries), possible)
    except ValueError as error:
        return GoldError(str(error), possible)
