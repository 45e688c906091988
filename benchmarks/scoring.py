"""Throughput of the scorers: 100,000 responses of many styles through every one of them, on one core.

Prints one JSON line: responses per second for each scorer (processor time of one core), the slowest single response,
the slowest of a set of hostile texts and of seeded mixtures of them (time in ms), and ``growth``: the time of all
responses over ten times that of the first tenth, which is 1 where time grows linearly. Exits with 1 where a response
takes longer than the limit or time does not grow linearly. ``--responses`` and ``--mixtures`` set other numbers.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

from vlm_pipeline.scoring.numbers import _numbers
from vlm_pipeline.scoring.results import Reference
from vlm_pipeline.scoring.row_scorers import RowScorer, build_scorer
from vlm_pipeline.scoring.text import _tokens, words
from vlm_pipeline.scoring.word_numbers import _word_numbers
from vlm_pipeline.settings.scoring import (
    ChoiceSettings,
    KeywordSettings,
    NumberSettings,
    QuantitySettings,
    RelaxedSettings,
    ScoreSettings,
    SectionsSettings,
    TextSettings,
    ToolCallSettings,
)

LIMIT_MS = 50.0
MOST_GROWTH = 1.5

GOLDS = {
    "score": (ScoreSettings(), "6", {}),
    "number": (NumberSettings(), "42", {}),
    "quantity": (QuantitySettings(), "65 Nm", {}),
    "keywords": (KeywordSettings(), None, {"expected_keywords": ["battery", "disconnect", "glove"]}),
    "text": (TextSettings(), "disconnect the battery", {}),
    "choice": (ChoiceSettings(choices=["London", "Paris", "New York", "Rome"]), "B", {}),
    "relaxed": (RelaxedSettings(), "42", {}),
    "tool_calls": (ToolCallSettings(), '{"name": "w", "arguments": {"city": "Paris"}}', {}),
    "sections": (
        SectionsSettings(names=["think", "proof", "answer"], final="answer"),
        "<answer>The fuse is rated for 15 A.</answer>",
        {"context": "The fuse is rated for 15 A. Disconnect the battery before you open the panel."},
    ),
}

TEMPLATES = [
    "Tom has {a} pens and buys {b} more, so he has {a} + {b} = {c} pens.\n#### {c}",
    "First we multiply {a} by {b}. That gives {c}.\n\nTherefore, the answer is $\\boxed{{{c}}}$.",
    "Safety Score: **{s}**\n\nThe street is lit and {a} people walk there.",
    "I would rate this place {s}/10 because there are {a} lanes and the limit is {b} mph.",
    "The answer is {l}. The other options do not fit, since {a} is more than {b}.",
    "Tighten the bolts to {a} Nm ({b} ft-lb), then turn by {c} degrees. Do not exceed {b} bar.",
    '<tool_call>\n{{"name": "w", "arguments": {{"city": "Paris", "days": {a}}}}}\n</tool_call>',
    "I'm sorry, but I cannot help with that. Please consult page {a} of the manual.",
    "<think>It says {a}.</think>\n<proof>The fuse is rated for 15 A.</proof>\n<answer>It is rated for {a} A.</answer>",
    "Before you start:\n1. Unplug both batteries.\n2. Wear gloves.\n3. Wait {a} minutes.\nThen open the panel with a {b} mm wrench.",
    '{{"name": "w", "arguments": {{"city": "Paris"}}',
    "{c}",
]


def responses(count: int, seed: int = 0) -> list[str]:
    """Seeded responses of many styles, from a few words to some paragraphs."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        parts = draw.choices(TEMPLATES, k=draw.choice((1, 1, 1, 2, 4)))
        made.append(
            "\n".join(
                p.format(
                    a=draw.randrange(1, 300),
                    b=draw.randrange(1, 99),
                    c=draw.randrange(1, 9_999),
                    s=draw.randrange(1, 11),
                    l=draw.choice("ABCD"),
                )
                for p in parts
            )
        )
    return made


