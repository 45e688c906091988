"""`python -m vlm_pipeline_tests.servers.hosted_api`: the stand-in for a person at a terminal."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import uvicorn

from vlm_pipeline_tests.servers.hosted_api.app import build_app
from vlm_pipeline_tests.servers.hosted_api.conversation import Answer, Question, last_user, text_of
from vlm_pipeline_tests.servers.hosted_api.serving import environment
from vlm_pipeline_tests.servers.hosted_api.stand_in import Faults, StandIn, default_answer


def answers_from(path: Path, accuracy: float, seed: int) -> Answer:
    """Gold answers of a chat-format JSONL file, right for a seeded share of the questions, else the default answer."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    gold = {last_user(row["messages"]): text_of(row["messages"][-1]["content"]) for row in rows}

    def answer(question: Question) -> str:
        draw = hashlib.sha256(f"{seed} {question.text} {question.images}".encode()).digest()[0] / 256
        return gold[question.text] if question.text in gold and draw < accuracy else default_answer(question)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Stand-in of the hosted APIs on loopback. Not a model: its answers mean nothing."
    )
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that go wrong")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job-seconds", type=float, default=5.0, help="how long a fine-tuning job takes")
    parser.add_argument("--answers", type=Path, help="chat-format JSONL whose last turns are gold answers")
    parser.add_argument(
        "--accuracy", type=float, default=0.6, help="share of --answers questions answered right"
    )
    options = parser.parse_args()
    answer = (
        answers_from(options.answers, options.accuracy, options.seed) if options.answers else default_answer
    )
    stand_in = StandIn(answer=answer, faults=Faults(options.faults, options.seed), job_s=options.job_seconds)
    url = f"http://127.0.0.1:{options.port}"
    print("stand-in of the hosted APIs: no real model answers here. Use it with\n")
    print("\n".join(f"export {name}={value}" for name, value in environment(url).items()), flush=True)
    uvicorn.run(build_app(stand_in), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
