"""Shared-image generation against transformers' own generate, side by side in one run. One JSON line per comparison.

    python -m benchmarks.inference [--image-tokens 1024] [--pages 4]

The model is the benchmark model of the package's documentation (about 3 M random parameters, float32). Every side
starts from image files and prompts and ends with texts, and generates exactly the same number of tokens; loading the
model, and the check that ours makes once per loaded model, are not measured. `lean`
ratios give the other side its image preprocessing for free. Times are wall clock, `cpu` is processor time of the
same work: on a busy machine believe the ratio of the second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
from vlm_pipeline.inference.generate import Generator, stop_ids
from vlm_pipeline.inference.plan import ImageInput, Prompt
from vlm_pipeline.inference.vision import Pictures
from vlm_pipeline.settings.predictors import GenerationSettings

SPREAD = 3.0
CASES = {1024: 4, 256: 8}  # image tokens -> pages


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    for image_tokens in [options.image_tokens] if options.image_tokens else CASES:
        with tempfile.TemporaryDirectory() as folder:
            _case(Path(folder), image_tokens, options.pages or CASES.get(image_tokens, 4), options)


def _case(folder: Path, image_tokens: int, count: int, options: argparse.Namespace) -> None:
    from vlm_pipeline.formatting.template import load_processor
    from vlm_pipeline.training.base_model import load_base

    save_benchmark_model(folder / "model")
    processor = load_processor(folder / "model")
    model = load_base(folder / "model", torch.float32, torch.device("cpu"))
    for (
        parameter
    ) in model.parameters():  # wider than at initialisation, so that answers differ from row to row
        parameter.mul_(SPREAD if parameter.ndim > 1 else 1.0)
    settings = GenerationSettings(max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens)
    pages = [draw_image(folder / f"page{number}.png", image_tokens, number) for number in range(count)]
    rows = _rows(pages, options.questions, processor)
    about = {
        "image_tokens": image_tokens, "questions_per_page": options.questions, "pages": count, "rows": len(rows),
        "new_tokens": options.new_tokens, "threads": options.threads, "prompt_tokens": len(rows[0]["prompt"].ids),
    }  # fmt: skip
    _compare(model, processor, rows, pages[: options.peer_pages], settings, about)
    if options.adapters:
        _adapters(
            model,
            processor,
            [row["prompt"] for row in rows],
            settings,
            {**about, "adapters": options.adapters},
        )


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
    parser.add_argument("--peer-pages", type=int, default=1, help="pages that the slower sides are timed on")
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
    model: Any, processor: Any, rows: list[Any], pages: list[Path], settings: Any, about: Any
) -> None:
    prompts = [row["prompt"] for row in rows]
    few = [row for row in rows if row["page"] in pages]

    generator = Generator(model, processor)

    def ours() -> list[tuple[int, ...]]:
        generator.pictures = Pictures(model, processor)  # nothing remembered
        answers = [one for batch in generator.generate(prompts, settings) for one in batch]
        return [one.ids for one in sorted(answers, key=lambda one: one.index)]

    def batched() -> list[tuple[int, ...]]:
        found = []
        for page in pages:
            found += _hf(model, processor, [row for row in few if row["page"] == page], settings)
        return found

    def one_by_one() -> list[tuple[int, ...]]:
        return [_hf(model, processor, [row], settings)[0] for row in few]

    ours()  # warm up, and the once-per-model check of branched against plain logits
    fast, texts = _timed(ours)
    slow, batched_texts = _timed(batched)
    alone, single_texts = _timed(one_by_one)
    _, prepared = _timed(lambda: [_inputs(processor, [row for row in few if row["page"] == page]) for page in pages])  # fmt: skip
    lean, _ = _timed(lambda: [_generate(model, processor, inputs, settings) for inputs in prepared])
    per_row = {name: (wall / count, cpu / count) for name, (wall, cpu), count in [
        ("ours", fast, len(rows)), ("hf_batched", slow, len(few)), ("hf_one_by_one", alone, len(few)), ("hf_batched_lean", lean, len(few)),
    ]}  # fmt: skip
    same = sum(mine == theirs for mine, theirs in zip(texts, single_texts, strict=False))
    line = {
        "benchmark": "shared_image_generation", **about, "answers_per_s": round(1 / per_row["ours"][0], 2),
        "same_texts_as_one_by_one": f"{same}/{len(few)}",
        "same_texts_batched_as_one_by_one": f"{sum(a == b for a, b in zip(batched_texts, single_texts, strict=True))}/{len(few)}",
    }  # fmt: skip
    for name in ("hf_batched", "hf_batched_lean", "hf_one_by_one"):
        line[f"x_{name}"] = round(per_row[name][0] / per_row["ours"][0], 2)
        line[f"x_{name}_cpu"] = round(per_row[name][1] / per_row["ours"][1], 2)
    print(json.dumps(line), flush=True)


def _adapters(model: Any, processor: Any, prompts: list[Prompt], settings: Any, about: Any) -> None:
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

    one, _ = _timed(lambda: run(0))
    all_of_them, _ = _timed(lambda: run(about["adapters"]))
    line = {"benchmark": "adapters_over_one_base", **about}
    line |= {
        "x_of_one_predictor": round(all_of_them[0] / one[0], 2),
        "x_of_one_predictor_cpu": round(all_of_them[1] / one[1], 2),
    }
    print(json.dumps(line), flush=True)


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


def _timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """((wall seconds, processor seconds), result)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - wall, time.process_time() - cpu), result


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
