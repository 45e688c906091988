"""What verification finds: which silent failure, in which row, how it looks, and what to do."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# Silent formatting failures: training runs, the loss looks healthy, the model is useless.
CATALOGUE = {
    1: "more than the answers is supervised (prompt or picture tokens)",
    2: "nothing is supervised in rows with a picture",
    3: "nothing is supervised",
    4: "the response marker is not in the row, so nothing is supervised",
    5: "the answer is cut off or changed, or the row is too long",
    6: "the end-of-turn token is not supervised: the model never learns to stop",
    7: "the end-of-turn token is masked as padding (pad equals end of turn)",
    8: "an end-of-turn token is credited to the next message",
    9: "supervised spans are not the answers (mask runs on, or turns are left out)",
    10: "wrong number of BOS tokens",
    11: "the generation prompt is not how the training row begins",
    12: "the ids are not the tokens of the whole text",
    13: "the rows are not rendered by the model's own chat template",
    14: "tokenizer and processor carry different chat templates",
    15: "control tokens that are not in the vocabulary",
    16: "generation does not stop at the supervised end-of-turn token",
    17: "picture placeholders do not fit the pictures",
    18: "something that the row says is lost in rendering (empty keys of Arrow, what the template has no place for)",
    19: "text of the row holds control tokens",
    20: "pictures are sized differently than the task says",
    21: "the rendering depends on the date",
    30: "prompts differ from what the compared models are asked",
    31: "the same content on two sides of a split",
}


@dataclass(frozen=True)
class Finding:
    """One failure in one row, or in the whole set (row_id None). Blocking ones stop training."""

    number: int  # row of the catalogue
    message: str
    remedy: str
    row_id: str | None = None
    section: str | None = None
    picture: str = ""  # the rendered row with ⟦supervised tokens⟧ marked
    blocking: bool = True

    @property
    def title(self) -> str:
        return CATALOGUE[self.number]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "title": self.title}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Finding:
        return cls(**{field.name: record[field.name] for field in fields(cls)})

    def __str__(self) -> str:
        where = (
            f"row {self.row_id}" + (f" ({self.section})" if self.section else "")
            if self.row_id
            else "the set"
        )
        return f"failure {self.number}, {where}: {self.message}; {self.remedy}"


def picture_in_words(
    ids: Iterable[int], labels: Iterable[int], tokenizer: Any, image_token: int | None, limit: int = 700
) -> str:
    """The row as text, supervised tokens in ⟦ ⟧, each picture as its token count; the middle is left out if long."""
    import numpy as np

    ids, labels = np.asarray(list(ids)), np.asarray(list(labels))
    if len(ids) == 0 or len(ids) != len(labels):
        return ""
    kind = np.where(labels != -100, 2, 0) + (ids == image_token if image_token is not None else 0)
    starts = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(ids)]
    pieces = []
    for start, end in itertools.pairwise(starts):
        supervised, is_image = kind[start] >= 2, kind[start] % 2 == 1
        text = f"[picture: {end - start} tokens]" if is_image else tokenizer.decode(ids[start:end].tolist())
        pieces.append(f"⟦{text}⟧" if supervised else text)
    text = "".join(pieces)
    return text if len(text) <= limit else f"{text[: limit // 3]} […] {text[-2 * limit // 3 :]}"


def summary(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """One record for each failure: rows, sections, first message, remedy; blocking failures first."""
    findings = list(findings)
    records = []
    for number in sorted({finding.number for finding in findings}):
        mine = [finding for finding in findings if finding.number == number]
        records.append(
            {
                "failure": number,
                "title": CATALOGUE[number],
                "blocking": any(finding.blocking for finding in mine),
                "findings": len(mine),
                "sections": dict(Counter(finding.section for finding in mine if finding.section)),
                "rows": [finding.row_id for finding in mine if finding.row_id][:10],
                "message": mine[0].message,
                "remedy": mine[0].remedy,
            }
        )
    return sorted(records, key=lambda record: (not record["blocking"], record["failure"]))
