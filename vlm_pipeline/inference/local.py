"""Predictors on this machine: the base, bare or with adapters, over one loaded model and one set of image features."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_pipeline.estimates import ROWS_AT_ONCE
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.inference.plan import ImageInput, Prompt
from vlm_pipeline.inference.prediction import Ask, Prediction, answered, failed
from vlm_pipeline.settings.data import ImageSettings
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.settings.training import QuantizationSettings
from vlm_pipeline.store import content_hash, file_hash
from vlm_pipeline.training.base_model import precision_name
from vlm_pipeline.training.record import adapter_version, read_record

if TYPE_CHECKING:
    from vlm_pipeline.inference.decoding import Answer
    from vlm_pipeline.inference.generate import Generator

ENGINE = (
    "shared-prefix-3"  # part of every fingerprint: answers of different engines are never mixed in one table
)
_COLUMNS = [
    "id",
    "section",
    "group",
    "split",
    "input_ids",
    "n_prompt",
    "images",
    "image_sha256",
    "image_grid",
]
log = logging.getLogger(__name__)


def stream_prompts(formatted: Sequence[Path | str], splits: Sequence[str]) -> Iterator[Ask]:
    """The rows of these splits as requests, one at a time: the ids before the answer, and their pictures."""
    for row in read_formatted_rows(list(formatted), _COLUMNS, splits):
        ids = tuple(row["input_ids"][: row["n_prompt"]])
        pictures = zip(row["images"] or (), row["image_sha256"] or (), row["image_grid"] or (), strict=True)
        images = tuple(ImageInput(sha, tuple(grid), path) for path, sha, grid in pictures)
        yield Ask(
            row["id"], row["section"], row["group"], row["split"], content_hash(ids, length=32),
            tuple(image.sha256 for image in images), Prompt(ids, images),
        )  # fmt: skip


class LocalEngine:
    """One base in memory, loaded at the first question; adapters are added to it and switched.

    cache: the store's cache folder, for file hashes and for image features that do not fit into memory.
    """

    def __init__(
        self,
        base: Path,
        *,
        image: ImageSettings | None = None,
        quantization: QuantizationSettings | None = None,
        precision: str = "auto",
        cache: Path | None = None,
    ) -> None:
        self.base, self._image, self._quantization, self._precision = base, image, quantization, precision
        self._cache = cache
        self._generator: Generator | None = None
        self._processor: Any = None
        self._pictures: Any = None
        self._adapted: Any = None
        self._current: Path | None = None
        self._patterns: dict[str, Any] = {}
        self.plain: str | None = None  # why the base is generated one by one, if it is
        self.loaded = False

    @property
    def images_computed(self) -> int:
        """Pictures that went through the vision tower so far."""
        return self._pictures.computed if self._pictures else 0

    def fingerprint(self, adapter: Path | None = None) -> str:
        """Hash of what decides an answer: weights, adapter, pixel settings, precision, engine. Loads no model."""
        pixels = {
            name: file_hash(self.base / name)
            for name in ("preprocessor_config.json", "processor_config.json", "generation_config.json")
            if (self.base / name).is_file()
        }
        quantization = self._quantization.model_dump() if self._quantization else None
        return content_hash(
            {
                "base": self._base_fingerprint(),
                "pixels": [pixels, self._image.model_dump() if self._image else None],
                "adapter": adapter_version(read_record(adapter)) if adapter else None,
                "precision": precision_name(self._precision),
                "quantization": quantization if quantization and quantization["mode"] != "none" else None,
                "engine": ENGINE,
            },
            length=24,
        )

    def _base_fingerprint(self) -> str:
        from vlm_pipeline.training.base_model import base_fingerprint

        return base_fingerprint(self.base, self._cache / "base_fingerprints.json" if self._cache else None)

    def generator(self, adapter: Path | None) -> Generator:
        """The loaded model with this adapter switched on (None: the bare base)."""
        from vlm_pipeline.inference.generate import Generator

        if self._generator is None:
            from vlm_pipeline.formatting.template import load_processor
            from vlm_pipeline.inference.vision import Pictures
            from vlm_pipeline.training.base_model import load_base, pick_device, pick_dtype

            device = pick_device()
            model = load_base(self.base, pick_dtype(self._precision, device), device, self._quantization)
            processor = self._processor = load_processor(self.base, image=self._image)
            folder = self._cache / "image_features" if self._cache else None
            self._pictures = Pictures(model, processor, identity=self._base_fingerprint(), folder=folder)
            self._generator = Generator(model, processor, pictures=self._pictures, eos=turn_ends(processor))
            self.loaded = True
        self._switch(adapter)
        return self._generator

    def _switch(self, adapter: Path | None) -> None:
        """Take the present adapter off and put this one on; its record is checked against base and processor."""
        adapter = adapter.resolve() if adapter else None
        if adapter == self._current:
            return
        generator = self._generator
        assert generator is not None
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted, self._current, generator.pictures = None, None, self._pictures
        if adapter is None:
            return
        from vlm_pipeline.formatting.template import image_settings, template_hash
        from vlm_pipeline.training.adapters import load_adapter

        self._adapted = load_adapter(
            generator.model,
            adapter,
            self._base_fingerprint(),
            image_settings=image_settings(self._processor),
            template_hash=template_hash(self._processor),
        )
        self._adapted.requires_grad_(False).eval()
        self._current = adapter
        if any("visual" in name or "vision" in name for name in read_record(adapter)["adapted_modules"]):
            from vlm_pipeline.inference.vision import Pictures

            generator.pictures = Pictures(
                generator.model, self._processor, identity=self.fingerprint(adapter)
            )

    def pattern(self, regex: str) -> Any:
        from vlm_pipeline.inference.constrained import Pattern

        if regex not in self._patterns:
            assert self._generator is not None
            size = self._generator.model.config.get_text_config().vocab_size
            self._patterns[regex] = Pattern(regex, self._generator.tokenizer, self._generator.eos, size)
        return self._patterns[regex]


class LocalPredictor:
    """The base of `engine`, with or without an adapter, free or held to a pattern."""

    rows_at_once: int | None = ROWS_AT_ONCE

    def __init__(
        self,
        name: str,
        engine: LocalEngine,
        generation: GenerationSettings,
        *,
        adapter: Path | None = None,
        pattern: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.name, self.generation = name, generation
        self._engine, self._adapter, self._pattern, self._batch_size = engine, adapter, pattern, batch_size
        own = engine.fingerprint(adapter)
        self.fingerprint = content_hash([own, pattern], length=24) if pattern else own

    @property
    def deterministic(self) -> bool:
        return self.generation.deterministic

    def predict(self, asks: Sequence[Ask]) -> Iterator[list[Prediction]]:
        from vlm_pipeline.inference.generate import UnsupportedModel

        generator = self._engine.generator(self._adapter)
        pattern = self._engine.pattern(self._pattern) if self._pattern else None
        prompts = [ask.body for ask in asks]
        seeds = [int(ask.key(str(self.generation.seed), self.generation)[:15], 16) for ask in asks]
        options = {"pattern": pattern, "seeds": seeds}
        try:
            if self._engine.plain is None:
                answers = generator.generate(prompts, self.generation, max_rows=self._batch_size, **options)
                yield from self._collected(answers, asks)
                return
        except UnsupportedModel as error:
            self._engine.plain = str(error)
            log.warning("%s: %s; generating one by one", self.name, error)
        from vlm_pipeline.inference.plain import generate_plain

        yield from self._collected(generate_plain(generator, prompts, self.generation, **options), asks)

    def _collected(self, answers: Iterator[list[Answer]], asks: Sequence[Ask]) -> Iterator[list[Prediction]]:
        for batch in answers:
            yield [self._prediction(asks[answer.index], answer) for answer in batch]

    def _prediction(self, ask: Ask, answer: Answer) -> Prediction:
        if answer.error is not None:
            return failed(ask, self.name, answer.error)
        return answered(
            ask, self.name, text=answer.text, finish_reason=answer.finish_reason, tokens_in=len(ask.body.ids),
            tokens_out=len(answer.ids), latency_s=answer.latency_s, cost_usd=0.0,
        )  # fmt: skip


def turn_ends(processor: Any) -> frozenset[int]:
    """The template's end-of-turn tokens, which a base's generation config may lack; none for a bare tokenizer."""
    from vlm_pipeline.formatting.template import RenderError, markers

    try:
        return markers(processor).end_ids
    except (RenderError, ValueError):
        return frozenset()
