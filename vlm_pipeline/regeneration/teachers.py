"""Who makes new rows: a hosted or self-hosted vision model, or, for the bundled tasks, the renderer of their pages.

A teacher gets train rows only. It proposes `Candidate`s and never decides: `vetting` does.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.facts import folded
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.regeneration import prompts
from vlm_pipeline.regeneration.candidate import Candidate, asked_text, slice_of
from vlm_pipeline.store import TaskStore, content_hash
from vlm_pipeline.task import Task

EXAMPLES = 6  # answers of other pages that a teacher is shown
_DRAWS = 60  # question sets that the renderer draws of a page before it gives up on a question


class TeacherError(ValueError):
    """This teacher cannot work here; the message says why and what to do."""


class Teacher(Protocol):
    """`exact`: its words are the task's own, so that any other wording of an answer is wrong."""

    name: str
    exact: bool
    cost_usd: float

    def correct(self, rows: Sequence[Example]) -> list[Candidate]:
        """The questions of these train rows, answered again; candidate i answers row i."""
        ...

    def more(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """New questions about the pages of these train rows, as a section's request asks for them."""
        ...

    def negatives(self, rows: Sequence[Example], request: Mapping[str, Any]) -> list[Candidate]:
        """Questions of other pages that a page does not answer, with the task's words for that."""
        ...


def pages_of(rows: Iterable[Example]) -> dict[str, list[Example]]:
    """Train rows by page, in order."""
    pages: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        pages[str(row.group)].append(row)
    return dict(sorted(pages.items()))


class Renderer:
    """The offline teacher of the bundled tasks: it knows what it drew, and never saw the rows."""

    name, exact, cost_usd = "renderer", True, 0.0

    def __init__(self, task: Task) -> None:
        from vlm_pipeline.bundled.make_data import TASKS, page_facts

        if task.name not in TASKS or not (task.root / "pages.jsonl").is_file():
            raise TeacherError(
                f"the renderer teaches the bundled tasks only ({', '.join(TASKS)}) and needs their pages.jsonl; "
                "name a hosted model or a server of your own as regeneration.teacher"
            )
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
        return _in_turn(made)

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
        return self._read_again(_in_turn(made))

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


def make_teacher(task: Task, store: TaskStore, work: str, say: Callable[[str], None]) -> Teacher:
    """The teacher of the settings. Raises TeacherError where there is none, or it cannot run now."""
    settings = task.regeneration
    if settings.teacher is None:
        raise TeacherError(
            "no regeneration.teacher is set in task.yaml: name a model, or hand the section over to a person "
            f"(python -m vlm_pipeline hand-over {task.name} SECTION FOLDER)"
        )
    if settings.teacher == "renderer":
        return Renderer(task)
    from vlm_pipeline.inference.budget import Budget

    budget = Budget(settings.money_usd, store.path("spend", "regeneration.jsonl"))
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
        raise TeacherError(f"{settings.name} costs money and regeneration.money_usd is 0")
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


def choose(pages: Sequence[Sequence[Candidate]], kinds: Mapping[str, int], per_page: int) -> list[Candidate]:
    """At most `per_page` of every page, page by page in turn, each time of the kind that most rows are still wanted of."""
    left = dict(kinds)
    pools = [list(page) for page in pages]
    chosen: list[Candidate] = []
    for _ in range(per_page):
        for pool in pools:
            wanted = [one for one in pool if left.get(one.kind, 0) > 0]
            if wanted:
                one = max(wanted, key=lambda one: left[one.kind])
                pool.remove(one)
                left[one.kind] -= 1
                chosen.append(one)
    return chosen


def _in_turn(lists: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """The first of every page, then the second of every page: a cut-off list still covers all pages."""
    longest = max(map(len, lists), default=0)
    return [own[place] for place in range(longest) for own in lists if place < len(own)]
