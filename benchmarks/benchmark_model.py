"""The model that all benchmarks share, so that ratios mean the same everywhere: a random Qwen2-VL of 3.2 M parameters."""

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


def model_config(tokenizer: PreTrainedTokenizerFast, **text: int) -> Qwen2VLConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in CONTROL}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 16_384,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"], **text,
        },
        vision_config={"depth": 4, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=True,
    )  # fmt: skip


def save_benchmark_model(folder: Path, seed: int = 0) -> Path:
    """Model and processor as a folder that the Auto classes load."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = Qwen2VLForConditionalGeneration(model_config(tokenizer)).eval()
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
