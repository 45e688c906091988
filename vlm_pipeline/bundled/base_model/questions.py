"""What the embedded base is asked about a page while it learns to see: free questions, free answers.

Nothing here knows a bundled task: no part names, no answer format. Answers are sentences, often with a remark
about the page first, as an untuned assistant's are.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from vlm_pipeline.bundled.base_model.words import NOUNS
from vlm_pipeline.bundled.glyphs import COLOURS, GROUNDS, PICTOGRAMS, STREET_OBJECTS, UNITS
from vlm_pipeline.bundled.pages import Entry, Page, place_entries

SYNONYMS = {
    "gear": ["cog"],
    "star": ["spark"],
    "ring": ["hoop"],
    "cross": ["plus sign"],
    "triangle": ["wedge"],
    "square": ["box frame"],
    "diamond": ["rhombus"],
    "heart": ["love sign"],
    "moon": ["crescent"],
    "arrow": ["pointer"],
    "hexagon": ["nut"],
    "drop": ["droplet"],
    "zigzag": ["spring"],
    "flag": ["banner"],
    "hourglass": ["sand clock"],
    "disc": ["dot"],
    "litter": ["rubbish"],
    "person": ["pedestrian"],
    "lamp": ["lit lamp", "street light"],
    "dark lamp": ["broken lamp"],
    "graffiti": ["scrawl"],
}
PLURALS = {
    "person": "people",
    "pedestrian": "pedestrians",
    "litter": "pieces of litter",
    "rubbish": "bits of rubbish",
}
COUNTS = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]

Pair = tuple[str, str]
STRANGE = 0.15  # share of questions about something the page does not show


def plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    return noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")


def count_words(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else str(number)


def some(noun: str, number: int) -> str:
    """``two trees``, ``one lamp``, ``no cars``."""
    if number == 1:
        return (
            f"one {PLURALS[noun].replace('pieces', 'piece').replace('bits', 'bit')}"
            if noun in ("litter", "rubbish")
            else f"one {noun}"
        )
    return f"{count_words(number)} {plural(noun)}"


def shape_name(shape: str, rng: random.Random) -> str:
    return rng.choice([shape, shape, *SYNONYMS.get(shape, [])])


def entry_name(entry: Entry, rng: random.Random, colour: float = 0.5) -> str:
    name = shape_name(entry.shape, rng)
    return f"{entry.colour} {name}" if entry.colour and rng.random() < colour else name


def stranger(rng: random.Random) -> str:
    """A thing that no picture shows; asked about it, the base guesses any entry, as untuned models do."""
    return rng.choice(NOUNS) if rng.random() < 0.7 else f"{rng.choice(NOUNS)} {rng.choice(NOUNS)}"


def value_text(entry: Entry, unit: bool = True) -> str:
    """``48 Nm``, ``48 plus or minus 4 Nm``, ``0.35 to 0.45 mm``."""
    text = entry.number()
    if entry.mode == "tolerance":
        text += f" plus or minus {entry.number('second')}"
    elif entry.mode == "range":
        text += f" to {entry.number('second')}"
    return f"{text} {entry.unit}" if unit and entry.unit else text


def entry_text(entry: Entry, rng: random.Random) -> str:
    name = entry_name(entry, rng, colour=0.8)
    lead = f"step {entry.step}, " if entry.step else ""
    if entry.value is None:
        return f"{lead}{name}"
    joint = rng.choice([" with ", " at ", " "])
    return f"{lead}{name}{joint}{value_text(entry)}"


def a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def read_out(entries: list[Entry], rng: random.Random) -> str:
    return ", ".join(entry_text(e, rng) for e in entries)


class Asker:
    """Questions and answers about one page; every method returns one pair or None where it does not apply."""

    def __init__(self, page: Page, rng: random.Random, strange: float = STRANGE):
        self.page, self.rng, self.strange = page, rng, strange
        self.entries = [e for e in page.entries if e.shape]
        shapes = [e.shape for e in self.entries]
        self.unique = [e for e in self.entries if shapes.count(e.shape) == 1]
        self.valued = [e for e in self.unique if e.value is not None]
        self.street = page.layout == "map" and page.ground is not None

    def _name(self, entry: Entry) -> str:
        """What the entry is called in a question: mostly its name, sometimes a stranger's."""
        return stranger(self.rng) if self.rng.random() < self.strange else entry_name(entry, self.rng)

    def _pick(self, entries: list[Entry]) -> Entry | None:
        return self.rng.choice(entries) if entries else None

    def describe(self) -> Pair | None:
        r = self.rng
        question = r.choice(
            ["What do you see?", "Describe the picture.", "Tell me about this image.", "What is shown here?",
             "What is on this page?", "Can you describe what is here?"]
        )  # fmt: skip
        return question, self.remark(r.randint(2, 4))

    def remark(self, n: int) -> str:
        r = self.rng
        if self.street:
            light = self.page.ground[0][0].split()[0]
            kinds = sorted({e.shape for e in self.entries}, key=lambda s: STREET_OBJECTS.index(s))
            r.shuffle(kinds)
            seen = [some(k, sum(e.shape == k for e in self.entries)) for k in kinds[:n]]
            scene = {"day": "by day", "dusk": "at dusk", "night": "at night"}.get(light, "")
            return (
                f"This is a street {scene}. I see {', '.join(seen)}."
                if seen
                else f"This is an empty street {scene}."
            )
        if not self.entries:
            return "The page is empty."
        what = {
            "list": "list",
            "steps": "list of steps",
            "cards": "set of cards",
            "pairs": "board",
            "map": "map",
        }
        lead = r.choice(
            [
                f"I see {a(what[self.page.layout])} of {len(self.entries)}.",
                f"There are {count_words(len(self.entries))} entries.",
                "Let me look.",
            ]
        )
        return f"{lead} It starts with {read_out(self.entries[:n], r)}."

    def read_all(self) -> Pair | None:
        if self.street or len(self.entries) < 2:
            return None
        r = self.rng
        question = r.choice(
            [
                "Read the page to me.",
                "Read everything out in order.",
                "List all entries.",
                "What does the whole page say?",
            ]
        )
        return question, read_out(self.entries[:8], r) + "."

    def read_shuffled(self) -> Pair | None:
        """Every name is followed at once by its value: the shortest way to learn to look a thing up."""
        if len(self.valued) < 2:
            return None
        r = self.rng
        picked = r.sample(self.valued, min(len(self.valued), 8))
        question = r.choice(
            ["Read the entries in any order.", "Tell me some values.", "What values do you see?"]
        )
        return question, ", ".join(f"{entry_name(e, r)} {value_text(e)}" for e in picked) + "."

    def value(self) -> Pair | None:
        r, e = self.rng, self._pick(self.valued)
        if e is None:
            return None
        name = self._name(e)
        question = r.choice(
            [f"What is the value of the {name}?", f"What does the {name} show?", f"Which number stands beside the {name}?",
             f"How much is the {name}?", f"Read the {name}.", f"{name}?", f"Please look up the {name}.",
             f"What is written at the {name}?", f"I need the figure for the {name}.", f"What is the {name} set to?"]
        )  # fmt: skip
        answer = r.choice(
            [f"The {name} shows {value_text(e)}.", f"Beside the {name} I read {value_text(e)}.",
             f"The {name} has {value_text(e)}.", f"It says {value_text(e)} at the {name}."]
        )  # fmt: skip
        return question, answer

    def value_by_colour(self) -> Pair | None:
        colours = [e.colour for e in self.entries]
        own = [e for e in self.entries if e.colour and e.value is not None and colours.count(e.colour) == 1]
        r, e = self.rng, self._pick(own)
        if e is None:
            return None
        name = stranger(r) if r.random() < self.strange else e.colour
        question = r.choice(
            [f"What does the {name} one show?", f"What is the value in {name}?", f"Read the {name} entry."]
        )
        return question, f"The {name} {shape_name(e.shape, r)} shows {value_text(e)}."

    def value_by_place(self) -> Pair | None:
        if self.street or not self.entries:
            return None
        r = self.rng
        i = r.randrange(len(self.entries))
        e = self.entries[i]
        if e.step:
            where = r.choice([f"step {e.step}", f"the {ORDINALS[e.step - 1]} step"])
        else:
            where = (
                "the last entry"
                if i == len(self.entries) - 1 and r.random() < 0.5
                else f"the {ORDINALS[i % 12]} entry"
            )
            if i > 5 and not where.endswith("last entry"):
                return None
        question = r.choice([f"What is {where}?", f"Read {where}.", f"What do you find at {where}?"])
        return question, f"{where[0].upper()}{where[1:]} is {entry_text(e, r)}."

    def number_only(self) -> Pair | None:
        r, e = self.rng, self._pick(self.valued)
        if e is None:
            return None
        cue = r.choice(["Number only.", "Just the number, please.", "Answer with the bare number."])
        name = self._name(e)
        labels = {"range": ["lower end", "upper end"], "tolerance": ["value", "tolerance"]}.get(e.mode)
        if labels is None or (e.mode == "tolerance" and r.random() < 0.5):
            return f"{name}? {cue}", e.number()
        label = r.choice(labels)
        which = "second" if label in ("upper end", "tolerance") else "value"
        return f"{label} of the {name}? {cue}", e.number(which)

    def unit(self) -> Pair | None:
        r, e = self.rng, self._pick([e for e in self.valued if e.unit])
        if e is None:
            return None
        name = entry_name(e, r)
        return r.choice([f"Which unit has the {name}?", f"In what unit is the {name} given?"]), r.choice(
            [f"The {name} is given in {e.unit}.", f"The unit is {e.unit}."]
        )

    def colour(self) -> Pair | None:
        r, e = self.rng, self._pick([e for e in self.unique if e.colour])
        if e is None:
            return None
        name = shape_name(e.shape, r)
        return r.choice(
            [f"What colour is the {name}?", f"Which colour has the {name}?"]
        ), f"The {name} is {e.colour}."

    def which_has(self) -> Pair | None:
        values = [e.value for e in self.entries]
        r, e = self.rng, self._pick([e for e in self.valued if values.count(e.value) == 1])
        if e is None:
            return None
        question = r.choice(
            [
                f"Which symbol shows {e.number()}?",
                f"What has {value_text(e)}?",
                f"Where does {e.number()} stand?",
            ]
        )
        return question, r.choice(
            [f"That is the {entry_name(e, r)}.", f"The {entry_name(e, r)} shows {value_text(e)}."]
        )

    def bounds(self) -> Pair | None:
        r, e = self.rng, self._pick([e for e in self.valued if e.mode != "none"])
        if e is None:
            return None
        name = self._name(e)
        if e.mode == "tolerance":
            question = r.choice([f"What is the tolerance of the {name}?", f"How far may the {name} be off?"])
            return question, r.choice(
                [
                    f"The {name} may be off by {e.number('second')} {e.unit or ''}".strip() + ".",
                    f"It is plus or minus {e.number('second')} at the {name}.",
                ]
            )
        if r.random() < 0.5:
            question = r.choice([f"What is the smallest value of the {name}?", f"Lower limit of the {name}?"])
            return question, f"The {name} starts at {e.number()}" + (f" {e.unit}." if e.unit else ".")
        question = r.choice([f"What is the largest value of the {name}?", f"Upper limit of the {name}?"])
        return question, f"The {name} goes up to {e.number('second')}" + (f" {e.unit}." if e.unit else ".")

    def compare(self) -> Pair | None:
        r = self.rng
        pool = [e for e in self.valued if e.mode == "none" and e.dot == 0]
        if len(pool) < 2:
            return None
        x, y = r.sample(pool, 2)
        if x.value == y.value:
            return None
        more = r.random() < 0.5
        best = max(x, y, key=lambda e: e.value) if more else min(x, y, key=lambda e: e.value)
        first, second = entry_name(x, r), entry_name(y, r)
        question = f"Which is {'larger' if more else 'smaller'}, the {first} or the {second}?"
        return (
            question,
            f"The {first} shows {x.number()} and the {second} {y.number()}, so the {first if best is x else second} is {'larger' if more else 'smaller'}.",
        )

    def two_values(self) -> Pair | None:
        r = self.rng
        if len(self.valued) < 2:
            return None
        x, y = r.sample(self.valued, 2)
        first, second = self._name(x), self._name(y)
        question = r.choice(
            [
                f"What do the {first} and the {second} show?",
                f"Read the {first} and then the {second}.",
                f"Give me both: the {first}, the {second}.",
            ]
        )
        return question, f"The {first} shows {value_text(x)} and the {second} {value_text(y)}."

    def count(self) -> Pair | None:
        r = self.rng
        if self.street or r.random() < 0.5:
            pool = STREET_OBJECTS if self.street else PICTOGRAMS
            present = sorted({e.shape for e in self.entries})
            shape = r.choice(present) if present and r.random() < 0.7 else r.choice(pool)
            number = sum(e.shape == shape for e in self.entries)
            name = shape_name(shape, r)
        else:
            colour = r.choice([e.colour for e in self.entries if e.colour] or ["red"])
            number, name = sum(e.colour == colour for e in self.entries), f"{colour} symbol"
        question = r.choice(
            [
                f"How many {plural(name)} are there?",
                f"Count the {plural(name)}.",
                f"How many {plural(name)} do you see?",
            ]
        )
        verb = "is" if number == 1 else "are"
        return question, r.choice(
            [f"There {verb} {some(name, number)}.", f"I see {some(name, number)}.", f"I count {number}."]
        )

    def exists(self) -> Pair | None:
        r = self.rng
        pool = STREET_OBJECTS if self.street else PICTOGRAMS
        present = {e.shape for e in self.entries}
        shape = r.choice(sorted(present)) if present and r.random() < 0.5 else r.choice(pool)
        name = shape_name(shape, r)
        question = r.choice(
            [f"Is there {a(name)}?", f"Do you see {a(name)}?", f"Can you find {a(name)} here?"]
        )
        return question, f"Yes, there is {a(name)}." if shape in present else f"No, there is no {name} here."

    def neighbour(self) -> Pair | None:
        r, e = self.rng, self._pick(self.unique)
        if e is None or self.street:
            return None
        steps = {"right of": (0, 1), "left of": (0, -1), "below": (1, 0), "above": (-1, 0)}
        where = r.choice(list(steps))
        columns = len({x.place[1] for x in self.entries})
        index = next(i for i, x in enumerate(self.page.entries) if x is e)
        row, col = divmod(index, columns)
        row, col = row + steps[where][0], col + steps[where][1]
        inside = row >= 0 and 0 <= col < columns and row * columns + col < len(self.page.entries)
        name = entry_name(e, r)
        question = r.choice([f"What is {where} the {name}?", f"Which symbol stands {where} the {name}?"])
        other = self.page.entries[row * columns + col] if inside else None
        if other is None or not other.shape:
            return question, f"Nothing is {where} the {name}."
        return question, f"{where[0].upper()}{where[1:]} the {name} is {a(entry_text(other, r))}."

    def step_of(self) -> Pair | None:
        r, e = self.rng, self._pick([e for e in self.unique if e.step])
        if e is None:
            return None
        name = self._name(e)
        question = r.choice(
            [f"Which step has the {name}?", f"At which step is the {name}?", f"Step of the {name}?"]
        )
        return question, r.choice([f"The {name} is at step {e.step}.", f"That is step {e.step}."])

    def follows(self) -> Pair | None:
        """The entry after another one, in reading order."""
        r = self.rng
        spots = [i for i, e in enumerate(self.entries[:-1]) if e in self.unique]
        if self.street or not spots:
            return None
        i = r.choice(spots)
        name, after = entry_name(self.entries[i], r), self.entries[i + 1]
        question = r.choice([f"What comes after the {name}?", f"Which entry is next after the {name}?"])
        return question, f"After the {name} comes {a(entry_text(after, r))}."

    def light(self) -> Pair | None:
        if not self.street:
            return None
        light = self.page.ground[0][0].split()[0]
        words = {"day": "day", "dusk": "dusk", "night": "night"}
        if light not in words:
            return None
        question = self.rng.choice(["Is it day or night?", "What time of day is it?", "How is the light?"])
        return question, self.rng.choice([f"It is {words[light]}.", f"The sky says {words[light]}."])

    def ask(self, count: int) -> list[Pair]:
        """``count`` questions of mixed kinds; about a third of the answers start with a remark on the page."""
        kinds: list[tuple[Callable[[], Pair | None], float]] = [
            (self.describe, 0.6), (self.read_all, 1.0), (self.read_shuffled, 1.0), (self.value, 4.0), (self.value_by_colour, 1.0),
            (self.value_by_place, 1.5), (self.number_only, 1.5), (self.unit, 0.7), (self.colour, 0.7),
            (self.which_has, 1.3), (self.bounds, 2.0), (self.compare, 0.8), (self.two_values, 1.0),
            (self.count, 3.0 if self.street else 0.8), (self.exists, 1.0 if self.street else 0.4), (self.neighbour, 1.2), (self.light, 0.5),
            (self.step_of, 1.0),
            (self.follows, 0.8),
        ]  # fmt: skip
        asks, weights = [k for k, _ in kinds], [w for _, w in kinds]
        pairs: list[Pair] = []
        while len(pairs) < count:
            ask = self.rng.choices(asks, weights)[0]
            pair = ask()
            if pair is None:
                continue
            question, answer = pair
            if (
                ask not in (self.describe, self.read_all, self.read_shuffled, self.number_only)
                and self.rng.random() < 0.3
            ):
                answer = f"{self.remark(self.rng.randint(1, 2))} {answer}"
            pairs.append((question[0].upper() + question[1:], answer))
        return pairs


