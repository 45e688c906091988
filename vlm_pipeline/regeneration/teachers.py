"""Who makes new rows: a hosted or self-hosted model; `offline_teachers` has those of the bundled tasks.

A teacher gets train rows only. It proposes `Candidate`s and never decides: `vetting` does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.facts import folded
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.regeneration import prompts
from vlm_pipeline.regeneration.candidate import Candidate, asked_text, slice_of
from vlm_pipeline.regeneration.offline_teachers import offline_teacher
from vlm_pipeline.regeneration.proposals import Teacher, TeacherError, in_turn, pages_of
from vlm_pipeline.store import TaskStore, content_hash
from vlm_pipeline.task import Task

EXAMPLES = 6  # answers of other pages that a teacher is shown


@dataclass
class Asker:
    """Puts conversations to one hosted model through the row cache: what it once answered is never paid again."""

    predictor: Any  # inference.hosted.HostedPredictor
    store: TaskStore
    work: str  # name below regeneration/, where the tables of answers are kept
    say: Callable[[str], None] = print
    cost_usd: float = field(default=0.0, init=False)

    def ask(self, talks: Sequence[tuple[Example, Conversation]]) -> list[tuple[str, str | None]]:
        """(text, None) or ("", why there is none) for each conversation about a row, in order."""
        from vlm_pipeline.inference.chat import conversation_hash
        from vlm_pipeline.inference.predict import predict_table
        from vlm_pipeline.inference.prediction import Ask, read_predictions

        if not talks:
            return []
        asks = [
            Ask(f"{number:06d}", row.section, row.group, "train", conversation_hash(talk),
                tuple(image.sha256 for image in talk.images), talk)
            for number, (row, talk) in enumerate(talks)
        ]  # fmt: skip
        name = content_hash([ask.prompt_hash for ask in asks] + [ask.images for ask in asks])
        output = self.store.path("regeneration", self.work, f"{self.predictor.name}-{name}.parquet")
        counts = predict_table(self.predictor, asks, cache_folder=self.store.cache, output=output)
        self.cost_usd += counts.cost_usd
        self.say(
            f"{self.predictor.name}: {counts.rows} questions, {counts.asked} asked, {counts.reused} known, "
            f"{counts.failed} failed, {counts.cost_usd:.4f} USD"
        )
        return [(row.text or "", row.error or _unusable(row)) for row in read_predictions(output)]


def _unusable(row: Any) -> str | None:
    if row.finish_reason == "length":
        return "the answer was cut off"
    return "the teacher refused" if row.finish_reason == "refused" else None


class HostedTeacher:
    """A vision model over HTTP. Every answer is read a second time, by `second` or by itself in other words."""

    exact = False

    def __init__(self, task: Task, asker: Asker, second: Asker) -> None:
        self.name = asker.predictor.name
        self._task, self._asker, self._second = task, asker, second

    @property
    def cost_usd(self) -> float:
        return self._asker.cost_usd + (self._second.cost_usd if self._second is not self._asker else 0.0)

    def correct(self, rows: Sequence[Example]) -> list[Candidate]:
        candidates = [
            Candidate(row, asked_text(row), "", "correct", self.name, self._kind(row), replaces=row.id)
            for row in rows
        ]
        return self._read_again(self._answered(candidates, rows))

    def more(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        settings = self._task.regeneration
        pages = list(pages_of(rows).values())
        talks = [
            (own[0], prompts.new_rows(own[0], settings.rows_per_page, request["kinds"], examples_for(own[0], rows, settings, request["round"]),
                                      request["failures"]))
            for own in pages
        ]  # fmt: skip
        made: list[list[Candidate]] = []
        for own, (text, error) in zip(pages, self._asker.ask(talks), strict=True):
            try:
                proposed = [] if error else prompts.parse_rows(text)
            except ValueError as problem:
                error = str(problem)
                proposed = []
            if error:
                made.append([Candidate(own[0], "", "", "more_rows", self.name, problem=error)])
                continue
            known = {slice_of(row, settings.slice_key) for row in rows}
            made.append(
                [
                    Candidate(own[0], row["question"], row["answer"], "more_rows", self.name,
                              row["kind"] if row["kind"] in known else slice_of(own[0], settings.slice_key))
                    for row in proposed[: 2 * settings.rows_per_page]
                ]
            )  # fmt: skip
        return self._read_again(in_turn(made))

    def negatives(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """Questions of other pages; kept as candidates where the teacher says that the page does not answer them."""
        settings = self._task.regeneration
        candidates = []
        for page, own in pages_of(rows).items():
            rng = random.Random(f"{settings.seed} negatives {page}")
            asked = {folded(asked_text(row)) for row in own}
            foreign = [row for row in rows if folded(asked_text(row)) not in asked]
            for row in rng.sample(foreign, min(len(foreign), max(1, settings.rows_per_page // 2))):
                candidates.append(
                    Candidate(own[0], asked_text(row), "", "negatives", self.name, self._kind(row))
                )
        negative = str(settings.negative_answer)
        read = self._answered(candidates, rows, negative)
        return self._read_again([one for one in read if folded(one.answer) == folded(negative)], negative)

    def _kind(self, row: Example) -> str:
        return slice_of(row, self._task.regeneration.slice_key)

    def _answered(
        self, candidates: Sequence[Candidate], rows: Sequence[Example], negative: str | None = None
    ) -> list[Candidate]:
        shown = {
            page: examples_for(own[0], rows, self._task.regeneration)
            for page, own in pages_of(one.seed for one in candidates).items()
        }
        talks = [
            (one.seed, prompts.reading(one.seed, one.question, shown[one.page], negative))
            for one in candidates
        ]
        return [
            replace(one, answer=text.strip(), problem=error)
            for one, (text, error) in zip(candidates, self._asker.ask(talks), strict=True)
        ]

    def _read_again(self, candidates: Sequence[Candidate], negative: str | None = None) -> list[Candidate]:
        usable = [one for one in candidates if not one.problem]
        talks = [(one.seed, prompts.second_reading(one.seed, one.question, negative)) for one in usable]
        again = dict(zip(map(id, usable), self._second.ask(talks), strict=True))
        read = []
        for one in candidates:
            text, error = again.get(id(one), ("", None))
            problem = f"not read a second time: {error}" if error else one.problem
            read.append(replace(one, second=None if error else text.strip() or None, problem=problem))
        return read


def make_teacher(
    task: Task, store: TaskStore, work: str, say: Callable[[str], None], left_usd: float
) -> Teacher:
    """The teacher of the settings, which may spend what is left. Raises TeacherError where there is none, or it cannot
    run now."""
    settings = task.regeneration
    if settings.teacher is None:
        raise TeacherError(
            "no regeneration.teacher is set in task.yaml: name a model, or hand the section over to a person "
            f"(python -m vlm_pipeline hand-over {task.name} SECTION FOLDER)"
        )
    if settings.teacher == "renderer":
        return offline_teacher(task)
    from vlm_pipeline.inference.budget import Budget

    budget = Budget(left_usd, store.path("spend", f"{work}.jsonl"))
    asker = _asker(task, settings.teacher, store, work, budget, say)
    reader = settings.second_reader
    return HostedTeacher(
        task, asker, _asker(task, reader, store, work, budget, say) if reader is not None else asker
    )


def _asker(
    task: Task, settings: Any, store: TaskStore, work: str, budget: Any, say: Callable[[str], None]
) -> Asker:
    from vlm_pipeline.inference.hosted_run import make_hosted
    from vlm_pipeline.inference.predictors import availability
    from vlm_pipeline.inference.prices import PriceError
    from vlm_pipeline.settings.predictors import GenerationSettings

    reason = availability(settings, budget_usd=None)
    if reason:
        raise TeacherError(f"{settings.name} {reason}")
    generation = settings.generation or GenerationSettings(max_new_tokens=1024)
    journal = store.path("regeneration", work, "batches", f"{settings.name}.json")
    try:
        predictor = make_hosted(settings, generation, budget, journal=journal)
    except PriceError as error:
        raise TeacherError(f"{settings.name}: {error}") from error
    if budget.limit_usd <= 0 and (predictor.price.input or predictor.price.output):
        raise TeacherError(f"{settings.name} costs money and nothing is left of regeneration.money_usd")
    return Asker(predictor, store, work, say)


def examples_for(row: Example, rows: Sequence[Example], settings: Any, round_: int = 0) -> list[Example]:
    """Rows of other pages of the section, one of each kind in turn; the same for every row of a page.

    Another round shows others, so that a teacher who always answers alike is not asked the same again.
    """
    others = sorted((other for other in rows if other.group != row.group), key=lambda other: other.id)
    random.Random(f"{settings.seed} examples {round_} {row.group}").shuffle(others)
    turns: Counter[str] = Counter()
    ranked = []
    for other in others:
        kind = slice_of(other, settings.slice_key)
        ranked.append((turns[kind], len(ranked), other))
        turns[kind] += 1
    return [other for *_, other in sorted(ranked, key=lambda entry: entry[:2])[:EXAMPLES]]
