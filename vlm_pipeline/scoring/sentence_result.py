"""Which number is the result where no "the answer is" says so: emphasis, the last sentence, and in it the result.

Within a sentence, the first of these that finds one:

1. a name for it ("or 20 = A"), the last "=", or what restates that ("= 0.5 hours, which is 30 minutes");
2. a total: the number beside "in all", "altogether", "total";
3. behind a word of result: "which is 50", "amounts to 4.2", "grew by 12", "so 24", "leaving 7";
4. the number that all the others of the sentence add up to ("7 cars: 3 red, 2 blue and 2 white ones");
5. the last number that is no side remark ("in 3 days", "per week", "out of 20", "for 2 people"), behind a verb if any is.

Conditions, reasons and parentheses are left out as long as something else is there. Sentences that offer help, ask,
remark or check ("Check: 10 - 3 = 7") are skipped.
"""

import re
from itertools import pairwise

from vlm_pipeline.scoring.numbers import Number, find_numbers
from vlm_pipeline.scoring.results import NOTHING, Extraction
from vlm_pipeline.scoring.word_numbers import find_word_numbers

_SENTENCE_END = re.compile(r"\n|[.!?;](?=[\s*\"')\]]|$)")
_NOISE = re.compile(
    r"\b(?:let me know|hope (?:this|that)|feel free|if you(?: have|'d|'re| need| want| would)|please|note that|"
    r"notes?:|disclaimer|verif|double.?check|would you like|happy to|for reference|remember|keep in mind|"
    r"next time|this assumes|assuming)",
    re.IGNORECASE,
)
_CHECK = re.compile(
    r"\W*(?:(?:to|let us|let's|we|a|quick|sanity)\s){0,3}(?:check(?:ing|ed)?|verify(?:ing)?|verification|double.?check\w*|proof|prove|test|indeed)\b",
    re.IGNORECASE,
)
# From such a word to the next comma (or the end) a sentence states a condition or a reason, not its result.
_SIDE_CLAUSE = re.compile(
    r"\b(?:when|where|if|given|since|because|assuming|as long as|indeed)\b[^\n]*?(?:,(?!\d)|\bso\b|\bthen\b|$)",
    re.IGNORECASE,
)
_RESTATED = re.compile(
    r"\b(?:meaning|which|that|and this|this) (?:the|he|she|they|it|is|equals|makes|gives|means|rounds|comes)\b|\bround(?:s|ed|ing)?(?: it)?(?: up| down| off)? to\b|\bor\b"
    r"|\b(?:so|therefore|thus|hence|making|leaving|giving|for a total|in total|altogether)\b",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\s?=\s?[A-Za-z]\b\s*[.$)]*\s*$")
