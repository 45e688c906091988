"""May two prediction tables be compared at all? Nothing is called better before every required check holds.

An engine change alone has moved a published score from 19 % to 29 %; so have the pixel budget, the prompt and the
decoding settings. Two models on this machine must share all of them. A hosted model is its own engine and scales
pictures by itself: there the rows, the prompt and the decoding must agree, and the report says what could not.

What is not recorded does not hold: silence is no proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlm_pipeline.store import content_hash

MAX_LOST_SHARE = (
    0.05  # rows that failed on one side only; more of them and the rows are not the same any more
)
LOCAL_ONLY = ("engine", "pixels", "batching")
LABELS = {
    "rows": "same rows",
    "prompts": "same prompt on every row",
    "engine": "same engine",
    "pixels": "same pixel budget",
    "generation": "same generation settings",
    "batching": "same batch policy",
    "freedom": "both free, or both held to the answer's format",
}


def fairness(
    a: str,
    b: str,
    prediction_rows: Iterable[Mapping[str, Any]],
    conditions: Mapping[str, Mapping[str, Any]],
    asked: Iterable[str],
) -> dict[str, Any]:
    """The fairness block of one pair.

    ``conditions[predictor]`` may hold: ``hosted`` (bool), ``engine``, ``pixels``, ``generation``, ``batching``,
    ``prompt`` (hash of system turn, instruction and examples) and ``held_to`` (the pattern that every answer must match,
    None: free); any JSON values, compared for equality.
    ``asked`` are the ids of the rows that both should have answered.
    """
    wanted = set(asked)
    tables = {name: {} for name in (a, b)}
    for row in prediction_rows:
        if row["predictor"] in tables and str(row["id"]) in wanted:
            tables[row["predictor"]][(str(row["id"]), int(row.get("sample") or 0))] = row
    first, second = conditions.get(a) or {}, conditions.get(b) or {}
    hosted = bool(first.get("hosted") or second.get("hosted"))
    checks = [_same_rows(a, b, tables, wanted), _same_prompts(tables[a], tables[b], first, second, hosted)]
    for name in ("engine", "pixels", "generation", "batching"):
        if hosted and name in LOCAL_ONLY:
            checks.append(_check(name, None, "does not apply: a hosted model brings its own", required=False))
        else:
            checks.append(_same(name, first.get(name), second.get(name), a, b))
    checks.append(_same_freedom(first.get("held_to"), second.get("held_to"), a, b))
    failing = [check for check in checks if check["required"] and not check["holds"]]
    return {
        "holds": not failing,
        "checks": checks,
        "why_not": "; ".join(check["detail"] for check in failing) or None,
    }


def _same_rows(a: str, b: str, tables: Mapping[str, Mapping[Any, Any]], wanted: set[str]) -> dict[str, Any]:
    answered = {
        name: {key for key, row in table.items() if row.get("error") is None}
        for name, table in tables.items()
    }
    asked = {name: {row_id for row_id, _ in table} for name, table in tables.items()}
    for name in (a, b):
        if unasked := wanted - asked[name]:
            return _check("rows", False, f"{name} was not asked {len(unasked)} of {len(wanted)} rows")
    lost = len({row_id for row_id, _ in answered[a] ^ answered[b]})
    if not wanted or lost > MAX_LOST_SHARE * len(wanted):
        return _check("rows", False, f"{lost} of {len(wanted)} rows were answered by only one of {a} and {b}")
    detail = f"{len(wanted)} rows" + (f", {lost} left out because one request failed" if lost else "")
    return _check("rows", True, detail)


def _same_prompts(
    first: Mapping[Any, Any],
    second: Mapping[Any, Any],
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    hosted: bool,
) -> dict[str, Any]:
    common = sorted(first.keys() & second.keys())
    pairs = [(key[0], first[key].get("prompt_hash"), second[key].get("prompt_hash")) for key in common]
    if not pairs or any(left is None or right is None for _, left, right in pairs):
        return _check("prompts", False, "the prompts are not recorded")
    different = [row_id for row_id, left, right in pairs if left != right]
    if not different:
        return _check("prompts", True, f"equal on {len(pairs)} rows")
    if hosted and a.get("prompt") is not None and a.get("prompt") == b.get("prompt"):
        return _check(
            "prompts", True, "same system turn, instruction and examples, in each engine's own form"
        )
    return _check(
        "prompts", False, f"prompts differ on {len(different)} of {len(pairs)} rows, first {different[0]}"
    )


def _same_freedom(first: Any, second: Any, a: str, b: str) -> dict[str, Any]:
    """No condition, but said: one that is held to the format differs from its free twin on purpose."""
    if first == second:
        return _check(
            "freedom", True, "both held to the same format" if first else "both free", required=False
        )
    if first and second:
        return _check("freedom", None, "held to different formats, on purpose", required=False)
    held, free = (a, b) if first else (b, a)
    return _check(
        "freedom",
        None,
        f"{held} is held to the answer's format and {free} is free, on purpose",
        required=False,
    )


def _same(name: str, first: Any, second: Any, a: str, b: str) -> dict[str, Any]:
    if first is None or second is None:
        missing = " and ".join(who for who, value in ((a, first), (b, second)) if value is None)
        return _check(name, False, f"{LABELS[name].removeprefix('same ')} of {missing} is not recorded")
    if content_hash(first) == content_hash(second):
        return _check(name, True, "equal")
    return _check(
        name, False, f"{LABELS[name].removeprefix('same ')} differ: {_difference(first, second, a, b)}"
    )


def _difference(first: Any, second: Any, a: str, b: str) -> str:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [key for key in sorted(first.keys() | second.keys()) if first.get(key) != second.get(key)]
        return ", ".join(f"{key} {first.get(key)!r} ({a}) and {second.get(key)!r} ({b})" for key in keys[:3])
    return f"{first!r} ({a}) and {second!r} ({b})"


def _check(name: str, holds: bool | None, detail: str, *, required: bool = True) -> dict[str, Any]:
    return {"name": name, "label": LABELS[name], "holds": holds, "detail": detail, "required": required}
