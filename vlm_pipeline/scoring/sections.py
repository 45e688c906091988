r"""Answers in marked sections: parsing, format compliance, grounding, consistency, reward.

Three notations, the first that the text uses counts: channels (``<|channel|>final<|message|>...<|end|>``), tags
(``<final>...</final>``) and headings (``## Final``, ``**Final:**``, ``Final:`` or ``[FINAL]`` at the start of a line).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from vlm_pipeline.scoring.folding import read
from vlm_pipeline.scoring.results import Span
from vlm_pipeline.scoring.text import base_forms, words

Style = Literal["channel", "tag", "heading", "none"]

_CHANNEL = re.compile(r"<\|channel\|>\s{0,9}([\w-]{1,60})[^<\n]{0,60}<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|channel|call|im_end|eot_id)\|>")
_NOISE_BETWEEN = re.compile(
    r"<\|start\|>\s{0,9}\w{0,20}|<\|(?:end|return|im_start|im_end|eot_id)\|>|assistant|\\n|[\s*_#-]"
)
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "by",
        "with",
        "and",
        "or",
        "but",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "as",
        "which",
        "who",
        "has",
        "have",
        "had",
        "not",
        "no",
        "can",
        "could",
        "may",
        "might",
        "will",
        "would",
        "should",
        "do",
        "does",
        "did",
        "so",
        "than",
        "then",
        "there",
        "their",
        "they",
        "them",
        "he",
        "she",
        "his",
        "her",
        "also",
        "into",
        "about",
        "under",
        "over",
    ]
)


class Sections(dict[str, str]):
    """Section name -> text, for the sections that were found; the attributes say how they were found."""

    def __init__(
        self, found: Sequence[tuple[str, str, Span, bool]], names: Sequence[str], style: Style, outside: str
    ) -> None:
        super().__init__({name: text for name, text, _, _ in reversed(found)})
        self.order = [name for name, *_ in found]
        self.spans = {name: span for name, _, span, _ in reversed(found)}
        self.unclosed = [name for name, _, _, closed in found if not closed]
        self.missing = [name for name in names if name not in self]
        self.empty = [name for name in names if name in self and not self[name].strip()]
        self.repeated = sorted({name for name in self.order if self.order.count(name) > 1})
        self.unexpected = [name for name in self.order if name not in names]
        self.style: Style = style
        self.outside = outside
        self._names = list(names)

    @property
    def compliant(self) -> bool:
        """Every section once, in the asked order, closed, not empty, and nothing outside."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """What is wrong with the format, in words."""
        found = [f"section {name} is missing" for name in self.missing]
        found += [f"section {name} is empty" for name in self.empty]
        found += [f"section {name} is repeated" for name in self.repeated]
        found += [f"section {name} was not asked for" for name in self.unexpected]
        found += [f"section {name} has no end mark" for name in self.unclosed]
        if not found and self.order != self._names:
            found.append(f"order is {', '.join(self.order)}")
        if self.outside:
            found.append("text outside the sections")
        return found


def parse_sections(text: str, names: Sequence[str]) -> Sections:
    """The sections of a response; names compare without case. Never raises for a text."""
    by_name = {name.casefold(): name for name in names}
    for reader, style in ((_channels, "channel"), (_tags, "tag"), (_headings, "heading")):
        found = reader(text, by_name)
        if found:
            return Sections(
                [(n, t, s, c) for n, t, s, c, _ in found],
                names,
                style,
                _outside(text, [whole for *_, whole in found]),
            )  # type: ignore[arg-type]
    return Sections([], names, "none", text.strip())


_Found = list[tuple[str, str, Span, bool, Span]]


def _entry(
    text: str, name: str, start: int, end: int, closed: bool, whole: Span
) -> tuple[str, str, Span, bool, Span]:
    return name, _trim(text[start:end]), (start, end), closed, whole


def _trim(text: str) -> str:
    """Without white space at both ends; some data sets write line breaks as a backslash and an n."""
    return (
        re.sub(r"^(?:\\n|\s)+|(?:\\n|\s)+$", "", text[:200])
        if len(text) <= 200
        else re.sub(r"^(?:\\n|\s)+", "", text).rstrip()
    )


def _channels(text: str, by_name: dict[str, str]) -> _Found:
    found: _Found = []
    for opening in _CHANNEL.finditer(text):
        closing = _CHANNEL_END.search(text, opening.end())
        end = closing.start() if closing else len(text)
        closed = closing is not None and closing[0] not in ("<|channel|>", "<|start|>")
        stop = closing.end() if closing and closed else end
        name = by_name.get(opening[1].casefold(), opening[1])
        found.append(_entry(text, name, opening.end(), end, closed, (opening.start(), stop)))
    return found


def _tags(text: str, by_name: dict[str, str]) -> _Found:
    if not by_name:
        return []
    found: _Found = []
    pattern = re.compile(rf"<(/?)({'|'.join(map(re.escape, by_name))})>", re.IGNORECASE)
    marks = list(pattern.finditer(text))
    for place, mark in enumerate(marks):
        if mark[1]:
            continue
        following = marks[place + 1] if place + 1 < len(marks) else None
        closed = (
            following is not None and bool(following[1]) and following[2].casefold() == mark[2].casefold()
        )
        end = following.start() if following else len(text)
        stop = following.end() if closed and following else end
        found.append(_entry(text, by_name[mark[2].casefold()], mark.end(), end, closed, (mark.start(), stop)))
    return found


def _headings(text: str, by_name: dict[str, str]) -> _Found:
    if not by_name:
        return []
    title = "|".join(map(re.escape, by_name))
    pattern = re.compile(
        rf"(?:^|\n)[ \t]*(?:#{{1,6}}[ \t]*(?:\*\*)?({title})(?:\*\*)?[ \t]*:?[ \t]*(?=\n|$)|\*\*({title})[ \t]*:?\*\*[ \t]*:?|\[({title})\]:?|({title})[ \t]*:)",
        re.IGNORECASE,
    )
    marks = list(pattern.finditer(text))
    found: _Found = []
    for place, mark in enumerate(marks):
        end = marks[place + 1].start() if place + 1 < len(marks) else len(text)
        name = next(group for group in mark.groups() if group)
        found.append(_entry(text, by_name[name.casefold()], mark.end(), end, True, (mark.start(), end)))
    return found


def _outside(text: str, spans: list[Span]) -> str:
    """What stands in no section, special tokens and rulers aside."""
    pieces, position = [], 0
    for start, end in spans:
        pieces.append(text[position:start])
        position = max(position, end)
    pieces.append(text[position:])
    return "\n".join(kept for piece in pieces if (kept := _NOISE_BETWEEN.sub(" ", piece).strip()))


@dataclass(frozen=True, slots=True)
class Grounding:
    share: (
        float | None
    )  # of the proof's words that stand in the context, in runs of three; None for an empty proof
    unsupported: tuple[str, ...]  # pieces of the proof that do not


_RUN = 3
_PIECE = re.compile(r"\"[^\"\n]{3,2000}\"|[^.!?;\n]+")
_LEAD = re.compile(
    r"^\s*(?:[-*•]\s*)?(?:\[?(?:source|report|context|text|passage|document)\s?\w{0,3}\]?\s?:|the (?:context|text|passage|source|report)\w* (?:says|states|reports|reads)\s?:?)",
    re.IGNORECASE,
)


@lru_cache(maxsize=64)  # a context is asked about by many rows and predictors
def _runs(context: str) -> frozenset[tuple[str, ...]]:
    spoken = [word.text for word in words(context)]
    return frozenset(
        tuple(spoken[i : i + size]) for size in range(1, _RUN + 1) for i in range(len(spoken) - size + 1)
    )


def grounding(proof: str, context: str) -> Grounding:
    """How much of a proof is quoted from the context: words in runs of three that the context has too.

    Where the proof has quotation marks, only what stands in them must be quoted.
    """
    runs = _runs(context)
    folded = read(proof, 4_000, 2_000).text
    pieces = [piece.strip('"') for piece in re.findall(r"\"[^\"\n]{3,2000}\"", folded)] or [
        _LEAD.sub("", p) for p in _PIECE.findall(folded)
    ]
    covered = total = 0
    unsupported = []
    for piece in pieces:
        tokens = [word.text for word in words(piece)]
        if not tokens:
            continue
        size = min(_RUN, len(tokens))
        hit = [False] * len(tokens)
        for i in range(len(tokens) - size + 1):
            if tuple(tokens[i : i + size]) in runs:
                hit[i : i + size] = [True] * size
        covered += sum(hit)
        total += len(tokens)
        if sum(hit) < 0.6 * len(tokens):
            unsupported.append(piece.strip())
    return Grounding(covered / total if total else None, tuple(unsupported))


@lru_cache(maxsize=64)
def _backing(proof: str) -> frozenset[str]:
    return frozenset(form for word in {w.text for w in words(proof)} for form in base_forms(word))


def consistency(final: str, proof: str) -> float | None:
    """Share of the final answer's content words (inflection aside) and numbers that the proof has; None without any."""
    backed = _backing(proof)
    content = [word.text for word in words(read(final, 4_000, 2_000).text) if word.text not in _STOP_WORDS]
    if not content:
        return None
    return sum(bool(base_forms(word) & backed) for word in content) / len(content)