_RESULT_SIGN = re.compile(r"(?:=|≈|≃|\\approx|\\implies|→|⇒)$")
_BOLD = re.compile(r"\*\*\s?([^*\n]{1,40}?)\s?\*\*")
_BOLD_NUMBER = re.compile(r"[\s$€£¥=≈~\\(-]{0,6}(?:[A-Za-z]\s?=\s?)?[\d.½¼¾⅓⅔]")
_TOTAL_BEFORE = re.compile(
    r"(?:\b(?:altogether|in all|in total|all told|overall),?\s[^\d.,;:=]{0,25}|\btotal(?: of|:| is| comes to|,)?\s?[$€£]?)$",
    re.IGNORECASE,
)
_TOTAL_BEHIND = re.compile(
    r"[^\d.;:=,]{0,25}?\b(?:altogether|in all|in total|all told|all in all|overall|combined|total)\b(?! of\b)",
    re.IGNORECASE,
)
_LITTLE = r"(?:\s|[$€£*_~≈(]|\b(?:a|an|only|about|exactly|approximately|roughly|around|just|almost|nearly|some|the|total|of|another|up)\b){0,6}"
_RESULT_WORD = re.compile(
    r"(?:\b(?:which|that|this|it|they|these|together|remains|remain)(?:'s| is| are| was| were| would be| makes?| gives?| gave| equals?| means?| leaves?| totals?| yields?)"
    r"|\b(?:amount|come|came|add(?:s|ed)? up|sum(?:s|med)?(?: up)?|work(?:s|ed)? out|total|round)s?(?:ed|ing)? (?:to|at|up to)"
    r"|\b(?:yield|giv|leav|mak|produc|return)(?:es|e|s|ing|ed)?(?: (?:you|us|her|him|them|me|one))?(?: with| in)?"
    r"|\b(?:grew|grown|rose|risen|fell|fallen|sank|dropped|increased|decreased|declined|shrank|went up|went down|changed|improved|differs?|reduced|narrow(?:s|ed)) (?:by|to)"
    r"|\b(?:you|we|i|he|she|they) (?:get|gets|got|obtain|end up with)"
    r"|,\s(?:a|an) (?:rise|fall|drop|increase|decrease|gain|loss|difference|change|reduction|total) of"
    r"|\b(?:so|therefore|thus|hence),? (?:the|this|that|his|her|its|their|our|my|your|each|all|both)\b[^\d.;,]{0,50}?\b(?:is|are|was|were|makes?|costs?|takes?|has|have|equals?|reads?|contains?|needs?|pays?)"
    r"|(?:^|[,;:]\s?|\s)(?:so|therefore|thus|hence|i\.e\.,?|that is|in other words|meaning|making|for a total of|ends? up with|left with),?(?: (?:it|she|he|we|they|there)(?:'s| is| are| has| have| pays?| needs?| gets?| takes?| costs?))?)"
    rf"{_LITTLE}$",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r",\s(?:or|i\.e\.)\s[^\d.;]{0,12}$", re.IGNORECASE)
_ASIDE = re.compile(
    r"\bor\s(?:about|approximately|roughly|around)\s[^\d.;,]{0,6}$|\b(?:and|,)\s(?:maybe|perhaps|possibly)\s[^\d.;,]{0,6}$",
    re.IGNORECASE,
)
_SECOND_OPTION = re.compile(r"\bor\s[^\d.;,]{0,12}$", re.IGNORECASE)
_SUPPOSED = re.compile(
    r"\b(?:at first|first glance|looks? like|seems?|appears?|might|could|would|easy to|naive\w*)\b[^.\n]{0,300}\b(?:but|however|yet)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(r"\b(?:if|whichever|when|depending)\b", re.IGNORECASE)
_ADJUNCT = re.compile(
    r"\b(?:in|after|for|over|within|during|every|per|from|out of|of|of the|of these|of those|than|at|by|on|until|before|among|"
    r"between|with|all|each of the|to|since|against|into|across|any of the|the other|another|first|last|next|remaining|these|those|"
    r"the)\s(?:the\s|all\s|about\s|only\s|another\s|these\s|those\s|his\s|her\s|their\s|its\s|all of the\s)?[$€£]?$",
    re.IGNORECASE,
)
_TIME_ADJUNCT = re.compile(
    r"\b(?:in|after|for|during|every|per|out of|by|on|until|before|from|than|since|between)\s(?:the\s|all\s|another\s)?[$€£]?$",
    re.IGNORECASE,
)
_INFINITIVE = re.compile(r"\b(?:to|that|who|which) [a-z]{2,12}(?: [a-z]{2,10})? [$€£]?$")
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|(?:stood|stands|is|was|lies|lay|sits|ends?|ended|peaked|puts?) at|has|have|had|makes?|made|earns?|earned|costs?|needs?|needed|gets?|got|takes?|took|pays?|paid|spends?|"
    r"spent|saves?|saved|gives?|gave|leaves?|leaving|totals?|totaling|equals?|equal to|becomes|receives?|sells?|sold|buys?|"
    r"bought|owes?|gains?|loses?|lost|weighs?|produces?|eats?|ate|drinks?|drives?|drove|walks?|runs?|ran|works?|reads?|writes?|"
    r"uses?|used|remain|remains|there are|there will be|left with|total of|only|about|approximately|exactly|about a)\s(?:a |only |about |exactly |approximately |a total of )?[$€£]?$",
    re.IGNORECASE,
)
_YEAR_BEFORE = re.compile(
    r"\b(?:in|since|by|of|from|to|until|till|before|after|and|year|around|january|february|march|april|may|june|july|august|september|october|november|december|spring|summer|autumn|fall|winter)[ ,]{1,2}$",
    re.IGNORECASE,
)
_MOST_IN_SENTENCE = 60
_MOST_PARTS = 12
LAST_PART = 2_000  # characters in which the result is looked for first


