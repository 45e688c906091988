"""A rating on a closed scale, read from what a model wrote around it.

Every number gets the strongest rule that its surroundings allow; the strongest rule wins, within a rule the last one:

1. ``corrected``: "actually 5", "on reflection I would lower it to 5", "wait, 6" behind an earlier number.
2. ``labelled_overall``: "Overall score: 6", "Safety Score: **6**", "final rating of 6", ``{"safety_score": 6}``.
3. ``labelled``: "Score: 6", "rating of 6", "| Score | 6 |", a table column headed "Score".
4. ``out_of``: "6/10", "8 out of 10" (the second number is the top of the scale).
5. ``stated``: "I would say 7", "I'd give it a 6", "rate this street 7", "the answer is 7".
6. ``bare``: the response is nothing but the number.
7. ``only_number``: the only number of the text, at the end of a phrase and nothing's count, unit, address or year.
8. ``inferred``: words, counted apart (``Extraction.inferred``). On a ten-point scale: high / medium / low risk 3 / 5 / 7,
   safe 7, unsafe 3, reasonably safe 6; other scales in proportion; "not safe" is unsafe.

Numbers may be words ("seven") and intervals ("between 4 and 5" is 4.5). The scale itself ("from 1 to 10", "[1-10]") is
never an answer, a negated number ("I would not give it a 9") neither. A number outside the scale is no score: when
nothing else is there the value is None with rule ``out_of_range`` (or ``other_scale`` for 4/5 on a ten-point scale).
"""

import re
from dataclasses import dataclass

from vlm_pipeline.scoring.folding import at_both_ends, read
from vlm_pipeline.scoring.inferred_ratings import infer_score
from vlm_pipeline.scoring.numbers import Number, find_numbers
from vlm_pipeline.scoring.results import NOTHING, Extraction
from vlm_pipeline.scoring.word_numbers import find_word_numbers

_STRENGTH = ("corrected", "labelled_overall", "labelled", "out_of", "stated", "bare", "only_number")

