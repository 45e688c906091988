"""Text against gold text: exact, normalised, token F1, ANLS, and the presence of keywords.

``normalise`` follows SQuAD (case, articles, punctuation, white space), but keeps what changes a number: signs, decimal
points and thousands separators read as one number ("-5", "3.14", "1,234" is 1234).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from vlm_pipeline.scoring.folding import at_both_ends, fold, read
from vlm_pipeline.scoring.results import Span

_TOKEN = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|%|°")
_ARTICLES = frozenset({"a", "an", "the"})
_MAX_CHARACTERS = 200_000  # of a context
_HEAD, _TAIL = 5_000, 3_000  # characters that are read of a response
_FIRST, _LAST = 1_500, 500  # words of them: prose has fewer, a text full of signs stays cheap


class Word(NamedTuple):
    text: str
    span: Span


@lru_cache(maxsize=8)  # the measures of a row read the same answer one after the other
def words(text: str) -> tuple[Word, ...]:
    """Words and numbers of a text, case folded; a minus sign belongs to a number only where no word stands before it."""
    folded = fold(text[:_MAX_CHARACTERS])
    found = []
    for match in _TOKEN.finditer(folded):
        token, start = match[0].casefold(), match.start()
        if token[0] == "-" and start and (folded[start - 1].isalnum() or folded[start - 1] in ")%°"):
            token, start = token[1:], start + 1
        if token[-1].isdigit():
            token = token.replace(",", "")
            if "." in token:
                token = token.rstrip("0").rstrip(".")
        found.append(Word(token, (start, match.end())))
    return tuple(found)


def normalise(text: str) -> str:
    """Words without articles, joined by single blanks."""
    return " ".join(_tokens(text))


@lru_cache(maxsize=8)  # as `words`
def _tokens(text: str) -> tuple[str, ...]:
    spoken = at_both_ends(words(read(text, _HEAD, _TAIL).text), _FIRST, _LAST)
    plain = (
        word.text if word.text.isascii() else unicodedata.normalize("NFKC", word.text) for word in spoken
    )
    tokens = tuple(plain)
    return tuple(token for token in tokens if token not in _ARTICLES) or tokens


def exact_match(text: str, gold: str) -> bool:
    """Equal up to white space at both ends."""
    return text.strip() == gold.strip()


def normalised_match(text: str, gold: str) -> bool:
    """Equal after ``normalise``; texts without any word compare exactly."""
    left, right = normalise(text), normalise(gold)
    return left == right if left or right else exact_match(text, gold)


def token_f1(text: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the bags of normalised tokens, in [0, 1]."""
    left, right = Counter(_tokens(text)), Counter(_tokens(gold))
    if not left or not right:
        return float(left == right and exact_match(text, gold))
    common = sum((left & right).values())
    return 2 * common / (sum(left.values()) + sum(right.values()))


def contains_answer(text: str, gold: str, question: str | None = None) -> bool:
    """The lenient reading: whether a text gives the gold answer in any wording.

    Every number of the gold occurs in the text, whatever stands around it, but for labels that the question has given
    already ("What do steps 3 and 4 say?" is answered by "14 deg, then 33 Nm"); a gold without numbers occurs as a phrase,
    without the label before its last colon ("gear: rotor" is given by "the rotor"). Generous on purpose: it shall
    find what an answer knows, not how well it puts it.
    """
    said, wanted = _tokens(text), _tokens(gold)
    numbers = {token for token in wanted if _is_number(token)}
    if numbers:
        return (numbers - _given_labels(wanted, question or "") or numbers) <= set(said)
    _, colon, rest = gold.rpartition(":")
    wanted = (_tokens(rest) if colon else ()) or wanted
    places = range(len(said) - len(wanted) + 1)
    return bool(wanted) and any(said[i : i + len(wanted)] == wanted for i in places)


def _given_labels(wanted: Sequence[str], question: str) -> set[str]:
    """Numbers that follow a word of the question in the gold answer, where the question has them too: "step 3"."""
    if not question:
        return set()
    asked = set(_tokens(question))
    words_asked = {form for token in asked if not _is_number(token) for form in base_forms(token)}
    return {
        number
        for label, number in pairwise(wanted)
        if _is_number(number) and number in asked and not _is_number(label) and label in words_asked
    }


