r"""The final number of a worked solution or a chatty answer.

Rules, strongest first. Among explicit statements (1-4) the last one in the text wins, since models correct themselves:

1. ``hash_marker``: ``#### 42`` (GSM8K).
2. ``boxed``: ``\boxed{42}``; what is boxed and no plain number (a tuple, a root, a word) is a final answer that is not
   numeric: value None, rule ``boxed_not_numeric``.
3. ``stated``: "the answer is 42", "Answer: 42", "A: 42", "Final result = 42", "42 is the answer".
4. ``corrected``: "wait, it is 43", "Correction: 43", "I mean 43".
5. ``emphasised``: the only number in bold, or the one in bold in the last sentence that has a number.
6. ``result``: the number behind the last ``=`` of the last sentence that has a number.
7. ``last_sentence``: in the last sentence with a number the one that is no side remark ("in 3 days", "per week",
   "out of 20", "for 2 people"); the last of them, or the first where only a side clause follows.
8. ``words``: a number written as a word, where the text has no digits that could be the answer.

Never an answer: numbering of lines, labels ("Step 3"), dates, times and ratios, version numbers; ordinals only where
nothing else is there. Sentences that offer help, ask, or remark ("Note that ...", "Let me know ...") are skipped. A
response that runs on into a next "Question:" is read up to there. Percent signs are kept as written (50 % is 50),
magnitude words are applied (1.5 million is 1500000).
"""

import re
from itertools import pairwise

from vlm_pipeline.scoring.folding import Reading, read
from vlm_pipeline.scoring.numbers import Number, blank_calculations, find_numbers, find_word_numbers
from vlm_pipeline.scoring.results import NOTHING, Extraction

_NEXT_TURN = re.compile(
    r"\n[ \t]*(?:#{1,4}[ \t]*|\*\*)?(?:Question|Q|Problem|Human|User|Instruction|Input|Student)\b[ \t]*\d{0,3}(?:\*\*)?[ \t]*:",
)
_HASH = re.compile(r"####[ \t]*")
_BOXED = re.compile(r"\\f?boxed\s?(?:\{|(?=\s?\\?[\d-]))")
_COPULA = (
    r"(?:is|are|was|were|would be|will be|should be|must be|comes? (?:out )?to|becomes|equals?|==?|:|->|→|⇒)"
)
_STATED = re.compile(
    rf"\b(?:answer|final result|final value|final total|end result)s?\b[*_`\"']{{0,3}}[ \t]{{0,2}}"
    rf"(?:\([^()\n]{{0,30}}\)[ \t]?|(?:to|for|in|of)\b[^.\n:=]{{1,60}}?)?{_COPULA}"
    rf"|(?:^|\n)[ \t]*(?:\*\*|#{{1,4}}[ \t])?(?:A|Ans|Answer|Result|Final)\b[ \t]*(?:\*\*)?[ \t]*[:=]",
    re.IGNORECASE,
)
_STATED_BEHIND = re.compile(
    r"[^.\n\d]{0,25}?\b(?:is|would be|will be|as)\b (?:therefore |thus |then )?(?:the|my|our|your) (?:final |correct |right )?answer\b",
    re.IGNORECASE,
)
_CORRECTED = re.compile(
    r"\b(?:wait|correction|sorry|oops|scratch that|actually|or rather|i mean|i meant|make that|let me correct(?: that| this| myself)?)\b"
    r"[,:;.!* \t-]{0,4}(?:no[,.!]? )?(?:(?:it|that|this|the (?:answer|result|total|value|correct answer)) (?:is|was|should be|must be|would be|equals)|it's|that's|should be|i meant?|make that)?"
    r"(?: actually| really)?",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"(?:[\s*_`:=$\\({\[\"'~≈>-]|\\(?:text|mathbf|mathrm|left|approx|quad|,|;|!|\(|\[)|\b(?:approximately|approx\.?|about|around|"
    r"roughly|exactly|simply|just|only|indeed|probably|likely|therefore|thus|hence|then|equal to|equals|equal|is|be|a total of|a|the|"
    r"number|now|still|also|US|USD|EUR|GBP|Rs\.?|INR|[a-zA-Z](?=\s?=))\b){0,24}",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"[\s*_]{0,3}(?:not|n't|never|no longer|neither)\b", re.IGNORECASE)
