"""The offline teachers of the bundled tasks, `teacher: renderer`: they know what they drew, and never saw the rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_pipeline.examples.example import Example, text_of
from vlm_pipeline.examples.facts import folded
from vlm_pipeline.regeneration.candidate import Candidate, asked_text, slice_of
from vlm_pipeline.regeneration.proposals import Teacher, TeacherError, choose, in_turn, pages_of
from vlm_pipeline.task import Task

NAME = "renderer"
_DRAWS = 60  # question sets drawn of a page before a question is given up


def offline_teacher(task: Task) -> Teacher:
    """Of a bundled task. Raises TeacherError for any other."""
    from vlm_pipeline.bundled.make_data import TASKS, TEXT_TASKS

    if task.name in TEXT_TASKS:
        return TextGenerator(task)
    if task.name in TASKS and (task.root / "pages.jsonl").is_file():
        return Renderer(task)
    raise TeacherError(
        f"the renderer teaches the bundled tasks only ({', '.join([*TASKS, *TEXT_TASKS])}), with their pages.jsonl; name "
        "a hosted model or a server of your own as regeneration.teacher"
    )


class Renderer:
    """Of the bundled tasks with pictures, by the facts of their pages."""

    name, exact, cost_usd = NAME, True, 0.0

    def __init__(self, task: Task) -> None:
        from vlm_pipeline.bundled.make_data import page_facts

        self._task, self._facts = task, page_facts(task.root)

    def correct(self, rows: Sequence[Example]) -> list[Candidate]:
        found: dict[str, Candidate] = {}
        for page, own in pages_of(rows).items():
            known = self._known(page, {folded(asked_text(row)) for row in own})
            for row in own:
                drawn = known.get(folded(asked_text(row)))
                found[row.id] = (
                    self._candidate(row, drawn, "correct", replaces=row.id)
                    if drawn
                    else Candidate(row, asked_text(row), "", "correct", self.name, replaces=row.id,
                                   problem="the renderer has no such question about this page")
                )  # fmt: skip
        return [found[row.id] for row in rows]

    def more(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """Fresh question sets of every page, page by page in turn, kinds as requested."""
        made = []
        settings = self._task.regeneration
        for page, own in pages_of(rows).items():
            asked = {folded(asked_text(row)) for row in own}
            rng = random.Random(f"{settings.seed} round {request['round']} {page}")
            new: dict[str, Candidate] = {}
            for _ in range(_DRAWS):
                for drawn in self._draw(page, rng):
                    question = folded(drawn["conversations"][0]["content"])
                    if question not in asked and question not in new:
                        new[question] = self._candidate(own[0], drawn, "more_rows")
                if len(new) >= 4 * settings.rows_per_page:
                    break
            made.append(list(new.values()))
        return choose(made, request["kinds"], settings.rows_per_page)

    def negatives(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        settings = self._task.regeneration
        pages = pages_of(rows)
        asked: dict[str, Example] = {}
        for row in rows:
            asked.setdefault(folded(asked_text(row)), row)
        made = []
        for page, own in pages.items():
            rng = random.Random(f"{settings.seed} negatives {page}")
            answerable = self._known(page, set(asked))
            foreign = sorted(set(asked) - answerable.keys())
            chosen = rng.sample(foreign, min(len(foreign), max(1, settings.rows_per_page // 2)))
            made.append(
                [
                    Candidate(own[0], asked_text(asked[question]), str(settings.negative_answer), "negatives", self.name,
                              slice_of(asked[question], settings.slice_key))
                    for question in chosen
                ]
            )  # fmt: skip
        return in_turn(made)

    def _known(self, page: str, wanted: set[str]) -> dict[str, dict[str, Any]]:
        """Drawn rows of a page by folded question, until all wanted ones are among them or the draws are over."""
        facts = self._page(page)
        known: dict[str, dict[str, Any]] = {}
        seeds = [f"{facts['generator_seed']} {facts['group']}", *(f"{page} {n}" for n in range(_DRAWS))]
        for seed in seeds:
            for drawn in self._draw(page, random.Random(seed)):
                known.setdefault(folded(drawn["conversations"][0]["content"]), drawn)
            if wanted <= known.keys():
                break
        return known

    def _draw(self, page: str, rng: random.Random) -> list[dict[str, Any]]:
        from vlm_pipeline.bundled.make_data import regenerate_rows

        return regenerate_rows(self._task.name, self._page(page), rng)

    def _page(self, group: str) -> dict[str, Any]:
        facts = self._facts.get(group.split(":", 1)[-1])
        if facts is None:
            raise TeacherError(f"pages.jsonl of {self._task.name} knows no page {group!r}")
        return facts

    def _candidate(
        self, seed: Example, drawn: Mapping[str, Any], strategy: str, replaces: str | None = None
    ) -> Candidate:
        question, answer = (turn["content"] for turn in drawn["conversations"])
        facts = {name: value for name, value in drawn["metadata"].items() if name not in ("id", "split")}
        kind = str(facts.get(self._task.regeneration.slice_key) or "all")
        return Candidate(seed, question, answer, strategy, self.name, kind, replaces, facts)


class TextGenerator:
    """Of the bundled tasks without pictures: what it drew for a question is the answer, and it draws more of a kind."""

    name, exact, cost_usd = NAME, True, 0.0

    def __init__(self, task: Task) -> None:
        from vlm_pipeline.bundled.make_data import TEXT_TASKS

        self._task, self._module = task, TEXT_TASKS[task.name]

    def correct(self, rows: Sequence[Example]) -> list[Candidate]:
        known: dict[str, tuple[str, dict[str, Any]]] = {}
        for section in {str(row.section) for row in rows}:
            for drawn in self._module.section_rows(section):
                question, answer = (next(v for k, v in turn.items() if k in ("content", "value"))
                                    for turn in drawn["conversations"][-2:])  # fmt: skip
                known[folded(question)] = answer, drawn["metadata"]
        made = []
        for row in rows:
            question = asked_text(row)
            answer, facts = known.get(folded(question), ("", {}))
            problem = None if answer else "the generator has no such question"
            made.append(self._candidate(row, question, answer, facts, "correct", row.id, problem))
        return made

    def more(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """Other questions with the same tools on offer, or about other logs, in turn for every train row."""
        return self._drawn(rows, "more_rows", request, f"round {request['round']}", None)

    def negatives(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """Questions that have no answer here, with the task's own words for that."""
        return self._drawn(rows, "negatives", request, "negatives", self._module.UNANSWERABLE)

    def _drawn(
        self,
        rows: Sequence[Example],
        strategy: str,
        request: Mapping[str, Any],
        seed: str,
        section: str | None,
    ) -> list[Candidate]:
        settings = self._task.regeneration
        made = []
        for row in rows:
            rng = random.Random(f"{settings.seed} {seed} {row.id}")
            system = "".join(
                text_of(turn["content"]) for turn in row.messages[:1] if turn["role"] == "system"
            )
            drawn = (
                self._module.more_like(section or str(row.section), system, rng)
                for _ in range(settings.rows_per_page)
            )
            made.append([self._candidate(row, *one, strategy) for one in drawn])
        return choose(made, request["kinds"], settings.rows_per_page) if section is None else in_turn(made)

    def _candidate(
        self, seed: Example, question: str, answer: str, facts: Mapping[str, Any], strategy: str,
        replaces: str | None = None, problem: str | None = None,
    ) -> Candidate:  # fmt: skip
        own = {
            name: value
            for name, value in facts.items()
            if name not in ("id", "split", "section", "generator_seed")
        }
        kind = str(
            own.get(self._task.regeneration.slice_key) or slice_of(seed, self._task.regeneration.slice_key)
        )
        return Candidate(seed, question, answer, strategy, self.name, kind, replaces, own, problem=problem)
