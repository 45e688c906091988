"""Units as people write them, and their conversion by pint.

``UNITS`` maps the symbols that this package reports to what pint calls them; ``read_unit`` finds a unit behind a number,
single or compound. Units that pint cannot know (currencies, oil grades, "kg/person") compare by name.
"""

import math
import re
from functools import lru_cache
from typing import Any

from vlm_pipeline.scoring.unit_table import CURRENCY_SIGNS, SPELLINGS

UNITS: dict[str, str | None] = {symbol: expression for symbol, (expression, _) in SPELLINGS.items()}

_ENDS = r"(?![A-Za-z0-9²³]|\^[23])"
_TIMES = re.compile(r"\s?[·*]\s?(?=[A-Za-z°Ωμ])")
_PER = re.compile(r"\s?(?P<stroke>/)\s?(?P<open>\()?|\s(?:per|pro)\s(?:an?\s)?", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]{3,20}(?![A-Za-z0-9/])")
_DIFFERENCE = {"degC": "delta_degC", "degF": "delta_degF"}
_MONEY = frozenset({"USD", "EUR", "GBP", "JPY", "cent"})
# "20 minutes per day" answers "how many minutes": what is counted per something stays what is counted.
_COUNTED = frozenset({"%", "s", "min", "h", "day", "week", "month", "year"})


def _spellings() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(rf"(?:{pattern}){_ENDS}"), symbol) for symbol, (_, pattern) in SPELLINGS.items()]


@lru_cache(maxsize=1)
def _by_first() -> dict[str, list[tuple[re.Pattern[str], str]]]:
    """Patterns by the first characters that they can start with, so that a number tries a few and not all."""
    import string

    starts = string.ascii_letters + '°℃℉Ω€£¥¢μℓ%\\"^1'
    table: dict[str, list[tuple[re.Pattern[str], str]]] = {char: [] for char in starts}
    for pattern, symbol in _spellings():
        firsts = _first_characters(SPELLINGS[symbol][1])
        for char in starts:
            if char in firsts:
                table[char].append((pattern, symbol))
    return table


def _first_characters(pattern: str) -> set[str]:
    """Characters that a spelling can start with, read off the parsed regular expression."""
    from re import _parser  # type: ignore[attr-defined]

    firsts: set[str] = set()

    def walk(items: Any) -> bool:
        """Collect first characters; True when the whole may match nothing."""
        for kind, value in items:
            name = str(kind)
            if name == "LITERAL":
                firsts.add(chr(value))
                return False
            if name == "IN":
                for inner, code in value:
                    if str(inner) == "LITERAL":
                        firsts.add(chr(code))
                    elif str(inner) == "CATEGORY":
                        firsts.update(" ")
                    elif str(inner) == "RANGE":
                        firsts.update(chr(c) for c in range(code[0], code[1] + 1))
                return False
            if name == "BRANCH":
                empty = [walk(branch) for branch in value[1]]  # all of them: each adds its first characters
                if not any(empty):
                    return False
            elif name == "SUBPATTERN":
                if not walk(value[3]):
                    return False
            elif name in ("MAX_REPEAT", "MIN_REPEAT"):
                empty = walk(value[2])
                if value[0] > 0 and not empty:
                    return False
        return True

    walk(_parser.parse(pattern))
    return firsts


def read_unit(text: str, start: int) -> tuple[str, int] | None:
    """The longest unit at ``start`` (a folded text) as (symbol, end), or None: a single unit or a compound of single
    ones (W/m², kg per h, W/(m·K)). Below a stroke a plain word may stand ("kg/person"); it compares by name."""
    found = _single(text, start)
    if found is None or found[0] in _MONEY:
        return found
    top, end = _product(text, *found)
    per = _PER.match(text, end)
    if per is None or (not per["stroke"] and top in _COUNTED):
        return top, end
    bottom, stop = _below(text, per)
    if bottom is None or _alternatives(top, bottom):
        return top, end
    return f"{top}/({bottom})" if {"/", "·"} & set(bottom) else f"{top}/{bottom}", stop


