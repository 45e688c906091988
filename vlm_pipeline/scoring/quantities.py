"""Quantities: numbers with units in running text, and their unit-aware comparison.

One row per written number, so "0.35-0.45 mm" gives 0.35 mm and 0.45 mm; fields beside the value say how it was written:

- ``low`` / ``high``: both rows of a range ("177-406 ft. lbs.", "between 2 and 3 bar") carry the range's ends;
- ``tolerance``: "65 ± 5 Nm" gives one row, 65 Nm with tolerance 5 (in the row's unit);
- ``plus``: a row that is added to the one before ("70 Nm + 115°": the angle that follows a torque).

A unit is shared by the numbers of a range and of an enumeration ("2, 3 or 4 bar", "3 x 5 mm") but never across a plus
sign. Units come back as one symbol each ("Nm" for N·m, "ft-lb" for lb-ft); ``Quantity.to`` converts by pint. Oil grades
("10 W-40") have the unit "W-40", which compares by name.

A number without unit (``unit`` None) is returned where it is added to a quantity ("70 + 115 deg"), and where the text
has no unit at all. Numbering, labels, dates, times and thread names (M8) are never quantities.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from vlm_pipeline.scoring.folding import read
from vlm_pipeline.scoring.numbers import Number, find_numbers
from vlm_pipeline.scoring.results import Span
from vlm_pipeline.scoring.units import canonical_unit, convert, currency_unit, read_unit
from vlm_pipeline.scoring.word_numbers import find_word_numbers

_GRADE = re.compile(r"\s?W\s?-?\s?(\d{1,2})(?!\d|\.\d)")
_UNIT_GAP = re.compile(
    r"(?:[  *_~]|\\[,;: ]|\\(?:text|mathrm|rm|mathbf|textbf)\s?\{|[-‑](?=[A-Za-z])|[$}{](?=[\s\\°A-Za-z^])|(?<=\d)\)\s?(?=[°A-Za-z])){0,4}"
)
_FEET = re.compile(r"\s?'(?=\s?\d{1,2}(?:\.\d{1,2})?\s?(?:\"|''|in\b))")  # 6'2"
_FRACTION_OF_INCH = re.compile(
    r"\s?in(?=\s(?!(?:the|an?|this|that|th[eo]se|each|every|all|his|her|its|their|our|your|my|favou?r|front|order|total|which|comparison|relation|addition|general|practice|contrast|response|terms|case|\d)\b)[a-z])"
)
_RANGE = re.compile(
    r"[\s*_$]*(?:-|—|~|\.\.\.?|…|\bto\b|\bthrough\b|\bup to\b|\bund\b|\bbis\b|\band\b|\bor\b)[\s*_$]*(?:\b(?:about|approximately|a maximum of|max\.?|around)\s)?",
    re.IGNORECASE,
)
_LISTED = re.compile(
    r"[\s*_$]*(?:,|/|\||;|[x×]|\\times|,?\s?\band\b|,?\s?\bor\b|\bby\b)[\s*_$]*", re.IGNORECASE
)
_TOLERANCE = re.compile(
    r"[\s*_$]*(?:±|\+\s?/\s?-|\+-|\\pm|plus or minus|plus/minus|plus minus)[\s*_$]*", re.IGNORECASE
)
_PLUS = re.compile(
    r"[\s*_$]*(?:\+|\bplus\b|\bthen\b|\bfollowed by\b|\band then\b)(?:\s(?:an?|another|additional|turn|tighten|rotate|further|by|it|to|extra)){0,5}[\s*_$]*",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\b(?:between|from)\W{1,3}(?:about )?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit. ``span`` covers number and unit in the text that was given."""

    value: float
    unit: str | None
    span: Span
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    plus: bool = False
    decimals: int = 0
    year_like: bool = False

    def __str__(self) -> str:
        return f"{self.value:.12g} {self.unit or ''}".strip()

    def to(self, unit: str) -> float | None:
        """The value in another unit; None without unit or where the dimensions differ. Raises for an unknown unit."""
        target = unit if unit == self.unit else canonical_unit(unit)
        if target is None:
            raise ValueError(
                f"unknown unit {unit!r}; spell it as in scoring/units.py, for instance 'Nm' or 'ft-lb'"
            )
        return None if self.unit is None else convert(self.value, self.unit, target)


@dataclass(slots=True)
class _Row:
    number: Number
    unit: str | None
    end: int
    written: bool = True  # the unit stands behind this very number


def extract_quantities(text: str, *, bare: bool = False) -> list[Quantity]:
    """All quantities of a text in order; with ``bare`` numbers without unit as well. Rules: see the module."""
    reading = read(text)
    body = reading.text
    rows = _rows(body)
    joined = _join(body, rows)
    with_unit = any(q.unit is not None for q in joined)
    found = []
    for place, quantity in enumerate(joined):
        summand = quantity.plus or (place + 1 < len(joined) and joined[place + 1].plus)
        if quantity.unit is not None or bare or summand or not with_unit:
            found.append(
                replace(quantity, span=reading.original(*quantity.span)) if reading.skipped else quantity
            )
    return found


