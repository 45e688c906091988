"""Token ids and labels of rendered conversations, on the ids of the whole text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlm_pipeline.examples.example import Example, ImageRef
from vlm_pipeline.formatting.conversation import Conversation, answer_text, build_conversation, learned_turns
from vlm_pipeline.formatting.pictures import PictureTokens, picture_counter, pixel_inputs
from vlm_pipeline.formatting.render import Rendered, Renderer
from vlm_pipeline.formatting.template import RenderError, tokenizer_of
from vlm_pipeline.settings.data import PromptSettings

UNSUPERVISED = -100


@dataclass(frozen=True)
class Span:
    """Tokens start..end (end exclusive, the end-of-turn token is the last) of one assistant turn."""

    start: int
    end: int
    message: int
    supervised: bool


@dataclass(frozen=True)
class Formatted:
    """One row as a model is trained on it. Also readable like a dict: `formatted["input_ids"]`."""

    input_ids: Sequence[int]  # list from format_example, int32 array from Formatter
    labels: Sequence[int]
    spans: tuple[Span, ...]
    text: str  # as rendered, one placeholder a picture
    prompt_text: str  # the generation prompt that evaluation uses
    n_prompt: int  # tokens of prompt_text, pictures expanded
    images: tuple[ImageRef, ...]
    image_grid: tuple[tuple[int, int, int], ...]  # (t, h, w) in patches, one a picture
    image_tokens: int
    image_token_id: int | None
    messages: list[dict[str, Any]] = field(repr=False)  # what was rendered, task prompt included
    answer: str = ""
    image_inputs: dict[str, Any] = field(default_factory=dict, repr=False)  # pixel_values, image_grid_thw

    @property
    def n_supervised(self) -> int:
        return int(np.count_nonzero(np.asarray(self.labels) != UNSUPERVISED))

    @property
    def mm_token_type_ids(self) -> list[int]:
        """1 at picture tokens, 0 elsewhere: what the model needs beside pictures."""
        return [int(index == self.image_token_id) for index in self.input_ids]

    def __getitem__(self, name: str) -> Any:
        if name in self.image_inputs:
            return self.image_inputs[name]
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


@dataclass(frozen=True)
class Prompt:
    """What a predictor is asked: text with one placeholder a picture, ids with pictures expanded."""

    text: str
    input_ids: list[int]
    images: tuple[ImageRef, ...]
    image_grid: tuple[tuple[int, int, int], ...]
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


class Formatter:
    """Formats rows of one task for one processor. Reuse it: it remembers skeletons and picture sizes."""

    def __init__(
        self, processor: Any, prompt: PromptSettings | None = None, root: Path | None = None
    ) -> None:
        self.processor = processor
        self.settings = prompt or PromptSettings()
        self.renderer = Renderer(processor, self.settings.template_args)
        self._root = root
        self._tokenizer = tokenizer_of(processor)
        self._pictures = picture_counter(processor)

    def format(self, example: Example) -> Formatted:
        """One row. Raises RenderError."""
        result = next(self.format_many([example]))
        if isinstance(result, RenderError):
            raise result
        return result

    def format_many(self, examples: Sequence[Example]) -> Iterator[Formatted | RenderError]:
        """Rows in order, tokenized together; a row that cannot be rendered yields its error instead."""
        prepared = [self._prepare(example) for example in examples]
        texts = [item[1].text for item in prepared if not isinstance(item, RenderError)]
        encodings = iter(self.encode(texts))
        for item in prepared:
            if isinstance(item, RenderError):
                yield item
                continue
            try:
                yield self._label(*item, next(encodings))
            except RenderError as error:
                yield error

    def prompt(self, example: Example) -> Prompt:
        """The generation prompt of a row (its last answer, if any, is left out). Raises RenderError."""
        talk = build_conversation(example, self.settings, self._root)
        asked = talk.without_answer()
        text = self.renderer.prompt(talk)
        pictures = self._count(asked)
        ids, _ = self._expand(np.asarray(self.encode([text])[0].ids, dtype=np.int32), pictures)
        return Prompt(
            text,
            ids.tolist(),
            tuple(asked.images),
            tuple(p.grid for p in pictures),
            asked.messages,
            asked.tools,
        )

    def encode(self, texts: list[str]) -> list[Any]:
        """Fast-tokenizer encodings of whole texts; control tokens come from the template alone."""
        return (
            self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False).encodings
            if texts
            else []
        )

    def _prepare(self, example: Example) -> tuple[Conversation, Rendered, list[PictureTokens]] | RenderError:
        try:
            talk = build_conversation(example, self.settings, self._root)
            learned = learned_turns(talk, self.settings)
            if not learned:
                raise RenderError(
                    3, "every answer of the row has weight 0: nothing is learned", "give one answer weight 1"
                )
            return talk, self.renderer.render(talk, frozenset(learned)), self._count(talk)
        except RenderError as error:
            return error

    def _count(self, talk: Conversation) -> list[PictureTokens]:
        return [self._pictures.count(ref) for ref in talk.images]

    def _label(
        self, talk: Conversation, rendered: Rendered, pictures: list[PictureTokens], encoding: Any
    ) -> Formatted:
        ids, moved = self._expand(np.asarray(encoding.ids, dtype=np.int32), pictures)
        labels = np.full(len(ids), UNSUPERVISED, dtype=np.int32)
        learned = learned_turns(talk, self.settings)
        spans = []
        for turn in rendered.turns:
            if turn.message < talk.first_own:
                continue
            start, end = self._token_span(encoding, turn.start, turn.content_end, turn.end)
            span = Span(int(moved[start]), int(moved[end]), turn.message, turn.message in learned)
            spans.append(span)
            if span.supervised:
                labels[span.start : span.end] = ids[span.start : span.end]
        return Formatted(
            input_ids=ids,
            labels=labels,
            spans=tuple(spans),
            text=rendered.text,
            prompt_text=rendered.prompt,
            n_prompt=spans[-1].start,
            images=tuple(talk.images),
            image_grid=tuple(picture.grid for picture in pictures),
            image_tokens=sum(picture.count for picture in pictures),
            image_token_id=self._pictures.token_id,
            messages=talk.messages,
            answer=answer_text(talk.messages[-1]),
        )

    @staticmethod
    def _token_span(encoding: Any, start: int, content_end: int, end: int) -> tuple[int, int]:
        """Tokens of characters start..end. Raises RenderError(11) where a token straddles the prompt's end."""
        first = encoding.char_to_token(start)
        last = encoding.char_to_token(content_end)
        if first is None or last is None:
            raise RenderError(
                12, "an assistant turn has no tokens of its own", "remove unusual white space from the answer"
            )
        if encoding.token_to_chars(first)[0] != start:
            raise RenderError(
                11,
                "the answer's first characters merge with the end of the generation prompt into one token, "
                "which a generating model can never produce",
                "strip leading white space from the answer",
            )
        return first, last + 1

    def _expand(self, ids: np.ndarray, pictures: list[PictureTokens]) -> tuple[np.ndarray, np.ndarray]:
        """Put each picture's tokens in place of its placeholder; also where every old position went."""
        token = self._pictures.token_id
        holes = np.flatnonzero(ids == token) if token is not None else np.empty(0, dtype=int)
        if len(holes) != len(pictures):
            raise RenderError(
                17,
                f"the template shows {len(holes)} pictures, the row has {len(pictures)}",
                "use the model's own chat template; each picture needs exactly one placeholder",
            )
        growth = np.zeros(len(ids) + 1, dtype=np.int64)
        if not len(holes):
            return ids, np.arange(len(ids) + 1)
        pieces: list[Iterable[int]] = []
        position = 0
        for hole, picture in zip(holes, pictures, strict=True):
            pieces += [ids[position:hole], np.asarray(picture.ids, dtype=np.int32)]
            growth[hole + 1] = len(picture.ids) - 1
            position = hole + 1
        pieces.append(ids[position:])
        return np.concatenate(pieces), np.arange(len(ids) + 1) + np.cumsum(growth)


def format_example(
    example: Example,
    processor: Any,
    *,
    prompt: PromptSettings | None = None,
    with_pixels: bool = False,
    root: Path | None = None,
) -> Formatted:
    """Token ids and labels of one row, by the model's own chat template.

    labels are -100 except in the answers (all assistant turns of the row, or the last one) and the token that
    ends each. with_pixels: decode the pictures too (`pixel_values`, `image_grid_thw`). root: task folder, for
    few-shot pictures. Raises RenderError with the catalogue number when the row cannot be rendered without loss.
    """
    made = Formatter(processor, prompt, root).format(example)
    formatted = replace(made, input_ids=[*map(int, made.input_ids)], labels=[*map(int, made.labels)])
    if with_pixels:
        formatted.image_inputs.update(pixel_inputs(formatted.images, processor))
    return formatted


def generation_prompt(
    example: Example, processor: Any, prompt: PromptSettings | None = None, root: Path | None = None
) -> Prompt:
    """What a predictor is asked for this row: the same rendering that training saw, up to the last answer."""
    return Formatter(processor, prompt, root).prompt(example)
