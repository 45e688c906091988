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
5. ``eliminated``: all options but one are ruled out ("this is not safe" of safe / unsafe; "Is it safe? No.").
6. ``in_other_words``: yes and no as "Nope", "Of course not", "It does not."

Behind the last place where the writer takes something back ("Answer: A. No wait, C.") the text is read afresh:
``corrected``. What is compared with ("lower than high"), asked or supposed ("some would say blue") is not picked.

A negated mention ("I would not pick B", "B is wrong") is never picked. A letter counts only where it stands as a label:
"I see A dog" holds no A. Where option texts overlap the longest that fits is meant.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from vlm_pipeline.scoring import choice_signs as signs
from vlm_pipeline.scoring.folding import at_both_ends, read
from vlm_pipeline.scoring.results import NOTHING, Extraction
from vlm_pipeline.scoring.retractions import taken_back

_SHORT = 4  # words up to which a single letter is the answer: "Clearly B!"


class _Options:
    """Options with their letters, and one pattern over all their texts, longest first."""

    def __init__(self, elements: tuple[str, ...], texts: tuple[str | None, ...] | None) -> None:
        self.elements = elements
        letters: list[str] = []
        found_texts: list[str | None] = []
        for place, element in enumerate(elements):
            embedded = signs.EMBEDDED.fullmatch(element) if texts is None else None
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
    reading = read(text, 3_000, 5_000)
    found = _last_word(reading.text, options)
    if found.span is not None and reading.skipped:
        return Extraction(found.value, found.rule, reading.original(*found.span))
    return found


def _last_word(body: str, options: _Options) -> Extraction:
    """The pick behind the last place where the writer takes something back, else of the whole text."""
    for place in taken_back(body, bare_no="no" not in options.by_text):
        found = _Finder(body[place:], options).best()
        if found.value is not None and found.span is not None:
            return Extraction(found.value, "corrected", (found.span[0] + place, found.span[1] + place))
    found = _Finder(body, options).best()
    if found.value is None and {"yes", "no"} <= options.by_text.keys():
        return _yes_or_no(body, options) or found
    return found


def _yes_or_no(body: str, options: _Options) -> Extraction | None:
    """ "Nope", "Of course", "It does not.": yes and no in other words, where a response opens with them, or goes on behind its question."""
    for word, patterns in (
        ("no", (signs.DENIED, signs.DENIED_IN_FULL)),
        ("yes", (signs.AFFIRMED,)),
    ):
        found = next((m for pattern in patterns if (m := pattern.match(body, body.rfind("?") + 1))), None)
        if found:
            return Extraction(options.elements[options.by_text[word]], "in_other_words", found.span())
    return None


