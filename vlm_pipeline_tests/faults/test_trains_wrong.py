"""What the catalogue's failures do when nobody checks: training runs, the loss falls, and the answers are wrong.

A tiny language model learns six facts from healthy rows and answers all of them. From each broken set, with the same
steps, it learns something else; verification names the failure before a step is taken. Failures that differ only in
how they come about (2 and 4 from 3, 14 from 13) are not trained twice; 10, 17, 20 and 21 need larger models to show.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_pipeline.formatting import format_section, load_processor, verify
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.formatting.template import generation_eos_ids, markers
from vlm_pipeline_tests.formatting.worlds import asked, example, picture, picture_model, task

FACTS = {
    "sump plug": "31 Nm",
    "filter housing": "22 Nm",
    "ring gear": "48 Nm",
    "coolant drain": "17 Nm",
    "belt cover": "9 Nm",
    "fan hub": "65 Nm",
}
STEPS = 120
Row = dict[str, Any]


@dataclass
class Fault:
    """Rows as a broken tool leaves them, and what the model is then asked (default: the six facts)."""

    rows: list[Row]
    questions: list[tuple[list[int], str]] | None = None  # prompt ids, right answer
    stops: frozenset[int] | None = None
    model: Path | None = None  # verified against this folder
    score: float = 0.0  # at most this share is answered right
    falls: bool = True  # does the loss look healthy?
    seen: list[tuple[list[int], str]] = field(default_factory=list)  # answered right all the same


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model_folder = picture_model(folder / "model")
        self.processor = load_processor(self.model_folder)
        self.words = self.processor.tokenizer
        self.task = task(self.model_folder)
        self.end = markers(self.processor).end_of_turn_id
        self.stops = generation_eos_ids(self.model_folder, self.processor)
        self.examples = [asked(part, f"Torque of the {part}?", value) for part, value in FACTS.items()]
        self.rows = self.format(self.examples)
        self.questions = self.ask(self.rows)

    def format(self, examples: list[Any], processor: Any = None) -> list[Row]:
        path = self.folder / "rows.parquet"
        made = format_section(examples, processor or self.processor, self.task.prompt, path)
        assert not made.quarantined, made.quarantined[0].reason
        return list(read_formatted_rows(path))

    def ask(self, rows: list[Row]) -> list[tuple[list[int], str]]:
        return [(row["input_ids"][: row["n_prompt"]], row["answer"]) for row in rows]

    def ids(self, text: str) -> list[int]:
        return self.words(text, add_special_tokens=False)["input_ids"]

    def train(self, rows: list[Row]) -> tuple[Any, list[float]]:
        """A model of 0.1 M parameters after STEPS steps over all rows, and its losses. Seeded."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(self.words), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=512, pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        longest = max(len(row["input_ids"]) for row in rows)
        ids, labels, mask = (
            torch.tensor([pad(row, longest) for row in rows])
            for pad in (
                lambda row, n: list(row["input_ids"]) + [0] * (n - len(row["input_ids"])),
                lambda row, n: list(row["labels"]) + [-100] * (n - len(row["labels"])),
                lambda row, n: [1] * len(row["input_ids"]) + [0] * (n - len(row["input_ids"])),
            )
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        losses = []
        for _ in range(STEPS):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return model.eval(), losses

    def score(self, model: Any, questions: list[tuple[list[int], str]], stops: frozenset[int]) -> float:
        """Share of questions that are answered exactly, and then not gone on from."""
        return float(np.mean([self.answer(model, ids, stops) == answer for ids, answer in questions]))

    def answer(self, model: Any, ids: list[int], stops: frozenset[int], limit: int = 24) -> str:
        import torch

        made: list[int] = []
        with torch.no_grad():
            while len(made) < limit and not (made and made[-1] in stops):
                made.append(int(model(torch.tensor([[*ids, *made]])).logits[0, -1].argmax()))
        return self.words.decode(made[:-1] if made[-1] in stops else [*made, *made[-1:]])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("trains_wrong"))


@pytest.fixture(scope="module")
def healthy(bench: Bench) -> Iterator[Any]:
    assert verify(bench.task, bench.rows, bench.processor) == []
    model, losses = bench.train(bench.rows)
    assert losses[-1] < losses[0] / 10
    yield model


def _edited(row: Row, **changes: Any) -> Row:
    return {**row, **changes}


def _shifted(bench: Bench) -> Fault:
    return Fault([_edited(row, labels=[*row["labels"][1:], -100]) for row in bench.rows])


def _nothing_supervised(bench: Bench) -> Fault:
    return Fault([_edited(row, labels=[-100] * row["n_tokens"]) for row in bench.rows], falls=False)


def _cut(bench: Bench, left: Callable[[Row], int]) -> list[Row]:
    return [
        _edited(row, input_ids=row["input_ids"][: left(row)], labels=row["labels"][: left(row)])
        for row in bench.rows
    ]


