"""A rating from words alone, where no number is one: "high risk", "reasonably safe". Always counted apart."""

import re

from vlm_pipeline.scoring.folding import at_both_ends
from vlm_pipeline.scoring.results import NOTHING, Extraction

_INFERRED = re.compile(
    r"\b(?:(?P<high>(?:high|severe|serious|significant|considerable|elevated)(?:er|est)?[\s-](?:safety )?risk|risk(?: level)?(?: is|:)? (?:very )?high)"
    r"|(?P<medium>(?:medium|moderate|average|intermediate)[\s-](?:safety )?risk|risk(?: level)?(?: is|:)? (?:medium|moderate))"
    r"|(?P<low>(?:low|minimal|little|small)[\s-](?:safety )?risk|risk(?: level)?(?: is|:)? (?:very )?low)"
    r"|(?P<reasonable>(?:reasonabl[ey]|fairly|moderately|relatively|somewhat|mostly|generally)[\s-]safe(?:ty)?|reasonable)"
    r"|(?P<unsafe>unsafe|dangerous|hazardous|(?:lacks?|lack of|little|poor) safety)"
    r"|(?P<safe>safe))\b",
    re.IGNORECASE,
)
_INFERRED_VALUES = {"high": 3.0, "medium": 5.0, "low": 7.0, "reasonable": 6.0, "unsafe": 3.0, "safe": 7.0}
_OPPOSITE = {
    "safe": "unsafe",
    "reasonable": "unsafe",
    "unsafe": "safe",
    "high": None,
    "medium": None,
    "low": None,
}
_WORD_NEGATED = re.compile(
    r"(?:\b(?:not|never|no|hardly|neither|nor|far from|isn't|aren't|cannot|can't|without|less|nothing)\b|n't\b)(?:\s+(?:a|an|be|been|being|feel|look|seem|appear|"
    r"considered|called|rated|say|it's|it|is|this|that|very|particularly|entirely|completely|really|at all|so|too|especially|exactly|as|any|to|the|place|area|street|quite|consider|call)\b){0,6}\s+$",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:overall|in conclusion|in summary|to sum up|therefore|thus|conclude|final(?:ly)?)\b", re.IGNORECASE
)


def infer_score(text: str, low: float, high: float) -> Extraction:
    """The last rule alone: a score from words, in proportion to the ten-point scale; the concluding sentence wins."""
    best: tuple[bool, int] | None = None
    result = NOTHING
    for match in at_both_ends(list(_INFERRED.finditer(text)), 40, 80):
        kind: str | None = match.lastgroup
        before = text[max(0, match.start() - 80) : match.start()]
        if _WORD_NEGATED.search(before):
            kind = _OPPOSITE[kind or ""]
        if kind is None:
            continue
        sentence = re.split(r"[.!?\n,;]", text[max(0, match.start() - 200) : match.start()])[-1]
        rank = (_CONCLUDES.search(sentence) is not None, match.start())
        if best is None or rank > best:
            best = rank
            value = min(high, max(low, _INFERRED_VALUES[kind] * high / 10.0))
            result = Extraction(value, f"inferred_{kind}", match.span(), inferred=True)
    return result