class _Finder:
    """Mentions of options in one response."""

    def __init__(self, body: str, options: _Options) -> None:
        self.body = body
        self.options = options
        self.ruled_out: set[int] = set()
        self.found: dict[str, list[tuple[int, int, int]]] = {"stated": [], "leading": [], "mentioned": []}
        self.negated_end = -99
        self.texts: set[int] | None = None  # options whose text stands anywhere, when asked for
        self.first = len(body) - len(body.lstrip())
        self.short = len(body.split()) <= _SHORT and not re.search(r"\?\s*\w", body)

    def best(self) -> Extraction:
        self._by_text()
        self.negated_end = -99
        self._by_letter()
        for rule in ("stated", "leading"):
            if self.found[rule]:
                place, start, end = max(self.found[rule], key=lambda item: (item[1], item[2]))
                if place == signs.SEVERAL:
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
        cut = max((m.end() for m in signs.SENTENCE.finditer(self.body, 0, mentions[-1][1])), default=0)
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
        negation = signs.NEGATED.search(clause)
        if negation:
            inside = negation[0]
            if (
                not signs.NEGATION_ENDS.search(inside)
                and not re.match(r"(?:no|not)\s?$", inside.strip(), re.IGNORECASE)
            ) or re.match(
                r"(?:not|never|neither|nor|n't)\W{0,3}(?:an?\s|the\s|option\s)?\W{0,3}$",
                inside,
                re.IGNORECASE,
            ):
                return True
        return signs.NEGATIVE_BEHIND.match(self.body, end) is not None

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
        cue = signs.STATED.search(clause)
        if cue and not signs.CONDITIONAL.search(clause[: cue.start()]):
            return True
        return signs.STATED_BEHIND.match(self.body, end) is not None

    def _supposed(self, clause: str, end: int) -> bool:
        """Compared with, or what somebody might think."""
        return (
            signs.COMPARED.search(clause) is not None
            or signs.SUPPOSED_BEHIND.match(self.body, end) is not None
            or (
                signs.SUPPOSED.search(clause) is not None
                and re.search(
                    r"\b(?:but|however|yet|i say|though)\b", self.body[end : end + 120], re.IGNORECASE
                )
                is not None
            )
        )

    def _asked(self, place: int, clause: str, start: int, end: int) -> bool:
        """A mention inside a question: the answer behind it picks it or rules it out; without one it says nothing."""
        stop = signs.SENTENCE.search(self.body, end)
        if stop is None or stop[0] != "?" or self.short:
            return False
        if signs.DENIED.match(self.body, stop.end()):
            self._rule_out(place, end)
        elif signs.AFFIRMED.match(self.body, stop.end()):
            self._add("stated", place, start, end)
        return True

    def _by_letter(self) -> None:
        listing = self._is_listing()
        letters = [m for m in signs.LETTER.finditer(self.body) if m[1].upper() in self.options.by_letter]
        alone = self._is_alone(letters)
        for match in at_both_ends(letters, 20, 30):
            place = self.options.by_letter[match[1].upper()]
            start, end = match.span()
            clause = self._clause(start)
            as_option = signs.AS_OPTION.search(clause) is not None or self.body[end : end + 1] == ")"
            upper = match[1].isupper()
            verb = signs.ARTICLE_NO_MORE.match(self.body, end) is not None
            article = match[1] in "aAI" and self.body[end : end + 1] == " " and not as_option and not verb
            label = signs.LABEL_END.match(self.body, end) is not None or (upper and not article)
            if not label and not self._followed_by_own_text(place, end):
                continue
            leading = (
                not re.sub(
                    r"</?\w{1,12}>|[\s*_`\"'(\[{<>|$:=~【#-]|\\boxed|\\text",
                    "",
                    self.body[max(0, start - 24) : start],
                )
                and start - self.first <= 24
            )
            stated = self._stated(clause, end) and (upper or as_option or not article)
            stated = stated or (
                upper
                and not listing
                and clause.strip(" \t\n*_(`\"'[{")[-1:] in ("", ":")
                and signs.ALONE.match(self.body, end) is not None
            )
            if not (as_option or stated or leading or (upper and not article)):
                continue
            if self._negated(clause, end) or self._continues_negated(start):
                self._rule_out(place, end)
            elif self._asked(place, clause, start, end) or self._supposed(clause, end):
                continue
            elif stated and self._conjoined(end):
                self._add("stated", signs.SEVERAL, start, end)
            elif stated:
                self._add("stated", place, start, end)
            elif leading and not listing and signs.LEADING_END.match(self.body, end):
                self._add("leading", signs.SEVERAL if self._conjoined(end) else place, start, end)
            elif alone and upper and not article and not listing:
                self._add("leading", place, start, end)
            elif listing:
                continue
            elif as_option or (upper and not article and signs.BEFORE_OPTION.search(clause)):
                self._add("mentioned", place, start, end)
                if signs.JOINED_BEFORE.search(clause):  # "A & B"
                    self._add("mentioned", signs.SEVERAL, start, end)

    def _is_alone(self, letters: list[re.Match[str]]) -> bool:
        if not self.short or len(letters) != 1:
            return False
        start, end = letters[0].span()
        return all(
            signs.BESIDE_ALONE.fullmatch(part)
            for part in (self.body[:start].strip(), self.body[end:].strip())
        )

    def _conjoined(self, end: int) -> bool:
        other = signs.CONJOINED.match(self.body, end)
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
        for match in at_both_ends(list(self.options.pattern.finditer(self.body)), 20, 30):
            place = self.options.of_text(match[0])
            start, end = match.span()
            own = re.search(
                r"(?<![A-Za-z])\(?([A-Za-z])[).:]{1,2}[*_\s]{1,4}$", self.body[max(0, start - 8) : start]
            )
            if own and self.options.by_letter.get(own[1].upper()) is not None:
                continue  # the letter in front of it speaks for it
            clause = self._clause(start)
            function_word = match[0].lower() in signs.FUNCTION_WORDS
            leading = start - self.first <= 24 and not re.sub(
                r"[\s*_`\"'(\[{<>|$:=~#.-]|\b(?:an?|the|it's|it is|this is)\b",
                "",
                self.body[:start],
                flags=re.IGNORECASE,
            )
            ends = re.match(r"\s*(?:$|[.,;:!?)\]*_\"'\n<}—-])", self.body[end : end + 4]) is not None
            if leading and ends and (function_word or not self._negated("", end)):
                if function_word or not self._asked(place, clause, start, end):
                    self._add("leading", place, start, end)
            elif function_word and not (
                ends
                and (
                    self._stated(clause, end)
                    or re.search(r"[:,—-]\s?[*_\"']{0,3}$", clause)
                    or self.body[:start].rstrip()[-1:] == "?"
                )
            ):
                continue
            elif not function_word and (self._negated(clause, end) or self._continues_negated(start)):
                self._rule_out(place, end)
            elif not function_word and (
                self._asked(place, clause, start, end) or self._supposed(clause, end)
            ):
                continue
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
