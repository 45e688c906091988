"""A tiny task on disk: random model, pages, formatted rows and task.yaml, in the shapes that real ones have."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_pipeline_tests.inference import models

TASK = """\
name: tiny
source: {{path: raw}}
sections: [alpha, beta]
base_model: {model}
generation: {{max_new_tokens: 8}}
scorers: [{{kind: text}}]
predictors:
  - {{name: base, kind: transformers}}
  - {{name: tuned, kind: transformers, adapter: trained}}
  - {{name: yesno, kind: transformers, constrained: "(yes|no)"}}
"""


@lru_cache(maxsize=1)
def processor() -> Any:
    return models.make_processor()


def small_vision_model(seed: int = 0) -> Any:
    """About 0.1 M parameters; the wide initialisation makes answers differ from prompt to prompt."""
    return models.make_vision_model(
        processor().tokenizer, layers=2, hidden=48, intermediate=96, heads=4, kv_heads=2, depth=1, width=32, seed=seed, spread=0.15
    )  # fmt: skip


def question(page: int, number: int) -> str:
    return f"page {page}: what is value {number * number}{'?' * (1 + number % 3)}"


def ask_row(page: Path, text: str, **columns: Any) -> dict[str, Any]:
    """A formatted row about one picture; `answer` is a fixed text."""
    from PIL import Image

    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = processor().apply_chat_template(messages, add_generation_prompt=True)
    with Image.open(page) as image:
        inputs = processor()(text=[prompt], images=[image.convert("RGB")], return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    answer = processor().tokenizer("ok<|im_end|>")["input_ids"]
    return {
        "input_ids": ids + answer,
        "labels": [-100] * len(ids) + answer,
        "n_prompt": len(ids),
        "messages": json.dumps(
            [
                {"role": "user", "content": [{"type": "image", "index": 0}, {"type": "text", "text": text}]},
                {"role": "assistant", "content": "ok"},
            ]
        ),
        "tools": None,
        "images": [str(page)],
        "image_sha256": [hashlib.sha256(page.read_bytes()).hexdigest()],
        "image_grid": [inputs["image_grid_thw"][0].tolist()],
        **columns,
    }


def formatted_rows(
    pages: list[Path], questions: int, section: str, split: str = "test"
) -> list[dict[str, Any]]:
    return [
        ask_row(
            page, question(number, index), id=f"{section}-{number}-{index}", section=section, group=page.name, split=split,
            content_hash=f"{number}-{index}",
        )
        for number, page in enumerate(pages)
        for index in range(questions)
    ]  # fmt: skip


def write_formatted(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def make_world(folder: Path, *, pages: int = 3, questions: int = 4) -> dict[str, Any]:
    """Write everything and return a payload request for the base."""
    model = models.save(small_vision_model(), processor(), folder / "model")
    task = folder / "task"
    (task / "raw").mkdir(parents=True)
    (task / "task.yaml").write_text(TASK.format(model=model))
    formatted = []
    for number, section in enumerate(("alpha", "beta")):
        paths = models.make_pages(folder / f"images-{section}", pages, (84, 56 + 28 * number), seed=number)
        rows = formatted_rows(paths, questions, section)
        formatted.append(
            str(write_formatted(folder / "store" / "tiny" / "formatted" / f"{section}.parquet", rows))
        )
    return {
        "task": str(task), "store": str(folder / "store"), "formatted": formatted, "splits": ["test"], "predictors": ["base"],
    }  # fmt: skip


def make_adapter(folder: Path, model_folder: Path, seed: int = 1, scale: float = 0.3) -> Path:
    """An adapter as training leaves it (random weights that do change answers), record included."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    from vlm_pipeline.formatting.template import image_settings, load_processor, template_hash
    from vlm_pipeline.training.adapters import adapted_modules
    from vlm_pipeline.training.base_model import base_fingerprint
    from vlm_pipeline.training.record import write_record

    torch.manual_seed(seed)
    base = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=r".*language_model\..*\.(q_proj|v_proj|up_proj|down_proj)",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(folder)
    loaded = load_processor(model_folder)
    record = {
        "base": {"model": str(model_folder), "fingerprint": base_fingerprint(model_folder)},
        "template_hash": template_hash(loaded),
        "image_settings": image_settings(loaded),
        "adapted_modules": adapted_modules(model),
        **dict.fromkeys(
            ("training_set", "settings", "seed", "trainable_parameters", "loss_curve", "throughput")
        ),
    }
    write_record(folder, record)
    return folder