def _single(text: str, start: int) -> tuple[str, int] | None:
    best: tuple[str, int] | None = None
    for pattern, symbol in _by_first().get(text[start : start + 1], ()):
        match = pattern.match(text, start)
        if match and (best is None or match.end() > best[1]):
            best = (symbol, match.end())
    return best


def _product(text: str, symbol: str, end: int) -> tuple[str, int]:
    """ "kg·m²" behind its first factor."""
    while (times := _TIMES.match(text, end)) and (factor := _single(text, times.end())):
        symbol, end = f"{symbol}·{factor[0]}", factor[1]
    return symbol, end


def _below(text: str, per: re.Match[str]) -> tuple[str | None, int]:
    """What stands below a stroke, and where it ends."""
    if found := _single(text, per.end()):
        bottom, stop = _product(text, *found) if per["open"] else found
        if not per["open"]:
            return bottom, stop
        return (bottom, stop + 1) if text[stop : stop + 1] == ")" else (None, stop)
    word = _WORD.match(text, per.end()) if per[0] == "/" else None
    return (word[0].lower(), word.end()) if word else (None, per.end())


def _alternatives(top: str, bottom: str) -> bool:
    """ "ft-lb/Nm" names two units of the same thing, while "g/kg" is a ratio: those differ by a power of ten."""
    factor = _factor(top, bottom)
    return factor is not None and not math.log10(abs(factor[0])).is_integer()


def currency_unit(sign: str) -> str | None:
    return CURRENCY_SIGNS.get(sign)


@lru_cache(maxsize=4096)
def canonical_unit(written: str) -> str | None:
    """The symbol of a unit as written in a setting or a gold answer; None for an unknown one."""
    from vlm_pipeline.scoring.folding import fold

    if written in UNITS:
        return written
    folded = fold(written.strip().rstrip("."))
    found = read_unit(folded, 0)
    return found[0] if found and found[1] == len(folded) else None


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    registry = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    registry.define("thousandth_inch = 0.001 * inch")
    registry.define("hundred_kilometers = 100 * kilometer")
    return registry


@lru_cache(maxsize=8192)
def _expression(symbol: str) -> str | None:
    """What pint calls a unit; None for one that compares by name."""
    if symbol in UNITS:
        return UNITS[symbol]
    if "/" in symbol:
        top, _, bottom = symbol[:-1].rpartition("/(") if symbol.endswith(")") else symbol.rpartition("/")
        parts = [_expression(top), _expression(bottom)]
        sign = "/"
    else:
        parts, sign = [UNITS.get(part) for part in symbol.split("·")], "*"
    if None in parts:
        return None
    # In a compound a degree is a difference: W/°C says nothing of the freezing point.
    return sign.join(f"({_DIFFERENCE.get(part, part)})" for part in parts)


@lru_cache(maxsize=8192)
def _factor(source: str, target: str) -> tuple[float, float] | None:
    """(scale, offset) such that target = source * scale + offset; None between different dimensions."""
    if source == target:
        return 1.0, 0.0
    left, right = _expression(source), _expression(target)
    if left is None or right is None:
        return None
    registry = _registry()
    try:
        zero = registry.Quantity(0.0, left).to(right).magnitude
        one = registry.Quantity(1.0, left).to(right).magnitude
    except Exception as error:  # pint's DimensionalityError, and its subclasses for offset units
        if type(error).__name__ not in ("DimensionalityError", "OffsetUnitCalculusError"):
            raise
        return None
    return float(one - zero), float(zero)


def convert(value: float, source: str, target: str) -> float | None:
    """The value in another unit, by pint; None when the units measure different things."""
    factor = _factor(source, target)
    return None if factor is None else value * factor[0] + factor[1]
