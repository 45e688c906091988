"""Training side by side with TRL's SFTTrainer: same model, rows, precision and machine; one JSON line per case.

    python -m benchmarks.training [--case NAME] [--repeats 5] [--pages 16] [--size small|2b|7b]

Both train the model with LoRA r 16 on the text linears for three epochs of the same rows, effective batch 12, two
threads, float32 (bf16 on a GPU). Measured, from rows and image files in memory or on disk to the last step: rendering
and tokenizing, image preprocessing, the trainer's own set-up, all steps. Not measured: imports, and loading model and
processor. Every measurement is a process of its own, so that peak memory is its own; sides take turns, in changing
order; figures are medians. `ratio` is by wall clock, `cpu_ratio` by processor time of the same work: on a busy machine
believe the second. The exit status is 1 where a target or the bound on memory is missed, by wall clock.

TRL runs with what is exact on this machine and fastest there: no gradient checkpointing, length-grouped batches for
text, and the fastest of seven batch shapes and numbers of data workers, chosen by short runs. Its padding-free batches
are exact with FlashAttention alone and are not used. Ours reuses the frozen vision tower's features over the epochs.

Sizes 2b and 7b: Qwen2-VL's configurations with random weights, on a GPU; there, unpacked rows are measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THREADS = 2
EPOCHS = 3
BATCH = 12
SHAPES = [
    (1, 0),
    (2, 0),
    (4, 0),
    (6, 0),
    (12, 0),
    (4, 2),
    (12, 2),
]  # TRL: rows per forward pass, data workers
TRIAL_PAGES = 4
UTILISATION = 0.45  # target on a GPU: share of its bf16 peak


@dataclass(frozen=True)
class Case:
    name: str
    questions: int  # per page
    image_tokens: int  # 0: text only
    target: float  # samples per second, ours over TRL's, at least
    text_tokens: tuple[int, int] = (60, 60)  # tokens of question and answer together, from to


CASES = [
    Case("12 questions, 1024 image tokens", 12, 1024, 12.0),
    Case("12 questions, 256 image tokens", 12, 256, 6.0),
    Case("4 questions, 256 image tokens", 4, 256, 2.5),
    Case("1 question, 256 image tokens", 1, 256, 1.3),
    Case("text only, mixed lengths", 1, 0, 1.3, (20, 400)),
]


def make_data(folder: Path, case: Case, pages: int, size: str = "small") -> int:
    """Model, pictures, and rows.json with what is asked and answered; returns how many rows."""
    import numpy as np

    from benchmarks.benchmark_model import draw_image, random_words, save_benchmark_model

    save_benchmark_model(folder / "model", size=size)
    random = np.random.default_rng(0)
    rows = []
    for number in range(pages * (case.questions if case.questions > 1 else 6)):
        page = number // case.questions
        image = folder / f"page{page}.png"
        if case.image_tokens and not image.exists():
            draw_image(image, case.image_tokens, page)
        words = int(random.integers(case.text_tokens[0], case.text_tokens[1] + 1))
        answer = max(3, words // 4)
        rows.append(
            {
                "page": page,
                "image": str(image) if case.image_tokens else None,
                "question": random_words(words - answer, random),
                "answer": random_words(answer, random),
            }
        )
    (folder / "rows.json").write_text(json.dumps(rows))
    return len(rows)


class Clock:
    """Wall and processor seconds since it was made, the latter with those of ended data workers."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), self._processor()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": self._processor() - self._cpu}

    @staticmethod
    def _processor() -> float:
        workers = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + workers.ru_utime + workers.ru_stime