def holds_number(text: str) -> bool:
    return any(_is_number(token) for token in _tokens(text))


def _is_number(token: str) -> bool:
    return token[-1].isdigit()


def anls(text: str, gold: str, threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one pair (Biten et al. 2019), 0 below the threshold.

    White space is collapsed first: blanks are no characters that may dilute the distance.
    """
    from rapidfuzz.distance import Levenshtein

    left, right = " ".join(text[:_MAX_CHARACTERS].casefold().split()), " ".join(gold.casefold().split())
    similarity = Levenshtein.normalized_similarity(left, right, score_cutoff=threshold)
    return float(similarity) if similarity >= threshold else 0.0


@lru_cache(maxsize=4096)
def base_forms(word: str) -> frozenset[str]:
    """The word and the base forms that an English inflection of it may have ("crossings" -> cross, crossing ...)."""
    forms = {word}
    if not word.isalpha() or len(word) < 4:
        return frozenset(forms)
    if word.endswith("ies") or word.endswith("ied"):
        forms |= {word[:-3] + "y", word[:-1]}
    elif word.endswith("es"):
        forms |= {word[:-1], word[:-2]} if word[-3] in "sxzho" else {word[:-1]}
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        forms.add(word[:-1])
    for form in list(forms):
        for ending in ("ing", "ed", "er", "est", "ly"):
            stem = form[: -len(ending)]
            if form.endswith(ending) and len(stem) == 2 and ending in ("ing", "ed"):
                forms.add(stem + "e")  # using, used
            elif form.endswith(ending) and len(stem) >= 3 and re.search(r"[aeiouy]", stem):
                forms |= {stem} if ending in ("er", "est", "ly") else {stem, stem + "e"}
                if len(stem) > 3 and stem[-1] == stem[-2]:
                    forms.add(stem[:-1])
    return frozenset(forms)


@dataclass(frozen=True, slots=True)
class KeywordHits:
    found: dict[str, Span]  # keyword -> where it, or a synonym of it, stands
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        total = len(self.found) + len(self.missing)
        return len(self.found) / total if total else 1.0


def find_keywords(
    text: str,
    keywords: Sequence[str | Sequence[str]],
    synonyms: Mapping[str, Sequence[str]] | None = None,
    *,
    inflection: bool = True,
) -> KeywordHits:
    """Which keywords a text holds. A keyword may be several words, or a list of alternatives (its first names it)."""
    reading = read(text, _HEAD, _TAIL)
    spoken = at_both_ends(words(reading.text), _FIRST, _LAST)
    known = {key.casefold(): list(values) for key, values in (synonyms or {}).items()}
    found: dict[str, Span] = {}
    missing: list[str] = []
    forms = [base_forms(word.text) if inflection else frozenset({word.text}) for word in spoken]
    at: dict[str, list[int]] = {}
    for place, word_forms in enumerate(forms):
        for form in word_forms:
            at.setdefault(form, []).append(place)
    for keyword in keywords:
        alternatives = [keyword] if isinstance(keyword, str) else list(keyword)
        name = alternatives[0] if alternatives else ""
        for alternative in list(alternatives):
            alternatives += known.get(alternative.casefold(), [])
        span = next((s for a in alternatives if (s := _find_phrase(a, spoken, forms, at, inflection))), None)
        if span is None:
            missing.append(name)
        else:
            found[name] = reading.original(*span)
    return KeywordHits(found, tuple(missing))


def _find_phrase(
    phrase: str,
    spoken: Sequence[Word],
    forms: list[frozenset[str]],
    at: dict[str, list[int]],
    inflection: bool,
) -> Span | None:
    wanted = [base_forms(w.text) if inflection else frozenset({w.text}) for w in words(phrase)]
    if not wanted:
        return None
    starts = sorted({place for form in wanted[0] for place in at.get(form, ())})
    for start in starts:
        end = start + len(wanted)
        if end <= len(forms) and all(a & b for a, b in zip(wanted, forms[start:end], strict=True)):
            return spoken[start].span[0], spoken[end - 1].span[1]
    return None
