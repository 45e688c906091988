"""What surrounds an option that is picked, ruled out or only mentioned: patterns for `choices`."""

import re

EMBEDDED = re.compile(r"\s*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])[.):])\s+(\S.*)", re.DOTALL)
LETTER = re.compile(r"(?<![A-Za-z]\.)(?<![A-Za-z0-9'_\\/&+-])([A-Za-z])(?![A-Za-z0-9'_/&+])(?!-[A-Za-z])")

OPEN = r"(?:[\s*_`\"'(\[{<>|$:=~【-]|\\boxed|\\text(?:bf)?|\\mathrm|\\mathbf|\\\(){0,14}"
FILL = (
    r"(?:(?:is|are|was|be|as|would be|should be|must be|has to be|could be|seems to be|appears to be|option|options|choice|answer|letter|"
    r"the|a|an|number|most|likely|probably|definitely|clearly|indeed|therefore|thus|simply|just|correct|right|best|final|one|that|"
    r"with|for|on|to|it|it's|statement|label(?:l?ed)?|actually|really|still|now|closest)(?![A-Za-z])"
    + OPEN
    + r"){0,9}"
)
STATED = re.compile(
    r"(?:\b(?:answer|option|choice|selection|pick|verdict|solution|response|conclusion|prediction|label|category|classification|guess)s?"
    r"(?:\s(?:to|for|of|in|from|that|here|given|which)\b[^.!?\n:]{0,70}?)?"
    + OPEN
    + r"(?:is|are|was|would be|would have to be|should be|must be|will be|has to be|:|=|-|→|>|being)"
    r"|(?:^|\n)[ \t]*(?:#{1,6}\s|\*\*)?(?:final |correct )?answer(?:\*\*)?[ \t]*\n"
    r"|\b(?:right|correct|best) (?:one|letter) (?:is|would be)"
    r"|(?:\bnot|n't)\b[^.!?\n]{1,40}\bbut(?: rather| instead)?\b"
    r"|\b(?:i|we|i'd|i'll|i'm|we'd|let's|i would|i will|my|to)\s(?:\w+\s){0,2}?(?:choose|choosing|chose|pick(?:ing)?|select(?:ing)?|say|guess|think|believe|opt|"
    r"go(?:ing)?|vote|answer|conclude|lean(?:ing)?|prefer|call|classify|rate|label)\b(?:\s(?:it|this|that|them|the image|the scene|toward|towards|in favou?r of|is))?"
    r"|\b(?:choose|pick|select|chosen|selected|picked|selecting)\b"
    r"|\b(?:it|this|that|correct|right|so|best|therefore|thus|hence|wait|no|actually|conclusion|rather|instead|but)[,:]?\s(?:it |this |that )?(?:is|must be|has to be|should be|would be|it's|'s|says?)"
    r"|\b(?:it's|that's|must be|has to be)"
    r"|(?:^|[,;:.!?—–-]|\b(?:is|and|but))\s?(?:(?:which|that|this|it) )?(?:so|hence|therefore|thus|i\.e\.,?|which (?:leaves|means|gives)|leaving|(?:this|that) leaves|left with|points? to|leads? to|only|meaning|correction:?|or rather|actually)"
    r"|\\boxed|(?:^|\n)[ \t]*(?:\*\*|#{1,4}\s)?(?:a|ans)[:.]|答案[是为]?|####)" + OPEN + FILL + r"$",
    re.IGNORECASE,
)
STATED_BEHIND = re.compile(
    r"[\s*_)\]\"'.:,]{0,6}(?:[^.!?\n]{0,60}?\b)?(?:is|seems|appears to be|would be|must be|looks|being|as) (?:therefore |thus |clearly |definitely |most |probably |indeed |both )?"
    r"(?:(?:the|my|our) )?(?:\w+ )?(?:correct|right|best|true|answer|most likely|(?:most )?(?:appropriate|accurate|plausible|suitable)|likely)(?: (?:one|answer|option|choice))?\b"
    r"|\s(?:alone )?(?:remains|is left|is what remains)\b|[)\].]?\s?[:–—-]\s?(?:yes\b|correct\b|right\b|true\b|✓|✔)",
    re.IGNORECASE,
)
NEGATIVE_BEHIND = re.compile(
    r"[\s*_)\]\"'.:,]{0,6}(?:[^.!?\n,;]{0,50}?\s)?(?:(?:is|are|was|be|seems?|would be|looks?)(?:n't| not| never| clearly| also| therefore| definitely| in){0,2}\s?(?:incorrect|wrong|false|unlikely|impossible|not|ruled out|eliminated|out\b|a distractor|implausible|excluded|invalid)"
    r"|(?:is|are|was|does|do|can|could|would)(?:n't| not|not)\b|can be (?:ruled out|eliminated|excluded|dismissed)|fails|contradicts)"
    r"|[)\].]?\s?[:–—-]\s?(?:no\b(?! doubt)|wrong\b|incorrect\b|false\b|✗|✘)",
    re.IGNORECASE,
)
NEGATED = re.compile(
    r"(?:\b(?:not|never|no|nor|neither|cannot|without|rather than|instead of|except|unlike|rul(?:e|es|ed|ing) out|eliminat\w+|exclud\w+|reject\w*|discard\w*|dismiss\w*|isn't|aren't|wasn't|doesn't|don't|can't|wouldn't|hardly|nobody|no one|nothing|none|by no means|anything but|far from|incorrect|wrong)\b|n't\b)"
    r"(?:[\s*_\"'(]+[\w'-]+){0,6}?[\s*_\"'(\[:]*$",
    re.IGNORECASE,
)
NEGATION_ENDS = re.compile(
    r"\b(?:(?<!anything )but|sure|certain|only|just|doubt|because|so|it's|it is|therefore|hence|thus)\b",
    re.IGNORECASE,
)
CONDITIONAL = re.compile(
    r"\b(?:if|whether|unless|when|suppose|assuming|had|were|could|might|may|first|initially|tempt\w*|options?|choices?) (?:\w+ ){0,4}$",
    re.IGNORECASE,
)
LABEL_END = re.compile(
    r"\s*(?:$|[\n.,;:!?)\]}*\"'`|_$】<—-]|\\|(?:because|since|as|which|is|and|of course|obviously|clearly|definitely|probably|for|due|with|given|based|but|so|seems|would|was|that|here|–|appears|looks|describes|matches|fits|remains|works|in|on)\b)"
)
LEADING_END = re.compile(r"[)\].:*_}\"'`】]{1,6}(?:\s|$)|\s*$|\s*\n|\s-\s|,\s|\*\*|</\w{1,12}>")
ALONE = re.compile(r"[)\].*_}\"'`]{0,6}[ \t]*(?:\n|$)")
AS_OPTION = re.compile(
    r"(?:\b(?:option|choice|answer|statement|letter)s?[\s*_(\"'\[]{1,4}|[(\[]\s?|\*\*\(?)$", re.IGNORECASE
)
CONJOINED = re.compile(
    r"[\s*_)\]\"'.]{0,5}(?:,|;|or|and|and/or|&|/)[\s*_(\[\"']{1,5}(?:or |and |both )?(?:option )?[(\[*]{0,3}([A-Z])(?![A-Za-z'])[)\]*]{0,3}(?!\s(?:is|was)\b)"
)
SENTENCE = re.compile(r"[.!?](?=\s|$)|\n")
SEVERAL = -1  # "the answer is A or C"
FUNCTION_WORDS = frozenset(
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
# An option that is compared with, or that somebody might name, is not picked.
COMPARED = re.compile(
    r"\b(?:than|above|below|beyond|between|between \w+ and)\s(?:an? |the )?[*_\"'(]{0,2}$", re.IGNORECASE
)
SUPPOSED = re.compile(
    r"\b(?:first|at first|initially|some(?: people)?|others|one|many|you|people) (?:\w+ ){0,2}?(?:thought|think|said|say|guess\w*|believed?|looks?|looked|seems?|seemed|appears?|appeared|might|would|could|expect\w*)\b[^.!?\n;]*$"
    r"|\b(?:looks?|seems?|appears?) (?:like|to be)? ?[^.!?\n;]{0,20}$|^\W*(?:could|might|may) be [^.!?\n;]{0,20}$",
    re.IGNORECASE,
)
SUPPOSED_BEHIND = re.compile(
    r"[\s*_\"')]{0,3}(?:would|might|may|could) be (?:a |an )?(?:guess|possible|tempting|wrong|option|reasonable)",
    re.IGNORECASE,
)
DENIED = re.compile(
    r"\W{0,20}(?:(?:possibly|probably|perhaps|likely|i think|i guess|i would say|i'd say),? )?(?:no(?:pe|t (?:at all|really|quite|exactly)| way)?|nah|hardly|never|by no means|definitely not|absolutely not|of course not|certainly not|surely not|i doubt it|not|(?:it|that|this|there|they) (?:is|are|was|does|do|did|has|can|will)(?:n't| not))\b(?! (?:doubt|difference|one))",
    re.IGNORECASE,
)
AFFIRMED = re.compile(
    r"\W{0,20}(?:(?:possibly|probably|perhaps|likely|i think|i guess|i would say|i'd say),? )?(?:ye(?:s|p|ah|a|up)|yup|absolutely|certainly|definitely|of course|sure(?:ly)?|indeed|correct|exactly|right|affirmative|(?:that|this|it)(?: is|'s) (?:correct|right|true|so)|it (?:is|does|has|can)|they (?:are|do))\b(?! not)",
    re.IGNORECASE,
)
# "It does not.": the whole of an answer without the word no.
DENIED_IN_FULL = re.compile(
    r"\W{0,20}(?:it|this|that|there|they|he|she|we|you|i) (?:is|are|was|were|does|do|did|has|have|can|could|will|would)(?:n't| not|not)\W{0,20}$",
    re.IGNORECASE,
)
# What may stand beside a single letter that is the whole answer: "Clearly B!", "Hmm... D?", "C, I think."
BESIDE_ALONE = re.compile(
    r"(?:\w+ly|of|course|easy|h+m+|well|must|be|that's|it's|i|i'd|think|guess|say|so|sure|maybe|perhaps|then|for|okay|ok|\W)*",
    re.IGNORECASE,
)
# A letter that names something of the world: "Vitamin B", "Plan A", "gate C". Behind these words it does not.
BEFORE_OPTION = re.compile(
    r"(?:^|[^\w\s'*_`\"(\[{<>|$]|\b(?:with|only|as|so|is|are|was|be|it's|that's|then|than|first|also|both|but|by|for|to|of|on|or|and|say|said|think|believe|guess|choose|pick|take|call|make|leaves?|leaving|remains?|because|since|that|therefore|hence|thus|just|either|neither|nor|not|answer|option|choice|letter|statement|correct|right|rather|maybe|perhaps|probably|definitely|surely|clearly|i'd|would|supports?|suggests?|indicates?|favou?rs?|means|shows?|over|while|whereas|if|whether|between|from|at|points? to))"
    r"[\s*_`\"'(\[{<>|$]{0,4}$",
    re.IGNORECASE,
)
ARTICLE_NO_MORE = re.compile(
    r"\s(?:is|was|are|it|and|or|nor|because|since|as|has|had|fits|matches|mentions?|seems?|would|says?|makes?|gives?|contradicts|describes|states?|remains|works|looks)\b"
)
JOINED_BEFORE = re.compile(r"(?<![A-Za-z'])[A-Z][)\]*]{0,2}\s?(?:,|;|&|/|and|or)\s?[(\[*]{0,2}$")
