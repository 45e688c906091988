"""Log-probabilities of sampled answers, by the forward that training uses: a prompt and its pictures once for all its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.training.forward import PackedForward, predicting
from vlm_pipeline.training.memory import TokenBudget, out_of_memory
from vlm_pipeline.training.rows import IGNORE, Row

Places = list[int]  # of answers among those that were given


class Probabilities:
    """Probabilities under the model of `forward`. packed: whether it computes packed sequences (`packing_fits`)."""

    def __init__(
        self, forward: PackedForward, processor: Any, budget: TokenBudget, temperature: float, *, packed: bool
    ) -> None:
        self._forward, self._processor, self._budget = forward, processor, budget
        self._temperature, self._packed = temperature, packed

    def __call__(
        self, prompts: Sequence[Row], answers: Sequence[torch.Tensor], width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability, and entropy of the choice, of every token of `answers` [tokens]: twice [answers, width], 0 beyond.

        prompts: the row that each one answers. Raises PayloadError where the device has no room.
        """
        picture = self._forward.image_token
        rows = [_answered(row, ids, picture) for row, ids in zip(prompts, answers, strict=True)]
        device = self._forward.model.device
        logs = torch.zeros(len(rows), width, device=device)
        entropies = torch.zeros(len(rows), width, device=device)
        try:
            for places in self._passes(rows):
                logits, lengths = self._logits(rows, places)
                values = (logits.float() / self._temperature).log_softmax(-1)
                targets = torch.cat([answers[place] for place in places]).to(device)
                index = (
                    torch.repeat_interleave(torch.tensor(places), lengths).to(device),
                    torch.cat([torch.arange(length) for length in lengths.tolist()]).to(device),
                )
                logs = logs.index_put(index, values.gather(-1, targets[:, None])[:, 0])
                with torch.no_grad():
                    entropies[index] = -(values.exp() * values).sum(-1)
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                raise PayloadError("out of memory in a GRPO step: lower grpo.answers_at_once") from error
            raise
        return logs, entropies

    def _passes(self, rows: Sequence[Row]) -> Iterator[Places]:
        """Answers that go through the model together: those of one row side by side, at most the budget's tokens."""
        places: Places = []
        tokens, before = 0, None
        for place in sorted(range(len(rows)), key=lambda place: (rows[place].id, place)):
            row = rows[place]
            own = len(row.input_ids) - (self._prefix(row) if row.id == before else 0)
            if places and tokens + own > self._budget.tokens:
                yield places
                places, tokens, own = [], 0, len(row.input_ids)
            places.append(place)
            tokens, before = tokens + own, row.id
        if places:
            yield places

    def _prefix(self, row: Row) -> int:
        """Tokens that the answers to a row share: all before the one that predicts an answer's first token."""
        return row.n_prompt - 1 if self._packed else 0

    def _logits(self, rows: Sequence[Row], places: Places) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [tokens, vocabulary] of the answers at `places`, one after the other, and how many tokens each has."""
        lengths = torch.tensor([len(rows[place].input_ids) - rows[place].n_prompt for place in places])
        if not self._packed:
            together = [rows[place] for place in places]
            logits, kept = self._forward.padded_logits(together, self._processor), predicting(together)
            own = [
                logits[number, np.isin(kept, np.arange(row.n_prompt - 1, len(row.input_ids) - 1))]
                for number, row in enumerate(together)
            ]
            return torch.cat(own), lengths
        groups: dict[str, list[Row]] = {}
        for place in places:
            groups.setdefault(rows[place].id, []).append(rows[place])
        bundles = [
            (members, self._prefix(members[0]) if len(members) > 1 else 0) for members in groups.values()
        ]
        return self._forward.logits(self._forward.pack(bundles)), lengths


def _answered(row: Row, answer: torch.Tensor, image_token: int | None) -> Row:
    """The row with another answer than the gold one; every token of it is supervised.

    A sampled picture placeholder is a target like any other token; as an input it would ask for a picture, and the prompt's
    last token stands there instead.
    """
    ids = answer.cpu().numpy().astype(np.int64)
    prompt = row.input_ids[: row.n_prompt]
    labels = np.concatenate([np.full(row.n_prompt, IGNORE, np.int64), ids])
    said = np.where(ids == image_token, prompt[-1], ids) if image_token is not None else ids
    return replace(row, input_ids=np.concatenate([prompt, said]), labels=labels)
