"""Our own byte-level BPE, chat template and image processor, saved so that the Auto classes load them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from vlm_pipeline.bundled.base_model import words
from vlm_pipeline.bundled.base_model.naming import SYNONYMS
from vlm_pipeline.bundled.base_model.random_pages import page_and_questions
from vlm_pipeline.bundled.base_model.text_tasks import text_exercise
from vlm_pipeline.bundled.glyphs import COLOURS, SHAPES, TILE, UNITS

#: names and order as Qwen2-VL has them; ids are our own
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
VOCABULARY = 2000
MIN_PIXELS, MAX_PIXELS = 4 * TILE * TILE, 80 * TILE * TILE

CHAT_TEMPLATE = """\
{%- macro parts(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content is not none -%}
{%- for part in content -%}
{%- if part.type == 'image' or (part.type is not defined and part.image is defined) -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif part.text is defined and part.text is not none -%}{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set first_system = messages[0].role == 'system' -%}
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if first_system -%}{{- parts(messages[0].content) + '\\n\\n' -}}{%- endif -%}
{{- 'You can call these functions. Their signatures, one JSON object a line, are inside <tools></tools>:\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools>\\nTo call one, answer with its name and arguments as a JSON object inside <tool_call></tool_call>, one pair of tags for each call.<|im_end|>\\n' -}}
{%- elif first_system -%}
{{- '<|im_start|>system\\n' + parts(messages[0].content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if loop.first and first_system -%}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{{- parts(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{%- if not loop.first or message.content -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": ' + (function.name | tojson) + ', "arguments": ' -}}
{{- function.arguments if function.arguments is string else (function.arguments | tojson) -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user\\n' -}}{%- else -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_response>\\n' + parts(message.content) + '\\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + parts(message.content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def corpus(seed: int = 11, pages: int = 1500, exercises: int = 3000) -> Iterator[str]:
    """Text like what the base will read and write, and every listed word."""
    rng = random.Random(seed)
    listed = [
        *words.NOUNS,
        *words.ADJECTIVES,
        *words.NAMES,
        *words.PLACES,
        *words.VERBS,
        *words.KEYS,
        *words.DAYS,
    ]
    for _ in range(300):
        yield " " + " ".join(rng.sample(listed, len(listed)))
        yield "system\nuser\nassistant\n"
        yield " " + " ".join([*SHAPES, *chain(*SYNONYMS.values()), *COLOURS, *UNITS])
    for _ in range(pages):
        for question, answer in page_and_questions(rng, 4)[1]:
            yield question
            yield answer
    for _ in range(exercises):
        context, pairs = text_exercise(rng)
        yield context
        for question, answer in pairs:
            yield question
            yield answer


def build_tokenizer():  # -> Qwen2Tokenizer, imported late: it pulls in transformers
    """Train the BPE on ``corpus`` with Qwen2's own pre-tokenizer, so digits stay single tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    draft = Tokenizer(models.BPE())
    draft.normalizer = normalizers.NFC()
    draft.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    draft.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    draft.train_from_iterator(corpus(), trainer)
    state = json.loads(draft.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=merges,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        extra_special_tokens=SPECIAL_TOKENS[1:],
    )
    tokenizer.add_tokens(SPECIAL_TOKENS, special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(tokenizer):
    """A Qwen2-VL processor whose pictures become at most 80 tokens of 28 x 28 pixels."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    half = [0.5, 0.5, 0.5]
    settings = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": half,
        "image_std": half,
    }
    images = Qwen2VLImageProcessor(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, **settings)
    videos = Qwen2VLVideoProcessor(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, **settings)
    return Qwen2VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=CHAT_TEMPLATE
    )


def save_processor(folder: Path):
    """Write tokenizer, template and processor files; return the processor."""
    processor = build_processor(build_tokenizer())
    processor.save_pretrained(folder)
    return processor
