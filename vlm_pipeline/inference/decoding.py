"""From logits to answers: chosen tokens, where they stop and why, and how long each row took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vlm_pipeline.inference.plan import Prompt
from vlm_pipeline.inference.sampling import RowProcessor, make_row_processor
from vlm_pipeline.settings.predictors import GenerationSettings

if TYPE_CHECKING:
    from vlm_pipeline.inference.generate import Generator


@dataclass(frozen=True, slots=True)
class Answer:
    """What came out for prompt number `index`: new token ids without the stop token, or the reason why nothing."""

    index: int
    text: str
    ids: tuple[int, ...]
    finish_reason: str | None  # "stop" or "length"
    latency_s: float  # the row's share of its batch until it ended
    error: str | None = None
    end: int | None = None  # the stop token that ended it


class Decoding:
    """Chosen tokens, stops and finish reasons of one batch, and each row's share of its time."""

    def __init__(
        self, generator: Generator, members: list[int], prompts: Sequence[Prompt], settings: GenerationSettings,
        pattern: Any, seeds: Sequence[int] | None, started: float,
    ) -> None:  # fmt: skip
        self._generator, self._members, self._settings = generator, members, settings
        self._eos = torch.tensor(generator.eos, device=generator.device)
        self.ids: list[list[int]] = [[] for _ in members]
        self.finished: list[str | None] = [None] * len(members)
        self._cut: dict[int, str] = {}
        self._end: dict[int, int] = {}
        self._read_at, self._share = started, 0.0
        self._processors: list[RowProcessor] | None = None
        if pattern is not None or settings.needs_row_processing:
            self._processors = [
                make_row_processor(
                    settings, prompts[member].ids, generator.eos, pattern, generator.device,
                    seed=settings.seed if seeds is None else seeds[member],
                )
                for member in members
            ]  # fmt: skip

    def running(self, alive: Sequence[int]) -> list[int]:
        """Places in `alive` whose rows go on."""
        return [place for place, row in enumerate(alive) if self.finished[row] is None]

    def choose(self, logits: torch.Tensor, alive: list[int], step: int) -> tuple[torch.Tensor, list[Answer]]:
        """Next token [B] of every branch, and the answers that end here; finished rows are left as they are."""
        if self._processors is None:
            if step < self._settings.min_new_tokens:
                logits[:, self._eos] = -torch.inf
            tokens = logits.argmax(-1)
        else:
            tokens = torch.stack(
                [self._processors[row](self.ids[row], logits[place]) for place, row in enumerate(alive)]
            )
        self._pass_time(len(self.running(alive)))
        ended = []
        for row, token in zip(alive, tokens.tolist(), strict=True):
            if self.finished[row]:
                continue
            if token in self._generator.eos:
                self._end[row] = token
            else:
                self.ids[row].append(token)
            if token in self._generator.eos or (self._settings.stop and self._stopped(row)):
                self.finished[row] = "stop"
            elif step + 1 == self._settings.max_new_tokens:
                self.finished[row] = "length"
            else:
                continue
            ended.append(self._answer(row))
        return tokens, ended

    def _pass_time(self, rows: int) -> None:
        """What has passed since the last token is shared by the rows that waited for this one."""
        now = time.perf_counter()
        self._share += (now - self._read_at) / max(1, rows)
        self._read_at = now

    def _stopped(self, row: int) -> bool:
        text = self._generator.tokenizer.decode(self.ids[row], skip_special_tokens=True)
        ends = [text.index(stop) for stop in self._settings.stop if stop in text]
        if ends:
            self._cut[row] = text[: min(ends)]
        return bool(ends)

    def _answer(self, row: int) -> Answer:
        ids = tuple(self.ids[row])
        text = self._cut.get(row)
        if text is None:
            text = self._generator.tokenizer.decode(ids, skip_special_tokens=True)
        end = self._end.get(row)
        return Answer(self._members[row], text, ids, self.finished[row], self._share, end=end)


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: the generation config's, the configuration's and the tokenizer's."""
    found: set[int] = set()
    for source in (model.generation_config, model.config.get_text_config(), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found |= set(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
    return found


def bare_generation_config(model: Any, eos: Sequence[int]) -> Any:
    """Greedy, with nothing of the model's own but its special tokens. A penalty, a suppressed token or a least length
    from its folder is recorded in no table, and would apply to some ways of generating and not to others."""
    from transformers import GenerationConfig

    own = model.generation_config
    return GenerationConfig(
        do_sample=False, eos_token_id=list(eos), pad_token_id=own.pad_token_id, bos_token_id=own.bos_token_id
    )  # fmt: skip
