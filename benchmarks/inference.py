"""Shared-image generation against transformers' own generate, side by side in one run. One JSON line per comparison.

    python -m benchmarks.inference [--image-tokens 1024] [--pages 8]

The model is the benchmark model of the package's documentation (about 3 M random parameters, float32), ours as
predictions load it, the peer as transformers does. Every side starts from image files and prompts and ends with texts,
and generates exactly the same number of tokens; loading the model, and the check that ours makes once per loaded model,
are not measured. All sides take turns, page by page; figures are medians. `lean` ratios give the peer its image
preprocessing for free. Times are wall clock, `cpu` is processor time of the same work: on a busy machine believe the
ratio of the second. The exit status is 1 where a text differs or a target is missed (by wall clock).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also as `python benchmarks/inference.py`
from benchmarks.benchmark_model import draw_image, random_words, save_benchmark_model
from vlm_pipeline.inference.decoding import stop_ids
from vlm_pipeline.inference.generate import Generator
from vlm_pipeline.inference.plan import ImageInput, Prompt
from vlm_pipeline.inference.vision import Pictures
from vlm_pipeline.settings.predictors import GenerationSettings

SPREAD = 3.0
CASES = {1024: 8, 256: 16}  # image tokens -> pages
# Ratios that a run must reach, by image tokens; of adapters: times of one predictor at most.
TARGETS = {1024: {"x_hf_batched": 8.0, "x_hf_one_by_one": 14.0}, 256: {"x_hf_batched": 4.0}}
ADAPTER_TARGET = {1024: 3.0}


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    met = True
    for image_tokens in [options.image_tokens] if options.image_tokens else CASES:
        with tempfile.TemporaryDirectory() as folder:
            pages = options.pages or CASES.get(image_tokens, 8)
            met &= _case(Path(folder), image_tokens, pages, options)
    return 0 if met else 1


def _case(folder: Path, image_tokens: int, count: int, options: argparse.Namespace) -> bool:
    from transformers import AutoModelForImageTextToText

    from vlm_pipeline.formatting.template import load_processor
    from vlm_pipeline.training.base_model import load_base

    save_benchmark_model(folder / "model")
    processor = load_processor(folder / "model")
    model = load_base(folder / "model", torch.float32, torch.device("cpu"))
    peer = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32).eval()
    for parameter in [*model.parameters(), *peer.requires_grad_(False).parameters()]:
        # Wider than at initialisation, so that answers differ from row to row.
        parameter.mul_(SPREAD if parameter.ndim > 1 else 1.0)
    settings = GenerationSettings(max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens)
    pages = [draw_image(folder / f"page{number}.png", image_tokens, number) for number in range(count)]
    rows = _rows(pages, options.questions, processor)
    about = {
        "image_tokens": image_tokens, "questions_per_page": options.questions, "pages": count, "rows": len(rows),
        "new_tokens": options.new_tokens, "threads": options.threads, "prompt_tokens": len(rows[0]["prompt"].ids),
    }  # fmt: skip
    met = _compare(model, peer, processor, rows, pages[: options.peer_pages], settings, about)
    if options.adapters:
        prompts = [row["prompt"] for row in rows]
        met &= _adapters(model, processor, prompts, settings, {**about, "adapters": options.adapters})
    return met


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-tokens", type=int, help="default: 1024, then 256")
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--pages", type=int)
    parser.add_argument("--new-tokens", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--peer-pages", type=int, default=3, help="pages that the slower sides are timed on")
    return parser.parse_args()


def _rows(pages: list[Path], questions: int, processor: Any) -> list[dict[str, Any]]:
    from PIL import Image

    random = np.random.default_rng(0)
    rows = []
    for page in pages:
        with Image.open(page) as opened:
            image = opened.convert("RGB")
        sha = hashlib.sha256(page.read_bytes()).hexdigest()
        for _ in range(questions):
            text = random_words(20, random)
            messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
            rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
            inputs = processor(text=[rendered], images=[image], return_tensors="pt")
            grid = tuple(inputs["image_grid_thw"][0].tolist())
            prompt = Prompt(tuple(inputs["input_ids"][0].tolist()), (ImageInput(sha, grid, str(page)),))
            rows.append({"page": page, "text": rendered, "prompt": prompt})
    return rows


def _compare(
    model: Any,
    peer: Any,
    processor: Any,
    rows: list[Any],
    pages: list[Path],
    settings: Any,
    about: dict[str, Any],
) -> bool:
    prompts = [row["prompt"] for row in rows]
    generator = Generator(model, processor)

    def ours() -> list[tuple[int, ...]]:
        generator.pictures = Pictures(model, processor)  # nothing remembered
        answers = [one for batch in generator.generate(prompts, settings) for one in batch]
        return [one.ids for one in sorted(answers, key=lambda one: one.index)]

    ours()  # warm up, and the once-per-model check of branched against plain logits
    times: dict[str, list[tuple[float, float]]] = {}
    same = same_batched = asked = 0

    def timed(name: str, count: int, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        spent = (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count
        times.setdefault(name, []).append(spent)
        return result

    for page in pages:
        places = [place for place, row in enumerate(rows) if row["page"] == page]
        few = [rows[place] for place in places]
        texts = timed("ours", len(rows), ours)
        batched = timed("hf_batched", len(few), lambda few=few: _hf(peer, processor, few, settings))
        inputs = _inputs(processor, few)
        timed("hf_batched_lean", len(few), lambda inputs=inputs: _generate(peer, processor, inputs, settings))
        single = timed(
            "hf_one_by_one",
            len(few),
            lambda few=few: [_hf(peer, processor, [row], settings)[0] for row in few],
        )
        asked += len(few)
        same += sum(texts[place] == text for place, text in zip(places, single, strict=True))
        same_batched += sum(a == b for a, b in zip(batched, single, strict=True))
    middle = {
        name: [statistics.median(one[kind] for one in found) for kind in (0, 1)]
        for name, found in times.items()
    }
    line = {
        "benchmark": "shared_image_generation", **about, "answers_per_s": round(1 / middle["ours"][0], 2),
        "same_texts_as_one_by_one": f"{same}/{asked}", "same_texts_batched_as_one_by_one": f"{same_batched}/{asked}",
    }  # fmt: skip
    for name in ("hf_batched", "hf_batched_lean", "hf_one_by_one"):
        for kind, suffix in enumerate(("", "_cpu")):
            line[f"x_{name}{suffix}"] = round(middle[name][kind] / middle["ours"][kind], 2)
    targets = TARGETS.get(about["image_tokens"], {})
    missed = [name for name, target in targets.items() if line[name] < target]
    missed += ["same texts"] * (same < asked)
    print(json.dumps({**line, "targets": targets, "missed": missed}), flush=True)
    return not missed


def _adapters(model: Any, processor: Any, prompts: list[Prompt], settings: Any, about: Any) -> bool:
    """Base, then base plus adapters, over the same rows and one store of image features."""
    from peft import LoraConfig, get_peft_model

    generator = Generator(model, processor)
    list(generator.generate(prompts[:2], settings))  # the once-per-model check

    def run(count: int) -> None:
        generator.pictures = Pictures(model, processor)
        list(generator.generate(prompts, settings))
        for number in range(count):
            torch.manual_seed(number)
            modules = r".*language_model\.layers.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
            adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=modules))
            adapted.requires_grad_(False).eval()
            list(generator.generate(prompts, settings))
            adapted.unload()

    ratios: list[tuple[float, float]] = []
    for _ in range(3):
        (one_wall, one_cpu), (all_wall, all_cpu) = (_seconds(run, count) for count in (0, about["adapters"]))
        ratios.append((all_wall / one_wall, all_cpu / one_cpu))
    wall, cpu = (round(statistics.median(one[kind] for one in ratios), 2) for kind in (0, 1))
    target = ADAPTER_TARGET.get(about["image_tokens"])
    missed = target is not None and wall > target
    line = {
        "benchmark": "adapters_over_one_base",
        **about,
        "x_of_one_predictor": wall,
        "x_of_one_predictor_cpu": cpu,
    }
    print(json.dumps({**line, "target": target, "missed": missed}), flush=True)
    return not missed


def _inputs(processor: Any, rows: list[Any]) -> Any:
    from PIL import Image

    images = []
    for row in rows:
        with Image.open(row["page"]) as opened:
            images.append(opened.convert("RGB"))
    texts = [row["text"] for row in rows]
    return processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")


@torch.inference_mode()
def _generate(model: Any, processor: Any, inputs: Any, settings: GenerationSettings) -> list[tuple[int, ...]]:
    output = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
    )
    start = inputs["input_ids"].shape[1]
    eos = stop_ids(model, processor.tokenizer)
    return [tuple(token for token in row[start:].tolist() if token not in eos) for row in output]


def _hf(model: Any, processor: Any, rows: list[Any], settings: GenerationSettings) -> list[tuple[int, ...]]:
    return _generate(model, processor, _inputs(processor, rows), settings)


def _seconds(work: Callable[[int], Any], argument: int) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work(argument)
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
