"""Shared-prefix generation: one prefill per page, all its questions decoded as branches, many pages in a batch.

The texts are those of one-by-one generation in float32; `Generator.verify` compares the logits of both ways on the
first prompts and refuses to go on (`UnsupportedModel`) where they differ, so that a model family whose attention
this cannot reproduce falls back instead of answering wrongly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from vlm_pipeline.inference.branches import ATTENTION, Branches, Prefixes
from vlm_pipeline.inference.plan import Group, Prompt, batch_groups, group_prompts, suffix_length
from vlm_pipeline.inference.sampling import RowProcessor, make_row_processor
from vlm_pipeline.inference.vision import Pictures
from vlm_pipeline.settings.predictors import GenerationSettings

MAX_ROWS = {"cpu": 96, "cuda": 256}
PREFILL_TOKENS = {"cpu": 4096, "cuda": 32_768}
COMPACT_BELOW = 0.75  # drop finished rows once this share or less is still running
log = logging.getLogger(__name__)


class UnsupportedModel(RuntimeError):
    """Shared-prefix generation does not reproduce this model; generate one by one instead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came out for prompt number `index`: new token ids without the stop token, or the reason why nothing."""

    index: int
    text: str
    ids: tuple[int, ...]
    finish_reason: str | None  # "stop" or "length"
    latency_s: float  # the row's share of its batch
    error: str | None = None


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
        self._kv_bytes = _kv_bytes_per_token(text_config, model.dtype)
        self._vocabulary = text_config.vocab_size
        self._heads = text_config.num_attention_heads
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
        """Answers batch by batch as they finish, one per prompt.

        pattern: a `constrained.Pattern` that every answer must match. seeds: one per prompt, for sampling.
        Raises UnsupportedModel before the first answer where the model cannot be branched.
        """
        if not prompts:
            return
        self.model.eval()
        rows = max_rows or MAX_ROWS[self.device.type if self.device.type == "cuda" else "cpu"]
        groups = group_prompts(prompts, image_token=self.image_token, max_members=rows)
        longest = max(group.prefix for group in groups)
        suffix = max(suffix_length(prompts, group) for group in groups)
        rows, prefix_tokens = self._fit(rows, longest, suffix, settings.max_new_tokens)
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
        """Run a batch; out of GPU memory it is cut in two and tried again, down to one row."""
        try:
            with self._branching():
                answers = self._run_batch(prompts, batch, settings, pattern, seeds)
        except torch.OutOfMemoryError:
            halves = _halve(batch)
            if halves is None:
                raise
            torch.cuda.empty_cache()
            log.warning("out of memory with %d rows: trying half", sum(len(group.members) for group in batch))
            for half in halves:
                yield from self._guarded(prompts, half, settings, pattern, seeds)
            return
        yield answers

    def _fit(self, rows: int, prefix: int, suffix: int, new: int) -> tuple[int, int]:
        """Rows and prefix tokens per batch that fit into what is free now (60 % of a GPU, 30 % of main memory)."""
        if self.device.type == "cuda":
            free = int(torch.cuda.mem_get_info(self.device)[0] * 0.6)
        else:
            free = int(psutil.virtual_memory().available * 0.3)
        score_bytes = (
            self._heads * suffix * (prefix + suffix) * 4 * 3
        )  # of one layer, while questions are read
        per_row = self._kv_bytes * (suffix + new) * 2 + score_bytes + self._vocabulary * 4 * 3
        prefix_tokens = max(prefix, free // 2 // (2 * self._kv_bytes))
        return max(1, min(rows, free // 2 // per_row)), prefix_tokens

    def _run_batch(
        self,
        prompts: Sequence[Prompt],
        batch: list[Group],
        settings: GenerationSettings,
        pattern: Any,
        seeds: Any,
    ) -> list[Answer]:
        started = time.perf_counter()
        features, problems = self.pictures.get(
            image for group in batch for image in prompts[group.members[0]].images
        )
        failed = []
        for group in batch:
            reasons = [problems[key] for key in prompts[group.members[0]].image_key if key in problems]
            if reasons:
                failed += [Answer(member, "", (), None, 0.0, reasons[0]) for member in group.members]
        batch = [group for group in batch if not set(prompts[group.members[0]].image_key) & set(problems)]
        if not batch:
            return failed
        prefixes, next_positions = self._prefill(prompts, batch, features)
        members = [member for group in batch for member in group.members]
        group_of = torch.tensor(
            [number for number, group in enumerate(batch) for _ in group.members], device=self.device
        )
        suffixes = [prompts[member].ids[group.prefix :] for group in batch for member in group.members]
        decoding = _Decoding(self, members, prompts, settings, pattern, seeds)
        logits, branches, positions = self._read_suffixes(
            suffixes, prefixes, group_of, next_positions, settings
        )
        alive = list(range(len(members)))  # which member each branch of the batch is
        for step in range(settings.max_new_tokens):
            tokens = decoding.choose(logits, alive, step)
            running = [place for place, row in enumerate(alive) if not decoding.finished[row]]
            if not running or step + 1 == settings.max_new_tokens:
                break
            if len(running) <= COMPACT_BELOW * len(alive):
                rows = torch.tensor(running, device=self.device)
                branches.keep(rows)
                tokens, positions = tokens[rows], positions[rows]
                alive = [alive[place] for place in running]
            logits = self._step(self._embed(tokens[:, None]), positions[:, None], branches)
            positions = positions + 1
        share = (time.perf_counter() - started) / len(members)
        return failed + [decoding.answer(row, share) for row in range(len(members))]

    def _prefill(
        self, prompts: Sequence[Prompt], batch: list[Group], features: dict[str, torch.Tensor]
    ) -> tuple[Prefixes, torch.Tensor]:
        """Keys and values of each group's prefix, and the position [G] at which its branches go on."""
        from transformers import DynamicCache

        lengths = torch.tensor([group.prefix for group in batch], device=self.device)
        longest = max(1, int(lengths.max()))
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        following = torch.zeros(len(batch), dtype=torch.long, device=self.device)
        budget = PREFILL_TOKENS["cuda" if self.device.type == "cuda" else "cpu"]
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
            cache = DynamicCache()
            self.forward_passes += 1
            self.model(
                inputs_embeds=embedded,
                position_ids=positions if self._rope_index else positions[0],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            for layer in range(self._layers):
                key, value = cache.layers[layer].keys, cache.layers[layer].values
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
        self.forward_passes += 1
        logits = self.model(
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
            with self._branching():
                prefixes, following = self._prefill(prompts, [chosen], features)
                group_of = torch.zeros(1, dtype=torch.long, device=self.device)
                once = GenerationSettings(max_new_tokens=1)
                ours, _, _ = self._read_suffixes(
                    [last.ids[group.prefix :]], prefixes, group_of, following, once
                )
        except (TypeError, AttributeError, KeyError, NotImplementedError) as error:
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


class _Decoding:
    """Chosen tokens, stops and finish reasons of one batch."""

    def __init__(
        self, generator: Generator, members: list[int], prompts: Sequence[Prompt], settings: GenerationSettings,
        pattern: Any, seeds: Sequence[int] | None,
    ) -> None:  # fmt: skip
        self._generator, self._members, self._settings = generator, members, settings
        self._eos = torch.tensor(generator.eos, device=generator.device)
        self.ids: list[list[int]] = [[] for _ in members]
        self.finished: list[str | None] = [None] * len(members)
        self._cut: dict[int, str] = {}
        self._processors: list[RowProcessor] | None = None
        if pattern is not None or settings.needs_row_processing:
            self._processors = [
                make_row_processor(
                    settings, prompts[member].ids, generator.eos, pattern, generator.device,
                    seed=settings.seed if seeds is None else seeds[member],
                )
                for member in members
            ]  # fmt: skip

    def choose(self, logits: torch.Tensor, alive: list[int], step: int) -> torch.Tensor:
        """Next token [B] of every branch; rows that stop here are marked, finished rows are left as they are."""
        if self._processors is None:
            if step < self._settings.min_new_tokens:
                logits[:, self._eos] = -torch.inf
            tokens = logits.argmax(-1)
        else:
            tokens = torch.stack(
                [self._processors[row](self.ids[row], logits[place]) for place, row in enumerate(alive)]
            )
        for row, token in zip(alive, tokens.tolist(), strict=True):
            if self.finished[row]:
                continue
            if token in self._generator.eos:
                self.finished[row] = "stop"
                continue
            self.ids[row].append(token)
            if self._settings.stop and self._stopped(row):
                self.finished[row] = "stop"
        return tokens

    def _stopped(self, row: int) -> bool:
        text = self._generator.tokenizer.decode(self.ids[row], skip_special_tokens=True)
        ends = [text.index(stop) for stop in self._settings.stop if stop in text]
        if ends:
            self._cut[row] = text[: min(ends)]
        return bool(ends)

    def answer(self, row: int, latency: float) -> Answer:
        ids = tuple(self.ids[row])
        text = self._cut.get(row)
        if text is None:
            text = self._generator.tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(self._members[row], text, ids, self.finished[row] or "length", latency)


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


def _kv_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * dtype.itemsize


def _halve(batch: list[Group]) -> tuple[list[Group], list[Group]] | None:
    if len(batch) > 1:
        return batch[: len(batch) // 2], batch[len(batch) // 2 :]
    members = batch[0].members
    if len(members) < 2:
        return None
    half = len(members) // 2
    return [Group(batch[0].prefix, members[:half])], [Group(batch[0].prefix, members[half:])]
