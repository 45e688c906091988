"""Made-up, seeded inputs of a report: drawn pages, questions, answers of several predictors, scored by hand.

The statistics are computed by the real scoring code, so these inputs have the shape that a real run has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vlm_pipeline.reporting.inputs import ReportInputs
from vlm_pipeline.scoring.comparison import compare
from vlm_pipeline.scoring.metrics import compute_metrics

SECTIONS = ("torque", "clearances", "fluids", "procedures", "diagrams")
PREDICTORS = (
    {"name": "base", "label": "Tiny base", "kind": "transformers"},
    {"name": "tuned", "label": "Tuned adapter", "kind": "transformers"},
    {"name": "hosted", "label": "Hosted model", "kind": "openai", "stand_in": "loopback stand-in"},
    {"name": "served", "label": "Served 7B", "kind": "openai_compatible"},
    {"name": "second", "label": "Second adapter", "kind": "transformers"},
    {"name": "sixth", "label": "Sixth", "kind": "openai_compatible"},
    {"name": "seventh", "label": "Seventh", "kind": "openai_compatible"},
    {"name": "eighth", "label": "Eighth", "kind": "transformers"},
)
UNITS = ("Nm", "mm", "L", "deg")
SKILL = {
    "base": 0.12,
    "tuned": 0.66,
    "hosted": 0.55,
    "served": 0.5,
    "second": 0.6,
    "sixth": 0.4,
    "seventh": 0.7,
    "eighth": 0.3,
}
# What real tasks are called: eight models, twelve sections.
LONG_NAMES: dict[str, Any] = {
    "sections": tuple(
        f"{kind} - REAR AXLE / {number}: 2.0 l Turbodiesel"
        for number, kind in enumerate(
            ["Torque values", "Clearances", "Fluids", "Procedures", "Diagrams", "Electrics", "Brakes", "Cooling", "Steering", "Gearbox", "Body", "Trim"]
        )
    ),
    "labels": (
        "Qwen2-VL-7B-Instruct (bare)", "Qwen2-VL-7B service manual r64", "gpt-4o-2024-08-06", "Llama-3.2-11B-Vision-Instruct",
        "Qwen2.5-VL-72B-Instruct-AWQ", "claude-sonnet-4-5", "gpt-4o-mini fine-tuned ft:abc", "Second adapter r16",
    ),
}  # fmt: skip
HOSTILE = {
    "script": "<script>document.title='owned';window.owned=1</script><img src=x onerror=\"window.owned=1\">",
    "formula": '=HYPERLINK("http://example.invalid/","click me")',
    "long": "torque " * 15_000,
    "rtl": "שלום \u202egnirts desrever\u202c العربية 42 Nm",
    "close": "</script></textarea><!-- ]]> {{ 7*7 }} ${7*7}",
}


def draw_page(path: Path, number: int, kind: str = "page") -> None:
    image = Image.new("RGB", (320, 240), (250, 250, 246))
    draw = ImageDraw.Draw(image)
    shade = random.Random(number)
    for row in range(4):
        for column in range(3):
            box = (10 + column * 102, 10 + row * 57, 104 + column * 102, 58 + row * 57)
            draw.rectangle(box, fill=tuple(shade.randint(120, 235) for _ in range(3)), outline=(40, 40, 40))
            draw.text((box[0] + 8, box[1] + 16), f"{shade.randint(10, 99)} Nm", fill=(10, 10, 10))
    image.save(path)


def make_rows(
    folder: Path,
    count: int,
    pages: int,
    *,
    score: bool = False,
    seed: int = 3,
    split: str = "test",
    sections: Sequence[str] = SECTIONS,
) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for page in range(pages):
        if not (folder / f"page{page:04d}.png").exists():
            draw_page(folder / f"page{page:04d}.png", page)
    rows = []
    for index in range(count):
        page = index % pages
        section = sections[page % len(sections)]
        value = rng.randint(1, 10) if score else rng.randint(12, 98)
        rows.append(
            {
                "id": f"{section}-{index:05d}" if split == "test" else f"{section}-{split}-{index:05d}",
                "section": section,
                "group": f"page{page:04d}",
                "split": split,
                "question": "How safe is this street for a person on foot, from 1 to 10?"
                if score
                else f"What is the value of the {rng.choice(('main bearing cap', 'sump plug', 'rocker cover', 'cylinder head'))} in the {rng.choice(('upper', 'lower'))} table?",
                "answer": f"Safety Score: {value}" if score else f"{value} Nm",
                "value": value,
                "images": [str(folder / f"page{page:04d}.png")],
                "image_sha256": [f"sha-{page:04d}"],
            }
        )
    return rows


def answer_of(
    rng: random.Random, row: dict[str, Any], skill: float, score: bool
) -> tuple[str, float | None, tuple[int, int] | None, str]:
    """Text, the number read from it, where it stands, and the rule."""
    gold = row["value"]
    draw = rng.random()
    if draw > 0.93 + 0.06 * skill:
        return (
            "I am not able to read that part of the picture clearly, but it looks like a table of values.",
            None,
            None,
            "nothing_found",
        )
    if draw < skill:
        value = gold
    else:
        value = (
            min(10, max(1, gold + rng.choice((-3, -2, -1, 1, 2, 4))))
            if score
            else gold + rng.choice((-20, -7, 1, 3, 10))
        )
    lead = rng.choice(("The value shown is ", "According to the table it is ", "", "Answer: "))
    text = f"{lead}Safety Score: {value}" if score else f"{lead}{value} Nm"
    start = text.rindex(str(value))
    return text, float(value), (start, start + len(str(value))), "labelled" if score else "quantity"


def make_answers(
    rows: list[dict[str, Any]], name: str, *, score: bool = False, hostile: bool = False
) -> tuple[list[dict], list[dict]]:
    """Prediction rows and score rows of one predictor."""
    rng = random.Random(f"{name}-answers")
    predictions, scores = [], []
    hosted = name in ("hosted", "served")
    for index, row in enumerate(rows):
        skill = SKILL[name] - (0.25 if row["section"] == "diagrams" and name != "base" else 0.0)
        text, value, span, rule = answer_of(rng, row, skill, score)
        if hostile and name == "tuned" and index < len(HOSTILE):
            text, value, span, rule = list(HOSTILE.values())[index], None, None, "nothing_found"
        error = "HTTP 529: the server is overloaded" if name == "hosted" and index == len(rows) - 1 else None
        same = {key: row[key] for key in ("id", "section", "group", "split")} | {
            "predictor": name,
            "sample": 0,
        }
        predictions.append(
            {
                **same, "prompt_hash": f"prompt-{row['id']}", "text": None if error else text, "finish_reason": "error" if error else "stop",
                "tokens_in": 180 + rng.randint(0, 30), "tokens_out": len(text) // 4 + 1,
                "latency_s": round((0.9 if hosted else 0.05) * rng.uniform(0.7, 1.6), 4),
                "cost_usd": round(rng.uniform(0.0008, 0.0015), 6) if hosted else 0.0, "cached": rng.random() < 0.1, "error": error,
            }
        )  # fmt: skip
        scores.append(same | _score(value, row, span, rule, score, error))
    return predictions, scores


def _score(
    value: float | None, row: dict[str, Any], span: Any, rule: str, score: bool, error: str | None
) -> dict[str, Any]:
    gold = float(row["value"])
    common = {
        "scorer": "score" if score else "quantity",
        "kind": "score" if score else "quantity",
        "version": "v1",
        "gold": gold,
        "inferred": False,
    }
    blank = {
        "primary": None,
        "headline": None,
        "values": {},
        "extracted": None,
        "rule": None,
        "span": None,
        "failure": None,
        "notes": [],
        "detail": None,
    }
    if error:
        return {**common, **blank, "status": "error", "detail": error}
    if score:
        values = {
            "abs_error": None if value is None else abs(value - gold),
            "error": None if value is None else value - gold,
        }
        values |= {f"within_{k}": None if value is None else abs(value - gold) <= k for k in (1, 2)}
        primary = "abs_error"
    else:
        values = {
            "exact": None if value is None else value == gold,
            "within_tolerance": None if value is None else abs(value - gold) <= 0.05 * gold,
        }
        primary = "exact"
    headline = values[primary]
    failure = "no_answer" if value is None else None if value == gold else "wrong_number"
    return {
        **common, "status": "unscored" if headline is None else "scored", "primary": primary,
        "headline": None if headline is None else float(headline), "values": values, "extracted": value, "rule": rule,
        "span": list(span) if span else None, "failure": failure,
        "notes": [] if failure is None else ["the judge found no support for this value on the page"], "detail": None,
    }  # fmt: skip


def make_inputs(
    folder: Path,
    count: int = 240,
    pages: int = 40,
    *,
    score: bool = False,
    hostile: bool = False,
    predictors: int = 3,
    reward: bool = False,
    deciding: tuple[str, str] | None = None,
    sections: Sequence[str] = SECTIONS,
    labels: Sequence[str] = (),
    units: bool = False,
    **extra: Any,
) -> ReportInputs:
    """Inputs of a report. `reward`: every score has one; `deciding`: the two that the decision is about; `units`: each
    section has its own, and scores hold both numbers as the quantity scorer writes them."""
    rows = make_rows(folder / "images", count, pages, score=score, sections=sections)
    chosen = [{**one, "label": label} for one, label in zip(PREDICTORS, labels, strict=False)] or PREDICTORS
    chosen = list(chosen[:predictors])
    predictions, scores = {}, {}
    for entry in chosen:
        predictions[entry["name"]], scores[entry["name"]] = make_answers(
            rows, entry["name"], score=score, hostile=hostile
        )
        if units:
            for one in scores[entry["name"]]:
                of_section = UNITS[list(sections).index(one["section"]) % len(UNITS)]
                one["values"] = {**one["values"], "value": one["extracted"], "expected": one["gold"]}
                one["gold"] = f"{one['gold']:g} {of_section}"
        if reward:
            for one in scores[entry["name"]]:
                one["values"] = {**one["values"], "reward": 10.0 - 2 * (one["headline"] or 0.0)}
    all_scores = [row for name in scores for row in scores[name]]
    all_predictions = [row for name in predictions for row in predictions[name]]
    same = {
        "engine": "transformers",
        "pixels": [3136, 50176],
        "generation": {"max_new_tokens": 64},
        "batching": "by length",
        "prompt": "p",
    }
    conditions = {e["name"]: {**same, "hosted": "transformers" not in e["kind"]} for e in chosen}
    metrics = {name: compute_metrics(scores[name], predictions[name], predictor=name) for name in scores}
    document = compare(
        all_scores, all_predictions, base="base", tuned="tuned" if predictors > 1 else None, deciding=deciding, conditions=conditions, metrics=metrics,
        not_run={"fine_tune": "pending: the hosted fine-tune job is still running", "paid": "not run: OPENAI_API_KEY is not set"},
    )  # fmt: skip
    weak_rows = make_rows(folder / "images", 10, 5, score=score, seed=4, split="val")
    for name in predictions:
        answers = make_answers(weak_rows, name, score=score)
        predictions[name] += answers[0]
        scores[name] += answers[1]
    documents = {
        name: {"predictor": name, "status": "ready", "splits": {"test": found}}
        for name, found in metrics.items()
    }
    given: dict[str, Any] = {
        "comparison": document,
        "metrics": documents,
        "rows": rows,
        "predictions": predictions,
        "scores": scores,
        "title": "Street safety" if score else "Manual questions",
        "task": {
            "name": "street_safety" if score else "manual_qa",
            "sections": {"names": list(sections), "key": "section"},
            "predictors": [*chosen, {"name": "fine_tune", "label": "Hosted fine-tune", "kind": "openai_finetuned"}, {"name": "paid", "label": "Paid model", "kind": "openai"}],
            "scorers": [{"kind": "score", "low": 1, "high": 10}] if score else [{"kind": "quantity"}],
            "base_model": "data/base_model",
            "prompt": {"system": None, "instruction": "Answer with a value and a unit."},
        },
        "adapter": adapter_record(),
        "rounds": [
            {"round": 0, "estimate": 0.12, "low": 0.08, "high": 0.17, "decision": "base"},
            {"round": 1, "estimate": 0.55, "low": 0.48, "high": 0.62, "decision": "promoted"},
            {"round": 2, "estimate": 0.53, "low": 0.46, "high": 0.6, "decision": "rejected"},
            {"round": 3, "estimate": 0.64, "low": 0.57, "high": 0.71, "decision": "promoted"},
        ],
        "weak": {
            "predictor": "tuned", "split": "val", "scorer": "score" if score else "quantity", "metric": "mae" if score else "exact",
            "bar": 1.5 if score else 0.6, "weak": ["diagrams"], "undecided": ["fluids"],
            "sections": [
                {
                    "section": "diagrams", "finding": "weak", "estimate": 0.38, "low": 0.29, "high": 0.48, "n": 96, "n_unscored": 4,
                    "failures": [{"kind": "wrong_number", "n": 41, "rows": [weak_rows[4]["id"]]}, {"kind": "no_answer", "n": 18, "rows": [weak_rows[9]["id"], "diagrams-val-gone"]}],
                },
                {
                    "section": "fluids", "finding": "undecided", "estimate": 0.58, "low": 0.48, "high": 0.67, "n": 94, "n_unscored": 0,
                    "rows_to_decide": 620, "failures": [{"kind": "wrong_number", "n": 30, "rows": ["fluids-val-gone"]}],
                },
            ],
        },
        "weak_rows": weak_rows,
        "quarantine": [
            {"section": "torque", "file": "rows.jsonl", "line": 17, "row_id": None, "kind": "broken_json", "reason": "line 17: no closing brace"},
            {"section": "torque", "file": "rows.jsonl", "line": 40, "row_id": "t-40", "kind": "missing_image", "reason": "images/p9.png does not exist"},
            {"section": "", "file": "rows.jsonl", "line": 61, "row_id": "t-61", "kind": "missing_section", "reason": "the row names no section"},
        ],
        "findings": [{"number": 31, "title": "leakage between splits", "row_id": "t-9", "section": "torque", "message": "two pages look alike, their answers differ", "remedy": "look at both pages", "blocking": False}],
        "probes": {"tuned": {"n": 24, "n_judged": 24, "n_passed": 22, "estimate": 22 / 24, "low": 0.742, "high": 0.977, "passes": True, "demonstrated": False, "failed": ["p-3", "p-17"]}},
        "provenance": {"Data versions": {"raw_examples": {"data_version": "a1b2c3"}}, "Libraries": {"transformers": "5.17.0"}, "Answers": {"tuned": {"asked": 449, "reused": 31}}},
    }  # fmt: skip
    return ReportInputs(**{**given, **extra})


def adapter_record() -> dict[str, Any]:
    rng = random.Random(5)
    loss = {step: 2.4 * 0.985 ** (step / 2) + 0.22 for step in range(10, 410, 10)}
    return {
        "id": "f00dfeed0123", "base": {"model": "data/base_model", "fingerprint": "9c1e", "revision": None}, "template_hash": "77ab",
        "training_set": {"hash": "5150", "rows": 4200, "val_rows": 480}, "seed": 0, "steps": 400, "chosen_step": 400, "trainable_parameters": 184320,
        "loss_curve": [{"step": step, "loss": value + rng.uniform(-0.05, 0.05), "learning_rate": 2e-4} for step, value in loss.items()],
        "evaluations": [{"step": step, "val_loss": loss[step] + 0.08, "score": min(0.7, 0.05 + step / 500), "samples": []} for step in (100, 200, 300, 400)],
        "throughput": {"samples_per_second": 84.1, "tokens_per_second": 9120.0, "utilisation": 0.31, "training_seconds": 212.4},
        "files": {"adapter_model.safetensors": "00ff"},
    }  # fmt: skip
