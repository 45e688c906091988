"""The bundled task `manual_qa`: service-manual pages of a fictional engine, with questions and strict answers.

A page shows marks (pictograms, for fluids coloured drops) with values; a question names a part. Which mark stands
for which part is known to the workshop (the training rows), not to a base model: a tuned adapter has to learn it,
to read the page, and to keep the answer format, which names the mark and then what stands beside it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.bundled.glyphs import COLOURS
from vlm_pipeline.bundled.pages import Entry, Page, page_from_dict, place_entries

NAME = "manual_qa"
SECTIONS = ("torque", "clearances", "fluids", "procedures", "diagrams")
PAGES = {"train": 96, "val": 10, "test": 10}  # of each section
SEEDS = {"train": 4101, "val": 4202, "test": 4303, "probes": 4404}
PROBE_PAGES, PROBES_A_PAGE = 2, 3  # of each section, in no split

#: section -> part -> pictogram (fluids: colour of the drop); its mark on the pages
PARTS: dict[str, dict[str, str]] = {
    "torque": {
        "crank": "gear", "rocker": "star", "flange": "cross", "pulley": "triangle",
        "sump": "square", "bearing": "moon", "pump": "hexagon", "turbine": "flag",
    },
    "clearances": {
        "tappet": "ring", "piston": "diamond", "lobe": "heart", "washer": "arrow",
        "valve": "zigzag", "rotor": "hourglass", "journal": "disc", "idler": "drop",
    },
    "fluids": {
        "oil": "red", "coolant": "blue", "brake": "green", "axle": "orange",
        "clutch": "purple", "furnace": "brown", "grease": "black", "fuel": "pink",
    },
    "procedures": {
        "manifold": "disc", "injector": "moon", "camshaft": "ring", "cylinder": "hexagon", "spindle": "heart",
        "retainer": "cross", "coil": "flag", "inlet": "arrow",
    },
    "diagrams": {
        "regulator": "square", "sensor": "zigzag", "relay": "triangle", "strainer": "star", "nozzle": "gear",
        "sprocket": "diamond", "gasket": "drop", "swivel": "hourglass",
    },
}  # fmt: skip

Facts = dict[str, Any]


@dataclass
class Question:
    """One question about a page: what is asked, the strict answer, and the facts behind it."""

    kind: str
    text: str
    answer: str
    evidence: list[int]  # indices of the page's entries
    facts: Facts


def quantity(entry: Entry, with_second: bool = True) -> str:
    """``48 Nm``, ``48 ±4 Nm`` or ``0.35-0.45 mm``; without the second number the plain value."""
    text = entry.number()
    if with_second and entry.mode == "tolerance":
        text += f" ±{entry.number('second')}"
    elif with_second and entry.mode == "range":
        text += f"-{entry.number('second')}"
    return f"{text} {entry.unit}" if entry.unit else text


def quantity_facts(entry: Entry) -> Facts:
    """The same as numbers: value, unit, tolerance or low and high."""
    facts: Facts = {"value": float(entry.number())}
    if entry.unit:
        facts["unit"] = entry.unit
    if entry.mode == "tolerance":
        tolerance = float(entry.number("second"))
        facts |= {"tolerance": tolerance}
        facts |= {"low": round(facts["value"] - tolerance, 2), "high": round(facts["value"] + tolerance, 2)}
    elif entry.mode == "range":
        facts |= {"low": facts["value"], "high": float(entry.number("second"))}
    return facts


def make_page(section: str, rng: random.Random) -> Page:
    """A page of one section. Values on a page differ, so that every question has one answer."""
    parts = PARTS[section]
    count = {"diagrams": 8}.get(section, 6)
    chosen = rng.sample(list(parts.values()), count)
    values = rng.sample(range(10, 90), count)
    if section == "fluids":
        entries = [
            Entry("drop", colour, value, dot=1, unit="L")
            for colour, value in zip(chosen, values, strict=True)
        ]
        for entry in entries:
            entry.mode, entry.second = "tolerance", rng.randint(1, 9)
        return place_entries(entries, "cards", 3)
    colours = list(COLOURS)
    entries = [Entry(s, rng.choice(colours), v) for s, v in zip(chosen, values, strict=True)]
    for number, entry in enumerate(entries, start=1):
        if section == "torque":
            entry.unit, entry.mode, entry.second = "Nm", "tolerance", rng.randint(1, 9)
        elif section == "clearances":
            entry.unit, entry.dot, entry.mode, entry.second = (
                "mm",
                2,
                "range",
                entry.value + rng.randint(2, 10),
            )
        elif section == "procedures":
            entry.unit, entry.step = rng.choice(["Nm", "deg"]), number
    if section == "diagrams":
        return place_entries(entries, "pairs", 2)
    return place_entries(entries, "steps" if section == "procedures" else "list", 1)


class Writer:
    """Writes questions about one page. Each ``ask_…`` method gives one question about entry ``i``.

    An answer first names the mark it was read from (a pictogram, for fluids a colour), then what stands there.
    """

    def __init__(self, section: str, page: Page, rng: random.Random):
        self.section, self.page, self.rng = section, page, rng
        names = {picture: part for part, picture in PARTS[section].items()}
        self.mark = [e.colour if section == "fluids" else e.shape for e in page.entries]
        self.part = [names[mark] for mark in self.mark]
        self.word = {"torque": "torque", "clearances": "clearance", "fluids": "capacity"}.get(
            section, "setting"
        )

    def _question(
        self, kind: str, texts: list[str], answer: str, evidence: list[int], facts: Facts
    ) -> Question:
        marks = [self.mark[i] for i in evidence]
        return Question(kind, self.rng.choice(texts), answer, evidence, {**facts, "marks": marks})

    def ask_value(self, i: int) -> Question:
        entry, part, word = self.page.entries[i], self.part[i], self.word
        ranged = entry.mode == "range"
        texts = [
            f"What is the {word} of the {part}?",
            f"Which {word} has the {part}?",
            f"State the {word} for the {part}.",
        ]
        facts = quantity_facts(entry)
        if not ranged:
            facts = {k: v for k, v in facts.items() if k in ("value", "unit")}
        return self._question(
            "value", texts, f"{self.mark[i]}: {quantity(entry, with_second=ranged)}", [i], facts
        )

    def ask_tolerance(self, i: int) -> Question:
        entry, part, word = self.page.entries[i], self.part[i], self.word
        texts = [
            f"What is the {word} of the {part} with its tolerance?",
            f"Give {word} and tolerance for the {part}.",
        ]
        return self._question(
            "tolerance", texts, f"{self.mark[i]}: {quantity(entry)}", [i], quantity_facts(entry)
        )

    def ask_limit(self, i: int) -> Question:
        entry, part = self.page.entries[i], self.part[i]
        upper = self.rng.random() < 0.5
        word = "largest" if upper else "smallest"
        texts = [
            f"What is the {word} clearance of the {part}?",
            f"{word.capitalize()} clearance allowed at the {part}?",
        ]
        number = entry.number("second" if upper else "value")
        facts = {"value": float(number), "unit": entry.unit}
        return self._question("limit", texts, f"{self.mark[i]}: {number} {entry.unit}", [i], facts)

    def ask_part(self, i: int) -> Question:
        entry = self.page.entries[i]
        shown = quantity(entry, with_second=entry.mode == "range")
        texts = [f"Which part has {shown}?", f"What part is given {shown}?"]
        return self._question("part", texts, f"{self.mark[i]}: {self.part[i]}", [i], {"part": self.part[i]})

    def ask_pair(self, i: int) -> Question:
        j = self.rng.choice([k for k in range(len(self.part)) if k != i])
        words = {
            "torque": "torques",
            "clearance": "clearances",
            "capacity": "capacities",
            "setting": "settings",
        }[self.word]
        texts = [f"What are the {words} of the {self.part[i]} and the {self.part[j]}?"]
        one, other = self.page.entries[i], self.page.entries[j]
        answer = f"{self.mark[i]}: {quantity(one, False)}, {self.mark[j]}: {quantity(other, False)}"
        facts = {"values": [quantity_facts(one), quantity_facts(other)]}
        return self._question("pair", texts, answer, [i, j], facts)

    def ask_step_of(self, i: int) -> Question:
        step = self.page.entries[i].step
        texts = [f"In which step comes the {self.part[i]}?", f"Which step is the {self.part[i]}?"]
        return self._question("step", texts, f"{self.mark[i]}: step {step}", [i], {"value": step})

    def _step(self, i: int) -> str:
        return f"step {self.page.entries[i].step}: {quantity(self.page.entries[i])}"

    def ask_steps(self, i: int) -> Question:
        i = min(i, len(self.part) - 2)
        texts = [
            f"What do steps {i + 1} and {i + 2} say?",
            f"Give the settings of steps {i + 1} and {i + 2}.",
        ]
        facts = {"values": [quantity_facts(e) for e in self.page.entries[i : i + 2]]}
        return self._question("steps", texts, f"{self._step(i)}, {self._step(i + 1)}", [i, i + 1], facts)

    def ask_next(self, i: int) -> Question:
        i = min(i, len(self.part) - 2)
        texts = [f"What follows the {self.part[i]}?", f"Which step comes after the {self.part[i]}?"]
        answer = f"{self.mark[i]}, then step {i + 2}: {quantity(self.page.entries[i + 1])}"
        return self._question("next", texts, answer, [i, i + 1], quantity_facts(self.page.entries[i + 1]))

    def ask_number(self, i: int) -> Question:
        entry, part = self.page.entries[i], self.part[i]
        texts = [
            f"What number has the {part}?",
            f"Which callout marks the {part}?",
            f"State the number of the {part}.",
        ]
        return self._question(
            "number", texts, f"{self.mark[i]}: no. {entry.number()}", [i], {"value": entry.value}
        )

    def ask_callout(self, i: int) -> Question:
        number = self.page.entries[i].number()
        texts = [f"Which part is no. {number}?", f"What does no. {number} mark?"]
        return self._question("part", texts, f"{self.mark[i]}: {self.part[i]}", [i], {"part": self.part[i]})

    def ask_beside(self, i: int) -> Question:
        j = i + 1 if i % 2 == 0 else i - 1
        side = "right" if i % 2 == 0 else "left"
        texts = [
            f"Which part is to the {side} of the {self.part[i]}?",
            f"What is {side} of the {self.part[i]}?",
        ]
        answer = f"{self.mark[i]}, then {self.mark[j]}: {self.part[j]}"
        return self._question("beside", texts, answer, [i, j], {"part": self.part[j]})


#: section -> (method, how many of it on one page)
MIX: dict[str, list[tuple[str, int]]] = {
    "torque": [("ask_value", 5), ("ask_tolerance", 3), ("ask_part", 2), ("ask_pair", 1)],
    "clearances": [("ask_value", 5), ("ask_limit", 4), ("ask_part", 2)],
    "fluids": [("ask_value", 5), ("ask_tolerance", 3), ("ask_part", 2), ("ask_pair", 1)],
    "procedures": [("ask_value", 5), ("ask_step_of", 2), ("ask_steps", 2), ("ask_next", 2)],
    "diagrams": [("ask_number", 6), ("ask_callout", 3), ("ask_beside", 2)],
}


def make_questions(
    section: str, page: Page, rng: random.Random, kinds: set[str] | None = None
) -> list[Question]:
    """The page's eleven questions, all different; ``kinds`` keeps only questions of these kinds."""
    writer = Writer(section, page, rng)
    questions: list[Question] = []
    for method, count in MIX[section]:
        ask: Callable[[int], Question] = getattr(writer, method)
        asked: set[str] = set()
        order = [i for _ in range(6) for i in rng.sample(range(len(page.entries)), len(page.entries))]
        for i in order:
            if len(asked) == count:
                break
            question = ask(i)
            if question.answer not in asked and all(q.text != question.text for q in questions):
                asked.add(question.answer)
                questions.append(question)
    rng.shuffle(questions)
    return [q for q in questions if kinds is None or q.kind in kinds]


