"""Behaviour and memory of the stand-in: what its models answer, what goes wrong, what it has been paid for."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vlm_pipeline_tests.servers.hosted_api.conversation import Answer, Question, last_user, text_of

KEY = "stand-in-key-0123456789"
FAULTS = ("429", "500", "slow", "cut", "malformed")


def default_answer(question: Question) -> str:
    """A number that depends on model, question and pictures, said at some length."""
    digest = hashlib.sha256(repr((question.model, question.text, question.images)).encode()).digest()
    return f"Looking at the picture, I would say about {digest[0] % 90 + 10}.{digest[1] % 10}."


@dataclass
class Faults:
    """Share of requests that go wrong, drawn by a seeded generator from `kinds`."""

    rate: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = FAULTS
    slow_s: float = 0.3
    retry_after_s: float = 0.05
    everywhere: bool = False  # also files, jobs and batches, not only answers
    max_in_flight: int | None = None  # more than this at once: 429

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self) -> str | None:
        if self._random.random() >= self.rate:
            return None
        return self._random.choice(self.kinds)


@dataclass
class StandIn:
    """Behaviour and memory of the server."""

    answer: Answer = default_answer
    faults: Faults = field(default_factory=Faults)
    key: str = KEY
    owner: str = "stand-in"  # of its models, as the list of models says
    job_s: float = 0.2  # a fine-tuning job takes this long
    batch_s: float = 0.1
    refuse_temperature: bool = False  # as reasoning models do
    refuse_jobs: bool = False  # as a platform that is closed to new users; the refusal repeats the key
    tokenize: Callable[[dict[str, Any]], list[int]] | None = (
        None  # a chat's prompt tokens, as vLLM tells them
    )

    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    paid: dict[str, Any] = field(
        default_factory=dict
    )  # idempotency key -> (model, tokens in, tokens out, text)
    files: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    most_in_flight: int = 0
    _in_flight: int = 0
    _numbers: Counter[str] = field(default_factory=Counter)
    _memories: dict[str, list[tuple[set[str], str]]] = field(default_factory=dict)

    def new_id(self, kind: str) -> str:
        self._numbers[kind] += 1
        return f"{kind}-standin{self._numbers[kind]:04d}"

    def reply(self, question: Question, key: str, images: int) -> tuple[str, int, int]:
        """Text and token counts; computed and paid once per key."""
        if key not in self.paid:
            memory = self._memory_of(question.model)
            text = _nearest(memory, question.text) if memory else self.answer(question)
            tokens_in = len(question.transcript) // 4 + 200 * images + 1
            self.paid[key] = (question.model, tokens_in, len(text) // 4 + 1, text)
        _, tokens_in, tokens_out, text = self.paid[key]
        return text, tokens_in, tokens_out

    def _memory_of(self, model: str) -> list[tuple[set[str], str]]:
        """A fine-tuned model answers as the training row with the most similar question was answered."""
        for job in self.jobs.values():
            if job.get("model_when_done") != model:
                continue
            if model not in self._memories:
                rows = [
                    json.loads(line)
                    for line in self.files[job["training_file"]][1].splitlines()
                    if line.strip()
                ]
                self._memories[model] = [
                    (_words(last_user(row["messages"])), text_of(row["messages"][-1]["content"]))
                    for row in rows
                ]
            return self._memories[model]
        return []

    def job_view(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job as of now: queued, running, then succeeded."""
        age = time.monotonic() - job["_started"]
        if job["status"] not in ("cancelled", "failed"):
            job["status"] = (
                "queued" if age < self.job_s / 4 else "running" if age < self.job_s else "succeeded"
            )
        if job["status"] == "succeeded" and job["fine_tuned_model"] is None:
            job |= {"fine_tuned_model": job["model_when_done"], "finished_at": int(time.time())}
            job["trained_tokens"] = len(self.files[job["training_file"]][1]) // 4 * job["_epochs"]
        return {
            name: value
            for name, value in job.items()
            if not name.startswith("_") and name != "model_when_done"
        }


def _words(text: str) -> set[str]:
    return set(text.lower().split())


def _nearest(memory: list[tuple[set[str], str]], text: str) -> str:
    words = _words(text)
    return max(memory, key=lambda row: (len(row[0] & words) / max(1, len(row[0] | words)), row[1]))[1]