def run_ours(folder: Path, scratch: Path, epochs: int, packing: str) -> dict[str, Any]:
    """Our engine with its defaults; no evaluation and no checkpoint, as TRL has none here."""
    import pandas  # noqa: F401 -- pyarrow imports it when it first makes a table of rows

    from benchmarks.benchmark_model import LORA
    from vlm_pipeline.compute.payload import Reporter
    from vlm_pipeline.formatting.table import format_section
    from vlm_pipeline.formatting.template import load_processor
    from vlm_pipeline.settings.data import PromptSettings
    from vlm_pipeline.training import recipe
    from vlm_pipeline.training.base_model import load_base, pick_device, pick_dtype
    from vlm_pipeline.training.request import parse_request

    device = pick_device()
    base = load_base(folder / "model", pick_dtype("auto", device), device)
    processor = load_processor(folder / "model")
    rows = json.loads((folder / "rows.json").read_text())
    training_settings = {
        "epochs": epochs, "batch_size": BATCH, "accumulation": 1, "learning_rate": 2e-4, "save_steps": 10**6,
        "eval_steps": 10**6, "log_steps": 10**6, "packing": packing,
    }  # fmt: skip
    request, job = parse_request(
        {
            "formatted": [str(scratch / "rows.parquet")],
            "output": str(scratch / "adapter"),
            "checkpoints": str(scratch / "checkpoints"),
            "settings": {"base_model": str(folder / "model"), "lora": LORA, "training": training_settings},
        }
    )
    training = recipe.Training(request, job, Reporter(silent=True))
    recipe.load_processor = lambda *arguments, **options: processor  # loaded before, as TRL's
    training.load_base = lambda: base
    clock = Clock()
    made = format_section(
        map(_example, range(len(rows)), rows), processor, PromptSettings(max_tokens=100_000), scratch / "rows.parquet"
    )  # fmt: skip
    if made.rows != len(rows):
        raise SystemExit(f"{len(rows) - made.rows} rows could not be formatted: {made.quarantined[:2]}")
    training.prepare()
    training.setup()
    training.train()
    return {**training.meter.summary(), **clock.read(), "steps": training.progress.step}


def _example(number: int, row: dict[str, Any]) -> Any:
    from vlm_pipeline.examples.example import Example, ImageRef
    from vlm_pipeline.store import file_hash

    image = row["image"]
    images = (ImageRef(image, None, file_hash(image, 64), 0, 0, "PNG"),) if image else ()
    question = [
        *([{"type": "image", "index": 0}] if image else []),
        {"type": "text", "text": row["question"]},
    ]
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": row["answer"]})
    return Example(f"row{number}", turns, images, section="all", group=f"page{row['page']}", split="train")