def _rows(body: str) -> list[_Row]:
    numbers = [n for n in find_numbers(body) if n.role in ("number", "list", "label")]
    taken = -1
    rows: list[_Row] = []
    for number in numbers:
        if number.start < taken:
            continue
        if grade := _GRADE.match(body, number.core[1]):
            rows.append(_Row(number, f"W-{int(grade[1])}", grade.end()))
            taken = grade.end()
            continue
        unit, end = _unit_behind(body, number)
        if number.role == "label" and end - number.end <= 2:  # "Room 12 A"
            unit = None
        if number.role == "list" or (number.role != "number" and unit is None):
            continue
        rows.append(_Row(number, unit, end))
        taken = end
    words = [_Row(w, *_unit_behind(body, w)) for w in find_word_numbers(body)]
    inside = [(row.number.start, row.end) for row in rows]
    words = [
        row  # "six hours", but neither "one m" nor the "million" of "5 million yen"
        for row in words
        if row.unit and row.end - row.number.end > 2 and not any(a <= row.number.start < b for a, b in inside)
    ]
    return sorted([*rows, *words], key=lambda row: row.number.start) if words else rows


def _unit_behind(body: str, number: Number) -> tuple[str | None, int]:
    if number.percent:
        return "%", number.end
    if feet := _FEET.match(body, number.end):
        return "ft", feet.end()
    gap = _UNIT_GAP.match(body, number.end)
    start = gap.end() if gap else number.end
    for place in dict.fromkeys((start, number.end)):
        found = read_unit(body, place)
        if found is None:
            continue
        symbol, end = found
        if _no_unit(body, number, symbol, place, end):
            continue
        return symbol, end
    if (number.fraction or number.decimals > 1) and (inches := _FRACTION_OF_INCH.match(body, number.end)):
        return "in", inches.end()
    if number.currency:
        sign = body[max(0, number.start - 2) : number.core[0]].strip(" -\\")
        return currency_unit(sign[-1:]) or currency_unit(
            body[number.start : number.core[0]].strip(" -\\")[-1:]
        ), number.end
    return None, number.end


def _no_unit(body: str, number: Number, symbol: str, start: int, end: int) -> bool:
    """Readings of a letter as a unit that the surroundings forbid."""
    written = body[start:end]
    if written == '"':
        before = body.rfind('"', max(0, number.start - 40), number.start)
        return before >= 0 and body.count('"', 0, number.start) % 2 == 1
    if len(written) == 1 and start > number.end and body[end : end + 1] in ("'", "’"):
        return True
    if written == "C" and start == number.end:  # 5C as a name
        return False
    if written in ("A", "V", "K", "F", "C", "J", "N", "W", "B") and start > number.end:
        return (
            re.match(
                r"\s(?!(?:of|at|or|and|to|in|for|is|on|per|max|min|DC|AC|fuse|current|supply|battery|circuit|output|input|rated|when|with|which|by|from)\b)[a-z]{4,}",
                body[end : end + 12],
            )
            is not None
            and written == "A"
        )
    if written in ("m", "s", "g", "h", "t", "l", "a") and start > number.end:
        return body[end : end + 1] in ("'", "-", "/") and symbol != "m"
    del number
    return False


def _join(body: str, rows: list[_Row]) -> list[Quantity]:
    """Ranges, tolerances, enumerations and sums over neighbouring numbers."""
    quantities: list[Quantity] = []
    place = 0
    # An enumeration takes its unit from the number behind it: walk from the right.
    for index in range(len(rows) - 2, -1, -1):
        left, right = rows[index], rows[index + 1]
        between = body[left.end : right.number.start]
        if (
            left.unit is None
            and right.unit is not None
            and len(between) <= 24
            and not _PLUS.fullmatch(between)
        ):
            ranged = _RANGE.fullmatch(between) or _TOLERANCE.fullmatch(between)
            listed = _LISTED.fullmatch(between) is not None and right.unit != "%"
            if listed and re.search(
                r"[x×]|times|by", between
            ):  # "3 x 5 mm" are two lengths, "2 x 1.5 mm²" is one area
                listed = convert(1.0, right.unit, "m") is not None
            if ranged or listed:
                left.unit, left.written = right.unit, False
    while place < len(rows):
        row = rows[place]
        following = rows[place + 1] if place + 1 < len(rows) else None
        between = body[row.end : following.number.start] if following else ""
        quantity = _quantity(row)
        if place and quantities and _joined_by_plus(body, rows[place - 1], row):
            quantity = replace(quantity, plus=True)
        if following and len(between) <= 24 and _TOLERANCE.fullmatch(between):
            width = abs(following.number.value)
            if following.unit and row.unit and following.unit != row.unit:
                if following.unit == "%":
                    width = abs(row.number.value) * width / 100
                else:
                    width = convert(width, following.unit, row.unit) or width
            end = following.end
            quantities.append(replace(quantity, tolerance=width, span=(quantity.span[0], end)))
            place += 2
            continue
        if following and _is_range(body, row, following, between):
            low, high = _in_same_unit(row, following)
            quantities.append(replace(quantity, low=low, high=high))
            other = _quantity(following)
            if following.unit is None and row.unit is not None:
                other = replace(other, unit=row.unit)
            quantities.append(replace(other, low=low, high=high))
            place += 2
            continue
        quantities.append(quantity)
        place += 1
    return quantities