_NOUN = (
    r"(?:score|rating|grade|mark|ranking|rank|points|value|level|evaluation|assessment|estimate|verdict)s?"
)
_OPEN = r"(?:[\s*_`\"'|:=(\[{$~≈>-]|\\boxed|\\text){0,12}"
_SCALE_WORDS = (
    r"(?:\(?(?:on|in|using) (?:a|the) (?:scale|range)[^.\n]{0,30}?\)?|\(?(?:out of|from|between|of) \d{1,3}(?:(?: to | and |-)\d{1,3})?\)?"
    r"|[\[(]\d{1,3}(?: to |-|/)\d{1,3}[\])])"
)
_SUBJECT = r"(?:(?:for|of|to|in) (?:this|the|that|my|our|its|it)\b[^.:=\n\d]{0,50}?)"
_LINK = (
    r"(?:is|of|as|at|was|are|would be|will be|should be|could be|might be|may be|to be|be|comes to|stands at|equals|around|about|"
    r"approximately|roughly|near|close to|likely|probably|maybe|perhaps|exactly|just|only|solid|strong|an?|the|set|rated|given|"
    r"i would say|i'd say|therefore|thus|hence|overall|somewhere|currently|still|now|here|this|place|image|scene|street|area|location)"
)
_BEHIND_LABEL = rf"(?:{_OPEN}(?:{_SCALE_WORDS}|{_SUBJECT}|{_LINK}(?![A-Za-z]))){{0,6}}{_OPEN}$"
_LABEL_NOUN = re.compile(rf"(?:\b|(?<=[a-z_])){_NOUN}\b", re.IGNORECASE)
_BEHIND = re.compile(_BEHIND_LABEL, re.IGNORECASE)
_OVERALL = re.compile(
    r"^(?:overall|final|total|safety|security|average|combined|aggregate|my|risk)[\s_*]{0,3}$", re.IGNORECASE
)
_EARLIER = re.compile(
    r"\b(?:initial|first|preliminary|previous|earlier|original|old|maximum|max|minimum|min|highest|lowest|possible)[\s_*]{0,3}$",
    re.IGNORECASE,
)
_ASPECT_ONLY = re.compile(
    r"(?:^|\n|[,;]\s)[ \t]*(?:[-*•|]\s*)?(?:\*\*)?(?:safety|overall|final|overall safety|total|conclusion|final answer|answer)(?:\*\*)?\s?(?:is\s|[:=|-])"
    + _OPEN
    + "$",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"\b(?:(?:i'd|i would|i will|i'll|would|let's|i|we) (?:\w+ly )?(?:say|guess|estimate|go with|go for|choose|pick|rate|give|assign|score|put|call|lean toward|think|believe|settle on|suggest)"
    r"|rate[sd]?|rating|give[ns]?|gave|assign(?:s|ed|ing)?|scor(?:es|ed|ing)|deserves?|gets?|receives?|earns?|award(?:s|ed)?|estimated?|"
    r"(?:my|the|final|correct|best) (?:\w+ )?(?:answer|guess|estimate|judg(?:e)?ment|opinion|impression|verdict|response|number)(?: (?:is|would be|:))?|answer:?|"
    r"(?:so|hence|therefore|thus),?(?: a| an)?|it's|that's|(?:it|this|that|place|street|area|scene|location|neighbou?rhood) (?:is|looks like|feels like|seems like|seems|looks|feels|would be|might be))"
    r"\b[^.!?\n\d]{0,60}$",
    re.IGNORECASE,
)
_RATED_AT = re.compile(
    r"\b(?:rat|scor|put|set|estimat|evaluat|assess|mark|judg|see)\w*\b[^.!?\n\d]{0,60}\bat\s(?:an? )?$",
    re.IGNORECASE,
)
_FITS = re.compile(
    r"\s(?:would be|is|seems|feels|sounds|looks)(?: \w+ly| about| quite| more)? (?:fair|right|reasonable|appropriate|justified|okay|ok|fitting|adequate|my|where)\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\b(?:actually|wait|correction|on reflection|on second thou?ght|reconsider\w*|scratch that|i mean|rather|instead|make (?:it|that)|no(?=,)|"
    r"(?:lower|raise|reduce|increase|adjust|revise|change|correct|drop|bump|update)\w* (?:it|this|that|my \w+|the \w+|to)|settle on|but (?:considering|given|since)|final answer)\b"
    r"[^.!?\n\d]{0,70}$",
    re.IGNORECASE,
)
# What may stand behind a score that no label announces: the end of a phrase, never a noun or a unit.
_PHRASE_END = re.compile(
    r"\s{0,2}(?:$|[.,;:!?)\]}*_\"'|\n—-]|/\s?\d|(?:out )?of (?:10|ten|5|five|100)\b|(?:because|since|as|for|on|due|given|based|points?|stars?|and|but|"
    r"in terms|overall|when|with|considering|to|or|at best|at most|here|though|although|which|if|rating|score|from|is my)\b)",
    re.IGNORECASE,
)
_NO_COUNT = re.compile(r"\s?(?:\.\d|,\d|:\d|[x×]\s?\d|%|°|[a-zA-Z]{1,4}/[a-z])")
_NOT_A_SCORE_BEFORE = re.compile(
    r"\b(?<!this )(?<!that )(?:street|st|road|rd|avenue|ave|highway|hwy|route|lane|building|house|unit|apartment|apt|room|floor|gate|exit|interstate|i|us|bus|"
    r"year|years|age|aged|in|since|until|by|circa|zone|district|block|sector|at|after|before|around \$|"
    r"image|photo|figure|picture|step|example|section|criterion|question|about \$)\.?\s(?:no\.?\s?|number\s|#)?$",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|cannot|can't|wouldn't|won't|don't|isn't|nor|neither|rather than|instead of|than|hardly|no higher|not more|not less)\b|n't\b)[^.!?;,\n\d]{0,40}$",
    re.IGNORECASE,
)
_NEGATION_ENDED = re.compile(r"\b(?:but|rather|instead|it's|it is|so)\b", re.IGNORECASE)
_INSTEAD = re.compile(
    r"(?:\bnot|n't|\bnever)\b[^.!?\n]{0,60}\b(?:but|rather|instead)\b[^.!?\n\d]{0,20}$", re.IGNORECASE
)
_BETWEEN = re.compile(r"\s?(?:-|—|to|or|and|/|~)\s?$", re.IGNORECASE)
_SCALE_BEFORE = re.compile(
    r"\b(?:scale|range|ranging|ranges?)\b[^.\n\d]{0,40}$|\brat(?:e|ing|ed)?\b[^.\n\d]{0,20}\bfrom $",
    re.IGNORECASE,
)
_TOP_BEFORE = re.compile(
    r"\b(?:out\s?-?of|scale of|a maximum of|max)\s(?:a (?:total|maximum|possible) (?:of )?|a |possible )?$",
    re.IGNORECASE,
)
_BARE = re.compile(r"\\boxed|\\text|</?\w{1,12}>|[\W_]")  # marks, tags and pictograms beside a number


@dataclass(frozen=True, slots=True)
class _Candidate:
    value: float
    start: int
    end: int
    top: float | None = None  # the scale's end that was written behind it


def extract_score(text: str, low: float, high: float) -> Extraction:
    """The score in [low, high] that a response gives, or value None. Rules: see the module."""
    reading = read(text, 4_000, 4_000)
    body = reading.text
    found = _numeric(body, low, high)
    if found.value is None:
        inferred = infer_score(body, low, high)
        found = inferred if inferred.found else found
    if found.span is not None and reading.skipped:
        return Extraction(found.value, found.rule, reading.original(*found.span), found.inferred)
    return found