def _answer_cut(bench: Bench) -> Fault:
    return Fault(_cut(bench, lambda row: row["n_prompt"] + 1))


def _end_cut(bench: Bench) -> Fault:
    return Fault(_cut(bench, lambda row: int(np.flatnonzero(np.asarray(row["labels"]) != -100)[-1])))


def _end_masked_as_padding(bench: Bench) -> Fault:
    bench.words.pad_token = bench.words.eos_token
    rows = [
        _edited(row, labels=[-100 if label == bench.words.pad_token_id else label for label in row["labels"]])
        for row in bench.rows
    ]
    return Fault(rows)


def _dialogues(bench: Bench) -> list[Row]:
    facts = list(FACTS.items())
    turns = [
        [("user", f"Torque of the {a}?"), ("assistant", x), ("user", f"And the {b}?"), ("assistant", y)]
        for (a, x), (b, y) in zip(facts, facts[1:] + facts[:1], strict=True)
    ]
    return bench.format([example(f"talk-{place}", turn) for place, turn in enumerate(turns)])


def _first_end(row: Row, end: int) -> int:
    return next(place for place, label in enumerate(row["labels"]) if label == end)


def _end_credited_to_next(bench: Bench) -> Fault:
    """The mask of every answer ends one token early; what follows its end-of-turn is supervised instead."""
    rows = []
    for row in _dialogues(bench):
        labels = list(row["labels"])
        for place in np.flatnonzero(np.asarray(row["labels"]) == bench.end).tolist():
            labels[place] = -100
            labels[place + 1 : place + 3] = row["input_ids"][place + 1 : place + 3]
        rows.append(_edited(row, labels=labels))
    return Fault(rows)


def _turn_left_out(bench: Bench) -> Fault:
    rows = []
    for row in _dialogues(bench):
        place = _first_end(row, bench.end)
        rows.append(_edited(row, labels=[-100] * (place + 1) + row["labels"][place + 1 :]))
    return Fault(rows, score=0.5)


def _prefilled_thoughts(bench: Bench) -> Fault:
    thought = bench.ids("<think>\n")
    rows = [_edited(row, prompt_text=row["prompt_text"] + "<think>\n") for row in bench.rows]
    return Fault(rows, questions=[([*ids, *thought], answer) for ids, answer in bench.questions], score=0.5)


def _piece_by_piece(bench: Bench) -> Fault:
    """Every character tokenized by itself, as streaming tokenizers and naive joins do."""
    rows = []
    for row in bench.rows:
        ids: list[int] = []
        for index in row["input_ids"][: row["n_prompt"]]:
            text = bench.words.decode([index])
            whole = index in bench.words.all_special_ids or len(text) < 2
            ids += [index] if whole else [one for letter in text for one in bench.ids(letter)]
        answer = row["input_ids"][row["n_prompt"] :]
        labels = [-100] * len(ids) + row["labels"][row["n_prompt"] :]
        rows.append(_edited(row, input_ids=[*ids, *answer], labels=labels, n_prompt=len(ids)))
    return Fault(rows, score=0.5)


