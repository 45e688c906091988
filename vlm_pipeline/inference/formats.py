"""The regular expression that an answer in the task's own format matches: for predictors held to it (`constrained`).

Form only, no knowledge: the scale of a score, the names of the sections, the shape of a tool call. Which score, which
tool and which words stay the model's choice, so what a held model gains is format and nothing else.
"""

from __future__ import annotations

import math
import re

from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.settings.scoring import (
    ChoiceSettings,
    NumberSettings,
    ScorerSettings,
    ScoreSettings,
    SectionsSettings,
    ToolCallSettings,
)

_LINE = r"[^\n]+"
_NUMBER = r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?"
_STRING = r'"([^"\\\n]|\\["\\/bfnrt])*"'
_SCALAR = rf"({_STRING}|{_NUMBER}|true|false|null)"
_LIST = rf"\[({_SCALAR}(, {_SCALAR})*)?\]"


def _object(value: str) -> str:
    return rf"\{{({_STRING}: {value}(, {_STRING}: {value})*)?\}}"


_ARGUMENT = rf"({_SCALAR}|{_LIST}|{_object(rf'({_SCALAR}|{_LIST})')})"
_CALL = rf'<tool_call>\n\{{"name": "[A-Za-z0-9_.-]+", "arguments": {_object(_ARGUMENT)}\}}\n</tool_call>'
_MOST_VALUES = 1000  # of a scale that is written out


class PatternError(ValueError):
    """There is no pattern that an answer could be held to, or it cannot be used; the message says what to do."""


def answer_pattern(predictor: TransformersPredictor, scorer: ScorerSettings) -> str | None:
    """What the answers of `predictor` must match: its own pattern, that of the task's first scorer, or None (free)."""
    if not predictor.constrained or isinstance(predictor.constrained, str):
        return predictor.constrained or None
    pattern = _pattern_of(scorer)
    if pattern is None:
        raise PatternError(
            f"{predictor.name}: constrained: true needs a format, and the scorer {scorer.kind} states none; "
            "write the regular expression (or a JSON schema) in place of true"
        )
    return pattern


def _pattern_of(scorer: ScorerSettings) -> str | None:
    if isinstance(scorer, ScoreSettings):
        return _score(scorer)
    if isinstance(scorer, NumberSettings):
        return _NUMBER
    if isinstance(scorer, ChoiceSettings) and scorer.choices:
        labels = (
            scorer.choices
            if isinstance(scorer.choices, dict)
            else [chr(ord("A") + n) for n in range(len(scorer.choices))]
        )
        return f"({'|'.join(map(re.escape, labels))})"
    if isinstance(scorer, ToolCallSettings):
        return rf"({_CALL}(\n{_CALL})*|[^<\n]{_LINE})"
    if isinstance(scorer, SectionsSettings):
        return r"\n".join(f"<{name}>[^<]+</{name}>" for name in map(re.escape, scorer.names))
    return None


def _score(scorer: ScoreSettings) -> str:
    """`strict_format` with its label, a number of the scale, and words to the end of the line."""
    low, high = math.ceil(scorer.low), math.floor(scorer.high)
    whole = low <= high and high - low < _MOST_VALUES
    number = f"({'|'.join(str(value) for value in range(high, low - 1, -1))})" if whole else _NUMBER
    parts = {"{label}": re.escape(scorer.label), "{score}": number, "{text}": _LINE}
    pieces = re.split(r"(\{label\}|\{score\}|\{text\})", scorer.strict_format)
    return "".join(parts.get(piece, re.escape(piece)) for piece in pieces)
