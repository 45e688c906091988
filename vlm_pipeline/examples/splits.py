"""Which of the four splits a row belongs to: by a hash of its group, the same for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.quarantine import Quarantined
from vlm_pipeline.settings.data import SPLITS, SplitSettings

SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
    "holdout": "final",
}
_SCALE = float(1 << 64)


def group_of(example: Example, key: str | None = None) -> str:
    """What must never straddle a split. With `key`: that metadata value (raises KeyError when the row has none).

    Without: metadata.group, else the picture bytes (all of them, in any order), else the row id. What a row says about
    itself counts before what it shows: two pages of one document stay together.
    """
    if key is not None:
        value = example.metadata.get(key)
        if value is None or value == "":
            raise KeyError(f"row {example.id!r} has no metadata.{key}, which splits.group_key names")
        return f"{key}:{value}"
    value = example.metadata.get("group")
    if value is not None and value != "":
        return f"group:{value}"
    if example.images:
        return "image:" + "+".join(sorted({image.sha256 for image in example.images}))
    return f"id:{example.id}"


def assign_split(group: str, ratios: Mapping[str, float] | None = None, seed: int = 0) -> str:
    """The split of a group: a 64-bit hash of seed and group laid on the ratios (default 0.8 / 0.1 / 0.1 / 0).

    Nothing but these arguments counts, so adding or regenerating rows moves no group. Raises ValueError for
    ratios that name another split, are negative or do not add up to 1.
    """
    ratios = SplitSettings().ratios if ratios is None else ratios
    unknown = set(ratios) - set(SPLITS)
    if unknown or any(share < 0 for share in ratios.values()) or abs(sum(ratios.values()) - 1) > 1e-6:
        raise ValueError(
            f"split ratios must be non-negative shares of {', '.join(SPLITS)} that add up to 1, not {dict(ratios)}"
        )
    digest = hashlib.sha256(f"{seed}\x00{group}".encode("utf-8", "backslashreplace")).digest()
    position = int.from_bytes(digest[:8], "big") / _SCALE
    reached = 0.0
    shares = [(name, ratios.get(name, 0.0)) for name in SPLITS if ratios.get(name, 0.0) > 0]
    for name, share in shares:
        reached += share
        if position < reached:
            return name
    return shares[-1][0]


def declared_split(example: Example) -> str | None:
    """The split the source itself gives (metadata.split, else file or dataset split); ValueError for an unknown name."""
    value = example.metadata.get("split")
    if value is None or value == "":
        return example.source.split
    name = SPLIT_NAMES.get(str(value).strip().lower())
    if name is None:
        raise ValueError(f"metadata.split {str(value)[:60]!r} is not one of {', '.join(SPLIT_NAMES)}")
    return name


def assign_splits(
    examples: Iterable[Example], settings: SplitSettings | None = None, quarantine: list[Any] | None = None
) -> Iterator[Example]:
    """The same rows with `group` and `split` set; streaming, but for the groups whose split the source gives.

    A row without a split of its own follows the first declared row of its group, if one came before it. Rows
    whose group key is missing, or whose split has an unknown name, go to `quarantine`.
    """
    settings = settings or SplitSettings()
    declared: dict[str, str] = {}
    for example in examples:
        try:
            group = group_of(example, settings.group_key)
            split = declared_split(example)
        except (KeyError, ValueError) as error:
            if quarantine is None:
                raise
            kind = "missing_group" if isinstance(error, KeyError) else "unknown_split"
            source = example.source
            quarantine.append(
                Quarantined(source.file, source.line, kind, error.args[0], example.id, example.question)
            )
            continue
        if split is not None:
            declared.setdefault(group, split)
        else:
            split = declared.get(group) or assign_split(group, settings.ratios, settings.seed)
        yield example.placed(group=group, split=split)
