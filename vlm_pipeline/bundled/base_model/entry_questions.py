"""Questions about single entries of a page: their values, limits, colours and places, and how two compare."""

from __future__ import annotations

from vlm_pipeline.bundled.base_model.naming import (
    ORDINALS,
    a,
    entry_name,
    entry_text,
    shape_name,
    stranger,
    value_text,
)
from vlm_pipeline.bundled.base_model.page_view import PageView, Pair


class EntryQuestions(PageView):
    """Every method returns one pair, or None where it does not apply."""

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
