"""The model that all benchmarks share, so that ratios mean the same everywhere: a random Qwen2-VL of 3.2 M parameters.

For GPUs also Qwen2-VL 2B and 7B by their configurations, with random weights in bf16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
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

CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
WORDS = [f"w{number}" for number in range(300)]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIXELS_PER_TOKEN_SIDE = 28  # patch 14, merge 2
LORA = {"r": 16, "alpha": 32}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, line break and control token."""
    vocabulary = {
        token: number for number, token in enumerate([*CONTROL, "\n", "system", "user", "assistant", *WORDS])
    }
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[0]))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n"), "isolated"), pre_tokenizers.Split(Regex(" "), "removed")]
    )
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=CONTROL[1:],
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    return tokenizer


# hidden, intermediate, layers, heads, key/value heads, vocabulary, tied output; of the vision tower: blocks, width, heads
_SIZES = {
    "2b": (1536, 8960, 28, 12, 2, 151_936, True, 32, 1280, 16),
    "7b": (3584, 18_944, 28, 28, 4, 152_064, False, 32, 1280, 16),
}


def model_config(tokenizer: PreTrainedTokenizerFast, size: str = "small") -> Qwen2VLConfig:
    vocabulary = len(tokenizer)
    shape = _SIZES.get(size, (192, 512, 4, 6, 2, vocabulary, True, 4, 128, 4))
    hidden, wide, layers, heads, key_heads, vocabulary, tied, blocks, width, vision_heads = shape
    pairs = hidden // heads // 2  # of rotary positions, shared by time, height and width
    sections = [pairs // 4, (pairs - pairs // 4) // 2, pairs - pairs // 4 - (pairs - pairs // 4) // 2]
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in CONTROL}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": key_heads, "max_position_embeddings": 16_384,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections},
            "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": blocks, "embed_dim": width, "hidden_size": hidden, "num_heads": vision_heads, "mlp_ratio": 4, "patch_size": 14,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=tied,
    )  # fmt: skip


def save_benchmark_model(folder: Path, seed: int = 0, size: str = "small") -> Path:
    """Model and processor as a folder that the Auto classes load."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = model_config(tokenizer, size)
    if size == "small":
        model = Qwen2VLForConditionalGeneration(config).eval()
    else:
        with torch.device("cuda"):
            model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def draw_image(path: Path, image_tokens: int, seed: int) -> Path:
    """A random picture of about `image_tokens` tokens (a square of whole tokens)."""
    side = round(image_tokens**0.5) * PIXELS_PER_TOKEN_SIDE
    blocks = np.random.default_rng(seed).integers(0, 255, (side // 7, side // 7, 3), dtype=np.uint8)
    Image.fromarray(blocks.repeat(7, 0).repeat(7, 1)).save(path)
    return path


def random_words(count: int, random: np.random.Generator) -> str:
    return " ".join(random.choice(WORDS, count))
