"""Small random models for tests and benchmarks: a Qwen2-VL with a byte-level tokenizer, and a text-only Qwen2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

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
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> Any:
    """One token per byte, plus the seven control tokens of the Qwen2-VL family."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
    )
    fast.chat_template = TEMPLATE
    return fast


def make_processor() -> Any:
    from transformers import Qwen2VLProcessor, Qwen2VLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        min_pixels=28 * 28, max_pixels=2048 * 28 * 28, patch_size=14, merge_size=2
    )
    return Qwen2VLProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )


def make_vision_model(
    tokenizer: Any, *, layers: int = 4, hidden: int = 192, intermediate: int = 512, heads: int = 6, kv_heads: int = 2,
    depth: int = 4, width: int = 128, seed: int = 0, spread: float = 0.02,
) -> Any:  # fmt: skip
    """The benchmark model's shape by default. `spread`: a wider initialisation gives answers that differ by row."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    size = hidden // heads // 2
    first = size // 4
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 384, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0,
                "mrope_section": [size - 2 * ((size - first) // 2), (size - first) // 2, (size - first) // 2],
            },
            "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            "initializer_range": spread, "tie_word_embeddings": True,
        },
        vision_config={
            "depth": depth, "embed_dim": width, "hidden_size": hidden, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": spread,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True, initializer_range=spread,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config).eval().requires_grad_(False)
    model.generation_config.eos_token_id = [ids["<|im_end|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def make_text_model(tokenizer: Any, *, seed: int = 0, spread: float = 0.1) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    eos, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=eos, pad_token_id=pad, bos_token_id=None,
            initializer_range=spread, tie_word_embeddings=False,
        )
    )  # fmt: skip
    model.generation_config.eos_token_id = [eos]
    model.generation_config.pad_token_id = pad
    return model.eval().requires_grad_(False)


def save(model: Any, processor: Any, folder: Path) -> Path:
    """A model folder as any other: weights, configuration, tokenizer or processor."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    json.loads((folder / "config.json").read_text())
    return folder


def make_pages(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> list[Path]:
    """PNG files of random blocks; size is (width, height) in pixels."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        small = random.integers(0, 255, (size[1] // 7, size[0] // 7, 3), dtype=np.uint8)
        path = folder / f"page{number}.png"
        Image.fromarray(small).resize(size, Image.Resampling.NEAREST).save(path)
        paths.append(path)
    return paths