def page_facts(section: str, page: Page, group: str, split: str, seed: int) -> Facts:
    """All that is on a page, as the sidecar keeps it."""
    parts = Writer(section, page, random.Random(0)).part
    shown = [
        {"part": part, **quantity_facts(e)} | ({"step": e.step} if e.step else {})
        for part, e in zip(parts, page.entries, strict=True)
    ]
    return {"group": group, "section": section, "split": split, "image": f"images/{group}.png", "generator_seed": seed,
            "shown": shown, "page": page.as_dict()}  # fmt: skip


def row(facts: Facts, number: int, question: Question) -> Facts:
    """One row in the shape {image, conversations, metadata}."""
    return {
        "image": facts["image"],
        "conversations": [
            {"role": "user", "content": question.text},
            {"role": "assistant", "content": question.answer},
        ],
        "metadata": {
            "id": f"{facts['group']}-q{number:02d}",
            "section": facts["section"],
            "group": facts["group"],
            "split": facts["split"],
            "content_type": question.kind,
            "answer": question.answer,
            "generator_seed": facts["generator_seed"],
            "evidence": question.evidence,
            **question.facts,
        },
    }


def rows_of(facts: Facts, rng: random.Random, kinds: set[str] | None = None) -> list[Facts]:
    """Correct rows for a page, from its facts alone; another ``rng`` state asks other questions."""
    questions = make_questions(facts["section"], page_from_dict(facts["page"]), rng, kinds)
    return [row(facts, number, question) for number, question in enumerate(questions, start=1)]
