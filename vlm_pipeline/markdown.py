"""Text into Markdown: the one escaper and the one table writer, for asset metadata, cards, summaries and previews.

Rows, model answers, file names and section names are untrusted. Escaped, they are shown as they stand: no link, no
picture, no HTML, no heading, no code, and no cell that ends a table's line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SIGNS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word marks nothing
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# What begins a heading, a list or a rule, at the start of a line only: "-5" and "3.5" stay as they are.
_BLOCK = re.compile(r"^(?:#{1,6}(?=\s|$)|[-+](?=\s|$)|-{2,}$|=+$)|^(\d{1,9})(?=[.)](?:\s|$))")


def escape(value: Any) -> str:
    """Any value as one line of Markdown that shows its text and nothing else; None is nothing."""
    text = "" if value is None else " ".join(str(value).split())
    text = "".join(_ENTITIES.get(sign, sign) for sign in text)
    text = _SIGNS.sub(r"\\\g<0>", text)
    return _BLOCK.sub(lambda found: f"{found[1]}\\" if found[1] else f"\\{found[0]}", text)


def table(columns: Sequence[Any], rows: Sequence[Sequence[Any]], limit: int | None = None) -> str:
    """Pipe table of the first `limit` rows, how many are left out below; numbers are aligned to the right.

    Floats get four significant digits, None is an empty cell, truth values are yes and no.
    """
    shown = rows[:limit]
    numeric = [
        any(is_figure(row[index]) for row in shown)
        and all(row[index] is None or is_figure(row[index]) for row in shown)
        for index in range(len(columns))
    ]
    lines = [_line(columns), "|" + "|".join(" --: " if right else " --- " for right in numeric) + "|"]
    lines += [_line(row) for row in shown]
    if len(shown) < len(rows):
        lines.append(_line([f"… {len(rows) - len(shown):,} more rows", *[""] * (len(columns) - 1)]))
    return "\n".join(lines)


def records_table(records: Sequence[Mapping[str, Any]], limit: int | None = None) -> str:
    """The same of a list of records; the first one's keys are the columns, `_` in a key is shown as a space."""
    if not records:
        return "*(empty)*"
    columns = list(records[0])
    rows = [[record.get(column) for column in columns] for record in records]
    return table([str(column).replace("_", " ") for column in columns], rows, limit)


def is_figure(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(escape(_text(cell)) for cell in cells) + " |"


def _text(cell: Any) -> Any:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.4g}" if isinstance(cell, float) else cell