def run_trl(folder: Path, scratch: Path, epochs: int, batch: int, workers: int) -> dict[str, Any]:
    """TRL's SFTTrainer on prompt and completion, loss on the completion only, the model as Transformers loads it."""
    import torch
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import SFTConfig, SFTTrainer

    from benchmarks.benchmark_model import LORA
    from vlm_pipeline.settings.training import LoraSettings
    from vlm_pipeline.training.adapters import intended_modules
    from vlm_pipeline.training.base_model import pick_device, pick_dtype
    from vlm_pipeline.training.memory import peak_memory

    device = pick_device()
    dtype = pick_dtype("auto", device)
    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=dtype).to(device)
    processor = AutoProcessor.from_pretrained(folder / "model")
    rows = json.loads((folder / "rows.json").read_text())
    with_images = rows[0]["image"] is not None
    clock = Clock()

    def turns(row: dict[str, Any]) -> dict[str, Any]:
        parts = [{"type": "image"}] * with_images + [{"type": "text", "text": row["question"]}]
        return {
            "prompt": [{"role": "user", "content": parts if with_images else row["question"]}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": row["answer"]}] if with_images else row["answer"]}],
        }  # fmt: skip

    data = Dataset.from_list([turns(row) for row in rows])
    if with_images:
        pictures = Dataset.from_dict(
            {"image": [row["image"] for row in rows]}, features=Features({"image": Value("string")})
        )
        data = data.add_column("image", pictures["image"]).cast_column("image", ImageFeature())
    settings = SFTConfig(
        output_dir=str(scratch), num_train_epochs=epochs, per_device_train_batch_size=batch,
        gradient_accumulation_steps=BATCH // batch, dataloader_num_workers=workers, max_length=None,
        gradient_checkpointing=False, bf16=device.type == "cuda", use_cpu=device.type == "cpu", learning_rate=2e-4,
        lr_scheduler_type="cosine", save_strategy="no", report_to="none", logging_strategy="no", disable_tqdm=True,
        train_sampling_strategy="random" if with_images else "group_by_length", completion_only_loss=True,
    )  # fmt: skip
    lora = LoraConfig(
        r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=intended_modules(model, LoraSettings(**LORA))
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=data, peft_config=lora,
        processing_class=processor if with_images else processor.tokenizer,
    )  # fmt: skip
    outcome = trainer.train()
    return {**clock.read(), "steps": outcome.global_step, "peak_memory_bytes": peak_memory(device)}


def measure(engine: str, folder: Path, epochs: int, *more: int | str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--child", engine, str(folder), str(epochs)]
    environment = dict(
        os.environ, OMP_NUM_THREADS=str(THREADS), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1"
    )
    done = subprocess.run(
        [*command, *map(str, more)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        raise SystemExit(f"{engine} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: Case, pages: int, repeats: int, size: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        trial, folder = Path(name) / "trial", Path(name) / "run"
        make_data(trial, case, TRIAL_PAGES, size)
        tried = {shape: measure("trl", trial, 1, *shape)["seconds"] for shape in SHAPES}
        shape = min(tried, key=tried.__getitem__)
        rows = make_data(folder, case, pages, size)
        sides: dict[str, tuple[int | str, ...]] = {"ours": ("shared",), "trl": shape}
        if size != "small":
            sides["unpacked"] = ("none",)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(repeats):
            for side in list(sides)[:: 1 if number % 2 else -1]:
                engine = "trl" if side == "trl" else "ours"
                runs[side].append(measure(engine, folder, EPOCHS, *sides[side]))
    return outcome(case, rows, shape, runs) | {"size": size, "pages": pages}


def outcome(
    case: Case, rows: int, shape: tuple[int, int], runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The JSON line of a case from the runs of each side."""

    def median(name: str) -> dict[str, float]:
        return {side: statistics.median(run[name] for run in of) for side, of in runs.items()}

    seconds, cpu, memory = (median(name) for name in ("seconds", "cpu_seconds", "peak_memory_bytes"))
    ours = runs["ours"]
    on_gpu = "cpu" not in ours[0]["device"]
    utilisation = statistics.median(run["utilisation"] for run in ours)
    return {
        "benchmark": "training",
        **asdict(case),
        "rows": rows,
        "repeats": len(ours),
        "device": ours[0]["device"],
        "trl_shape": {"batch": shape[0], "workers": shape[1]},
        "samples_per_second": {side: rows * EPOCHS / value for side, value in seconds.items()},
        "row_tokens_per_second": {side: ours[0]["row_tokens"] / value for side, value in seconds.items()},
        "ratio": seconds["trl"] / seconds["ours"],
        "ratios": [their["seconds"] / our["seconds"] for our, their in zip(ours, runs["trl"], strict=True)],
        "cpu_ratio": cpu["trl"] / cpu["ours"],
        "reached": seconds["trl"] / seconds["ours"] >= case.target,
        "peak_memory_bytes": memory,
        "memory_ratio": memory["ours"] / memory["trl"],
        "memory_reached": memory["ours"] <= memory["trl"],
        "utilisation": utilisation,
        **({"utilisation_reached": utilisation >= UTILISATION} if on_gpu else {}),
    }


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        engine, folder, epochs, *more = sys.argv[2:]
        with tempfile.TemporaryDirectory() as scratch:
            if engine == "ours":
                measured = run_ours(Path(folder), Path(scratch), int(epochs), *more)
            else:
                measured = run_trl(Path(folder), Path(scratch), int(epochs), *map(int, more))
            print(json.dumps(measured), flush=True)
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pages", type=int, default=16)
    parser.add_argument("--size", choices=["small", "2b", "7b"], default="small")
    arguments = parser.parse_args()
    if arguments.size != "small":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit(f"size {arguments.size} needs an NVIDIA GPU; without one, run the small model")
    met = True
    for case in CASES:
        if not arguments.case or case.name in arguments.case:
            line = compare(case, arguments.pages, arguments.repeats, arguments.size)
            print(json.dumps(line), flush=True)
            met &= all(value for name, value in line.items() if name.endswith("reached"))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
