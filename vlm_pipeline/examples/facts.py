"""What the checks of the whole set need of each row: small, comparable, and worked out once for each section.

A row's facts hold digests and sketches instead of texts, so that a million rows are compared without reading them
again. `facts/<section>.parquet` holds those of a section, `facts/<section>.pictures.parquet` how its pictures look.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.near_images import Look, look_of
from vlm_pipeline.examples.near_texts import Sketch, sketch_of
from vlm_pipeline.store import atomic_path, write_table

_SAID = 120  # characters of an answer that are kept for counting
_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Facts:
    """One row. Digests are 8 bytes of the folded text; sketch: only of rows without a picture."""

    id: str
    section: str | None
    split: str | None
    group: str | None
    seed: str | None  # of the generator, where the source itself came split
    images: tuple[str, ...]  # hashes of the picture bytes
    question: bytes
    answer: bytes
    said: str  # how the answer begins
    refused: bool
    score: float | None
    sketch: Sketch | None = None


def facts_of(row: Example, near: bool = True) -> Facts:
    """near: also the sketch that near-identical questions are found by."""
    from vlm_pipeline.scoring.refusals import refusal_kind

    question, answer = folded(row.question), row.answer
    return Facts(
        id=row.id,
        section=row.section,
        split=row.split,
        group=row.group,
        seed=_generator_seed(row),
        images=tuple(image.sha256 for image in row.images),
        question=digest(question),
        answer=digest(folded(answer)),
        said=answer.strip()[:_SAID],
        refused=refusal_kind(answer) != "none",
        score=_score(row),
        sketch=sketch_of(question) if near and not row.images else None,
    )


def folded(text: str) -> str:
    """Text without differences that do not make a new question: case, width, runs of blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _generator_seed(row: Example) -> str | None:
    """Only where the source came split: one seed for rows that are split afterwards is as it should be."""
    if row.source.split is None and not row.metadata.get("split"):
        return None
    seed = row.metadata.get("generator_seed", row.metadata.get("seed"))
    if seed is None:
        return None
    return json.dumps([row.metadata.get("generator"), seed], sort_keys=True).replace("[null, ", "[")


def _score(row: Example) -> float | None:
    value = row.metadata.get("score", row.metadata.get("answer"))
    if value is None or isinstance(value, bool | dict | list):
        return None
    try:
        score = float(value)
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _schema() -> Any:
    import pyarrow as pa

    text, key = pa.string(), pa.binary(8)
    return pa.schema(
        {
            "id": text,
            "section": text,
            "split": text,
            "group": text,
            "seed": text,
            "images": pa.list_(text),
            "question": key,
            "answer": key,
            "said": text,
            "refused": pa.bool_(),
            "score": pa.float64(),
            "grams": pa.binary(),
            "bands": pa.binary(),
        }
    )


def write_facts(
    rows: Iterable[Example], target: Path, pictures: Path, known: Mapping[str, Look] | None = None
) -> int:
    """Facts of the rows into `target`, looks of their pictures into `pictures`; returns the number of rows.

    known: looks of an earlier time by hash; only other pictures are decoded. Streams.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    looks: dict[str, Look] = {}
    count = 0
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(target))
        writer = stack.enter_context(pq.ParquetWriter(temporary, _schema(), compression="zstd"))
        waiting: list[dict[str, Any]] = []
        for row in rows:
            for image in row.images:
                if image.sha256 not in looks:
                    looks[image.sha256] = (known or {}).get(image.sha256) or look_of(image)
            waiting.append(_flat(facts_of(row)))
            count += 1
            if len(waiting) >= _BATCH:
                writer.write_table(pa.Table.from_pylist(waiting, schema=_schema()))
                waiting.clear()
        writer.write_table(pa.Table.from_pylist(waiting, schema=_schema()))
    columns = {
        "sha256": pa.array(list(looks), pa.string()),
        "bits": pa.array([look.bits for look in looks.values()], pa.uint64()),
        "thumbnail": pa.array([look.thumbnail for look in looks.values()], pa.binary()),
    }
    write_table(pictures, pa.table(columns))
    return count


def _flat(facts: Facts) -> dict[str, Any]:
    sketch = facts.sketch
    flat = {name: getattr(facts, name) for name in Facts.__slots__ if name != "sketch"}
    return {**flat, "grams": sketch and sketch.grams, "bands": sketch and sketch.bands}


def read_facts(path: Path, near: bool = True) -> Iterator[Facts]:
    """What `write_facts` wrote; near: with the sketches."""
    import pyarrow.parquet as pq

    left_out = set() if near else {"grams", "bands"}
    names = [name for name in _schema().names if name not in left_out]
    with pq.ParquetFile(path, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=names):
            for row in batch.to_pylist():
                grams, bands = row.pop("grams", None), row.pop("bands", None)
                row["images"] = tuple(row["images"])
                yield Facts(**row, sketch=None if grams is None else Sketch(grams, bands))


def read_looks(path: Path) -> dict[str, Look]:
    """Looks of pictures by the hash of their bytes; nothing where there is no file."""
    import pyarrow.parquet as pq

    if not path.is_file():
        return {}
    columns = pq.read_table(path).to_pydict()
    looks = map(Look, columns["bits"], columns["thumbnail"])
    return dict(zip(columns["sha256"], looks, strict=True))
