"""Prediction tables: ask only what the cache does not know, keep every answer as it arrives, write the table whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from vlm_pipeline.inference.cache import RowCache
from vlm_pipeline.inference.prediction import Ask, Prediction, answered, failed, write_predictions
from vlm_pipeline.settings.predictors import GenerationSettings

Progress = Callable[[int, int], None]  # (rows done, rows to ask)


class Predictor(Protocol):
    """Whoever answers. `fingerprint` names the weights or the provider's model: part of every cache key."""

    name: str
    fingerprint: str
    generation: GenerationSettings

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
    asks: Sequence[Ask],
    *,
    cache_folder: Path,
    output: Path,
    about: Callable[[], dict[str, Any]] = dict,
    progress: Progress | None = None,
) -> Counts:
    """Write the prediction table `output` for `asks`, in their order; returns the counts.

    Requests whose key the cache knows are reused; equal requests are asked once; failed rows become error rows
    and are asked again by the next call. An answer is on disk before the next list is fetched, so a killed run
    loses what is in flight and nothing else. `about` is asked last: what the table says beside its rows.
    """
    started = time.perf_counter()
    asks = _sampled(predictor, asks)
    keys = [ask.key(predictor.fingerprint, predictor.generation) for ask in asks]
    # Answers that would not be given again stand in no other table: a journal beside this one keeps them until it is
    # whole, so that a killed run goes on and a finished one starts afresh.
    cache, journal = (
        RowCache(cache_folder, predictor.fingerprint),
        RowCache(output.parent / "journal", output.stem),
    )
    stored = journal.get_many(keys)
    if predictor.deterministic:
        stored |= cache.get_many(keys)
    first_with: dict[str, Ask] = {}
    for ask, key in zip(asks, keys, strict=True):
        if key not in stored:
            first_with.setdefault(key, ask)
    key_of = {(ask.id, ask.sample): key for key, ask in first_with.items()}
    if len(key_of) != len(first_with):
        raise ValueError(f"{predictor.name}: row ids are not unique; the rows cannot be told apart")
    fresh: dict[str, Prediction] = {}
    if first_with:
        for rows in predictor.predict(list(first_with.values())):
            arrived = {key_of[row.id, row.sample]: row for row in rows}
            place = cache if predictor.deterministic else journal
            place.put_many({key: row.stored for key, row in arrived.items() if row.error is None})
            fresh |= arrived
            if progress:
                progress(len(fresh), len(first_with))
    table = []
    for ask, key in zip(asks, keys, strict=True):
        row = fresh.get(key)
        if key in stored:
            table.append(answered(ask, predictor.name, cached=True, **stored[key]))
        elif row is None:
            table.append(failed(ask, predictor.name, "the predictor gave neither an answer nor a reason"))
        elif first_with[key] is ask:
            table.append(row)
        elif row.error is not None:
            table.append(failed(ask, predictor.name, row.error))
        else:
            table.append(answered(ask, predictor.name, cached=True, **row.stored))
    description = {
        "predictor": predictor.name,
        "fingerprint": predictor.fingerprint,
        "generation": predictor.generation.model_dump(mode="json"),
        **about(),
    }
    write_predictions(output, table, description)
    if not any(row.error for row in table):
        journal.path.unlink(missing_ok=True)
    new, known = list(fresh.values()), [row for row in table if row.cached]
    return Counts(
        rows=len(table),
        asked=len(first_with),
        reused=len(table) - len(first_with),
        failed=sum(row.error is not None for row in table),
        seconds=time.perf_counter() - started,
        tokens_in=sum(row.tokens_in for row in new),
        tokens_out=sum(row.tokens_out for row in new),
        cost_usd=sum(row.cost_usd for row in new),
        tokens_in_saved=sum(row.tokens_in for row in known),
        tokens_out_saved=sum(row.tokens_out for row in known),
        cost_usd_saved=sum(row.cost_usd for row in known),
    )


def _sampled(predictor: Predictor, asks: Sequence[Ask]) -> list[Ask]:
    return [one for ask in asks for one in ask.samples(predictor.generation.samples)]
