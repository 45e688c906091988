"""Length-preserving clean-up of characters, and the bound on how much of a response is read.

Everything here keeps one character one character, so that spans found in the result are spans of the original.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

# A response longer than this is read at both ends only: answers stand at an end, and time stays bounded.
HEAD_CHARACTERS = 3_000
TAIL_CHARACTERS = 6_000

T = TypeVar("T")

NBSP = "\u00a0"


def _table() -> dict[int, str]:
    table = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    table |= dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")
    table |= dict.fromkeys(
        map(ord, "\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f"), NBSP
    )
    table |= dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4\u2032"), "'")
    table |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u2033"), '"')
    table |= {0x00B5: "\u03bc", 0x2126: "\u03a9", 0x02DA: "°", 0x00BA: "°", 0x2219: "·", 0x22C5: "·"}
    for code in range(0x660, 0x20000):
        char = chr(code)
        if unicodedata.category(char) == "Nd" and code not in table:
            table[code] = str(unicodedata.decimal(char))
    return table


_FOLD = _table()


def fold(text: str) -> str:
    """The same text with typographic variants of signs, spaces, quotes and digits made plain; same length."""
    return text if text.isascii() else text.translate(_FOLD)


@dataclass(frozen=True, slots=True)
class Reading:
    """The part of a response that is read: all of it, or head and tail of an over-long one."""

    text: str
    joint: int  # where the tail begins in ``text``; len(text) when nothing was left out
    skipped: int  # characters left out between head and tail

    def original(self, start: int, end: int) -> tuple[int, int]:
        """A span of ``text`` as a span of the original response."""
        return (
            start + (self.skipped if start >= self.joint else 0),
            end + (self.skipped if end > self.joint else 0),
        )


_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """The text with what stands inside ``<think>`` blanked, same length: drafts are no answers. A thought that never
    ends has no answer behind it; one whose opening tag was part of the prompt goes up to its end."""
    lower = text.lower() if "think" in text or "THINK" in text else ""
    if "</think" not in lower and "<think" not in lower:
        return text
    closing = lower.find("</think")
    opening = lower.find("<think")
    if closing >= 0 and not 0 <= opening < closing:
        end = text.find(">", closing) + 1
        text = " " * end + text[end:]
    return _THOUGHTS.sub(lambda m: " " * len(m[0]), text)


def read(response: str, head: int = HEAD_CHARACTERS, tail: int = TAIL_CHARACTERS) -> Reading:
    """Fold a response, blank its thoughts, and leave out the middle of one beyond ``head`` + ``tail`` characters."""
    response = without_thoughts(response)
    skipped = len(response) - head - tail
    if skipped <= 0:
        return Reading(fold(response), len(response), 0)
    return Reading(fold(response[: head - 1] + "\n" + response[-tail:]), head, skipped)


def at_both_ends(items: Sequence[T], first: int, last: int) -> Sequence[T]:
    """The first and the last items of an over-long list, so that hostile texts stay cheap."""
    return items if len(items) <= first + last else [*items[:first], *items[-last:]]
