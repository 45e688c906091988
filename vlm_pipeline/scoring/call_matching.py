"""Comparing tool calls with the right ones: names, arguments, all acceptable values, several calls in any order.

Values: numbers by value (5 equals 5.0), true / false never equals 1 / 0, texts up to case and spaces when asked to, but
never without their signs and points ("3.14" is not "314"), a text is never a number ("5" is not 5), lists in order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlm_pipeline.scoring.tools import ToolCall


@dataclass(frozen=True, slots=True)
class GoldCall:
    """One right call: for every argument the acceptable values, and which arguments may be left out."""

    name: str
    acceptable: Mapping[str, Sequence[Any]]
    optional: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class CallScores:
    name_match: bool
    arguments_exact: bool
    argument_f1: float


def gold_call(name: str, arguments: Mapping[str, Any]) -> GoldCall:
    """A gold call with one right value per argument."""
    return GoldCall(name, {key: [value] for key, value in arguments.items()})


def gold_from_possible_answer(entry: Mapping[str, Any]) -> GoldCall:
    """The form of the Berkeley leaderboard, ``{name: {argument: [acceptable values]}}``; "" marks an optional one."""
    if len(entry) != 1:
        raise ValueError(f"a possible answer names exactly one function, this one {sorted(entry)}")
    ((name, arguments),) = entry.items()
    if not isinstance(arguments, Mapping) or not all(isinstance(v, list) for v in arguments.values()):
        raise ValueError(
            f"the possible answer of {name} must map every argument to a list of acceptable values"
        )
    optional = frozenset(key for key, values in arguments.items() if "" in values)
    return GoldCall(str(name), arguments, optional)


def same_value(value: Any, gold: Any, *, ignore_case: bool = True) -> bool:
    """Whether an argument has the gold value. Rules: see the module."""
    if isinstance(value, bool) or isinstance(gold, bool):
        return isinstance(value, bool) and isinstance(gold, bool) and value == gold
    if isinstance(value, int | float) and isinstance(gold, int | float):
        return value == gold or (
            (isinstance(value, float) or isinstance(gold, float))
            and abs(value - gold) <= 1e-9 * max(abs(value), abs(gold))
        )
    if isinstance(value, str) and isinstance(gold, str):
        return value == gold or (ignore_case and _fold(value) == _fold(gold))
    if isinstance(value, list | tuple) and isinstance(gold, list | tuple):
        return len(value) == len(gold) and all(
            same_value(a, b, ignore_case=ignore_case) for a, b in zip(value, gold, strict=True)
        )
    if isinstance(value, dict) and isinstance(gold, dict):
        return _same_object(value, gold, ignore_case)
    return value is None and gold is None


def _same_object(value: dict[str, Any], gold: dict[str, Any], ignore_case: bool) -> bool:
    """Objects by key; where the gold lists acceptable values for a key, any of them ("" = may be left out)."""
    for key in gold.keys() | value.keys():
        if key not in gold:
            return False
        choices = gold[key]
        listed = isinstance(choices, list)
        if key not in value:
            if listed and "" in choices:
                continue
            return False
        if same_value(value[key], choices, ignore_case=ignore_case):
            continue
        if not (
            listed and any(same_value(value[key], choice, ignore_case=ignore_case) for choice in choices)
        ):
            return False
    return True


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def acceptable(value: Any, values: Sequence[Any], *, ignore_case: bool = True) -> bool:
    return any(same_value(value, gold, ignore_case=ignore_case) for gold in values)


def _hits(call: ToolCall, gold: GoldCall, ignore_case: bool) -> int:
    if call.name != gold.name:
        return 0
    return sum(
        key in gold.acceptable and acceptable(v, gold.acceptable[key], ignore_case=ignore_case)
        for key, v in call.arguments.items()
    )


def call_matches(call: ToolCall, gold: GoldCall, *, ignore_case: bool = True) -> bool:
    """Right name, every argument acceptable, none missing, none invented."""
    if call.name != gold.name or _hits(call, gold, ignore_case) != len(call.arguments):
        return False
    return all(key in call.arguments or key in gold.optional for key in gold.acceptable)


def compare_calls(
    calls: Sequence[ToolCall], gold: Sequence[GoldCall], *, ignore_case: bool = True
) -> CallScores:
    """Scores over all calls of a row, in any order; extra and missing calls count as wrong.

    F1 counts arguments: right ones over written ones and over wanted ones (an optional argument is wanted when written).
    Without any argument on either side it is 1 where the names agree.
    """
    names = sorted(call.name for call in calls) == sorted(g.name for g in gold)
    pairs = _assign(calls, gold, ignore_case)
    exact = len(calls) == len(gold) == len(pairs) and all(
        call_matches(calls[i], gold[j], ignore_case=ignore_case) for i, j in pairs
    )
    right = sum(_hits(calls[i], gold[j], ignore_case) for i, j in pairs)
    written = sum(len(call.arguments) for call in calls)
    matched = {j: calls[i] for i, j in pairs if calls[i].name == gold[j].name}
    wanted = sum(
        sum(key not in g.optional or (j in matched and key in matched[j].arguments) for key in g.acceptable)
        for j, g in enumerate(gold)
    )
    if written + wanted == 0:
        return CallScores(names, exact, float(names))
    return CallScores(names, exact, 2 * right / (written + wanted))


def _assign(calls: Sequence[ToolCall], gold: Sequence[GoldCall], ignore_case: bool) -> list[tuple[int, int]]:
    """Pair calls with gold calls so that most arguments agree."""
    if not calls or not gold:
        return []
    if len(calls) == len(gold) == 1:
        return [(0, 0)]
    import numpy
    from scipy.optimize import linear_sum_assignment

    worth = numpy.array(
        [
            [
                (call_matches(c, g, ignore_case=ignore_case) * 1_000)
                + (c.name == g.name)
                + _hits(c, g, ignore_case)
                for g in gold
            ]
            for c in calls
        ],
        dtype=float,
    )
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]
