"""Numbers written as words: "seven", "twenty-five", "two hundred and six", "four and a half"."""

import re
from functools import lru_cache

from vlm_pipeline.scoring.numbers import Number

_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORD_VALUES = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * (place + 2) for place, word in enumerate(_TENS)
}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_WORD = "|".join(sorted([*_WORD_VALUES, *_SCALES], key=len, reverse=True))
_WORD_NUMBER = re.compile(
    rf"\b(?=[A-Za-z])(?:(minus|negative)\s)?((?:a\s(?=hundred|thousand|million))?(?:{_WORD})(?:(?:\s|-|\sand\s)(?:{_WORD}))*)\b"
    r"(?:\sand\sa\s(half)\b|\spoint\s((?:zero|one|two|three|four|five|six|seven|eight|nine)"
    r"(?:\s(?:zero|one|two|three|four|five|six|seven|eight|nine)){0,5})\b)?",
    re.IGNORECASE,
)

_LETTERS = re.compile(r"[a-z]+", re.IGNORECASE)


def find_word_numbers(text: str, start: int = 0, end: int | None = None) -> list[Number]:
    """Numbers written as words: "seven", "twenty-five", "two hundred and six", "four and a half", "six point five"."""
    return list(_word_numbers(text, start, len(text) if end is None else end))


@lru_cache(maxsize=8)  # several rules read the same answer one after the other
def _word_numbers(text: str, start: int, end: int) -> tuple[Number, ...]:
    found = []
    for match in _WORD_NUMBER.finditer(text, start, end):
        for value, first, last in _word_values(match[2], match.start(2)):
            place = match.start() if first == match.start(2) else first
            if last == match.end(2):
                value += 0.5 if match[3] else 0.0
                if match[4]:
                    value += float("0." + "".join(str(_WORD_VALUES[w]) for w in match[4].lower().split()))
                last = match.end()
            found.append(
                Number(
                    -value if match[1] and place == match.start() else value, place, last, core=(place, last)
                )
            )
    return tuple(found)


def _word_values(phrase: str, offset: int) -> list[tuple[float, int, int]]:
    """Split a run of number words where it stops being one number ("one two three" is three)."""
    numbers: list[tuple[float, int, int]] = []
    total = current = 0
    first = last = None
    smallest_scale, previous = 10**12, ""
    for word in _LETTERS.finditer(phrase):
        name = word[0].lower()
        if name in ("and", "a"):
            continue
        value = _WORD_VALUES.get(name)
        joins = first is None or (
            (value is not None and (previous in _SCALES or (previous in _TENS and 0 < value < 10)))
            or (name == "hundred" and 0 < current < 100)
            or (name in _SCALES and name != "hundred" and current > 0 and _SCALES[name] < smallest_scale)
        )
        if not joins:
            numbers.append((float(total + current), offset + first, offset + last))  # type: ignore[operator]
            total = current = 0
            smallest_scale, first = 10**12, None
        if first is None:
            first = word.start()
        if value is not None:
            current += value
        elif name == "hundred":
            current = (current or 1) * 100
        else:
            smallest_scale = _SCALES[name]
            total, current = total + (current or 1) * _SCALES[name], 0
        previous, last = name, word.end()
    if first is not None:
        numbers.append((float(total + current), offset + first, offset + last))  # type: ignore[operator]
    return numbers
