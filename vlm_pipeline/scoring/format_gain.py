"""What part of a gain is format and what part knowledge, told by predictors that are held to the answer's format.

Four predictors make the square: base and tuned, free and held to the format. Held, both give the format without knowing
it: what is left between them is knowledge. What the base gains by being held is what format alone is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_pipeline.scoring.decisions import change_text, percent

Pair = tuple[str, str]


def held_pairs(held: Mapping[str, str], base: str, tuned: str | None) -> list[Pair]:
    """Pairs that the square needs besides (everybody, base) and (tuned, everybody). held: name -> its free twin."""
    bases = [name for name, free in held.items() if free == base]
    return [(name, other) for name, free in held.items() if free == tuned for other in bases]


def format_gain(
    compared: Sequence[Mapping[str, Any]], held: Mapping[str, str], base: str, tuned: str | None
) -> dict[str, Any] | None:
    """`knowledge` (tuned against base, both held), `format` (the base held against the base free) and one sentence;
    None where the square is not complete or nothing was compared."""
    by_names = {(pair["a"], pair["b"]): pair for pair in compared}
    corner = next((pair for pair in held_pairs(held, base, tuned) if pair in by_names), None)
    if corner is None:
        return None
    knowledge, form = by_names[corner], by_names.get((corner[1], base))
    if form is None or not knowledge["headline"]:
        return None
    gained = change_text(form["headline"]) if form["headline"] else "not comparable"
    readable = form["readable"]
    return {
        "knowledge": _part(knowledge),
        "format": _part(form),
        "sentence": (
            f"Held to the same format, {corner[0]} and {corner[1]} differ by {change_text(knowledge['headline'])}: that "
            f"is knowledge. Being held to it changes the base by {gained}, with a readable answer to "
            f"{percent(readable['a'])} % of the rows instead of {percent(readable['b'])} %: that is format."
        ),
    }


def _part(pair: Mapping[str, Any]) -> dict[str, Any]:
    test = pair["headline"] or {}
    names = ("difference", "low", "high", "p_value", "p_decision", "n")
    return {
        "a": pair["a"],
        "b": pair["b"],
        "metric": pair["metric"],
        **{name: test.get(name) for name in names},
    }
