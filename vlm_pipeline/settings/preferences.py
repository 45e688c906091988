"""Which answers of two predictors become preference pairs, for direct preference optimization elsewhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from vlm_pipeline.settings.base import Settings

PREFERENCE_SPLITS = ("train", "val")


class PreferenceSettings(Settings):
    """`preferences: {}` in task.yaml is enough: the tuned model's answers on val rows against the base's."""

    # Two predictors; the second is the one to be trained further. None: the base and the tuned model.
    pair: list[str] | None = Field(None, min_length=2, max_length=2)
    # val rows are answered anyway, but then choose nothing honestly any more; train rows are answered for this.
    split: Literal["val", "train"] = "val"
    # At least this much better by the first scorer: of 0 to 1 for rates and shares, points for errors.
    margin: float = Field(0.2, gt=0)
    # The gold answer as the better one, where neither of the two is right.
    gold: Literal["never", "neither_right"] = "never"

    @field_validator("split", mode="before")
    @classmethod
    def _never_what_measures(cls, split: Any) -> Any:
        if split in ("test", "final", "probe"):
            raise ValueError(
                f"{split} rows measure what is trained, so nothing that is trained on is made from them; "
                "take val (the default) or train"
            )
        return split

    @field_validator("pair")
    @classmethod
    def _two(cls, pair: list[str] | None) -> list[str] | None:
        if pair and pair[0] == pair[1]:
            raise ValueError(f"{pair[0]} cannot be better or worse than itself: name two predictors")
        return pair