def unmarked_result(body: str) -> Extraction:
    """The result of a folded text without an explicit statement. Rules: see the module."""
    numbers = find_numbers(body, max(0, len(body) - LAST_PART))
    usable = [n for n in numbers if n.usable]
    if not usable and len(body) > LAST_PART:
        numbers = find_numbers(body)
        usable = [n for n in numbers if n.usable]
    if not usable:
        return _words_or_ordinal(body, numbers)
    groups = _group(usable, _sentences(body))
    quiet = [group for group in groups if not _is_noise(body, group[0], group[1])]
    checks = next(
        (place for place, (a, b, _) in enumerate(quiet) if place and _CHECK.match(body, a, b)), None
    )
    start, end, inside = (quiet[:checks] or groups)[-1]
    bold = _bold(body, usable)
    in_last = [n for n in bold if start <= n.start < end]
    if in_last:
        return _result(in_last[-1], "emphasised")
    if bold and len({n.value for n in bold}) == 1:
        return _result(bold[-1], "emphasised")
    number, rule = choose(body, inside, start, end)
    return _result(number, rule)


def _result(number: Number, rule: str) -> Extraction:
    return Extraction(number.value, rule, (number.start, number.end))


def _words_or_ordinal(body: str, numbers: list[Number]) -> Extraction:
    words = find_word_numbers(body)
    strong = [n for n in words if n.value != 1.0] or words
    if strong:
        start, end, inside = _group(strong, _sentences(body))[-1]
        return _result(choose(body, inside, start, end)[0], "words")
    labelled = [n for n in numbers if n.role in ("ordinal", "list", "label") and n.value == n.value]
    if labelled and labelled[-1].role != "label":
        return _result(labelled[-1], "ordinal")
    return NOTHING


def _sentences(body: str) -> list[tuple[int, int]]:
    cuts = [0, *(m.end() for m in _SENTENCE_END.finditer(body)), len(body)]
    return [(a, b) for a, b in pairwise(cuts) if b > a]


def _group(numbers: list[Number], sentences: list[tuple[int, int]]) -> list[tuple[int, int, list[Number]]]:
    """Sentences that hold numbers, with them."""
    groups: list[tuple[int, int, list[Number]]] = []
    position = 0
    for start, end in sentences:
        inside = []
        while position < len(numbers) and numbers[position].start < end:
            inside.append(numbers[position])
            position += 1
        inside = [number for number in inside if number.start >= start]
        if inside:
            groups.append((start, end, inside))
    return groups


def _is_noise(body: str, start: int, end: int) -> bool:
    sentence = body[start:end].strip()
    return (
        sentence.endswith("?")
        or _NOISE.search(sentence) is not None
        or (sentence[:1] == "(" and sentence[-1:] == ")")
    )


def _bold(body: str, usable: list[Number]) -> list[Number]:
    spans = [m.span(1) for m in _BOLD.finditer(body) if _BOLD_NUMBER.match(m[1])][-20:]
    return [n for n in usable if any(a <= n.core[0] < b for a, b in spans)] if spans else []


