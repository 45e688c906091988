"""Small random models and formatted tables for training tests: real classes, real processors, seconds on a CPU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LETTERS = [chr(code) for code in range(32, 127)] + ["\n"]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, plus chat control tokens."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *LETTERS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
    )
    made.chat_template = TEMPLATE
    made.image_token, made.video_token = "<|image_pad|>", "<|video_pad|>"
    return made


def save_vision_model(folder: Path, *, layers: int = 2, hidden: int = 48, seed: int = 0, **text: Any) -> Path:
    """A random Qwen2-VL with its processor; spatial positions matter (M-RoPE)."""
    torch.manual_seed(seed)
    words = tokenizer()
    ids = {name: words.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [hidden // 32, (hidden // 8 - hidden // 32) // 2, hidden // 8 - hidden // 32 - (hidden // 8 - hidden // 32) // 2]},
            "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"], **text,
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": hidden, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=1_000_000),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def save_text_model(
    folder: Path, *, family: str = "Qwen2", layers: int = 2, hidden: int = 48, seed: int = 0, **more: Any
) -> Path:
    """A random language model with its tokenizer. family: as Transformers names it, for example "Llama"."""
    torch.manual_seed(seed)
    words = tokenizer()
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(words), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=None, initializer_range=0.2,
        eos_token_id=words.convert_tokens_to_ids("<|im_end|>"), pad_token_id=0, tie_word_embeddings=True, **more,
    )  # fmt: skip
    getattr(transformers, f"{family}ForCausalLM")(config).eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def draw_page(folder: Path, number: int, size: tuple[int, int] = (84, 56)) -> Path:
    """A page of random blocks, as wide and high as `size` says (pixels)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"page{number}.png"
    blocks = np.random.default_rng(number).integers(0, 255, (size[1] // 14, size[0] // 14, 3), dtype=np.uint8)
    Image.fromarray(blocks.repeat(14, 0).repeat(14, 1)).save(path)
    return path


def formatted_row(
    processor: Any, name: str, question: str, answer: str, *, image: Path | list[Path] | None = None,
    question_first: bool = False, system: str | None = None,
    split: str = "train", section: str = "torque", group: str | None = None, metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One row as the formatted table holds it."""
    words = getattr(processor, "tokenizer", processor)
    pictures = [image] if isinstance(image, Path) else image or []
    parts: list[Any] = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": question}]
    content: Any = (parts[::-1] if question_first else parts) if pictures else question
    turns = ([{"role": "system", "content": system}] if system else []) + [
        {"role": "user", "content": content}
    ]
    prompt = words.apply_chat_template(
        turns, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    opened = [Image.open(picture) for picture in pictures]
    inputs = (
        processor(images=opened, text=[prompt]) if pictures else {"input_ids": [words(prompt)["input_ids"]]}
    )
    prompt_ids = list(inputs["input_ids"][0])
    answer_ids = words(answer + "<|im_end|>")["input_ids"]
    tail = words("\n")["input_ids"]
    return {
        "id": name, "section": section, "group": group or (pictures[0].stem if pictures else name), "split": split,
        "input_ids": prompt_ids + answer_ids + tail,
        "labels": [-100] * len(prompt_ids) + answer_ids + [-100] * len(tail),
        "n_prompt": len(prompt_ids), "n_tokens": len(prompt_ids) + len(answer_ids) + len(tail), "n_supervised": len(answer_ids),
        "images": [str(picture) for picture in pictures],
        "image_sha256": [hashlib.sha256(picture.read_bytes()).hexdigest() for picture in pictures],
        "image_grid": [[int(size) for size in grid] for grid in inputs["image_grid_thw"]] if pictures else [],
        "prompt_text": prompt, "answer": answer, "answer_value": None, "metadata": json.dumps(metadata or {}),
        "content_hash": hashlib.sha256(repr((prompt_ids, answer_ids)).encode()).hexdigest(),
    }  # fmt: skip


SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "section", "group", "split")]
    + [("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))]
    + [(name, pa.int32()) for name in ("n_prompt", "n_tokens", "n_supervised")]
    + [
        ("images", pa.list_(pa.string())),
        ("image_sha256", pa.list_(pa.string())),
        ("image_grid", pa.list_(pa.list_(pa.int32()))),
    ]
    + [(name, pa.string()) for name in ("prompt_text", "answer", "answer_value", "metadata", "content_hash")]
)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path
