"""The rows of a task as averages, from its formatted tables or from figures that somebody gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_pipeline.task import Task


class WorkloadError(ValueError):
    """The rows are not there and not described; the message says what is missing."""


@dataclass(frozen=True)
class Workload:
    """Averages of a row. `pictures`: pictures a row shows; `rows_per_picture`: rows that share one; tokens without
    pictures: `prompt_tokens` and `answer_tokens`; `packed_tokens`: computed for a row when a picture is shared."""

    rows: int
    train: float  # shares of the rows
    evaluated: float  # val and test
    pictures: float
    rows_per_picture: float
    image_tokens: float  # of one picture
    picture_pixels: tuple[int, int]
    prompt_tokens: float
    answer_tokens: float
    packed_tokens: float
    measured: bool  # from a task's own tables

    @property
    def row_tokens(self) -> float:
        """Tokens of a row by itself."""
        return self.pictures * self.image_tokens + self.prompt_tokens + self.answer_tokens

    def scaled(self, rows: int) -> Workload:
        """The same kind of rows, more or fewer of them."""
        return replace(self, rows=rows)


def described(
    rows: int,
    pictures: float,
    rows_per_picture: float,
    image_tokens: float,
    prompt_tokens: float,
    answer_tokens: float,
    shared: bool = True,
) -> Workload:
    """Rows that do not exist yet, cut 80 / 20 into train and evaluated ones."""
    share = 1 / rows_per_picture if shared else 1.0
    packed = pictures * image_tokens * share + prompt_tokens + answer_tokens
    side = round((image_tokens**0.5) * 28)
    return Workload(
        rows, 0.8, 0.2, pictures, rows_per_picture, image_tokens, (side, side), prompt_tokens, answer_tokens, packed, False
    )  # fmt: skip


def workload_of(task: Task, tables: Sequence[Path], plan: dict[str, Any] | None = None) -> Workload:
    """Averages of formatted tables; `plan`: the training plan, whose token counts are exact. Raises WorkloadError."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    there = [path for path in tables if path.is_file()]
    wanted = ["split", "n_tokens", "n_prompt", "image_tokens", "image_sha256", "image_grid"]
    found = pa.concat_tables(pq.read_table(path, columns=wanted) for path in there) if there else None
    if found is None or not found.num_rows:
        raise WorkloadError(
            f"{task.name} has no formatted rows yet: run its loop first, or describe the rows (--rows-per-picture, "
            "--image-tokens, --prompt-tokens, --answer-tokens)"
        )
    rows = found.num_rows
    shown = pc.list_flatten(found["image_sha256"])
    pictures = len(shown) / rows
    different = len(pc.unique(shown)) or 1
    total, images, prompt = (pc.sum(found[name]).as_py() for name in ("n_tokens", "image_tokens", "n_prompt"))
    splits = dict(
        zip(*(column.to_pylist() for column in pc.value_counts(found["split"]).flatten()), strict=True)
    )
    grids = found["image_grid"].combine_chunks().flatten().to_pylist() if len(shown) else [[1, 0, 0]]
    height, width = (round(sum(grid[place] for grid in grids) / len(grids) * 14) for place in (1, 2))
    per_picture = images / len(shown) if len(shown) else 0.0
    shared = task.training.packing == "shared" and len(shown)
    packed = (total - images) / rows + images / rows / ((len(shown) / different) if shared else 1)
    return Workload(
        rows=rows, train=splits.get("train", 0) / rows, evaluated=(splits.get("val", 0) + splits.get("test", 0)) / rows,
        pictures=pictures, rows_per_picture=len(shown) / different if len(shown) else 1.0, image_tokens=per_picture,
        picture_pixels=(width, height), prompt_tokens=(prompt - images) / rows, answer_tokens=(total - prompt) / rows,
        packed_tokens=plan["packed_tokens"] / plan["rows"] if plan else packed, measured=True,
    )  # fmt: skip
