"""Small models and rows for the formatting tests: real processors with a byte vocabulary, saved as a model folder."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.examples.example import Example, ImageRef, Source
from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline.task import Task

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "Be helpful.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' or 'image' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (  # begins with BOS, trims, writes a date, no end-of-turn newline
    "{{ bos_token }}{% set day = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: {{ day }}<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
HEADER_TOKENS = ["<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]


LINES = (
    r"\s*[\r\n]+|[^\S\r\n]?\w+|[^\s\w]+|\s+"  # line breaks are tokens of their own, as in Qwen and Llama 3
)


def tokenizer(
    template: str = CHATML, special: list[str] = CHATML_TOKENS, pattern: str | None = LINES, **names: str
) -> Any:
    """A byte-level BPE tokenizer with a few merges, fast and real. pattern None: split as GPT-2 does."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), made.pre_tokenizer]
        )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    made.train_from_iterator(
        ["system user assistant torque of the bolt is Nm and the answer\n\n"] * 20, trainer
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **names)
    fast.add_special_tokens({"additional_special_tokens": special})
    fast.chat_template = template
    return fast


@cache
def picture_model(folder: Path) -> Path:
    """A folder with a Qwen2-VL processor of 28-pixel cells and a generation config; no weights."""
    from transformers import GenerationConfig, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    words = tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=200 * 28 * 28),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHATML,
    ).save_pretrained(folder)
    GenerationConfig(
        eos_token_id=words.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    ).save_pretrained(folder)
    return folder


@cache
def text_model(folder: Path, pattern: str | None = LINES) -> Path:
    """A folder with a text tokenizer whose template writes BOS and a date."""
    from transformers import GenerationConfig

    words = tokenizer(
        HEADERS, HEADER_TOKENS, pattern, bos_token="<|begin|>", eos_token="<|eot_id|>", pad_token="<|pad|>"
    )
    words.save_pretrained(folder)
    GenerationConfig(eos_token_id=words.convert_tokens_to_ids("<|eot_id|>")).save_pretrained(folder)
    return folder


def task(model: Path | str, **settings: Any) -> Task:
    settings.setdefault("prompt", {})
    made = Task.model_validate(
        {
            "name": "trial",
            "sections": ["torque"],
            "base_model": str(model),
            "predictors": [{"name": "base", "kind": "transformers"}],
            "scorers": [{"kind": "text"}],
            **settings,
        }
    )
    return made


def picture(
    folder: Path, name: str, size: tuple[int, int] = (84, 56), colour: tuple[int, int, int] = (200, 40, 40)
) -> ImageRef:
    """A plain picture on disk, (width, height) in pixels."""
    import hashlib

    from PIL import Image

    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return ImageRef(str(path), None, hashlib.sha256(path.read_bytes()).hexdigest(), *size, "PNG")


def example(
    name: str,
    turns: list[tuple[str, Any]],
    images: tuple[ImageRef, ...] = (),
    tools: Any = None,
    split: str = "train",
    **metadata: Any,
) -> Example:
    """A row; a user turn's text gets the row's pictures in front of the first one."""
    messages: list[dict[str, Any]] = []
    for role, content in turns:
        messages.append(
            {"role": role, "content": content} if not isinstance(content, dict) else {"role": role, **content}
        )
    first = next((m for m in messages if m["role"] == "user"), None)
    if images and first is not None and isinstance(first["content"], str):
        first["content"] = [
            *({"type": "image", "index": i} for i in range(len(images))),
            {"type": "text", "text": first["content"]},
        ]
    return Example(
        name, tuple(messages), images, tools, metadata, Source("rows.jsonl", 1), "torque", f"g-{name}", split
    )


def asked(name: str, question: str, answer: str, *images: ImageRef, **more: Any) -> Example:
    return example(name, [("user", question), ("assistant", answer)], images, **more)


def dialogue(name: str, *images: ImageRef) -> Example:
    """Three questions and answers."""
    return example(
        name,
        [
            ("system", "You are terse."),
            ("user", "Torque of the sump plug?"),
            ("assistant", "31 Nm"),
            ("user", "And the filter housing?"),
            ("assistant", "22 Nm"),
            ("user", "Sum of both?"),
            ("assistant", "53 Nm"),
        ],
        images,
    )


REAL = Path(os.environ.get("VLM_PIPELINE_TEST_DATA", "/nonexistent"))
real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="VLM_PIPELINE_TEST_DATA is not set: real tokenizers and rows needed"
)
REAL_SETS = {
    "street": "street_safety/street_safety.jsonl",
    "chart": "chartqa_owid_oecd/chartqa_owid_oecd.jsonl",
    "tool_calls": "bfcl_hermes/bfcl_hermes.jsonl",
    "dialogues": "glaive_toolcall/glaive_toolcall.jsonl",
    "channels": "dipg_safety/dipg_channels.jsonl",
    "sections": "dipg_safety/dipg_analysis_proof_final.jsonl",
    "think": "dipg_safety/dipg_think_proof_answer.jsonl",
    "torque": "torque_specs/torque_specs.jsonl",
    "abstain": "pubmedqa/pubmedqa.jsonl",
    "manuals": "emanual_qa/emanual_qa.jsonl",
}


@cache
def real_rows(name: str) -> list[Example]:
    from vlm_pipeline.examples import read_examples

    path = REAL / REAL_SETS[name]
    return list(read_examples(path, images=path.parent, quarantine=[]))


@cache
def real_processor(name: str) -> Any:
    """qwen2vl, qwen25, llama, or (hermes, hermes3, qwen3) a template of the templates folder on the Qwen2.5 or Llama vocabulary."""
    folder = REAL / "tokenizers"
    if name == "qwen2vl":
        return load_processor(folder / "qwen2-vl-2b-instruct")
    if name == "qwen25":
        return load_processor(folder / "qwen2.5-instruct")
    if name == "llama":
        return load_processor(folder / "llama-3.1" / "hf-derived")
    files = {
        "hermes": ("qwen2.5-instruct", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja"),
        "hermes3": ("qwen2.5-instruct", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja"),
        "qwen3": ("qwen2.5-instruct", "Qwen-Qwen3-0.6B.jinja"),
    }
    base, file = files[name]
    made = load_processor(folder / base)
    template = (folder / "templates" / file).read_text()
    made.chat_template = (
        {"default": CHATML_TEXT, "tool_use": template} if name.startswith("hermes") else template
    )
    return made


CHATML_TEXT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON lines of rows, for the readers."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