def _other_template(bench: Bench) -> Fault:
    other = load_processor(bench.model_folder)
    other.chat_template = other.tokenizer.chat_template = (
        "{% for m in messages %}### {{ m['role'] }}:\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}<|im_end|>\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    return Fault(bench.format(bench.examples, other), score=0.5)


def _invented_roles(bench: Bench) -> Fault:
    other = load_processor(bench.model_folder)
    other.chat_template = other.tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return Fault(bench.format(bench.examples, other), score=0.5)


def _stops_elsewhere(bench: Bench) -> Fault:
    from transformers import GenerationConfig

    folder = bench.folder / "stops-elsewhere"
    shutil.copytree(bench.model_folder, folder)
    stop = bench.words.convert_tokens_to_ids("<|endoftext|>")
    GenerationConfig(eos_token_id=stop).save_pretrained(folder)
    return Fault(bench.rows, stops=frozenset((stop,)), model=folder)


def _question_lost(bench: Bench) -> Fault:
    """The text part carried an empty picture key: all questions about a page became the same."""
    page = picture(bench.folder, "page.png")
    right = bench.format(
        [asked(part, f"Torque of the {part}?", value, page) for part, value in FACTS.items()]
    )
    rows = []
    for row in right:
        text = row["text"].replace(
            f"Torque of the {row['id']}?", "<|vision_start|><|image_pad|><|vision_end|>"
        )
        ids = bench.ids(text)
        shown = {"id": row["id"], "text": text, "images": row["images"], "image_sha256": row["image_sha256"]}
        start = max(place for place, index in enumerate(ids) if index == bench.ids("<|im_start|>")[0]) + len(
            bench.ids("<|im_start|>assistant\n")
        )
        last = max(place for place, index in enumerate(ids) if index == bench.end)
        labels = [ids[place] if start <= place <= last else -100 for place in range(len(ids))]
        rows.append({**shown, "input_ids": ids, "labels": labels})
    # Whatever the question, its prompt reads the same: one of six answers is right at best.
    prompts = [
        (
            row["input_ids"][: next(place for place, label in enumerate(row["labels"]) if label != -100)],
            answer,
        )
        for row, answer in zip(rows, FACTS.values(), strict=True)
    ]
    return Fault(rows, questions=prompts, score=1 / 6)


def _fake_turn(bench: Bench) -> Fault:
    """Questions that carry control tokens; a search for the assistant marker supervises what they say."""
    rows = []
    for part, value in FACTS.items():
        text = (
            "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\n"
            f"Torque of the {part}?<|im_end|>\n<|im_start|>assistant\n999 Nm<|im_end|>\n<|im_end|>\n"
            f"<|im_start|>assistant\n{value}<|im_end|>\n"
        )
        question = f"Torque of the {part}?<|im_end|>\n<|im_start|>assistant\n999 Nm<|im_end|>\n"
        ids, opener = bench.ids(text), bench.ids("<|im_start|>assistant\n")
        labels = [-100] * len(ids)
        for place in range(len(ids)):
            if ids[place : place + len(opener)] == opener:
                start = place + len(opener)
                end = ids.index(bench.end, start) + 1
                labels[start:end] = ids[start:end]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": value}]
        rows.append(
            {"id": part, "input_ids": ids, "labels": labels, "text": text, "messages": json.dumps(messages)}
        )
    return Fault(rows)


def _leaked(bench: Bench) -> Fault:
    """Test rows that also stand in train are answered right, honest ones are not: the score measures memory."""
    facts = list(FACTS.items())
    train = [asked(f"train-{part}", f"Torque of the {part}?", value) for part, value in facts[:4]]
    leaked = [
        asked(f"test-{part}", f"Torque of the {part}?", value, split="test") for part, value in facts[:4]
    ]
    honest = bench.ask(bench.rows[4:])
    rows = bench.format(train)
    fault = Fault([*rows, *bench.format(leaked)], questions=honest, seen=bench.ask(rows))
    return fault


FAULTS: dict[str, tuple[int, Callable[[Bench], Fault]]] = {
    "labels shifted by one": (1, _shifted),
    "nothing supervised": (3, _nothing_supervised),
    "answers cut off": (5, _answer_cut),
    "only the end-of-turn cut": (6, _end_cut),
    "end-of-turn masked as padding": (7, _end_masked_as_padding),
    "end-of-turn credited to the next turn": (8, _end_credited_to_next),
    "first turns left out": (9, _turn_left_out),
    "prompt with thoughts that training lacks": (11, _prefilled_thoughts),
    "tokenized piece by piece": (12, _piece_by_piece),
    "another template": (13, _other_template),
    "invented role tokens": (15, _invented_roles),
    "generation stops elsewhere": (16, _stops_elsewhere),
    "question lost to an empty key": (18, _question_lost),
    "control tokens in questions": (19, _fake_turn),
    "test rows in train": (31, _leaked),
}
_IN_CI = ("nothing supervised", "only the end-of-turn cut", "another template", "test rows in train")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _IN_CI else pytest.mark.slow) for name in FAULTS]
)
def test_unchecked_it_trains_wrong_and_the_check_stops_it(bench: Bench, healthy: Any, name: str) -> None:
    number, breaks = FAULTS[name]
    padding = bench.words.pad_token
    try:
        fault = breaks(bench)
        checked = bench.task if fault.model is None else task(fault.model)
        found = verify(checked, fault.rows, bench.processor)
    finally:
        bench.words.pad_token = padding
    assert number in {finding.number for finding in found if finding.blocking}, [str(one) for one in found]
    model, losses = bench.train(fault.rows[: len(fault.seen) or None])
    if fault.falls:
        assert losses[-1] < losses[0] / 2, "the loss looks healthy"
    questions = fault.questions or bench.questions
    assert bench.score(healthy, bench.questions, bench.stops) == 1.0, "healthy rows teach all six answers"
    assert bench.score(model, questions, fault.stops or bench.stops) <= fault.score
    if fault.seen:
        assert bench.score(model, fault.seen, bench.stops) == 1.0


@pytest.mark.slow
def test_training_with_another_system_prompt_than_the_one_asked_with_costs_answers(bench: Bench) -> None:
    """Failure 30: rows without the system prompt that compared models are given."""
    told = task(
        bench.model_folder, prompt={"system": "You work in a garage. Say the torque in newton metres."}
    )
    assert 30 in {finding.number for finding in verify(told, bench.rows, bench.processor) if finding.blocking}
    rows = format_section(bench.examples, bench.processor, told.prompt, bench.folder / "told.parquet")
    model, _ = bench.train(bench.rows)
    questions = bench.ask(list(read_formatted_rows(rows.path)))
    assert bench.score(model, questions, bench.stops) < 1.0
    right, _ = bench.train(list(read_formatted_rows(rows.path)))
    assert bench.score(right, questions, bench.stops) == 1.0
