"""Scorers: pure functions from a response to a value, the rule that read it, and where it stands.

Light on import: every name is loaded on first use.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Extraction": "results",
    "GoldError": "results",
    "Reference": "results",
    "RowScore": "results",
    "Quantity": "quantities",
    "ToolCall": "tools",
    "ToolCalls": "tools",
    "MalformedCall": "tools",
    "Sections": "sections",
    "build_scorer": "row_scorers",
    "clean_response": "cleaning",
    "compare_calls": "call_matching",
    "extract_choice": "choices",
    "extract_final_number": "final_number",
    "extract_quantities": "quantities",
    "extract_score": "ratings",
    "find_keywords": "text",
    "find_refusal": "refusals",
    "parse_sections": "sections",
    "parse_tool_calls": "tools",
    "refusal_kind": "refusals",
    "relaxed_match": "relaxed",
    "token_f1": "text",
    "unsupported_numbers": "hallucination",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
