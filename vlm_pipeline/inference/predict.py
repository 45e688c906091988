"""Prediction tables: ask only what the cache does not know, keep every answer as it arrives, write the table whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from vlm_pipeline.inference.cache import RowCache
from vlm_pipeline.inference.prediction import (
    Ask,
    Prediction,
    answered,
    failed,
    prediction_table,
    write_predictions,
)
from vlm_pipeline.settings.predictors import GenerationSettings

Progress = Callable[[int, int], None]  # (rows done, rows to ask)
_SPENT = ("tokens_in", "tokens_out", "cost_usd")
_COUNTED = ("rows", "asked", "reused", "failed", *_SPENT, *(f"{name}_saved" for name in _SPENT))


class Predictor(Protocol):
    """Whoever answers. `fingerprint` names the weights or the provider's model: part of every cache key.
    `rows_at_once`: the most rows of one `predict`; None: all rows of the table."""

    name: str
    fingerprint: str
    generation: GenerationSettings
    rows_at_once: int | None

    @property
    def deterministic(self) -> bool:
        """Whether the answers of now would be given again; may become False while rows are asked."""
        ...

    def predict(self, asks: Sequence[Ask]) -> Iterator[list[Prediction]]:
        """Answers and error rows as they arrive; the rows of one list finished together and are stored together."""
        ...


@dataclass(frozen=True)
class Counts:
    """What one `predict_table` did. Cost and tokens are of this run; of reused answers they are `_saved`."""

    rows: int
    asked: int
    reused: int
    failed: int
    seconds: float
    tokens_in: int
    tokens_out: int
    cost_usd: float
    tokens_in_saved: int = 0
    tokens_out_saved: int = 0
    cost_usd_saved: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def predict_table(
    predictor: Predictor,
    asks: Iterable[Ask],
    *,
    cache_folder: Path,
    output: Path,
    about: Callable[[], dict[str, Any]] = dict,
    progress: Progress | None = None,
    expected: int | None = None,
) -> Counts:
    """Write the prediction table `output` for `asks`, in their order; returns the counts.

    Rows are taken `predictor.rows_at_once` at a time, so that memory does not grow with their questions; `expected` is
    their number where `asks` does not tell it. Requests whose key the cache knows are reused; equal requests are asked
    once; failed rows become error rows and are asked again by the next call. An answer is on disk before the next list
    is fetched, so a killed run loses what is in flight and nothing else. `about` is asked last: what the table says
    beside its rows.
    """
    started = time.perf_counter()
    samples = predictor.generation.samples
    if expected is None and isinstance(asks, Sized):
        expected = len(asks)
    answers = _Answers(
        predictor, cache_folder, output, progress, None if expected is None else expected * samples
    )
    rest = (one for ask in asks for one in ask.samples(samples))
    parts = []
    while some := list(islice(rest, predictor.rows_at_once)):
        parts.append(prediction_table(answers.of(some)))
    description = {
        "predictor": predictor.name,
        "fingerprint": predictor.fingerprint,
        "generation": predictor.generation.model_dump(mode="json"),
        **about(),
    }
    write_predictions(output, parts, description)
    counts = answers.counts
    if not counts["failed"]:
        answers.journal.path.unlink(missing_ok=True)
    return Counts(**counts, seconds=time.perf_counter() - started)


class _Answers:
    """The predictions of one table, some rows at a time, and what they came to."""

    def __init__(
        self,
        predictor: Predictor,
        cache_folder: Path,
        output: Path,
        progress: Progress | None,
        expected: int | None,
    ) -> None:
        self._predictor, self._progress, self._expected = predictor, progress, expected
        self._cache = RowCache(cache_folder, predictor.fingerprint)
        # Answers that would not be given again stand in no other table: a journal beside this one keeps them until it
        # is whole, so that a killed run goes on and a finished one starts afresh.
        self.journal = RowCache(output.parent / "journal", output.stem)
        self.counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))

    def of(self, asks: Sequence[Ask]) -> list[Prediction]:
        """The predictions of these rows, in their order; new answers are stored as they arrive."""
        predictor = self._predictor
        keys = [ask.key(predictor.fingerprint, predictor.generation) for ask in asks]
        stored = self.journal.get_many(keys)
        if predictor.deterministic:
            stored |= self._cache.get_many(keys)
        first_with: dict[str, Ask] = {}
        for ask, key in zip(asks, keys, strict=True):
            if key not in stored:
                first_with.setdefault(key, ask)
        fresh = self._asked(first_with, len(asks))
        rows = [
            self._row(ask, first_with.get(key), stored.get(key), fresh.get(key))
            for ask, key in zip(asks, keys, strict=True)
        ]
        self._count(rows, list(fresh.values()), len(first_with))
        return rows

    def _asked(self, first_with: dict[str, Ask], rows: int) -> dict[str, Prediction]:
        """What the predictor says to these requests, by key."""
        predictor = self._predictor
        key_of = {(ask.id, ask.sample): key for key, ask in first_with.items()}
        if len(key_of) != len(first_with):
            raise ValueError(f"{predictor.name}: row ids are not unique; the rows cannot be told apart")
        fresh: dict[str, Prediction] = {}
        before = self.counts["asked"]
        to_ask = before + len(first_with)
        if self._expected is not None:  # of the rows behind these it is not known which the cache holds
            to_ask += max(0, self._expected - self.counts["rows"] - rows)
        if not first_with:
            if self._progress and before:
                self._progress(before, to_ask)
            return fresh
        for arrived in predictor.predict(list(first_with.values())):
            by_key = {key_of[row.id, row.sample]: row for row in arrived}
            place = self._cache if predictor.deterministic else self.journal
            place.put_many({key: row.stored for key, row in by_key.items() if row.error is None})
            fresh |= by_key
            if self._progress:
                self._progress(before + len(fresh), to_ask)
        return fresh

    def _row(
        self, ask: Ask, first: Ask | None, stored: dict[str, Any] | None, fresh: Prediction | None
    ) -> Prediction:
        """The prediction of `ask`, whose request was `first` asked by that row, or is `stored`."""
        name = self._predictor.name
        if stored is not None:
            return answered(ask, name, cached=True, **stored)
        if fresh is None:
            return failed(ask, name, "the predictor gave neither an answer nor a reason")
        if first is ask:
            return fresh
        if fresh.error is not None:
            return failed(ask, name, fresh.error)
        return answered(ask, name, cached=True, **fresh.stored)

    def _count(self, rows: Sequence[Prediction], new: Sequence[Prediction], asked: int) -> None:
        known = [row for row in rows if row.cached]
        self.counts.update(
            rows=len(rows),
            asked=asked,
            reused=len(rows) - asked,
            failed=sum(row.error is not None for row in rows),
            **{name: sum(getattr(row, name) for row in new) for name in _SPENT},
            **{f"{name}_saved": sum(getattr(row, name) for row in known) for name in _SPENT},
        )