def hostile(size: int = 20_000) -> dict[str, str]:
    """Texts that drive careless patterns into quadratic or worse time."""
    pieces = [
        "a", "1", "1,", "1.", "1 ", "1/", "-", "- ", "*", "**", "(", "{", "[", '{"', '{"name": ', '{"name": "f", "arguments": {', "<tool_call>", "<tool_call>{",
        "<|channel|>a<|message|>", "<answer>", "</answer>", "the answer is ", "answer ", "answer: (", "the answer is not ", "Score: ", "score of ", "safety score is ",
        "between 1 and ", "1-", "1 - 2 ", "5 Nm + ", "5 ± ", "\\frac{", "\\frac{1}{2}", "\\boxed{", "\\boxed{1}", "####", "#### ", "Step 1: ", "A) ", "B, ", "not A, ",
        "option A is ", "I can't ", "I cannot help ", "it is not ", "sorry ", "there is no ", "should not be ", "I must point out the word ", "is not right ", "violence is ", "talk to ", "if you are ", "\n", "\n\n", " ", "\t", "= ", "1 = ", "seven ", "two hundred and ", "e10", "1e", "x10^", "ab-", "\\",
        "\ud800", "\x00", "é", "½", "'", '"', "`", "```", "```json\n{", "| 1 ", "| score ", "high risk ", "no ", "Question: 1\n", "user:\n", "London ", "is correct ", "f(", "[f(x=",
        "[f(x=1),", "wait, ", "wait, it is ", "if ", "because 1, ", "°", "$", "$1", "%", "5%", "10 W-", "<think>", "<tools>", "[TOOL_CALLS]", "<function=f>", "Final: ", "## Proof\n",
        "no, ", "oops ", "sorry, I ", "I mean ", "let me re", "I would not ", "the page does not ", "none of the tools ", "as an ai ", "I do not, ", "but the ", "rather ", "Is it? ", "than ",
        "so ", "which is ", "in total ", "total ", ", or about ", "amounts to ", "adds up to ", "check ", "you might think ", "in May 2018 ", "3 pm ", "5 kg/", "5 W/(m·", "5 N·m/", "6' 2", "per ", "06A-1-",
        "A & ", "B; ", "only B ", "Option B ", "A is ", "</think>", "<thinking>", "no ", "nope ",
    ]  # fmt: skip
    return {piece: (piece * (size // len(piece) + 1))[:size] for piece in pieces}


def mixtures(count: int, size: int = 20_000, seed: int = 0) -> list[str]:
    """Seeded texts that repeat a few hostile pieces in turn, behind a beginning and before an end that raise hopes."""
    draw = random.Random(seed)
    pieces = list(hostile(1))
    made = []
    for _ in range(count):
        unit = "".join(draw.choices(pieces, k=draw.choice((1, 2, 2, 3, 4, 6))))
        opening = draw.choice(("", "The answer is ", '"', "<answer>", "(", "Score: ", "I cannot ", "Wait, "))
        closing = draw.choice(("", "x", "!", '"', ")", ".", "7"))
        made.append((opening + unit * (size // len(unit) + 1))[:size] + closing)
    return made


def forget_readings() -> None:
    """What scorers keep of the last few texts, so that one read twice is not found read."""
    for reader in (words, _tokens, _numbers, _word_numbers):
        reader.cache_clear()


def timed(scorer: RowScorer, text: str, reference: Reference) -> float:
    """Milliseconds of CPU time that one response takes (a busy machine does not count), read for the first time."""
    forget_readings()
    start = time.process_time()
    scorer.score(text, reference)
    return 1000.0 * (time.process_time() - start)


def slowest_again(
    scorer: RowScorer, reference: Reference, texts: Sequence[str], spent: Sequence[float]
) -> float:
    """Milliseconds of the slowest response: the slowest hundred are read twice more, since a garbage collection of what
    this benchmark holds falls into somebody's time."""
    worst = sorted(range(len(texts)), key=spent.__getitem__)[-100:]
    return max(min(spent[at], *(timed(scorer, texts[at], reference) for _ in range(2))) for at in worst)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--mixtures", type=int, default=1_000)
    options = parser.parse_args()
    texts = responses(options.responses)
    attacks = {f"{piece!r} repeated": text for piece, text in hostile().items()}
    attacks |= {f"{text[:60]!r} ...": text for text in mixtures(options.mixtures)}
    rates, slowest, worst, growth = {}, {}, {}, {}
    for name, (settings, gold, metadata) in GOLDS.items():
        scorer = build_scorer(settings)
        reference = scorer.reference(gold, metadata)
        for text in texts[:100]:  # imports and caches are not part of the figure
            scorer.score(text, reference)
        spent = [timed(scorer, text, reference) for text in texts]
        slowest[name] = round(slowest_again(scorer, reference, texts, spent), 2)
        rates[name] = round(1000 * len(texts) / sum(spent))
        growth[name] = round(sum(spent) / (10 * sum(spent[: len(texts) // 10])), 2)
        times = {
            about: min(timed(scorer, text, reference) for _ in range(2)) for about, text in attacks.items()
        }
        about = max(times, key=times.__getitem__)
        worst[name] = {"ms": round(times[about], 1), "text": about}
    within = max(*slowest.values(), *(one["ms"] for one in worst.values())) <= LIMIT_MS
    linear = max(growth.values()) <= MOST_GROWTH
    print(
        json.dumps(
            {
                "benchmark": "scoring",
                "responses": len(texts),
                "responses_per_second": rates,
                "seconds": round(sum(len(texts) / rate for rate in rates.values())),
                "growth": growth,
                "slowest_ms": slowest,
                "slowest_of_20_kB_attacks": worst,
                "limit_ms": LIMIT_MS,
                "within_limit": within,
                "linear": linear,
            }
        )
    )
    return 0 if within and linear else 1


if __name__ == "__main__":
    sys.exit(main())
