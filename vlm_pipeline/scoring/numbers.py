r"""Numbers as people and models write them: one scanner that all scorers share.

Read: ``42``, ``-5``, ``1,234.5``, ``1{,}234``, ``1.234,56``, ``1,4`` (decimal comma), ``.5``, ``1.2e-3``, ``3 x 10^5``,
``2^10``, ``3/4``, ``3 1/2``, ``\frac{3}{4}``, ``½``, ``$5``, ``50%``, ``1.5 million``, ``5k``.

Each number says what role its surroundings give it, so that a caller can leave out what is no quantity:
``date``, ``time`` (also ratios such as 3:1), ``version``, ``ordinal`` (3rd), ``list`` (a line's numbering),
``label`` (Step 3, Figure 2, Room 12, #7), ``code`` (part numbers such as 06A-115-561).
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from vlm_pipeline.scoring.folding import NBSP

VULGAR = {
    "½": 1 / 2, "⅓": 1 / 3, "⅔": 2 / 3, "¼": 1 / 4, "¾": 3 / 4, "⅕": 1 / 5, "⅖": 2 / 5, "⅗": 3 / 5, "⅘": 4 / 5,
    "⅙": 1 / 6, "⅚": 5 / 6, "⅐": 1 / 7, "⅛": 1 / 8, "⅜": 3 / 8, "⅝": 5 / 8, "⅞": 7 / 8, "⅑": 1 / 9, "⅒": 1 / 10,
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_MAGNITUDES = {
    "hundred": 1e2, "thousand": 1e3, "million": 1e6, "mio": 1e6, "mn": 1e6, "billion": 1e9, "bn": 1e9,
    "trillion": 1e12, "tn": 1e12, "lakh": 1e5, "crore": 1e7, "k": 1e3, "M": 1e6, "B": 1e9,
}  # fmt: skip
CURRENCY = "$€£¥₹₽₩"
_MAX_EXPONENT = 400

# Every repeat is bounded or over one character class, and alternatives start differently: linear time.
_TOKEN = re.compile(
    rf"""
    (?<![A-Za-z0-9_])
    (?:
      (?P<date>\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}(?![\d/]) | \d{{1,2}}/\d{{1,2}}/(?:\d{{4}}|\d{{2}})(?![\d/])
        | \d{{1,2}}[-.]\d{{1,2}}[-.]\d{{4}}(?!\d))
    | (?P<time>\d{{1,4}}:\d{{1,4}}(?::\d{{1,4}})?(?!\d))
    | \\[dtc]?frac\s?(?:\{{\s?(?P<top>-?\s?\d{{1,15}}(?:\.\d{{1,15}})?)\s?\}}\s?\{{\s?(?P<bottom>\d{{1,15}}(?:\.\d{{1,15}})?)\s?\}}
        | \s?(?P<top1>\d)\s?(?P<bottom1>\d))
    | (?P<vulgar>[{"".join(VULGAR)}])
    | (?P<number>
        (?P<spaced>(?<!\d\ )(?:\d{{1,3}}\ \d{{3}}|\d{{1,2}}(?:\ \d{{3}}){{2,5}})(?!\ ?\d)(?:\.\d+|,\d{{1,2}}(?!\d))?)
      | (?P<grouped>\d{{1,3}}(?:(?:,|\{{,\}}|\\,|,\\!|\\!,|,{NBSP}|{NBSP}|')\d{{3}})+(?!\d)(?:\.\d+)?)
      | (?P<european>\d{{1,3}}(?:\.\d{{3}})+,\d+(?![\d.]))
      | (?P<dotted>\d+(?:\.\d+){{2,}})
      | (?P<comma>\d+,\d+(?!,?\d))
      | (?P<plain>\d+(?:\.\d+)?)
      | (?P<bare>\.\d+)
      )
    )
    """,
    re.VERBOSE,
)
_EXPONENT = re.compile(r"[eE][+-]?\d{1,4}(?![\w.])")
_POWER_OF_TEN = re.compile(
    r"\s?(?:×|x|X|\*|·|\\times|\\cdot)\s?10\s?(?:(?:\^|\*\*)\s?\{?\s?(?P<caret>[+-]?\d{1,4})\s?\}?|(?P<sup>[⁻⁺]?[⁰¹²³⁴-⁹]{1,4}))"
)
_POWER = re.compile(
    r"(?:\^\s?\{?\s?(?P<caret>[+-]?\d{1,4})\s?\}?|\*\*(?P<star>[+-]?\d{1,4})|(?P<sup>[⁻⁺]?[⁰¹²³⁴-⁹]{1,4}))"
)
_SLASH = re.compile(r"\s?/\s?(\d{1,15})(?![\d./,:]\d|\d)")
_MIXED = re.compile(r"(?:\s|-)?(\d{1,4})/(\d{1,4})(?![\d/])")
_MIXED_FRAC = re.compile(r"\s?\\[dtc]?frac\s?(?:\{\s?(\d{1,9})\s?\}\s?\{\s?(\d{1,9})\s?\}|(\d)\s?(\d))")
_PERCENT = re.compile(r"\s?(?:\\?%|percent\b|per cent\b|pct\b)", re.IGNORECASE)
_MAGNITUDE = re.compile(
    r"(?:\s|-)?(hundred|thousand|million|billion|trillion|lakh|crore|mio|mn|bn|tn)s?\b\.?", re.IGNORECASE
)
_SHORT_MAGNITUDE = re.compile(r"(k|M|B)(?![\w/·^-])")
_ORDINAL = re.compile(r"(?:\^\{?)?(?:\\text\{)?(?:st|nd|rd|th)\b")
_CLOCK = re.compile(r"\s?(?:[ap]\.?m\b\.?|o'clock\b|Uhr\b)", re.IGNORECASE)
_LIST = re.compile(r"[ \t]*(?:[-*•>#|]{1,6}[ \t]*)?(?:\*\*|__)?\(?$")
_LIST_END = re.compile(r"(?:\.|\)|\.\)|:)(?:\*\*|__)?[ \t]+\S")
_LABEL = re.compile(
    r"(?:\b(?:steps?|parts?|cases?|questions?|problems?|examples?|equations?|eqs?|figures?|figs?|tables?|chapters?|"
    r"sections?|pages?|methods?|options?|choices?|items?|exercises?|theorems?|lemmas?|rules?|notes?|refs?|lines?|"
    r"nos?|phases?|versions?|rows?|columns?|image|sources?|slides?|levels? of|statements?|points?|rooms?|floors?|gates?|"
    r"seats?|platforms?|terminals?|exits?|apartments?|flats?|bays?|slots?|ports?)\.?\s{0,2}(?:\*\*|#|\()?|#)$",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z]{2}-$")  # COVID-19, Type-2
_SIGN = re.compile(rf"-\s?[{CURRENCY}]?\s?(?:\\\$)?$|[{CURRENCY}]\s?-$")
_NEGATIVE_WORD = re.compile(rf"\b(minus|negative)\s{{1,2}}[{CURRENCY}]?$", re.IGNORECASE)
_LONGEST_CODE = 40  # characters
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")


@dataclass(frozen=True, slots=True)
class Number:
    """One number of a text: its value, its place (sign, percent sign and magnitude word included) and its role."""

    value: float
    start: int
    end: int
    role: str = "number"  # number, date, time, version, ordinal, list, label, code
    percent: bool = False
    fraction: bool = False
    currency: bool = False
    decimals: int = 0  # digits written behind the decimal point
    core: tuple[int, int] = (0, 0)  # the digits alone

    @property
    def usable(self) -> bool:
        return self.role == "number"


def blank_calculations(text: str) -> str:
    """Calculator notes of the GSM8K style (``<<3*4=12>>``) replaced by blanks of the same length."""
    return _CALCULATOR.sub(lambda m: " " * len(m[0]), text) if "<<" in text else text


# A text with more numbers than this is read up to here and then again from near its end: time stays bounded.
MOST_NUMBERS = 200
_DENSE_TAIL = 300  # characters


def find_numbers(text: str, start: int = 0, end: int | None = None) -> list[Number]:
    """All numbers of a folded text between two offsets, in order (of a text full of them: those at both ends)."""
    return list(_numbers(text, start, len(text) if end is None else end))


@lru_cache(maxsize=8)  # several rules read the same answer one after the other
def _numbers(text: str, start: int, limit: int) -> tuple[Number, ...]:
    found = _scan(text, start, limit, MOST_NUMBERS)
    if len(found) == MOST_NUMBERS:
        found += _scan(text, max(found[-1].end, limit - _DENSE_TAIL), limit, _DENSE_TAIL)
    return tuple(found)


def _scan(text: str, start: int, limit: int, most: int) -> list[Number]:
    found: list[Number] = []
    position = start
    while len(found) < most and (match := _TOKEN.search(text, position, limit)):
        number = _read(text, match, limit, found[-1].end if found else start)
        if number is not None:
            found.append(number)
            position = max(number.end, match.start() + 1)
        else:
            position = match.end()
    return found


def _read(text: str, match: re.Match[str], limit: int, floor: int) -> Number | None:
    start, end = match.span()
    if match["date"] or match["time"]:
        return Number(math.nan, start, end, "date" if match["date"] else "time", core=(start, end))
    if match["dotted"] and not re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}", match["dotted"]):
        return Number(math.nan, start, end, "version", core=(start, end))
    fraction, decimals = False, 0
    if match["top"] or match["top1"]:
        top, bottom = (match["top"] or match["top1"]).replace(" ", ""), match["bottom"] or match["bottom1"]
        if float(bottom) == 0:
            return None
        value, fraction = float(top) / float(bottom), True
    elif match["vulgar"]:
        value, fraction = VULGAR[match["vulgar"]], True
    else:
        value, end, decimals = _plain_value(text, match)
        value, end, fraction = _continue(text, value, end, limit)
    core = (start, end)
    role = _role(text, start, end, limit)
    percent, end = _percent(text, end)
    currency = _has_currency(text, start)
    if not percent:
        value, end = _magnitude(text, value, end, currency)
    value, start = _signed(text, value, start, floor)
    if not math.isfinite(value):
        return None
    return Number(value, start, end, role, percent, fraction, currency, decimals, core)


def _plain_value(text: str, match: re.Match[str]) -> tuple[float, int, int]:
    """Value, end and written decimals of the digits; exponents not yet read."""
    raw, end = match["number"], match.end()
    if match["spaced"] or match["grouped"]:
        if match["spaced"]:
            raw = raw.replace(",", ".")  # "1 234,5"
        raw = re.sub(rf"[ ,{{}}\\!{NBSP}']", "", raw)
    elif match["european"]:
        raw = raw.replace(".", "").replace(",", ".")
    elif match["dotted"]:
        raw = raw.replace(".", "")
    elif match["comma"]:
        whole, part = raw.split(",")
        before = text[match.start() - 1 : match.start()]
        if (before and before in "([{,") or (len(part) == 3 and len(whole) <= 3 and whole != "0"):
            raw, end = whole, match.start() + len(whole)  # a list such as (3,14), read one by one
        else:
            raw = f"{whole}.{part}"
    try:
        value = float(raw)
    except ValueError:  # digits float() does not know
        return math.nan, end, 0
    return value, end, len(raw.partition(".")[2])


def _continue(text: str, value: float, end: int, limit: int) -> tuple[float, int, bool]:
    """Exponents, powers and fractions behind the digits."""
    if found := _EXPONENT.match(text, end, limit):
        return _power(10.0, int(found[0][1:]), value), found.end(), False
    if found := _POWER_OF_TEN.match(text, end, limit):
        return _power(10.0, _exponent(found), value), found.end(), False
    if found := _POWER.match(text, end, limit):
        return _power(value, _exponent(found)), found.end(), False
    whole = value == int(value) if math.isfinite(value) else False
    if whole and (found := _MIXED_FRAC.match(text, end, limit)):
        top, bottom = (int(part) for part in found.groups() if part is not None)
        return (value + top / bottom, found.end(), True) if bottom else (value, end, False)
    if whole and end < limit and text[end] in VULGAR:
        return value + VULGAR[text[end]], end + 1, True
    if whole and end + 1 < limit and text[end] == " " and text[end + 1] in VULGAR:
        return value + VULGAR[text[end + 1]], end + 2, True
    if whole and (found := _MIXED.match(text, end, limit)) and 0 < int(found[1]) < int(found[2]) <= 64:
        return value + int(found[1]) / int(found[2]), found.end(), True
    if (found := _SLASH.match(text, end, limit)) and int(found[1]) != 0:
        return value / int(found[1]), found.end(), True
    return value, end, False


def _exponent(match: re.Match[str]) -> int:
    groups = match.groupdict()
    written = groups.get("caret") or groups.get("star")
    return int(written) if written else int(groups["sup"].translate(_SUPERSCRIPTS) or 0)


def _power(base: float, exponent: int, factor: float = 1.0) -> float:
    if abs(exponent) > _MAX_EXPONENT or (base == 0 and exponent < 0):
        return math.nan
    try:
        if base == 10.0 and "e" not in (digits := repr(factor)):
            return float(f"{digits}e{exponent}")  # exact, where a product would round twice
        return factor * base**exponent
    except OverflowError:
        return math.nan


def _percent(text: str, end: int) -> tuple[bool, int]:
    found = _PERCENT.match(text, end)
    return (True, found.end()) if found else (False, end)


def _magnitude(text: str, value: float, end: int, currency: bool) -> tuple[float, int]:
    while found := _MAGNITUDE.match(text, end):
        value, end = value * _MAGNITUDES[found[1].lower()], found.end() - (found[0].endswith("."))
    found = _SHORT_MAGNITUDE.match(text, end)
    if found and (currency or found[1] in "kM") and (found[1] != "M" or currency):
        return value * _MAGNITUDES[found[1]], found.end()
    return value, end


def _has_currency(text: str, start: int) -> bool:
    before = text[max(0, start - 3) : start].rstrip(" -\\")
    return before[-1:] in CURRENCY and before != ""


def _signed(text: str, value: float, start: int, floor: int) -> tuple[float, int]:
    """A minus sign counts where no operand stands before it: "= -5" yes, "9 - 5", "9-5" and "A-5" no."""
    window = text[max(0, floor, start - 4) : start]
    if "-" in window and (found := _SIGN.search(window)):
        place = start - len(window) + found.start()
        spaced = found[0][0] == "-" and found[0][1:2].isspace()
        before = text[max(0, place - 3) : place]
        operand = before.rstrip()[-1:]
        glued = before[-1:] == operand and operand != ""
        is_operand = operand.isalnum() or (operand in ")]}%°'\"" and operand != "")
        if found[0][0] != "-":  # $-5
            return -value, place
        if not spaced and not (is_operand and (glued or operand.isdigit() or operand in ")]}%")):
            return -value, place
        return value, start
    window = text[max(0, floor, start - 12) : start]
    if (
        window[-2:-1] in ("s", "e", " ")
        and (found := _NEGATIVE_WORD.search(window))
        and not (
            found[1].lower() == "minus"
            and text[max(0, floor - 1) : start - len(window) + found.start()].rstrip()[-1:].isdigit()
        )
    ):
        return -value, start - len(window) + found.start()
    return value, start


def _role(text: str, start: int, end: int, limit: int) -> str:
    following = text[end : end + 1]
    if following and following in "snrt^\\" and _ORDINAL.match(text, end, limit):
        return "ordinal"
    if end - start <= 3 and following and following in ".):":
        line_start = max(text.rfind("\n", max(0, start - 12), start) + 1, start - 12, 0)
        begins_line = line_start == 0 or text[line_start - 1] == "\n"
        if begins_line and _LIST.fullmatch(text, line_start, start) and _LIST_END.match(text, end, limit):
            return "list"
    if following and following in " apAPoOU" and _CLOCK.match(text, end, limit):
        return "time"
    if (following.isalpha() or following == "-" or text[start - 1 : start] == "-") and _in_code(
        text, start, end
    ):
        return "code"
    before = text[max(0, start - 4) : start].rstrip(" *(")[-1:]
    if before == "-":
        return "label" if _NAME.search(text, max(0, start - 3), start) else "number"
    if before and (before.isalpha() or before in ".#") and _LABEL.search(text, max(0, start - 16), start):
        return "label"
    return "number"


def _in_code(text: str, start: int, end: int) -> bool:
    """Whether digits belong to a part number: three pieces or more, two of digits, one with a capital letter."""
    near = text[max(0, start - _LONGEST_CODE) : end + _LONGEST_CODE]
    if near == near.lower():  # no capital letter: most numbers end here
        return False
    while start > 0 and end - start < _LONGEST_CODE and (text[start - 1].isalnum() or text[start - 1] == "-"):
        start -= 1
    while end < len(text) and end - start < _LONGEST_CODE and (text[end].isalnum() or text[end] == "-"):
        end += 1
    pieces = text[start:end].split("-")
    digits = sum(piece.isdigit() for piece in pieces)
    return len(pieces) >= 3 and digits >= 2 and any(c.isupper() for c in text[start:end])
