"""The two notations of arguments, read strictly: JSON as the standard has it, and literals of Python calls."""

import ast
import json
from typing import Any


class _NotStrict(ValueError):
    """JSON that Python's decoder would let pass."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotStrict("duplicate key in an object")
    return found


def _no_constant(name: str) -> Any:
    raise _NotStrict(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def decode(body: str, start: int, end: int) -> tuple[Any, int, str | None]:
    """One strict JSON value from ``start`` on: value, where it ends, and why there is none."""
    text = body if end == len(body) else body[:end]
    try:
        value, stop = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return None, start, f"{error.msg} at character {error.pos - start}"
    except _NotStrict as error:
        return None, start, str(error)
    except RecursionError:
        return None, start, "nested too deeply"
    except ValueError as error:  # an integer of thousands of digits
        return None, start, str(error)[:80]
    return value, stop, None


def strict(text: str) -> tuple[Any, str | None]:
    """The one JSON value that a text is, and why it is none."""
    value, stop, reason = decode(text, len(text) - len(text.lstrip()), len(text))
    if reason is None and text[stop:].strip():
        return None, "text behind the JSON value"
    return value, reason


def dotted(node: ast.expr) -> str | None:
    """A function's name, with its dots; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := dotted(node.value)):
        return f"{inner}.{node.attr}"
    return None


def keywords(node: ast.Call) -> tuple[dict[str, Any], str | None]:
    """The named arguments of a call, literals only, and why they cannot be read."""
    if node.args:
        return {}, "an argument without name"
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            return {}, "** in a call"
        try:
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
            if isinstance(keyword.value, ast.Name) and keyword.value.id in ("true", "false", "null"):
                arguments[keyword.arg] = {"true": True, "false": False, "null": None}[keyword.value.id]
                continue
            return {}, f"the argument {keyword.arg} is no literal"
    return arguments, None