def _numeric(body: str, low: float, high: float) -> Extraction:
    candidates = at_both_ends(_candidates(body, low, high), 15, 30)
    best: tuple[int, int] | None = None
    result, refused = NOTHING, ""
    usable = [c for c in candidates if low <= c.value <= high and c.top in (None, high)]
    meant = [c for c in candidates if not _is_negated(_sentence(body, c))]
    for place, candidate in enumerate(candidates):
        rule = _rule(body, candidate, had_number=place > 0, alone=len(meant) == 1)
        if rule is None:
            continue
        if candidate.top not in (None, high):
            refused = refused or "other_scale"
            continue
        if not low <= candidate.value <= high:
            refused = refused or "out_of_range"
            continue
        rank = (-_STRENGTH.index(rule), candidate.start)
        if best is None or rank > best:
            best, result = rank, Extraction(candidate.value, rule, (candidate.start, candidate.end))
    if result.value is None and (table := _table(body, usable)):
        return table
    if result.value is None and refused:
        return Extraction(None, refused)
    return result


def _candidates(body: str, low: float, high: float) -> list[_Candidate]:
    """Numbers and number words, fractions and intervals taken apart, the scale itself left out."""
    digits = [n for n in find_numbers(body) if n.role in ("number", "list", "label")]
    numbers = sorted([*digits, *find_word_numbers(body)], key=lambda n: n.start)
    found: list[_Candidate] = []
    skip = -1
    for place, number in enumerate(numbers):
        if place <= skip or number.role in ("list", "label") or number.percent or number.currency:
            continue
        candidate = _single(body, number)
        if candidate is None or _TOP_BEFORE.search(body, max(0, candidate.start - 40), candidate.start):
            continue
        following = numbers[place + 1] if place + 1 < len(numbers) else None
        if following is not None and (joined := _interval(body, candidate, number, following, low, high)):
            skip = place + 1
            if joined is not _SCALE:
                found.append(joined)
            continue
        top = candidate.top
        if (
            top is None
            and following is not None
            and re.fullmatch(
                r"[\s*_\"'(]{0,4}(?:out\s?-?of|of|over|from)[\s*_]{1,3}(?:a (?:possible |total )?)?",
                body[number.end : following.start],
                re.IGNORECASE,
            )
        ):
            top = following.value
            skip = place + 1
        found.append(_Candidate(candidate.value, candidate.start, candidate.end, top))
    return found


_SCALE = _Candidate(0.0, 0, 0)


def _single(body: str, number: Number) -> _Candidate | None:
    written = body[number.core[0] : number.core[1]]
    if number.fraction and (ratio := re.fullmatch(r"(\d+(?:\.\d+)?)\s?/\s?(\d+)", written)):
        return _Candidate(float(ratio[1]), number.start, number.end, float(ratio[2]))
    before = body[max(0, number.start - 1) : number.start]
    if before.isalnum() or re.match(r"[A-Za-z_]|\.\d", body[number.end : number.end + 2]):  # 4K, 10th, 30mph
        return None
    return _Candidate(number.value, number.start, number.end)


def _interval(
    body: str, first: _Candidate, number: Number, second: Number, low: float, high: float
) -> _Candidate | None:
    """ "between 4 and 5", "4-5", "4 to 5/10" as one candidate; the scale's own bounds as _SCALE."""
    if number.end > second.start or not _BETWEEN.fullmatch(body, number.end, second.start):
        return None
    connector = body[number.end : second.start].strip().lower()
    other = _single(body, second)
    if other is None or first.top not in (None, other.top):
        return None
    before = body[max(0, number.start - 60) : number.start]
    if {first.value, other.value} == {low, high} or {first.value, other.value} in (
        {0, 10},
        {1, 10},
        {1, 5},
        {0, 100},
        {1, 100},
        {0, 5},
    ):
        return _SCALE
    if _SCALE_BEFORE.search(before):
        return _SCALE
    if connector in ("and", "/") and not re.search(r"\bbetween\W{1,4}$", before, re.IGNORECASE):
        return None
    if not first.value < other.value or not low <= first.value <= high:
        return None
    return _Candidate((first.value + other.value) / 2, first.start, other.end, other.top)