_BUT = re.compile(r"\b(?:but|rather|instead|it's|it is)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?;](?=[\s*\"')\]]|$)")
_NOISE = re.compile(
    r"\b(?:let me know|hope (?:this|that)|feel free|if you(?: have|'d|'re| need| want| would)|please|note that|"
    r"notes?:|disclaimer|verif|double.?check|would you like|happy to|for reference|remember|keep in mind|"
    r"next time|this assumes|assuming)",
    re.IGNORECASE,
)
# From such a word to the next comma (or the end) a sentence states a condition or a reason, not its result.
_SIDE_CLAUSE = re.compile(
    r"\b(?:when|where|if|given|since|because|assuming|as long as)\b[^\n]*?(?:,(?!\d)|\bso\b|\bthen\b|$)",
    re.IGNORECASE,
)
_RESTATED = re.compile(
    r"\b(?:meaning|which|that|and this|this) (?:the|he|she|they|it|is|equals|makes|gives|means|rounds|comes)\b|\bround(?:s|ed|ing)?(?: it)?(?: up| down| off)? to\b|\bor\b",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\s?=\s?[A-Za-z]\b\s*[.$)]*\s*$")
_RESULT_SIGN = re.compile(r"(?:=|≈|≃|\\approx|\\implies|→|⇒)$")
_BOLD = re.compile(r"\*\*\s?([^*\n]{1,40}?)\s?\*\*")
_BOLD_NUMBER = re.compile(r"[\s$€£¥=≈~\\(-]{0,6}(?:[A-Za-z]\s?=\s?)?[\d.½¼¾⅓⅔]")
_ADJUNCT = re.compile(
    r"\b(?:in|after|for|over|within|during|every|per|from|out of|of|of the|of these|of those|than|at|by|on|until|before|among|"
    r"between|with|all|each of the|to|since|against|into|across|any of the|the other|another|first|last|next|remaining|these|those|"
    r"the)\s(?:the\s|all\s|about\s|only\s|another\s|these\s|those\s|his\s|her\s|their\s|its\s|all of the\s)?[$€£]?$",
    re.IGNORECASE,
)
_TIME_ADJUNCT = re.compile(
    r"\b(?:in|after|for|during|every|per|out of|by|on|until|before|from|than|since)\s(?:the\s|all\s|another\s)?[$€£]?$",
    re.IGNORECASE,
)
_INFINITIVE = re.compile(r"\b(?:to|that|who|which) [a-z]{2,12}(?: [a-z]{2,10})? [$€£]?$")
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|makes?|made|earns?|earned|costs?|needs?|needed|gets?|got|takes?|took|pays?|paid|spends?|"
    r"spent|saves?|saved|gives?|gave|leaves?|leaving|totals?|totaling|equals?|equal to|becomes|receives?|sells?|sold|buys?|"
    r"bought|owes?|gains?|loses?|lost|weighs?|produces?|eats?|ate|drinks?|drives?|drove|walks?|runs?|ran|works?|reads?|writes?|"
    r"uses?|used|remain|remains|there are|there will be|left with|total of|only|about|approximately|exactly|about a)\s(?:a |only |about |exactly |approximately |a total of )?[$€£]?$",
    re.IGNORECASE,
)


_MOST_IN_SENTENCE = 60
_LAST_PART = 2_000  # characters in which an unmarked answer is looked for first


def extract_final_number(text: str) -> Extraction:
    """The final number of a response as a float, or value None (rule says why). Rules: see the module."""
    reading = read(text, 4_000, 8_000)
    body = blank_calculations(reading.text)
    body = _without_next_turn(body)
    found = _explicit(body) or _fallback(body)
    return _in_original(found, reading)


def _in_original(found: Extraction, reading: Reading) -> Extraction:
    if found.span is None or not reading.skipped:
        return found
    return Extraction(found.value, found.rule, reading.original(*found.span), found.inferred)


def _without_next_turn(body: str) -> str:
    """Base models run on with a next question of their own; what stands behind it answers something else."""
    for match in _NEXT_TURN.finditer(body):
        if any(n.usable for n in find_numbers(body, 0, match.start())):
            return body[: match.start()]
    return body


def _result(number: Number, rule: str) -> Extraction:
    return Extraction(number.value, rule, (number.start, number.end))


def _explicit(body: str) -> Extraction | None:
    """The last explicit statement, if any."""
    found: list[tuple[int, Extraction]] = []
    lower = body.lower()
    if "####" in body:
        found += _hash_markers(body)
    if "boxed" in body:
        found += _boxed(body)
    if "answer" in lower or ":" in body or "=" in body or "result" in lower:
        found += _statements(body)
    if found:  # a correction corrects something that was stated
        found += _corrections(body)
        return max(found, key=lambda item: item[0])[1]
    corrected = _corrections(body)
    return max(corrected, key=lambda item: item[0])[1] if corrected else None


def _hash_markers(body: str) -> list[tuple[int, Extraction]]:
    found = []
    for match in list(_HASH.finditer(body))[-8:]:
        end = body.find("\n", match.end())
        line_end = len(body) if end < 0 else end
        if body[match.end() : line_end].strip() == "" and end >= 0:  # the number on the next line
            following = body.find("\n", end + 1)
            line_end = len(body) if following < 0 else following
        numbers = [
            n for n in find_numbers(body, match.end(), line_end) if n.usable or n.core[0] == match.end()
        ]
        if numbers:
            number = _of_segment(body, numbers, match.end(), line_end)
            found.append((number.start, _result(number, "hash_marker")))
    return found


