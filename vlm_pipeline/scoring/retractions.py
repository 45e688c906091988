"""Where a writer takes back what stands before ("Wait, I miscounted", "Correction:"): what follows is read afresh."""

import re

_TAKEN_BACK = re.compile(
    r"(?:^|[.!?…\n—–:;]\s{0,3}|-\s|,\s)(?:(?:oh|ah|hm{1,5}|um{1,5}|but|however|no|nope|and)[,.!]?\s{1,3}){0,3}"
    r"(?:wait\b(?=\s?[,.:;!?—–-]|\s(?:no|i|the|that|it)\b)|hold on\b|oops\b|scratch that\b|correction\b|sorry\b(?=[\s,.:—-]{1,4}(?:i|it|that|the|no|make)\b)|actually\b(?=\s?,|\sno\b)"
    r"|on (?:second thought|reflection|closer inspection)\b|my mistake\b|let me (?:re\w{2,12}|correct|add|count|check|start over|try) ?(?:it |that |this |them |again|more)?|i (?:mis(?:read|count|calculat|stat)\w{0,6}|made an? (?:error|mistake)|counted twice|was wrong)\b"
    r"|or rather\b|i meant?\b|make that\b)|(?:\.\.\.|…|—|–)\s{0,3}actually\b",
    re.IGNORECASE,
)
_BARE_NO = re.compile(r"(?:[.!?…—–]|\s-|,)\s{0,3}(?:hm{1,5}[,.]?\s)?(?:no|sorry),\s", re.IGNORECASE)
# "Wait, is that so? 42 / 6 = 7. Yes." takes nothing back.
CONFIRMED = re.compile(
    r"\b(?:yes|correct|right|good|fine|matches|checks? out|works|as before|the same|confirmed)\b\W{0,40}$|✓\W{0,40}$",
    re.IGNORECASE,
)
_MOST = 4


def taken_back(body: str, *, bare_no: bool = False) -> list[int]:
    """Places behind which a text is read afresh, the last one first; ``bare_no``: a "no," takes back as well."""
    ends = [m.end() for m in _TAKEN_BACK.finditer(body)]
    if bare_no:
        ends += [m.end() for m in _BARE_NO.finditer(body)]
    return sorted((end for end in set(ends) if end < len(body)), reverse=True)[:_MOST]
