"""Serve the tuned model behind an OpenAI-compatible endpoint, by an existing engine.

    python -m vlm_pipeline.inference.serve data/manual_qa --port 8000

The adapter is merged into a plain model folder together with the processor as it was trained with (template, pixel
budget) and with greedy defaults and every stop token in the generation config; vLLM serves it where its command is
installed (its pins do not fit this environment: give it its own and put it on PATH; untested: never run by this
project's tests), else `transformers serve`.
Clients send what the task's prompt makes of a row: system prompt and instruction are part of the messages, not of
the server. Ask with `kind: openai_compatible`, `base_url: http://localhost:8000/v1` and the printed model name.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from vlm_pipeline.sharing.share import pull
from vlm_pipeline.store import TaskStore, content_hash, read_json
from vlm_pipeline.task import Task, load_task
from vlm_pipeline.training.record import adapter_version, read_record

ENGINES = ("transformers", "vllm")


class ServeError(Exception):
    """There is nothing to serve or nothing to serve it with; the message says what to do."""


def adapter_to_serve(store: TaskStore, name: str | None) -> Path:
    """Folder of the named adapter; without a name the promoted one, else the one that the adapter asset holds."""
    if name is None:
        from vlm_pipeline.training.stage import current_adapter

        promoted = read_json(store.path("promoted.json"), default={})
        name = promoted.get("adapter_id") or current_adapter(store)
    if name is None:
        raise ServeError(
            f"{store.base} has neither a promoted nor a trained adapter: run the loop first, or name one with --adapter"
        )
    read_record(store.path("adapters", name))
    return store.path("adapters", name)


def export_for_serving(task: Task, store: TaskStore, adapter: Path, output: Path | None = None) -> Path:
    """Write base plus adapter as a plain model folder, in the precision that predictions are made in.

    Made once per adapter and settings; the folder appears whole or not at all.
    """
    from vlm_pipeline.formatting.template import load_processor, tokenizer_of
    from vlm_pipeline.inference.decoding import bare_generation_config, stop_ids
    from vlm_pipeline.inference.local import turn_ends
    from vlm_pipeline.training.base_model import pick_device, pick_dtype, resolve_base
    from vlm_pipeline.training.export import export_merged

    device = pick_device()
    dtype = pick_dtype(task.training.precision, device)
    version = content_hash(
        [adapter_version(read_record(adapter)), str(dtype), task.image.model_dump()], length=8
    )
    output = output or store.path("serve", f"{task.name}-{adapter.name}-{version}")
    if output.exists():
        return output
    base = resolve_base(task.base_model_path, task.revision)
    processor = load_processor(base, image=task.image)

    def configure(model: Any) -> None:
        eos = sorted({*stop_ids(model, tokenizer_of(processor)), *turn_ends(processor)})
        model.generation_config = bare_generation_config(model, eos)
        model.generation_config.max_new_tokens = task.generation.max_new_tokens

    cache = store.cache / "base_fingerprints.json"
    return export_merged(
        adapter, base, output, processor, dtype=dtype, device=device, cache=cache, configure=configure
    )


def notes(task: Task, command: list[str]) -> list[str]:
    """What a reader of the served model's answers should know."""
    found = []
    if task.quantization.mode != "none":
        found.append(
            f"predictions of this task are made with a base in {task.quantization.mode}, the served model is merged "
            "and not quantised: its answers may differ from the prediction table's"
        )
    if "vllm" in Path(command[0]).name:
        found.append(
            "untested: this project's tests have never run vLLM; compare some answers with the table first"
        )
    return found


def server_command(folder: Path, *, host: str, port: int, engine: str | None = None) -> list[str]:
    """The engine's own command line. engine None: vLLM where it is on PATH, else transformers."""
    vllm = shutil.which("vllm")
    if engine == "vllm" and vllm is None:
        raise ServeError("the command `vllm` is not on PATH: install it in an environment of its own")
    if engine == "vllm" or (engine is None and vllm):
        return [
            vllm or "vllm",
            "serve",
            str(folder),
            "--served-model-name",
            folder.name,
            "--host",
            host,
            "--port",
            str(port),
        ]
    beside = Path(sys.executable).with_name("transformers")
    command = str(beside) if beside.is_file() else shutil.which("transformers")
    if command is None:
        raise ServeError("the command `transformers` is not installed beside this Python")
    return [command, "serve", str(folder), "--host", host, "--port", str(port), "--dtype", "auto"]


def server_environment(store: TaskStore) -> dict[str, str]:
    """`transformers serve` scans the hub cache for its model list and fails where there is none: give it an empty one.
    Delete when the server lists its own model (transformers 5.17)."""
    hub = store.path("serve", "hub")
    hub.mkdir(parents=True, exist_ok=True)
    return {**os.environ, "HF_HUB_CACHE": os.environ.get("HF_HUB_CACHE", str(hub)), "HF_HUB_OFFLINE": "1"}


def served_name(folder: Path, command: list[str]) -> str:
    """What clients put into `model`."""
    return folder.name if "--served-model-name" in command else str(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vlm_pipeline.inference.serve", description=__doc__)
    parser.add_argument("task", type=Path, help="task folder")
    parser.add_argument("--adapter", help="adapter id; default: the promoted one, else the trained one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--engine", choices=ENGINES, help="default: vllm (untested) where it is on PATH, else transformers"
    )
    parser.add_argument("--store", type=Path)
    options = parser.parse_args(arguments)
    task = load_task(options.task)
    store = TaskStore(task.name, options.store)
    try:
        pull(store)
        folder = export_for_serving(task, store, adapter_to_serve(store, options.adapter))
        command = server_command(folder, host=options.host, port=options.port, engine=options.engine)
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"model: {served_name(folder, command)}\nbase_url: http://{options.host}:{options.port}/v1",
        flush=True,
    )
    for note in notes(task, command):
        print(f"note: {note}", file=sys.stderr, flush=True)
    os.execve(command[0], command, server_environment(store))


if __name__ == "__main__":
    sys.exit(main())