def _boxed(body: str) -> list[tuple[int, Extraction]]:
    found = []
    for match in list(_BOXED.finditer(body))[-8:]:
        if match[0].endswith("{"):
            start, end = match.end(), _closing_brace(body, match.end())
        else:
            start, end = match.end(), min(len(body), match.end() + 12)
        number = boxed_number(body, start, end)
        if number is None:
            words = find_word_numbers(body, start, end)
            only_word = len(words) == 1 and not re.sub(
                r"\\[a-z]+|\W", "", body[start : words[0].start] + body[words[0].end : end]
            )
            number = words[0] if only_word else None
        if number is not None:
            found.append((start, _result(number, "boxed")))
        elif body[start:end].strip():
            found.append((start, Extraction(None, "boxed_not_numeric", (start, end))))
    return found


def _closing_brace(text: str, start: int, limit: int = 2_000) -> int:
    depth = 1
    for place in range(start, min(len(text), start + limit)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return place
    return min(len(text), start + limit)


_LATEX_WORDS = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|mbox|mathit|operatorname)\s?\{[^{}]{0,60}\}|\\(?:left|right|displaystyle|circ|degree|quad|[,;:! ])|\^\{?\\circ\}?|\\?%|\\?\$|[.°*]"
)


def boxed_number(text: str, start: int, end: int) -> Number | None:
    """The number of a box that holds one number, with or without unit and "x ="; None for anything else."""
    equals = max(text.rfind("=", start, end), text.rfind("\\approx", start, end))
    if equals >= 0:
        start = equals + (1 if text[equals] == "=" else len("\\approx"))
    numbers = [n for n in find_numbers(text, start, end) if n.role in ("number", "label", "list")]
    if not numbers:
        return None
    number = numbers[0]
    rest = (
        _LATEX_WORDS.sub(" ", text[start : number.start])
        + " "
        + _LATEX_WORDS.sub(" ", text[number.end : end])
    )
    rest = rest.strip(" {}()$€£+~\t\n")
    if len(numbers) > 1:
        return None
    # Behind the number only a unit in plain letters may stand; a root, pi or a variable makes it another number.
    if re.fullmatch(r"|[A-Za-z][A-Za-z .²³^/\d-]{1,40}", rest) and not re.match(r"(?:sqrt|pi)\b", rest):
        return number
    return None


def _statements(body: str) -> list[tuple[int, Extraction]]:
    found = []
    for match in list(_STATED.finditer(body))[-12:]:
        number = _behind_cue(body, match.end())
        if number is not None:
            found.append((number.start, _result(number, "stated")))
    about_answers = "answer" in body[-_LAST_PART:].lower()
    for number in _candidates(body, max(0, len(body) - _LAST_PART), len(body)) if about_answers else ():
        if _STATED_BEHIND.match(body, number.end):
            found.append((number.start, _result(number, "stated")))
    return found


def _corrections(body: str) -> list[tuple[int, Extraction]]:
    found = []
    for match in list(_CORRECTED.finditer(body))[-8:]:
        filler = _FILLER.match(body, match.end())
        place = filler.end() if filler else match.end()
        number = _starting_at(body, place)
        if number is not None:
            end = _sentence_end(body, number.end)
            number = _of_segment(body, _candidates(body, number.start, end), number.start, end)
            found.append((number.start, _result(number, "corrected")))
    return found


def _behind_cue(body: str, start: int) -> Number | None:
    """The number that a cue such as "the answer is" announces, in its sentence."""
    filler = _FILLER.match(body, start)
    place = filler.end() if filler else start
    end = _sentence_end(body, place)
    negated = _NEGATED.match(body, start) or _NEGATED.match(body, place)
    if negated:
        but = _BUT.search(body, negated.end(), end)
        if but is None:
            return None
        place = but.end()
    numbers = _candidates(body, max(start, place - 4), min(end, place + 300))
    if not numbers:
        words = find_word_numbers(body, place, min(end, place + 60))
        return words[0] if words and words[0].start - place <= 2 else None
    return _of_segment(body, numbers, place, end)


def _of_segment(body: str, numbers: list[Number], start: int, end: int) -> Number:
    """Which of the numbers of an announced answer it is: behind "=", else the first if it opens, else by sentence."""
    first = numbers[0]
    opens = first.core[0] - start <= 3 or not re.search(r"\w", body[start : first.start])
    chain = _chain(body, numbers)
    if opens:
        return chain if chain is not None else first
    return _choose(body, numbers, start, end)[0]


