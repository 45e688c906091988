"""Training side by side with TRL's SFTTrainer: same model, data, precision and machine; one JSON line per case.

    python -m benchmarks.training [--case NAME] [--repeats 3] [--pages 8]

Both train the benchmark model with LoRA r 16 on the text linears for three epochs of the same rows, effective batch
12, float32, two threads; image files are read and preprocessed inside the measured time. Not measured: imports and
loading the model. Every measurement is a process of its own, so that peak memory is its own; figures are medians.
TRL runs with what is exact on this machine and fastest there: no gradient checkpointing, length-grouped batches for
text, and the better of the batch shapes 4 x 3 and 12 x 1 and of 0 and 2 data workers (chosen by a first short run).
"""

from __future__ import annotations

import argparse
import json
import os
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
SHAPES = [(4, 0), (12, 0), (4, 2), (12, 2)]  # TRL: rows per forward pass, data workers


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


def make_data(folder: Path, case: Case, rows: int) -> None:
    """Model, pictures, rows as conversations (for TRL) and as a formatted table (for us)."""
    import numpy as np

    from benchmarks.benchmark_model import draw_image, random_words, save_benchmark_model
    from vlm_pipeline.examples.example import Example, ImageRef
    from vlm_pipeline.formatting.table import format_section
    from vlm_pipeline.formatting.template import load_processor
    from vlm_pipeline.settings.data import PromptSettings
    from vlm_pipeline.store import file_hash

    processor = load_processor(save_benchmark_model(folder / "model"))
    random = np.random.default_rng(0)
    plain, examples = [], []
    for number in range(rows):
        page = number // case.questions
        images: tuple[ImageRef, ...] = ()
        parts: list[dict[str, Any]] = []
        if case.image_tokens:
            image = folder / f"page{page}.png"
            if not image.exists():
                draw_image(image, case.image_tokens, page)
            images = (ImageRef(str(image), None, file_hash(image, 64), 0, 0, "PNG"),)
            parts = [{"type": "image", "index": 0}]
        words = int(random.integers(case.text_tokens[0], case.text_tokens[1] + 1))
        answer = max(3, words // 4)
        question, reply = random_words(words - answer, random), random_words(answer, random)
        plain.append({"image": images[0].path if images else None, "question": question, "answer": reply})
        turns = (
            {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
            {"role": "assistant", "content": reply},
        )
        examples.append(
            Example(f"row{number}", turns, images, section="all", group=f"page{page}", split="train")
        )
    (folder / "rows.json").write_text(json.dumps(plain))
    made = format_section(examples, processor, PromptSettings(max_tokens=100_000), folder / "rows.parquet")
    if made.rows != rows:
        raise SystemExit(f"{rows - made.rows} rows could not be formatted: {made.quarantined[:2]}")


def run_ours(folder: Path, scratch: Path) -> dict[str, Any]:
    """Our engine with its defaults; no evaluation and no checkpoint, as TRL has none here."""
    from benchmarks.benchmark_model import LORA
    from vlm_pipeline.compute.payload import Reporter
    from vlm_pipeline.training.recipe import Training
    from vlm_pipeline.training.request import parse_request

    training_settings = {
        "epochs": EPOCHS, "batch_size": BATCH, "accumulation": 1, "learning_rate": 2e-4, "save_steps": 10**6,
        "eval_steps": 10**6, "log_steps": 10**6, "precision": "auto",
    }  # fmt: skip
    request, job = parse_request(
        {
            "formatted": [str(folder / "rows.parquet")],
            "output": str(scratch / "adapter"),
            "checkpoints": str(scratch / "checkpoints"),
            "settings": {"base_model": str(folder / "model"), "lora": LORA, "training": training_settings},
        }
    )
    training = Training(request, job, Reporter(every_seconds=1e9))
    training.prepare()
    training.setup()
    training.forward.features and training.forward.features.forget()  # what set-up has seen counts as unseen
    started, cpu = time.perf_counter(), time.process_time()
    training.train()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        **training.meter.summary(),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "steps": training.progress.step,
    }


def run_trl(folder: Path, scratch: Path, batch: int, workers: int) -> dict[str, Any]:
    """TRL's SFTTrainer on prompt and completion, loss on the completion only."""
    import torch
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from benchmarks.benchmark_model import LORA
    from vlm_pipeline.formatting.template import load_processor, tokenizer_of
    from vlm_pipeline.settings.training import LoraSettings
    from vlm_pipeline.training.adapters import intended_modules
    from vlm_pipeline.training.base_model import load_base, pick_device, pick_dtype
    from vlm_pipeline.training.throughput import peak_memory

    device = pick_device()
    model = load_base(folder / "model", pick_dtype("auto", device), device)
    processor = load_processor(folder / "model")
    rows = json.loads((folder / "rows.json").read_text())
    with_images = rows[0]["image"] is not None

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
        output_dir=str(scratch), num_train_epochs=EPOCHS, per_device_train_batch_size=batch,
        gradient_accumulation_steps=BATCH // batch, dataloader_num_workers=workers, max_length=None,
        gradient_checkpointing=False, bf16=device.type == "cuda", use_cpu=device.type == "cpu", learning_rate=2e-4,
        lr_scheduler_type="cosine", save_strategy="no", report_to="none", logging_strategy="no", disable_tqdm=True,
        train_sampling_strategy="random" if with_images else "group_by_length", completion_only_loss=True,
    )  # fmt: skip
    lora = LoraConfig(
        r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=intended_modules(model, LoraSettings(**LORA))
    )
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=data, peft_config=lora,
        processing_class=processor if with_images else tokenizer_of(processor),
    )  # fmt: skip
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started, cpu = time.perf_counter(), time.process_time()
    outcome = trainer.train()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "seconds": seconds, "cpu_seconds": cpu, "steps": outcome.global_step, "peak_memory_bytes": peak_memory(device),
    }  # fmt: skip


