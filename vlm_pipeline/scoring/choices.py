"""Which option a response picks, by letter or by the option's text.

``choices`` is a list of letters (["A", "B"]), a list of option texts (lettered A, B, ... in order; a text may carry its
own letter, "(A) dog") or a dict of letter to text. The value is the element of the list, or the key of the dict.

Every mention of an option gets the strongest rule that its surroundings allow; the strongest wins, within a rule the
last (models correct themselves):

1. ``stated``: "the answer is B", "Answer: (B)", "I'd go with B", "B is correct", ``\\boxed{B}``, also with the text.
2. ``leading``: the response is, or opens with, "B", "(B)", "**B.** text", "Yes, ...".
3. ``concluded``: the only option mentioned in the last sentence that mentions any.
4. ``mentioned``: the only option mentioned as "(B)", "option B" or by its full text; several different ones are
   ``ambiguous`` and no choice.
5. ``eliminated``: all options but one are ruled out ("this is not safe" of safe / unsafe).

A negated mention ("I would not pick B", "B is wrong") is never picked. A letter counts only where it stands as a label:
"I see A dog" holds no A. Where option texts overlap the longest that fits is meant.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from vlm_pipeline.scoring.folding import at_both_ends, read
from vlm_pipeline.scoring.results import NOTHING, Extraction

_EMBEDDED = re.compile(r"\s*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])[.):])\s+(\S.*)", re.DOTALL)
_LETTER = re.compile(r"(?<![A-Za-z0-9'_\\/&+-])([A-Za-z])(?![A-Za-z0-9'_/&+])(?!-[A-Za-z])")

_OPEN = r"(?:[\s*_`\"'(\[{<>|$:=~【-]|\\boxed|\\text(?:bf)?|\\mathrm|\\mathbf|\\\(){0,14}"
_FILL = (
    r"(?:(?:is|are|was|be|as|would be|should be|must be|has to be|could be|seems to be|appears to be|option|options|choice|answer|letter|"
    r"the|a|an|number|most|likely|probably|definitely|clearly|indeed|therefore|thus|simply|just|correct|right|best|final|one|that|"
    r"with|for|on|to|it|it's|statement|label(?:l?ed)?|actually|really|still|now|closest)(?![A-Za-z])"
    + _OPEN
    + r"){0,9}"
)
_STATED = re.compile(
    r"(?:\b(?:answer|option|choice|selection|pick|verdict|solution|response|conclusion|prediction|label|category|classification|guess)s?"
    r"(?:\s(?:to|for|of|in|from|that|here|given|which)\b[^.!?\n:]{0,70}?)?"
    + _OPEN
    + r"(?:is|are|was|would be|should be|must be|will be|has to be|:|=|-|→|>|being)"
    r"|(?:^|\n)[ \t]*(?:#{1,6}\s|\*\*)?(?:final |correct )?answer(?:\*\*)?[ \t]*\n"
    r"|\b(?:right|correct|best) (?:one|letter) (?:is|would be)"
    r"|(?:\bnot|n't)\b[^.!?\n]{1,40}\bbut(?: rather| instead)?\b"
    r"|\b(?:i|we|i'd|i'll|i'm|we'd|let's|i would|i will|my|to)\s(?:\w+\s){0,2}?(?:choose|choosing|chose|pick(?:ing)?|select(?:ing)?|say|guess|think|believe|opt|"
    r"go(?:ing)?|vote|answer|conclude|lean(?:ing)?|prefer|call|classify|rate|label)\b(?:\s(?:it|this|that|them|the image|the scene|toward|towards|in favou?r of|is))?"
    r"|\b(?:choose|pick|select|chosen|selected|picked|selecting)\b"
    r"|\b(?:it|this|that|correct|right|so|best|therefore|thus|hence|wait|no|actually|conclusion|rather|instead|but)[,:]?\s(?:it |this |that )?(?:is|must be|has to be|should be|would be|it's|'s|says?)"
    r"|\b(?:it's|that's|must be|has to be)"
    r"|\\boxed|(?:^|\n)[ \t]*(?:\*\*|#{1,4}\s)?(?:a|ans)[:.]|答案[是为]?|####)" + _OPEN + _FILL + r"$",
    re.IGNORECASE,
)
_STATED_BEHIND = re.compile(
    r"[\s*_)\]\"'.:,]{0,6}(?:[^.!?\n]{0,60}?\b)?(?:is|seems|appears to be|would be|must be|looks|being|as) (?:therefore |thus |clearly |definitely |most |probably |indeed |both )?"
    r"(?:(?:the|my|our) )?(?:\w+ )?(?:correct|right|best|true|answer|most likely|(?:most )?(?:appropriate|accurate|plausible|suitable)|likely)(?: (?:one|answer|option|choice))?\b",
    re.IGNORECASE,
)
_NEGATIVE_BEHIND = re.compile(
    r"[\s*_)\]\"'.:,]{0,6}(?:[^.!?\n,;]{0,50}?\s)?(?:(?:is|are|was|be|seems?|would be|looks?)(?:n't| not| never| clearly| also| therefore| definitely| in){0,2}\s?(?:incorrect|wrong|false|unlikely|impossible|not|ruled out|eliminated|out\b|a distractor|implausible|excluded|invalid)"
    r"|(?:is|are|was|does|do|can|could|would)(?:n't| not|not)\b|can be (?:ruled out|eliminated|excluded|dismissed)|fails|contradicts)",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|no|nor|neither|cannot|without|rather than|instead of|except|unlike|rul(?:e|es|ed|ing) out|eliminat\w+|exclud\w+|reject\w*|discard\w*|dismiss\w*|isn't|aren't|wasn't|doesn't|don't|can't|wouldn't|hardly|far from|incorrect|wrong)\b|n't\b)"
    r"(?:[\s*_\"'(]+[\w'-]+){0,6}?[\s*_\"'(\[:]*$",
    re.IGNORECASE,
)
_NEGATION_ENDS = re.compile(
    r"\b(?:but|sure|certain|only|just|doubt|because|so|it's|it is|therefore|hence|thus)\b", re.IGNORECASE
)
_CONDITIONAL = re.compile(
    r"\b(?:if|whether|unless|when|suppose|assuming|had|were|could|might|may|first|initially|tempt\w*|options?|choices?) (?:\w+ ){0,4}$",
    re.IGNORECASE,
)
_LABEL_END = re.compile(
    r"\s*(?:$|[\n.,;:!?)\]}*\"'`|_$】<—-]|\\|(?:because|since|as|which|is|and|for|due|with|given|based|but|so|seems|would|was|that|here|–|appears|looks|describes|matches|fits|in|on)\b)"
)
_LEADING_END = re.compile(r"[)\].:*_}\"'`】]{1,6}(?:\s|$)|\s*$|\s*\n|\s-\s|,\s|\*\*")
_ALONE = re.compile(r"[)\].*_}\"'`]{0,6}[ \t]*(?:\n|$)")
_AS_OPTION = re.compile(
    r"(?:\b(?:option|choice|answer|statement|letter)s?[\s*_(\"'\[]{1,4}|[(\[]\s?|\*\*\(?)$", re.IGNORECASE
)
_CONJOINED = re.compile(
    r"[\s*_)\]\"'.]{0,5}(?:,|or|and|and/or|&|/)[\s*_(\[\"']{1,5}(?:or |and |both )?(?:option )?[(\[*]{0,3}([A-Z])(?![A-Za-z'])[)\]*]{0,3}(?!\s(?:is|was)\b)"
)
_SENTENCE = re.compile(r"[.!?](?=\s|$)|\n")
_SEVERAL = -1  # "the answer is A or C"
_FUNCTION_WORDS = frozenset(
    [
        "yes",
        "no",
        "not",
        "a",
        "an",
        "i",
        "the",
        "none",
        "all",
        "true",
        "false",
        "it",
        "up",
        "down",
        "on",
        "off",
        "in",
        "out",
    ]
)


class _Options:
    """Options with their letters, and one pattern over all their texts, longest first."""

    def __init__(self, elements: tuple[str, ...], texts: tuple[str | None, ...] | None) -> None:
        self.elements = elements
        letters: list[str] = []
        found_texts: list[str | None] = []
        for place, element in enumerate(elements):
            embedded = _EMBEDDED.fullmatch(element) if texts is None else None
            if texts is not None:
                letters.append(element.strip(" ().:[]"))
                found_texts.append(texts[place])
            elif embedded:
                letters.append(next(group for group in embedded.groups()[:3] if group))
                found_texts.append(embedded[4])
            elif re.fullmatch(r"\s*\(?[A-Za-z]\)?[.:]?\s*", element):
                letters.append(element.strip(" ().:[]"))
                found_texts.append(None)
            else:
                letters.append(chr(ord("A") + place) if place < 26 else "")
                found_texts.append(element)
        self.by_letter = {letter.upper(): place for place, letter in enumerate(letters) if len(letter) == 1}
        cleaned = [(_clean(text), place) for place, text in enumerate(found_texts) if text and _clean(text)]
        cleaned += [(letter.lower(), place) for place, letter in enumerate(letters) if len(letter) > 1]
        self.by_text = dict(reversed(cleaned))
        patterns = [
            r"\s+".join(map(re.escape, text.split())) for text in sorted(self.by_text, key=len, reverse=True)
        ]
        self.pattern = (
            re.compile(rf"(?<![\w.$-])(?<!\d,)(?:{'|'.join(patterns)})(?![\w%]|[.,]\d|-\w)", re.IGNORECASE)
            if patterns
            else None
        )

    def of_text(self, written: str) -> int:
        return self.by_text[" ".join(written.lower().split())]


def _clean(text: str) -> str:
    text = " ".join(text.strip().strip(".,;:\"'*`").lower().split())
    return re.sub(r"^(?:an?|the) (?=\w{3})", "", text)


@lru_cache(maxsize=512)
def _options(elements: tuple[str, ...], texts: tuple[str | None, ...] | None) -> _Options:
    return _Options(elements, texts)


def extract_choice(text: str, choices: Sequence[str] | Mapping[str, str]) -> Extraction:
    """The option that a response picks, or value None. Raises ValueError without options. Rules: see the module."""
    if not choices:
        raise ValueError("extract_choice needs at least one choice")
    if isinstance(choices, Mapping):
        options = _options(tuple(map(str, choices)), tuple(map(str, choices.values())))
    else:
        options = _options(tuple(map(str, choices)), None)
    reading = read(text, 5_000, 7_000)
    found = _Finder(reading.text, options).best()
    if found.span is not None and reading.skipped:
        return Extraction(found.value, found.rule, reading.original(*found.span))
    return found


class _Finder:
    """Mentions of options in one response."""

    def __init__(self, body: str, options: _Options) -> None:
        self.body = body
        self.options = options
        self.ruled_out: set[int] = set()
        self.found: dict[str, list[tuple[int, int, int]]] = {"stated": [], "leading": [], "mentioned": []}
        self.negated_end = -99
        self.texts: set[int] | None = None  # options whose text stands anywhere, when asked for

    def best(self) -> Extraction:
        self._by_text()
        self.negated_end = -99
        self._by_letter()
        for rule in ("stated", "leading"):
            if self.found[rule]:
                place, start, end = max(self.found[rule], key=lambda item: (item[1], item[2]))
                if place == _SEVERAL:
                    return Extraction(None, "ambiguous")
                return Extraction(self.options.elements[place], rule, (start, end))
        mentions = sorted(self.found["mentioned"], key=lambda item: item[1])
        kept = [m for m in mentions if m[0] not in self.ruled_out]
        if len({m[0] for m in kept}) == 1:
            place, start, end = kept[-1]
            return Extraction(self.options.elements[place], "mentioned", (start, end))
        if kept and (concluded := self._concluded(kept)):
            return concluded
        left = set(range(len(self.options.elements))) - self.ruled_out
        if not kept and len(left) == 1 and self.ruled_out:
            return Extraction(self.options.elements[left.pop()], "eliminated")
        return Extraction(None, "ambiguous") if kept else NOTHING

    def _concluded(self, mentions: list[tuple[int, int, int]]) -> Extraction | None:
        """Several options are discussed and the concluding sentence names one."""
        cut = max((m.end() for m in _SENTENCE.finditer(self.body, 0, mentions[-1][1])), default=0)
        last = [m for m in mentions if m[1] >= cut]
        if len({m[0] for m in last}) != 1 or not re.match(
            r"\W*(?:so|therefore|thus|hence|overall|in conclusion|in summary|finally|final|to conclude|but)\b",
            self.body[cut:],
            re.IGNORECASE,
        ):
            return None
        place, start, end = last[-1]
        return Extraction(self.options.elements[place], "concluded", (start, end))

    def _add(self, rule: str, place: int, start: int, end: int) -> None:
        self.found[rule].append((place, start, end))

    def _clause(self, start: int) -> str:
        """What stands before a mention in its sentence, 120 characters at most."""
        window = self.body[max(0, start - 120) : start]
        cuts = [
            m.end()
            for m in re.finditer(
                r"[.!?](?=\s)|;|(?<![:*]|r)\n\s*\n|\n(?=[ \t]*(?:[-*•]|\(?[A-Z0-9][).:]))", window
            )
        ]
        return window[cuts[-1] :] if cuts else window

    def _negated(self, clause: str, end: int) -> bool:
        negation = _NEGATED.search(clause)
        if negation:
            inside = negation[0]
            if (
                not _NEGATION_ENDS.search(inside)
                and not re.match(r"(?:no|not)\s?$", inside.strip(), re.IGNORECASE)
            ) or re.match(
                r"(?:not|never|neither|nor|n't)\W{0,3}(?:an?\s|the\s|option\s)?\W{0,3}$",
                inside,
                re.IGNORECASE,
            ):
                return True
        return _NEGATIVE_BEHIND.match(self.body, end) is not None

    def _rule_out(self, place: int, end: int) -> None:
        self.ruled_out.add(place)
        self.negated_end = end

    def _continues_negated(self, start: int) -> bool:
        """ "not A, B or C": what a negated option is joined with is negated too."""
        between = self.body[self.negated_end : start] if 0 <= start - self.negated_end <= 20 else "."
        return (
            re.fullmatch(
                r"[\s*_)\]\"']*(?:,|,?\s(?:or|nor|and)\b)[\s*_(\"'\[]*(?:option )?(?:an? |the )?[(\[]?",
                between,
            )
            is not None
        )

    def _stated(self, clause: str, end: int) -> bool:
        cue = _STATED.search(clause)
        if cue and not _CONDITIONAL.search(clause[: cue.start()]):
            return True
        return _STATED_BEHIND.match(self.body, end) is not None

    def _by_letter(self) -> None:
        listing = self._is_listing()
        letters = [m for m in _LETTER.finditer(self.body) if m[1].upper() in self.options.by_letter]
        for match in at_both_ends(letters, 40, 80):
            place = self.options.by_letter[match[1].upper()]
            start, end = match.span()
            label = _LABEL_END.match(self.body, end) is not None
            if not label and not self._followed_by_own_text(place, end):
                continue
            clause = self._clause(start)
            as_option = _AS_OPTION.search(clause) is not None or self.body[end : end + 1] == ")"
            upper = match[1].isupper()
            article = match[1] in "aAI" and self.body[end : end + 1] == " " and not as_option
            leading = (
                not re.sub(
                    r"[\s*_`\"'(\[{<>|$:=~【#-]|\\boxed|\\text", "", self.body[max(0, start - 24) : start]
                )
                and start <= 24
            )
            stated = self._stated(clause, end) and (upper or as_option or not article)
            stated = stated or (
                upper
                and not listing
                and not clause.strip(" \t\n*_(`\"'[{")
                and _ALONE.match(self.body, end) is not None
            )
            if not (as_option or stated or leading or (upper and not article)):
                continue
            if self._negated(clause, end) or self._continues_negated(start):
                self._rule_out(place, end)
            elif stated and self._conjoined(end):
                self._add("stated", _SEVERAL, start, end)
            elif stated:
                self._add("stated", place, start, end)
            elif leading and not listing and _LEADING_END.match(self.body, end):
                self._add("leading", place, start, end)
            elif as_option and not listing:
                self._add("mentioned", place, start, end)

    def _conjoined(self, end: int) -> bool:
        other = _CONJOINED.match(self.body, end)
        return other is not None and other[1] in self.options.by_letter

    def _followed_by_own_text(self, place: int, end: int) -> bool:
        match = self.options.pattern.match(self.body, end + 1) if self.options.pattern else None
        return match is not None and self.options.of_text(match[0]) == place

    def _is_listing(self) -> bool:
        """The options are repeated as a list from the first letter on; that picks none of them."""
        heads = [
            m[1].upper()
            for m in re.finditer(r"(?:^|\n)[ \t]*(?:[-*•][ \t]+)?(?:\*\*)?\(?([A-Za-z])[).:]", self.body)
        ]
        labels = list(self.options.by_letter)
        return len(labels) > 1 and any(heads[i : i + 2] == labels[:2] for i in range(len(heads)))

    def _by_text(self) -> None:
        if self.options.pattern is None:
            return
        for match in at_both_ends(list(self.options.pattern.finditer(self.body)), 40, 80):
            place = self.options.of_text(match[0])
            start, end = match.span()
            own = re.search(
                r"(?<![A-Za-z])\(?([A-Za-z])[).:]{1,2}[*_\s]{1,4}$", self.body[max(0, start - 8) : start]
            )
            if own and self.options.by_letter.get(own[1].upper()) is not None:
                continue  # the letter in front of it speaks for it
            clause = self._clause(start)
            function_word = match[0].lower() in _FUNCTION_WORDS
            leading = start <= 24 and not re.sub(
                r"[\s*_`\"'(\[{<>|$:=~#.-]|\b(?:an?|the|it's|it is|this is)\b",
                "",
                self.body[:start],
                flags=re.IGNORECASE,
            )
            ends = re.match(r"\s*(?:$|[.,;:!?)\]*_\"'\n<}—-])", self.body[end : end + 4]) is not None
            if leading and ends and (function_word or not self._negated("", end)):
                self._add("leading", place, start, end)
            elif function_word and not (
                ends and (self._stated(clause, end) or re.search(r"[:—-]\s?[*_\"']{0,3}$", clause))
            ):
                continue
            elif not function_word and (self._negated(clause, end) or self._continues_negated(start)):
                self._rule_out(place, end)
            elif self._stated(clause, end):
                self._add("stated", place, start, end)
            else:
                self._add(
                    "leading"
                    if leading and len(self.options.by_text) > 1 and not self._others(place)
                    else "mentioned",
                    place,
                    start,
                    end,
                )

    def _others(self, place: int) -> bool:
        if self.texts is None:
            found = self.options.pattern.finditer(self.body) if self.options.pattern else ()
            self.texts = {self.options.of_text(match[0]) for match in found}
        return bool(self.texts - {place})
