"""Shows by plain peft what LoRA gains on the bundled tasks: ``python -m vlm_pipeline_tests.bundled.recipe_proof``.

Independent of the project's own training engine: the model is trained on one sequence a page (the page once, its
questions as branches) and asked by ``generate`` with the processor's own rendering. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy.stats import binomtest

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def load_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = [
        line for path in sorted((folder / "raw").glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["metadata"]["split"] == split]


def by_image(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    pages: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        pages[row["image"]].append(row)
    return list(pages.values())


def train(model, processor, folder: Path, settings: argparse.Namespace):
    """LoRA on the language model's linears; returns the peft model."""
    from peft import LoraConfig, get_peft_model

    from vlm_pipeline.bundled.base_model.model import IGNORE, Builder, answer_loss, collate
    from vlm_pipeline.bundled.base_model.vision import pixel_batch

    builder = Builder(processor.tokenizer)
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=settings.r, lora_alpha=settings.alpha, target_modules=TARGETS))
    rng = random.Random(0)
    pages = by_image(load_rows(folder, "train"))
    prepared = []
    for rows in pages:
        image = Image.open(folder / rows[0]["image"]).convert("RGB")
        pixels, grid = pixel_batch([image])
        with torch.no_grad():
            vectors = model.model.visual(pixels, grid_thw=grid).pooler_output
        branches = [[tuple(turn["content"] for turn in row["conversations"])] for row in rows]
        prepared.append((builder.sequence(branches, grid=(image.height // 28, image.width // 28)), vectors))
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0)
    per_epoch = math.ceil(len(prepared) / settings.pages)
    steps, number, start = per_epoch * settings.epochs, 0, time.monotonic()
    for epoch in range(settings.epochs):
        rng.shuffle(prepared)
        for i in range(0, len(prepared), settings.pages):
            group = prepared[i : i + settings.pages]
            batch = collate([s for s, _ in group], processor.tokenizer.pad_token_id)
            loss, _ = answer_loss(model, batch, torch.cat([v for _, v in group]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            warm = max(1, int(0.05 * steps))
            scale = min(1.0, (number + 1) / warm) * 0.5 * (1 + math.cos(math.pi * number / steps))
            optimizer.param_groups[0]["lr"] = settings.lr * scale
            optimizer.step()
            optimizer.zero_grad()
            number += 1
        print(f"epoch {epoch + 1} loss {loss.item():.3f} {time.monotonic() - start:.0f} s", flush=True)
    assert (batch["labels"] != IGNORE).any()
    return tuned


def predict(
    model, processor, folder: Path, rows: list[dict[str, Any]], new_tokens: int, batch: int = 32
) -> list[str]:
    """Greedy answers by the model's own generate."""
    processor.tokenizer.padding_side = "left"
    texts = []
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": r["conversations"][0]["content"]}]}],
                tokenize=False, add_generation_prompt=True,
            )
            for r in part
        ]  # fmt: skip
        images = [Image.open(folder / r["image"]).convert("RGB") for r in part]
        inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        texts += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def lenient(text: str, row: dict[str, Any]) -> bool:
    """Every number (or part name) of the gold answer occurs somewhere in the text."""
    gold = row["conversations"][1]["content"]
    numbers = re.findall(r"\d+(?:\.\d+)?", gold)
    wanted = numbers or [gold]
    have = set(re.findall(r"\d+(?:\.\d+)?", text))
    return all(w in have if numbers else w in text for w in wanted)


def summary(rows: list[dict[str, Any]], texts: list[str]) -> dict[str, Any]:
    exact: dict[str, list[bool]] = defaultdict(list)
    kinds: dict[str, list[bool]] = defaultdict(list)
    loose = []
    for row, text in zip(rows, texts, strict=True):
        right = text.strip() == row["conversations"][1]["content"]
        exact[row["metadata"]["section"]].append(right)
        kinds[f"{row['metadata']['section']}/{row['metadata']['content_type']}"].append(right)
        loose.append(lenient(text, row))
    mean = {name: round(sum(v) / len(v), 3) for name, v in exact.items()}
    return {"exact": round(sum(map(sum, exact.values())) / len(rows), 3), "sections": mean,
            "kinds": {k: round(sum(v) / len(v), 2) for k, v in sorted(kinds.items())}, "lenient": round(sum(loose) / len(rows), 3), "loose": loose}  # fmt: skip


def score_summary(rows: list[dict[str, Any]], texts: list[str]) -> dict[str, Any]:
    """Street scenes: the first number in 1..10 anywhere in the text, however it is written."""
    gaps = []
    for row, text in zip(rows, texts, strict=True):
        found = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]
        found = [n for n in found if 1 <= n <= 10]
        gaps.append(abs((found[0] if found else 5.5) - row["metadata"]["answer"]))
    return {"mae": round(sum(gaps) / len(gaps), 3), "acc0": round(sum(g < 0.5 for g in gaps) / len(gaps), 3),
            "acc1": round(sum(g <= 1 for g in gaps) / len(gaps), 3), "loose": [g <= 1 for g in gaps]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="manual_qa")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--base", type=Path, default=Path("data/base_model"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pages", type=int, default=4, help="pages in one step")
    parser.add_argument("--rows", type=int, default=0, help="ask only so many rows (0: all)")
    settings = parser.parse_args()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(2)
    processor = AutoProcessor.from_pretrained(settings.base)
    model = AutoModelForImageTextToText.from_pretrained(settings.base, dtype=torch.float32)
    folder = settings.data / settings.task
    rows = load_rows(folder, settings.split)
    if settings.rows:
        rows = random.Random(1).sample(rows, settings.rows)
    measure = summary if settings.task == "manual_qa" else score_summary
    clock = time.monotonic()
    base_texts = predict(model, processor, folder, rows, 48)
    base, base_s = measure(rows, base_texts), time.monotonic() - clock
    clock = time.monotonic()
    tuned_model = train(model, processor, folder, settings)
    train_s = time.monotonic() - clock
    clock = time.monotonic()
    tuned_texts = predict(tuned_model, processor, folder, rows, 48)
    tuned, tuned_s = measure(rows, tuned_texts), time.monotonic() - clock
    b, c = base.pop("loose"), tuned.pop("loose")
    wins, losses = (
        sum(y and not x for x, y in zip(b, c, strict=True)),
        sum(x and not y for x, y in zip(b, c, strict=True)),
    )
    p = binomtest(min(wins, losses), wins + losses, 0.5).pvalue if wins + losses else 1.0
    for row, x, y in list(zip(rows, base_texts, tuned_texts, strict=True))[::37]:
        print(
            row["conversations"][0]["content"],
            "| gold:",
            row["conversations"][1]["content"],
            "| base:",
            x,
            "| tuned:",
            y,
        )
    figures = {"task": settings.task, "split": settings.split, "base": base, "tuned": tuned, "p_lenient": p,
               "seconds": {"base": round(base_s), "train": round(train_s), "tuned": round(tuned_s)}}  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