def _rule(body: str, candidate: _Candidate, *, had_number: bool, alone: bool) -> str | None:
    """The strongest rule that the surroundings of a candidate allow."""
    line_from = max(0, candidate.start - 160)
    before = body[line_from : candidate.start]
    sentence = _sentence(body, candidate)
    if _is_negated(sentence):
        return None
    ends_phrase = candidate.top is not None or (
        _PHRASE_END.match(body, candidate.end) is not None and not _NO_COUNT.match(body, candidate.end)
    )
    if had_number and ends_phrase and _CORRECTION.search(sentence):
        return "corrected"
    nouns = [noun for noun in _LABEL_NOUN.finditer(before) if _BEHIND.match(before, noun.end())]
    if nouns and not _NO_COUNT.match(body, candidate.end):
        before_label = before[: nouns[0].start()]
        if _EARLIER.search(before_label):
            return "only_number" if alone else "stated"
        words = re.split(r"[\s_*-]+", before_label.strip(" *_-"))[-3:]
        overall = any(_OVERALL.match(word) for word in words)
        return "labelled_overall" if overall else "labelled"
    if ends_phrase and _ASPECT_ONLY.search(before):
        return "labelled_overall"
    if candidate.top is not None:
        return "out_of"
    if len(body) <= 200 and not _BARE.sub("", body[: candidate.start] + body[candidate.end :]):
        return "bare"
    if _FITS.match(body, candidate.end):
        return "stated"
    told = not _NOT_A_SCORE_BEFORE.search(before) or _RATED_AT.search(sentence)
    if ends_phrase and told and _STATED.search(sentence):
        return "stated"
    if ends_phrase and (_INSTEAD.search(sentence) or (not _BARE.sub("", before) and line_from == 0)):
        return "stated"
    if (
        alone
        and ends_phrase
        and not _NOT_A_SCORE_BEFORE.search(before)
        and re.search(r"(?:\s|^|[(*:\"'=])$", before)
    ):
        return "only_number"
    return None


def _sentence(body: str, candidate: _Candidate) -> str:
    """What stands before a candidate in its sentence."""
    before = body[max(0, candidate.start - 160) : candidate.start]
    return re.split(r"(?<=[.!?;])\s|\n\s*\n", before)[-1]


def _is_negated(sentence: str) -> bool:
    negated = _NEGATED.search(sentence)
    return (
        negated is not None
        and not _NEGATION_ENDED.search(negated[0])
        and not re.search(r"\bnot sure\b|\bnot only\b", negated[0], re.IGNORECASE)
    )


def _table(body: str, usable: list[_Candidate]) -> Extraction | None:
    """A number in the column whose head says score or rating; a row "overall" wins, else the last row."""
    column, chosen = None, None
    for line in re.finditer(r"[^\n]+", body) if "|" in body and usable else ():
        if "|" not in line[0]:
            continue
        cells = [
            (m.start() + line.start(), m.end() + line.start(), m[0]) for m in re.finditer(r"[^|]+", line[0])
        ]
        heads = [i for i, cell in enumerate(cells) if re.search(rf"\b{_NOUN}\b", cell[2], re.IGNORECASE)]
        if column is None:
            column = heads[-1] if heads else None
            continue
        if column < len(cells):
            start, end, _ = cells[column]
            inside = [c for c in usable if start <= c.start < end]
            if inside:
                overall = re.search(r"\b(?:overall|total|final|safety)\b", line[0], re.IGNORECASE) is not None
                if chosen is None or overall >= chosen[1]:
                    chosen = (inside[-1], overall)
    if chosen is None:
        return None
    return Extraction(chosen[0].value, "labelled", (chosen[0].start, chosen[0].end))


def numbers_in_range(text: str, low: float, high: float) -> list[float]:
    """Every number of a response that lies on the scale, whatever it is said of: the lenient reading of a rater who
    keeps no format. "7/10" is 7."""
    body = read(text, 4_000, 4_000).text
    found = []
    for number in [*find_numbers(body), *find_word_numbers(body)]:
        written = re.match(r"-?\d+(?:\.\d+)?(?=\s?/)", body[number.core[0] : number.core[1]])
        value = float(written[0]) if written else number.value
        if low <= value <= high:  # never of a date or a version, whose value is no number
            found.append(value)
    return found


def strict_score(text: str, pattern: re.Pattern[str], low: float, high: float) -> Extraction:
    """The score in exactly the format that the task asked for; the last one where the line is repeated."""
    found = NOTHING
    for match in pattern.finditer(text):
        value = float(match["score"])
        if low <= value <= high:
            found = Extraction(value, "strict", match.span("score"))
    return found


def strict_pattern(strict_format: str, label: str) -> re.Pattern[str]:
    """The format with its {label}, {score} and {text} as a regular expression over one line."""
    pattern = re.escape(strict_format.replace("{label}", label)).replace(
        re.escape("{score}"), r"(?P<score>-?\d{1,6}(?:\.\d{1,6})?)(?![\d/.,]*\d)"
    )
    pattern = pattern.replace(re.escape("{text}"), r"[^\n]+")
    return re.compile(rf"(?:^|\n)[ \t]*{pattern}[ \t]*(?=\n|$)")