def _quantity(row: _Row) -> Quantity:
    number = row.number
    whole = number.decimals == 0 and number.value == int(number.value)
    year = (
        row.unit is None and whole and 1000 <= number.value <= 2999 and number.core[1] - number.core[0] == 4
    )
    return Quantity(
        number.value,
        row.unit,
        (number.start, row.end if row.written else number.end),
        decimals=number.decimals,
        year_like=year,
    )


def _joined_by_plus(body: str, left: _Row, right: _Row) -> bool:
    between = body[left.end : right.number.start]
    return len(between) <= 48 and _PLUS.fullmatch(between.replace(",", " ")) is not None


def _is_range(body: str, left: _Row, right: _Row, between: str) -> bool:
    if len(between) > 24 or not _RANGE.fullmatch(between) or not left.number.value < right.number.value:
        return False
    if left.unit and right.unit and left.unit != right.unit:
        return convert(1.0, left.unit, right.unit) is not None
    if re.search(r"\band\b", between, re.IGNORECASE):
        return _BETWEEN.search(body, max(0, left.number.start - 20), left.number.start) is not None
    return re.search(r"\bor\b", between, re.IGNORECASE) is None


def _in_same_unit(left: _Row, right: _Row) -> tuple[float, float]:
    low, high = left.number.value, right.number.value
    if left.unit and right.unit and left.unit != right.unit:
        low = convert(low, left.unit, right.unit) or low
    return low, high


Match = Literal["match", "wrong_unit", "wrong_number"]


def compare_quantities(
    answer: Quantity,
    gold: Quantity,
    *,
    relative_tolerance: float = 0.0,
    conversion_tolerance: float = 0.02,
    absolute_tolerance: float = 0.0,
    default_unit: str | None = None,
    require_unit: bool = True,
) -> Match:
    """Compare two quantities after conversion to the gold's unit.

    In the same unit the value must agree (up to the tolerances); in another unit of the same dimension it may be
    rounded: within ``conversion_tolerance``, or within half of the last digit that the answer writes. Years are exact.
    A unit that only the answer has is no mistake; one that only the gold has is, with ``require_unit`` and without
    ``default_unit``.
    """
    gold_unit = gold.unit
    unit = answer.unit
    if gold_unit is not None and unit is None:
        unit = default_unit if default_unit is not None else (None if require_unit else gold_unit)
        if unit is None and gold_unit == "%":
            unit = "%"
    if gold_unit is None and unit is not None and default_unit is not None:
        gold_unit = default_unit
    if gold_unit is None or unit is None or unit == gold_unit:
        same = _close(
            answer.value,
            gold.value,
            0.0 if gold.year_like and gold_unit is None else relative_tolerance,
            absolute_tolerance,
        )
        if not same:
            return "wrong_number"
        return "match" if gold_unit is None or unit is not None else "wrong_unit"
    converted = convert(answer.value, unit, gold_unit)
    if converted is None:
        return "wrong_unit"
    if _close(converted, gold.value, max(relative_tolerance, conversion_tolerance), absolute_tolerance):
        return "match"
    back = convert(gold.value, gold_unit, unit)
    step = 0.5 * 10.0**-answer.decimals
    rounded = (
        back is not None
        and abs(back - answer.value) <= step * (1 + 1e-9)
        and step <= 0.15 * abs(answer.value)
    )
    return (
        "match"
        if rounded
        else ("wrong_unit" if _close(answer.value, gold.value, relative_tolerance, 0.0) else "wrong_number")
    )


def _close(value: float, gold: float, relative: float, absolute: float) -> bool:
    return abs(value - gold) <= max(relative * abs(gold), absolute, 1e-9 * max(1.0, abs(gold)))


def same_dimension(answer: Quantity, gold: Quantity) -> bool:
    """Whether the units measure the same thing; a missing unit fits anything."""
    if answer.unit is None or gold.unit is None or answer.unit == gold.unit:
        return True
    return convert(1.0, answer.unit, gold.unit) is not None
