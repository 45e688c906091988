"""One prompt at a time through transformers' own generate: the reference, and the way for models that cannot be
branched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vlm_pipeline.inference.decoding import Answer
from vlm_pipeline.inference.generate import Generator, plain_inputs
from vlm_pipeline.inference.plan import Prompt
from vlm_pipeline.inference.sampling import make_row_processor
from vlm_pipeline.inference.vision import ImageError
from vlm_pipeline.settings.predictors import GenerationSettings


@torch.inference_mode()
def generate_plain(
    generator: Generator,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    *,
    pattern: Any | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[list[Answer]]:
    """Answers in order, one list per prompt; the same settings, stops and seeds as `Generator.generate`."""
    from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList, StopStringCriteria

    class ByRow(LogitsProcessor):
        """Our row processor decides; every other token is ruled out."""

        def __init__(self, choose: Any, start: int) -> None:
            self._choose, self._start = choose, start

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            token = self._choose(input_ids[0, self._start :].tolist(), scores[0].float())
            return torch.full_like(scores, -torch.inf).index_fill_(1, token.view(1), 0.0)

    for index, prompt in enumerate(prompts):
        started = time.perf_counter()
        try:
            inputs = plain_inputs(generator, prompt)
        except ImageError as error:
            yield [Answer(index, "", (), None, 0.0, str(error))]
            continue
        seed = settings.seed if seeds is None else seeds[index]
        choose = make_row_processor(settings, prompt.ids, generator.eos, pattern, generator.device, seed)
        stops = StoppingCriteriaList()
        if settings.stop:
            stops.append(StopStringCriteria(generator.tokenizer, settings.stop))
        output = generator.model.generate(
            **inputs,
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            eos_token_id=generator.eos,
            pad_token_id=generator.tokenizer.pad_token_id or generator.eos[0],
            logits_processor=LogitsProcessorList([ByRow(choose, len(prompt.ids))]),
            stopping_criteria=stops,
        )
        ids = output[0, len(prompt.ids) :].tolist()
        end = ids[-1] if ids and ids[-1] in generator.eos else None
        ids = [token for token in ids if token not in generator.eos]
        text = generator.tokenizer.decode(ids, skip_special_tokens=True)
        cuts = [text.index(stop) for stop in settings.stop if stop in text]
        text = text[: min(cuts)] if cuts else text
        reason = "stop" if end is not None or cuts else "length"
        yield [Answer(index, text, tuple(ids), reason, time.perf_counter() - started, end=end)]
