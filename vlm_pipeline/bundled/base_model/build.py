"""Rebuild the embedded base: ``python -m vlm_pipeline.bundled.base_model`` (well under two hours on two cores)."""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vlm_pipeline.bundled.base_model import stages
from vlm_pipeline.bundled.base_model.model import Builder, Oracle, new_model
from vlm_pipeline.bundled.base_model.tokenizer import save_processor

log = logging.getLogger(__name__)

SEED = 20240
SEE_STEPS = (500, 300)
OUT = Path("data/base_model")


def save(model: torch.nn.Module, out: Path, recipe: dict[str, Any]) -> None:
    """Weights in bfloat16, generation settings, and the measured figures."""
    from transformers import GenerationConfig

    config = model.config.text_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[config.eos_token_id, config.pad_token_id],
        pad_token_id=config.pad_token_id,
    )
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out, state_dict=halved)
    (out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def build(out: Path, keep: Path | None = None) -> dict[str, Any]:
    """Make the base in ``out``; returns the record that is written to recipe.json."""
    torch.set_num_threads(2)
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    processor = save_processor(out)
    builder = Builder(processor.tokenizer)
    model = new_model(processor.tokenizer, SEED)
    oracle = Oracle(model.config.text_config.hidden_size, SEED)
    recipe: dict[str, Any] = {
        "seed": SEED,
        "parameters": sum(p.numel() for p in model.parameters()),
        "symbol_phases": [asdict(phase) for phase in stages.SYMBOL_PHASES],
        "see_steps": SEE_STEPS,
        "join_phases": [asdict(phase) for phase in stages.JOIN_PHASES],
        "stages": [],
    }

    def done(stage: str, figures: dict[str, Any]) -> None:
        recipe["stages"].append({"stage": stage, "seconds": round(time.monotonic() - start), **figures})
        log.info("%s: %s", stage, figures)
        if keep:
            torch.save(
                {"model": model.state_dict(), "oracle": oracle.state_dict(), "recipe": recipe},
                keep / f"{stage.replace(' ', '_')}.pt",
            )

    def symbols(pages: list) -> torch.Tensor:
        return oracle(stages.features_of(pages))

    def brief() -> str:
        figures = stages.measure(model, builder, symbols, rows=8)
        return " ".join(
            f"{k.removesuffix('_digits')} {v:.2f}" for k, v in figures.items() if k.endswith("_digits")
        )

    stages.read_symbols(model, oracle, builder, SEED + 1, note=brief)
    done("symbols", stages.measure(model, builder, symbols))
    done("sight", stages.see(model, oracle, SEED + 2, SEE_STEPS))
    done("before joining", stages.measure(model, builder, stages.tower_vectors(model)))
    stages.join(model, builder, SEED + 3)
    done("joined", stages.measure(model, builder, stages.tower_vectors(model)))
    save(model, out, recipe)
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--keep", type=Path, help="folder for the state after each stage")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    build(arguments.out, keep=arguments.keep)


if __name__ == "__main__":
    main()