def choose(body: str, inside: list[Number], start: int, end: int) -> tuple[Number, str]:
    """The number of one sentence that is its result, and the rule. ``inside``: its numbers, at least one."""
    inside = inside[-_MOST_IN_SENTENCE:]
    main = [n for n in inside if not _in_parentheses(body, n, start)] or inside
    for clause in list(_SIDE_CLAUSE.finditer(body[start:end]))[:4]:
        a, b = start + clause.start(), start + clause.end()
        main = [n for n in main if not a <= n.start < b] or main
    main = _without_asides(body, main, start, end)
    if _NAMED.match(body[main[-1].end : end]):
        return main[-1], "result"
    results = [n for n in main if _RESULT_SIGN.search(body[start : n.start].rstrip(" \t$€£*\\({~"))]
    if results:
        behind = [n for n in main if n.start > results[-1].start]
        if behind and _RESTATED.search(body, results[-1].end, behind[0].start):
            return behind[0], "result"
        return results[-1], "result"
    found = _called_total(body, main, start, end) or _behind_word_of_result(body, main, start, end)
    return (found or _sum_of_the_others(main, inside) or _no_side_remark(body, main, start)), "last_sentence"


def _without_asides(body: str, main: list[Number], start: int, end: int) -> list[Number]:
    """Without what is given up ("it looks like 8, but"), rounded beside it ("or about 16.7 %") or a second option
    ("15,000 km or 12 months, whichever comes first")."""
    if supposed := _SUPPOSED.search(body, start, end):
        main = [n for n in main if n.start > supposed.end()] or main
    whichever = body.find("whichever", start, end)
    kept = [
        n
        for n in main
        if not _ASIDE.search(body, max(start, n.start - 24), n.start)
        and not (whichever > n.end and _SECOND_OPTION.search(body, max(start, n.start - 16), n.start))
    ]
    return kept or main


def _called_total(body: str, main: list[Number], start: int, end: int) -> Number | None:
    called = [n for n in main if _TOTAL_BEHIND.match(body, n.end, end)] or [
        n for n in main if _TOTAL_BEFORE.search(body, max(start, n.start - 50), n.start)
    ]
    return called[-1] if called else None


def _sum_of_the_others(main: list[Number], inside: list[Number]) -> Number | None:
    """ "7 cars: 3 red ones, 2 blue ones and 2 white ones"."""
    whole = sum(n.value for n in inside)
    sums = [n for n in main if n.value and abs(whole - 2 * n.value) <= 1e-9 * abs(whole)]
    return sums[0] if len(sums) == 1 and 3 <= len(inside) <= _MOST_PARTS else None


def _behind_word_of_result(body: str, main: list[Number], start: int, end: int) -> Number | None:
    found = [n for n in main if _RESULT_WORD.search(body, max(start, n.start - 50), n.start)]
    found += [
        n
        for n in main[1:]
        if _ALTERNATIVE.search(body, max(start, n.start - 20), n.start)
        and not _OPTION.search(body, n.end, end)
    ]
    if not found:
        return None
    last = max(found, key=lambda n: n.start)
    later = [n for n in main if n.start > last.start and _VERB.search(body, last.end, n.start)]
    return later[-1] if later else last  # "so 4 dozen cost $12"


def _no_side_remark(body: str, main: list[Number], start: int) -> Number:
    main = [n for n in main if not _is_year(body, n)] or main
    plain = [n for n in main if not _ADJUNCT.search(body, max(start, n.start - 30), n.start)]
    plain = [n for n in plain if not _INFINITIVE.search(body, max(start, n.start - 40), n.start)] or plain
    if not plain:
        timeless = [n for n in main if not _TIME_ADJUNCT.search(body, max(start, n.start - 30), n.start)]
        return (timeless or main)[-1]
    after_verb = [n for n in plain if _VERB.search(body, max(start, n.start - 36), n.start)]
    return (after_verb or plain)[-1]


def _is_year(body: str, number: Number) -> bool:
    """ "in May 2018", "the year 2009": a date beside the result, as long as another number is there."""
    written = body[number.core[0] : number.core[1]]
    return (
        len(written) == 4
        and written.isdigit()
        and 1500 <= number.value <= 2100
        and _YEAR_BEFORE.search(body, max(0, number.start - 16), number.start) is not None
    )


def _in_parentheses(body: str, number: Number, start: int) -> bool:
    opened = body.rfind("(", start, number.start)
    return (
        opened >= 0
        and body.find(")", opened, number.start) < 0
        and body[max(start, opened - 1) : opened] != "\\"
    )
