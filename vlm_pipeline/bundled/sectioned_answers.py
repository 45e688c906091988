"""The bundled task `sectioned_answers`: questions about a short log, answered in sections (analysis, proof, final).

Text only. The log answers the question once, answers it twice with different values, or does not answer it; the proof
quotes the log word for word.
"""

from __future__ import annotations

import random
from typing import Any

NAME = "sectioned_answers"
SECTIONS = ("grounded", "conflicting", "abstaining")
UNANSWERABLE = "abstaining"  # section of questions that the log does not answer
ROWS = {"train": 200, "val": 30, "test": 40}  # of each section
SEEDS = {"train": 7101, "val": 7202, "test": 7303, "probes": 7404}
PROBES = 8  # of each section, in no split

THINGS = {"pump": ("pressure", "bar"), "tank": ("level", "cm"), "motor": ("speed", "rpm"), "oven": ("heat", "degrees"),
          "valve": ("flow", "litres"), "shaft": ("gap", "mm")}  # fmt: skip
PEOPLE = ["Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Ida", "Jon", "Kim"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
NO_QUOTE = "No entry."

Entry = tuple[str, str, int, str]  # thing, its name, value, sentence


def _entry(rng: random.Random, thing: str, name: str, value: int) -> Entry:
    measure, unit = THINGS[thing]
    person, day = rng.choice(PEOPLE), rng.choice(DAYS)
    return thing, name, value, f"On {day} {person} read a {measure} of {value} {unit} at {thing} {name}."


def _name(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFGHKLMNPRST')}{rng.randint(2, 99)}"


def answer(analysis: str, proof: str, final: str) -> str:
    return f"<analysis>{analysis}</analysis>\n<proof>{proof}</proof>\n<final>{final}</final>"


def drawn(section: str, rng: random.Random) -> tuple[str, str, str, str]:
    """(log, question, whole answer, final answer)."""
    thing = rng.choice(list(THINGS))
    measure, unit = THINGS[thing]
    name = _name(rng)
    values = rng.sample(range(3, 400), {"grounded": 1, "conflicting": 2, "abstaining": 0}[section])
    asked = [_entry(rng, thing, name, value) for value in values]
    others: list[Entry] = []
    while len(others) < rng.randint(2, 4):
        other = _name(rng)
        if other != name and all(other != entry[1] for entry in others):
            others.append(_entry(rng, rng.choice([thing, *THINGS]), other, rng.randint(3, 400)))
    entries = [*asked, *others]
    rng.shuffle(entries)
    quotes = [entry for entry in entries if entry in asked]
    log = " ".join(entry[3] for entry in entries)
    question = f"What {measure} does {thing} {name} have?"
    proof = " ".join(entry[3] for entry in quotes) or NO_QUOTE
    if section == "grounded":
        analysis, final = f"The log has one entry on {thing} {name}.", f"{quotes[0][2]} {unit}"
    elif section == "conflicting":
        analysis = f"The log has two entries on {thing} {name}, and they differ."
        final = f"The entries differ: {quotes[0][2]} {unit} and {quotes[1][2]} {unit}."
    else:
        analysis = f"The log has no entry on {thing} {name}."
        final = f"I do not know: the log does not contain the {measure} of {thing} {name}."
    return log, question, answer(analysis, proof, final), final


def more_like(section: str, system: str, rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    """(question with its log, answer, facts) of one more row; every row has the same system text."""
    log, question, whole, final = drawn(section, rng)
    return f"{log}\n{question}", whole, {"content_type": section, "context": log, "answer": final}


def section_rows(section: str) -> list[dict[str, Any]]:
    """All rows of a section, train, val, test. No log stands in two rows."""
    rows: list[dict[str, Any]] = []
    logs: set[str] = set()
    for split, size in ROWS.items():
        rng = random.Random(f"{NAME} {section} {SEEDS[split]}")
        for number in range(size):
            log, question, whole, final = drawn(section, rng)
            while log in logs:
                log, question, whole, final = drawn(section, rng)
            logs.add(log)
            rows.append(
                {
                    "conversations": [
                        {"role": "user", "content": f"{log}\n{question}"},
                        {"role": "assistant", "content": whole},
                    ],
                    "metadata": {
                        "id": f"{section}-{split}-{number:03d}",
                        "section": section,
                        "split": split,
                        "content_type": section,
                        "context": log,
                        "answer": final,
                        "generator_seed": SEEDS[split],
                    },
                }
            )
    return rows


def probes() -> list[dict[str, Any]]:
    """Critical questions about logs that are in no split."""
    made = []
    for section in SECTIONS:
        rng = random.Random(f"{NAME} {section} {SEEDS['probes']}")
        for number in range(PROBES):
            log, question, _, final = drawn(section, rng)
            made.append(
                {
                    "id": f"probe-{section}-{number:02d}",
                    "category": section,
                    "question": f"{log}\n{question}",
                    "expected_answer": final,
                }
            )
    return made