def measure(engine: str, folder: Path, *more: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--child", engine, str(folder), *map(str, more)]
    environment = dict(
        os.environ, OMP_NUM_THREADS=str(THREADS), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1"
    )
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    if done.returncode:
        raise SystemExit(f"{engine} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: Case, pages: int, repeats: int) -> dict[str, Any]:
    rows = pages * case.questions if case.questions > 1 else pages * 6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, case, rows)
        tried = {shape: measure("trl", folder, *shape)["seconds"] for shape in SHAPES}
        shape = min(tried, key=tried.__getitem__)
        runs = [(measure("ours", folder), measure("trl", folder, *shape)) for _ in range(repeats)]
    ours, theirs = ([run[place] for run in runs] for place in (0, 1))
    samples = rows * EPOCHS
    seconds = {"ours": _median(ours, "seconds"), "trl": _median(theirs, "seconds")}
    memory = {"ours": _median(ours, "peak_memory_bytes"), "trl": _median(theirs, "peak_memory_bytes")}
    return {
        "benchmark": "training",
        **asdict(case),
        "rows": rows,
        "repeats": repeats,
        "trl_shape": {"batch": shape[0], "workers": shape[1]},
        "samples_per_second": {name: samples / value for name, value in seconds.items()},
        "ratio": seconds["trl"] / seconds["ours"],
        "ratios": [their["seconds"] / our["seconds"] for our, their in runs],
        "cpu_ratio": _median(theirs, "cpu_seconds")
        / _median(ours, "cpu_seconds"),  # holds on a busy machine too
        "reached": seconds["trl"] / seconds["ours"] >= case.target,
        "peak_memory_bytes": memory,
        "memory_ratio": memory["ours"] / memory["trl"],
        "utilisation": _median(ours, "utilisation"),
        "row_tokens_per_second": _median(ours, "row_tokens_per_second"),
        "device": ours[0]["device"],
    }


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        engine, folder, *shape = sys.argv[2:]
        with tempfile.TemporaryDirectory() as scratch:
            run = run_ours if engine == "ours" else run_trl
            print(json.dumps(run(Path(folder), Path(scratch), *map(int, shape))), flush=True)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pages", type=int, default=8)
    arguments = parser.parse_args()
    for case in CASES:
        if not arguments.case or case.name in arguments.case:
            print(json.dumps(compare(case, arguments.pages, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