def random_entry(rng: random.Random, shape: str, layout: str) -> Entry:
    entry = Entry(shape=shape, colour=rng.choice(list(COLOURS)))
    if layout == "map":
        return entry
    entry.dot = rng.choice([0, 0, 1, 2])
    if layout in ("list", "cards"):
        entry.mode = rng.choice(["none", "tolerance", "range"])
    entry.value = rng.randint(10, 99)
    if entry.mode == "tolerance":
        entry.second = rng.randint(1, 9)
    elif entry.mode == "range":
        entry.value = rng.randint(10, 88)
        entry.second = rng.randint(entry.value + 1, min(99, entry.value + 25))
    if layout != "pairs":
        entry.unit = rng.choice(UNITS)
    return entry


def random_page(rng: random.Random) -> Page:
    """A page of any layout the base should be at home with."""
    layout = rng.choices(["list", "cards", "steps", "pairs", "map", "street"], [5, 4, 2, 2, 2, 3])[0]
    if layout == "street":
        return random_street(rng)
    columns = {"list": rng.choice([1, 2]), "cards": rng.randint(2, 4), "steps": rng.choice([1, 2]),
               "pairs": rng.randint(2, 4), "map": rng.randint(3, 7)}[layout]  # fmt: skip
    rows = {"list": rng.randint(3, 7), "cards": rng.randint(2, 3), "steps": rng.randint(2, 6),
            "pairs": rng.randint(2, 5), "map": rng.randint(2, 5)}[layout]  # fmt: skip
    if layout == "steps":
        columns = 1 if rows > 4 else columns
    number = rows * columns
    repeat = layout == "map" or number > 12 or rng.random() < 0.15
    shapes = rng.choices(PICTOGRAMS, k=number) if repeat else rng.sample(PICTOGRAMS, number)
    one_shape = layout not in ("map", "street") and number <= len(COLOURS) and rng.random() < 0.15
    if one_shape:
        shapes = [rng.choice(PICTOGRAMS)] * number
    entries = [random_entry(rng, shape, layout) for shape in shapes]
    if one_shape:  # told apart by colour alone
        for entry, colour in zip(entries, rng.sample(list(COLOURS), number), strict=True):
            entry.colour = colour
    if layout == "map":
        for entry in entries:
            if rng.random() < 0.3:
                entry.shape = entry.colour = None
    if layout == "steps":
        for index, entry in enumerate(entries):
            entry.step = index + 1
    return place_entries(entries, layout, columns)


