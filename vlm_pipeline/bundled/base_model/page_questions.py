"""Questions about a page as a whole: what it shows, what it says in order, how many there are of a kind."""

from __future__ import annotations

from vlm_pipeline.bundled.base_model.naming import (
    a,
    count_words,
    entry_name,
    plural,
    read_out,
    shape_name,
    some,
    value_text,
)
from vlm_pipeline.bundled.base_model.page_view import PageView, Pair
from vlm_pipeline.bundled.glyphs import PICTOGRAMS, STREET_OBJECTS


class PageQuestions(PageView):
    """Every method returns one pair, or None where it does not apply."""

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

    def light(self) -> Pair | None:
        if not self.street:
            return None
        light = self.page.ground[0][0].split()[0]
        words = {"day": "day", "dusk": "dusk", "night": "night"}
        if light not in words:
            return None
        question = self.rng.choice(["Is it day or night?", "What time of day is it?", "How is the light?"])
        return question, self.rng.choice([f"It is {words[light]}.", f"The sky says {words[light]}."])
