r"""The final number of a worked solution or a chatty answer.

Rules, strongest first. Among explicit statements (1-4) the last one in the text wins, since models correct themselves:

1. ``hash_marker``: ``#### 42`` (GSM8K).
2. ``boxed``: ``\boxed{42}``; what is boxed and no plain number (a tuple, a root, a word) is a final answer that is not
   numeric: value None, rule ``boxed_not_numeric``.
3. ``stated``: "the answer is 42", "Answer: 42", "A: 42", "Final result = 42", "42 is the answer".
4. ``corrected``: "wait, it is 43", "Correction: 43", "I mean 43".
5. ``emphasised``, ``result``, ``last_sentence``, ``words``: without any statement the number in bold, the result of the
   last sentence that has a number, or a number written as a word. Rules: `sentence_result`.

Behind the last place where the writer takes something back ("Wait, I miscounted the last row. It's 15.") the text is
read afresh: ``corrected``. What somebody might think ("you could guess that the answer is 3, but ...") is no statement. A
rating out of 5, 10, 20 or 100 ("Score: 7/10") is its first number.

Never an answer: numbering of lines, labels ("Step 3"), dates, times and ratios, version numbers; ordinals only where
nothing else is there. A response that runs on into a next "Question:" is read up to there. Percent signs are kept as written (50 % is 50),
magnitude words are applied (1.5 million is 1500000).
"""

import re
from itertools import pairwise

from vlm_pipeline.scoring.folding import Reading, read
from vlm_pipeline.scoring.numbers import Number, blank_calculations, find_numbers
from vlm_pipeline.scoring.results import Extraction
from vlm_pipeline.scoring.retractions import CONFIRMED, taken_back
from vlm_pipeline.scoring.sentence_result import LAST_PART, choose, unmarked_result
from vlm_pipeline.scoring.word_numbers import find_word_numbers

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
    r"\b(?:(?:wait|sorry)\b(?=\s*[,:;.!*—-])|correction|oops|scratch that|actually|or rather|i mean|i meant|make that|\.\.\.\s*no|let me correct(?: that| this| myself)?)\b"
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
# What others might think is no statement.
_SUPPOSED = re.compile(
    r"\b(?:(?:might|may|could|would|can|easy to|tempt\w*|some(?: people)?|one|you|naive\w*) [^.!?\n]{0,30}?\b(?:think|guess|say|believe|assume|conclude|expect|suppose)|(?:at first|first) [^.!?\n]{0,20}\b(?:thought|glance|sight))\b[^.!?\n]{0,25}$",
    re.IGNORECASE,
)
_RATING = re.compile(r"(\d+(?:\.\d+)?)\s?/\s?(?:5|10|20|100)")
_RATED_BEHIND = re.compile(r" (?:stars|points|for (?:safety|quality|comfort))\b")
_RATED = re.compile(
    r"\b(?:scor|quality|safety|comfort|overall|rat(?:e|ed|es|ing)|grad|mark|giv|gave)\w*\b[^.!?\n\d]{0,40}$",
    re.IGNORECASE,
)


def extract_final_number(text: str) -> Extraction:
    """The final number of a response as a float, or value None (rule says why). Rules: see the module."""
    reading = read(text)
    body = blank_calculations(reading.text)
    body = _without_next_turn(body)
    return _in_original(_as_rating(body, _last_word(body)), reading)


def _last_word(body: str) -> Extraction:
    """What a text says in the end: behind the last place where its writer takes something back, or as a whole."""
    for place in taken_back(body, bare_no=True):
        rest = " " * place + body[place:]
        found = _explicit(rest) or unmarked_result(rest)
        if found.value is not None and not (
            CONFIRMED.search(rest) and found.rule in ("result", "last_sentence")
        ):
            return Extraction(found.value, "corrected", found.span)
    return _explicit(body) or unmarked_result(body)


def _as_rating(body: str, found: Extraction) -> Extraction:
    """ "Score: 7/10" is 7, while a probability of 7/10 is 0.7."""
    if found.span is None:
        return found
    start, end = found.span
    written = _RATING.fullmatch(body[start:end].strip())
    if written is None or not (
        _RATED.search(body[max(0, start - 50) : start]) or _RATED_BEHIND.match(body, end)
    ):
        return found
    return Extraction(float(written[1]), found.rule, found.span)


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
        if _SUPPOSED.search(body, max(0, match.start() - 80), match.start() + 1):
            continue
        number = _behind_cue(body, match.end())
        if number is not None:
            found.append((number.start, _result(number, "stated")))
    about_answers = "answer" in body[-LAST_PART:].lower()
    for number in _candidates(body, max(0, len(body) - LAST_PART), len(body)) if about_answers else ():
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
    return choose(body, numbers, start, end)[0]


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