def random_street(rng: random.Random) -> Page:
    """A street of random things: sky, a wall, a pavement, a road."""
    columns = rng.randint(5, 8)
    sky = rng.choice(["day sky", "dusk sky", "night sky"])
    wall = rng.choice(["brick wall", "shop wall", "hedge", "concrete wall"])
    walk = rng.choice(["pavement", "grass"])
    ground = [[g] * columns for g in (sky, wall, walk, rng.choice(["road", walk]))]
    assert all(g in GROUNDS for row in ground for g in row)
    high, low = (
        ["window", "broken window", "door", "camera", "graffiti"],
        ["lamp", "dark lamp", "person", "litter", "tree", "bench", "car"],
    )
    high, low = rng.sample(high, 3), rng.sample(low, 4)
    entries = []
    for row in range(4):
        for _ in range(columns):
            pool, chance = ([], 0.0) if row == 0 else (high, 0.5) if row == 1 else (low, 0.4)
            entry = Entry(shape=rng.choice(pool) if rng.random() < chance else None)
            if entry.shape in ("person", "car"):
                entry.colour = rng.choice(list(COLOURS))
            entries.append(entry)
    return place_entries(entries, "map", columns, ground)


def page_and_questions(rng: random.Random, count: int) -> tuple[Page, list[Pair]]:
    page = random_page(rng)
    return page, Asker(page, rng).ask(count)
