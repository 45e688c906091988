"""Shared-prefix generation: one prefill per page, all its questions decoded as branches, many pages in a batch.

The texts are those of one-by-one generation in float32; `Generator.verify` compares the logits of both ways on the
first prompts and refuses to go on (`UnsupportedModel`) where they differ, so that a model family whose attention
this cannot reproduce falls back instead of answering wrongly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from vlm_pipeline.inference.branches import ATTENTION, Branches, PrefixCache, Prefixes
from vlm_pipeline.inference.decoding import Answer, Decoding, bare_generation_config, stop_ids
from vlm_pipeline.inference.fitting import MAX_ROWS, Shape, fit, free_bytes, halve, kind_of
from vlm_pipeline.inference.plan import Group, Prompt, batch_groups, group_prompts, suffix_length
from vlm_pipeline.inference.vision import Pictures
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.training.memory import out_of_memory

PREFILL_TOKENS = {"cpu": 4096, "cuda": 32_768}
COMPACT_BELOW = 0.75  # drop finished rows once this share or less is still running
log = logging.getLogger(__name__)


class UnsupportedModel(RuntimeError):
    """Shared-prefix generation does not reproduce this model; generate one by one instead."""


class Generator:
    """A loaded model and processor; adapters are switched outside (peft), image features are shared by all."""

    def __init__(
        self, model: Any, processor: Any, *, pictures: Pictures | None = None, eos: Sequence[int] = ()
    ) -> None:
        self.model = model
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.pictures = pictures or Pictures(model, processor)
        text_config = model.config.get_text_config()
        self.image_token = getattr(model.config, "image_token_id", None)
        self._layers = text_config.num_hidden_layers
        self._shape = Shape.of(text_config, model.dtype)
        self._rope_index = getattr(getattr(model, "model", None), "get_rope_index", None)
        self.eos = sorted({*eos, *stop_ids(model, self.tokenizer)})
        model.generation_config = bare_generation_config(model, self.eos)
        self._embed = model.get_input_embeddings()
        self._text_config = text_config
        self.forward_passes = 0
        self._verified = False

    @property
    def device(self) -> torch.device:
        return self.model.device

    @contextmanager
    def _branching(self) -> Iterator[None]:
        """Our attention while we call the model, its own for everybody else: ours builds no padding mask."""
        own = self._text_config._attn_implementation
        self._text_config._attn_implementation = ATTENTION
        try:
            yield
        finally:
            self._text_config._attn_implementation = own

    def _forward(self, **inputs: Any) -> Any:
        self.forward_passes += 1
        with self._branching():
            return self.model(**inputs)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        settings: GenerationSettings,
        *,
        max_rows: int | None = None,
        pattern: Any | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[list[Answer]]:
        """Answers as they end, one per prompt; those of one list ended with the same token.

        pattern: a `constrained.Pattern` that every answer must match. seeds: one per prompt, for sampling.
        Raises UnsupportedModel before the first answer where the model cannot be branched.
        """
        if not prompts:
            return
        self.model.eval()
        rows = max_rows or MAX_ROWS[kind_of(self.device)]
        groups = group_prompts(prompts, image_token=self.image_token, max_members=rows)
        longest = max(group.prefix for group in groups)
        suffix = max(suffix_length(prompts, group) for group in groups)
        rows, prefix_tokens = fit(
            rows,
            self._shape,
            free_bytes(self.device),
            prefix=longest,
            suffix=suffix,
            new=settings.max_new_tokens,
        )
        if any(len(group.members) > rows for group in groups):
            groups = group_prompts(prompts, image_token=self.image_token, max_members=rows)
        if not self._verified:
            self.verify(prompts, groups)
        batches = batch_groups(prompts, groups, max_rows=rows, max_prefix_tokens=prefix_tokens)
        for number, batch in enumerate(batches):
            for following in batches[number + 1 : number + 2]:
                self.pictures.prefetch(
                    image for group in following for image in prompts[group.members[0]].images
                )
            yield from self._guarded(prompts, batch, settings, pattern, seeds)

    def _guarded(
        self, prompts: Any, batch: list[Group], settings: Any, pattern: Any, seeds: Any
    ) -> Iterator[list[Answer]]:
        """Run a batch; out of memory what is left of it is cut in two and tried again, down to one row."""
        answered: set[int] = set()
        try:
            for answers in self._run_batch(prompts, batch, settings, pattern, seeds):
                answered.update(answer.index for answer in answers)
                yield answers
            return
        except (RuntimeError, MemoryError) as error:
            halves = halve(batch, answered) if out_of_memory(error) else None
            if halves is None:
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        rows = sum(len(group.members) for half in halves for group in half)
        log.warning("out of memory with %d rows: trying half", rows)
        for half in halves:
            yield from self._guarded(prompts, half, settings, pattern, seeds)

    def _run_batch(
        self,
        prompts: Sequence[Prompt],
        batch: list[Group],
        settings: GenerationSettings,
        pattern: Any,
        seeds: Any,
    ) -> Iterator[list[Answer]]:
        started = time.perf_counter()
        features, problems = self.pictures.get(
            image for group in batch for image in prompts[group.members[0]].images
        )
        failed = []
        for group in batch:
            reasons = [problems[key] for key in prompts[group.members[0]].image_key if key in problems]
            if reasons:
                failed += [Answer(member, "", (), None, 0.0, reasons[0]) for member in group.members]
        if failed:
            yield failed
        batch = [group for group in batch if not set(prompts[group.members[0]].image_key) & set(problems)]
        if not batch:
            return
        prefixes, next_positions = self._prefill(prompts, batch, features)
        members = [member for group in batch for member in group.members]
        group_of = torch.tensor(
            [number for number, group in enumerate(batch) for _ in group.members], device=self.device
        )
        suffixes = [prompts[member].ids[group.prefix :] for group in batch for member in group.members]
        decoding = Decoding(self, members, prompts, settings, pattern, seeds, started)
        logits, branches, positions = self._read_suffixes(
            suffixes, prefixes, group_of, next_positions, settings
        )
        alive = list(range(len(members)))  # which member each branch of the batch is
        for step in range(settings.max_new_tokens):
            tokens, ended = decoding.choose(logits, alive, step)
            if ended:
                yield ended
            running = decoding.running(alive)
            if not running:
                return
            if len(running) <= COMPACT_BELOW * len(alive):
                rows = torch.tensor(running, device=self.device)
                branches.keep(rows)
                tokens, positions = tokens[rows], positions[rows]
                alive = [alive[place] for place in running]
            logits = self._step(self._embed(tokens[:, None]), positions[:, None], branches)
            positions = positions + 1

    def _prefill(
        self, prompts: Sequence[Prompt], batch: list[Group], features: dict[str, torch.Tensor]
    ) -> tuple[Prefixes, torch.Tensor]:
        """Keys and values of each group's prefix, and the position [G] at which its branches go on."""
        lengths = torch.tensor([group.prefix for group in batch], device=self.device)
        longest = max(1, int(lengths.max()))
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        following = torch.zeros(len(batch), dtype=torch.long, device=self.device)
        budget = PREFILL_TOKENS[kind_of(self.device)]
        per_forward = max(1, budget // longest)
        for start in range(0, len(batch), per_forward):
            part = batch[start : start + per_forward]
            width = max(1, max(group.prefix for group in part))
            embedded = torch.zeros(
                len(part), width, self._embed.weight.shape[1], dtype=self.model.dtype, device=self.device
            )
            positions = torch.zeros(3, len(part), width, dtype=torch.long, device=self.device)
            for row, group in enumerate(part):
                if group.prefix == 0:
                    continue
                prompt = prompts[group.members[0]]
                embedded[row, : group.prefix] = self._embed_prompt(prompt, group.prefix, features)
                place = self._positions(prompt, group.prefix)
                positions[:, row, : group.prefix] = place
                following[start + row] = place.max() + 1
            # Right padding under a causal mask: no real token sees it, so no mask is needed.
            cache = PrefixCache(self._layers)
            with suppress(PrefixCache.Complete):
                self._forward(
                    inputs_embeds=embedded,
                    position_ids=positions if self._rope_index else positions[0],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            for layer in range(self._layers):
                key, value = cache.keys[layer], cache.values[layer]
                if start == 0:
                    shape = (len(batch), key.shape[1], longest, key.shape[3])
                    whole = len(part) == len(batch) and width == longest
                    keys.append(key if whole else key.new_zeros(shape))
                    values.append(value if whole else value.new_zeros(shape))
                    if whole:
                        continue
                keys[layer][start : start + len(part), :, :width] = key
                values[layer][start : start + len(part), :, :width] = value
        return Prefixes(keys, values, lengths), following

    def _embed_prompt(self, prompt: Prompt, length: int, features: dict[str, torch.Tensor]) -> torch.Tensor:
        ids = torch.tensor(prompt.ids[:length], device=self.device)
        embedded = self._embed(ids)
        if prompt.images:
            places = ids == self.image_token
            seen = torch.cat([features[key].to(self.device, embedded.dtype) for key in prompt.image_key])
            if int(places.sum()) != len(seen):
                raise ValueError(
                    f"a prompt has {int(places.sum())} image placeholders for {len(seen)} image tokens: format the rows again"
                )
            embedded = embedded.masked_scatter(places[:, None], seen)
        return embedded

    def _positions(self, prompt: Prompt, length: int) -> torch.Tensor:
        """[3, length]; the three are equal where the model has no multimodal rotary positions."""
        if self._rope_index is None or not prompt.images:
            return torch.arange(length, device=self.device).expand(3, length)
        ids = torch.tensor([prompt.ids[:length]], device=self.device)
        grids = torch.tensor([image.grid for image in prompt.images], device=self.device)
        positions, _ = self._rope_index(
            ids, mm_token_type_ids=(ids == self.image_token).int(), image_grid_thw=grids
        )
        return positions[:, 0]

    def _read_suffixes(
        self,
        suffixes: list[Any],
        prefixes: Prefixes,
        group_of: torch.Tensor,
        following: torch.Tensor,
        settings: Any,
    ) -> tuple[torch.Tensor, Branches, torch.Tensor]:
        """Read every question against its prefix: logits [B, V] of the first new token, and the next positions."""
        width = max(map(len, suffixes))
        padding = [width - len(suffix) for suffix in suffixes]
        ids = torch.tensor(
            [[0] * pad + list(suffix) for pad, suffix in zip(padding, suffixes, strict=True)],
            device=self.device,
        )
        pad = torch.tensor(padding, device=self.device)
        columns = torch.arange(width + settings.max_new_tokens, device=self.device)
        branches = Branches(prefixes, group_of, valid=columns[None] >= pad[:, None])
        positions = following[group_of][:, None] + (columns[None, :width] - pad[:, None]).clamp_min(0)
        logits = self._step(self._embed(ids), positions, branches)
        return logits, branches, positions[:, -1] + 1

    def _step(self, embedded: torch.Tensor, positions: torch.Tensor, branches: Branches) -> torch.Tensor:
        """One forward pass of all branches; logits [B, V] after their last token, in float32."""
        new = embedded.shape[1]
        logits = self._forward(
            inputs_embeds=embedded,
            position_ids=positions.expand(3, *positions.shape) if self._rope_index else positions,
            past_key_values=branches,
            use_cache=True,
            logits_to_keep=1,
            branches=branches,
            own_bias=branches.own_bias(new, embedded.dtype),
        ).logits
        branches.used += new
        return logits[:, -1].float()

    def verify(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> None:
        """Compare the first token's logits with an ordinary forward pass of a whole prompt, picture included.

        Once per loaded model, on the last member of the largest group whose pictures can be read: its prefix was
        computed from another member's prompt.
        """
        by_size = sorted(
            groups,
            key=lambda group: (bool(prompts[group.members[0]].images), len(group.members)),
            reverse=True,
        )
        for group in by_size:
            features, problems = self.pictures.get(prompts[group.members[0]].images)
            if not problems:
                break
        else:
            return  # every row becomes an error row
        last = prompts[group.members[-1]]
        chosen = Group(group.prefix, (group.members[0],))
        try:
            prefixes, following = self._prefill(prompts, [chosen], features)
            group_of = torch.zeros(1, dtype=torch.long, device=self.device)
            once = GenerationSettings(max_new_tokens=1)
            ours, _, _ = self._read_suffixes([last.ids[group.prefix :]], prefixes, group_of, following, once)
        except (TypeError, AttributeError, LookupError, NotImplementedError) as error:
            raise UnsupportedModel(f"{type(self.model).__name__} cannot be branched: {error}") from error
        plain = self.model(**plain_inputs(self, last), logits_to_keep=1).logits[0, -1].float()
        distance = float((ours[0] - plain).abs().max() / plain.abs().max().clamp_min(1e-6))
        if not distance < (1e-3 if self.model.dtype == torch.float32 else 0.15):
            raise UnsupportedModel(
                f"{type(self.model).__name__}: branched and plain logits differ by {distance:.2g} (relative)"
            )
        self._verified = True


def plain_inputs(generator: Generator, prompt: Prompt) -> dict[str, Any]:
    """Arguments of an ordinary forward pass over a whole prompt; raises vision.ImageError."""
    ids = torch.tensor([prompt.ids], device=generator.device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prompt.images:
        pixels, grids = zip(*(generator.pictures.pixels(image) for image in prompt.images), strict=True)
        inputs |= {
            "pixel_values": torch.cat(pixels).to(generator.device),
            "image_grid_thw": torch.cat(grids).to(generator.device),
            "mm_token_type_ids": (ids == generator.image_token).int(),
        }
    return inputs