def _chain(body: str, numbers: list[Number]) -> Number | None:
    """The last result of "3 + 4 = 7": numbers joined by operators, units and "=" alone, no clause between."""
    result = None
    for left, right in pairwise(numbers):
        between = body[left.end : right.start]
        if len(between) > 40 or re.search(
            r"[,;(]|\b(?:because|since|as|and|or|for|if|when|so|which|per|in)\b", between
        ):
            break
        if re.search(r"=|≈|\\approx", between):
            result = right
    return result


def _sentence_end(body: str, start: int) -> int:
    match = _SENTENCE_END.search(body, start)
    return match.start() if match else len(body)


def _starting_at(body: str, place: int) -> Number | None:
    numbers = _candidates(body, max(0, place - 3), min(len(body), place + 24))
    return next((n for n in numbers if n.core[0] - place <= 2 and n.core[0] >= place - 1), None)


def _candidates(body: str, start: int, end: int) -> list[Number]:
    return [n for n in find_numbers(body, start, end) if n.usable]


def _fallback(body: str) -> Extraction:
    """No explicit statement: emphasis, the last result, the last sentence, number words."""
    numbers = find_numbers(body, max(0, len(body) - _LAST_PART))
    usable = [n for n in numbers if n.usable]
    if not usable and len(body) > _LAST_PART:
        numbers = find_numbers(body)
        usable = [n for n in numbers if n.usable]
    if not usable:
        return _words_or_ordinal(body, numbers)
    sentences = [s for s in _sentences(body) if any(s[0] <= n.start < s[1] for n in usable)]
    by_sentence = _group(usable, sentences)
    quiet = [s for s in by_sentence if not _is_noise(body, s[0], s[1])] or by_sentence
    start, end, inside = quiet[-1]
    bold = _bold(body, usable)
    in_last = [n for n in bold if start <= n.start < end]
    if in_last:
        return _result(in_last[-1], "emphasised")
    if bold and len({n.value for n in bold}) == 1:
        return _result(bold[-1], "emphasised")
    number, rule = _choose(body, inside, start, end)
    return _result(number, rule)


def _words_or_ordinal(body: str, numbers: list[Number]) -> Extraction:
    words = find_word_numbers(body)
    strong = [n for n in words if n.value != 1.0] or words
    if strong:
        return _result(strong[-1], "words")
    labelled = [n for n in numbers if n.role in ("ordinal", "list", "label") and n.value == n.value]
    if labelled and labelled[-1].role != "label":
        return _result(labelled[-1], "ordinal")
    return NOTHING


def _sentences(body: str) -> list[tuple[int, int]]:
    cuts = [0, *(m.end() for m in _SENTENCE_END.finditer(body)), len(body)]
    return [(a, b) for a, b in pairwise(cuts) if b > a]


def _group(numbers: list[Number], sentences: list[tuple[int, int]]) -> list[tuple[int, int, list[Number]]]:
    groups: list[tuple[int, int, list[Number]]] = []
    position = 0
    for start, end in sentences:
        inside = []
        while position < len(numbers) and numbers[position].start < end:
            inside.append(numbers[position])
            position += 1
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


def _choose(body: str, inside: list[Number], start: int, end: int) -> tuple[Number, str]:
    """The number of one sentence that is its result."""
    inside = inside[-_MOST_IN_SENTENCE:]
    main = [n for n in inside if not _in_parentheses(body, n, start)] or inside
    for clause in list(_SIDE_CLAUSE.finditer(body[start:end]))[:4]:
        a, b = start + clause.start(), start + clause.end()
        main = [n for n in main if not a <= n.start < b] or main
    if _NAMED.match(body[main[-1].end : end]):  # "or 20 = A"
        return main[-1], "result"
    results = [n for n in main if _RESULT_SIGN.search(body[start : n.start].rstrip(" \t$€£*\\({~"))]
    if results:
        behind = [n for n in main if n.start > results[-1].start]
        if behind and _RESTATED.search(
            body, results[-1].end, behind[0].start
        ):  # "= 0.5 hours, which is 30 minutes"
            return behind[0], "result"
        return results[-1], "result"
    plain = [n for n in main if not _ADJUNCT.search(body, max(start, n.start - 30), n.start)]
    plain = [n for n in plain if not _INFINITIVE.search(body, max(start, n.start - 40), n.start)] or plain
    if not plain:
        return (
            [n for n in main if not _TIME_ADJUNCT.search(body, max(start, n.start - 30), n.start)] or main
        )[-1], "last_sentence"
    after_verb = [n for n in plain if _VERB.search(body, max(start, n.start - 36), n.start)]
    return (after_verb or plain)[-1], "last_sentence"


def _in_parentheses(body: str, number: Number, start: int) -> bool:
    opened = body.rfind("(", start, number.start)
    return (
        opened >= 0
        and body.find(")", opened, number.start) < 0
        and body[max(start, opened - 1) : opened] != "\\"
    )
