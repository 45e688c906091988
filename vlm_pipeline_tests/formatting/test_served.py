"""Train == evaluate == serve over the rows in the store: real requests to a server on loopback, and tables as they lie there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.formatting import load_processor
from vlm_pipeline.formatting.served_stage import served_report
from vlm_pipeline.formatting.stage import parity_report
from vlm_pipeline.inference.hosted_run import conversation_asks
from vlm_pipeline.inference.prediction import answered, prediction_table, write_predictions
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task
from vlm_pipeline_tests.formatting.tasks import SECTIONS, formatted, write_task
from vlm_pipeline_tests.servers.hosted_api.serving import serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import KEY, StandIn


class Tokenizes:
    """Answers `/tokenize` by a real processor, pictures as one placeholder or expanded."""

    def __init__(self, model: Path | str, expand: bool = False, template: str | None = None) -> None:
        self.processor = load_processor(model)
        self.expand = expand
        if template is not None:
            self.processor.chat_template = self.processor.tokenizer.chat_template = template

    def __call__(self, body: dict[str, Any]) -> list[int]:
        messages = [{"role": m["role"], "content": _parts(m["content"])} for m in body["messages"]]
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=body["add_generation_prompt"]
        )
        ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        picture = self.processor.image_token_id
        return [token for one in ids for token in [one] * (6 if self.expand and one == picture else 1)]


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{"type": "image"} if part["type"] == "image_url" else part for part in content]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StandIn, str]]:
    monkeypatch.setenv("STAND_IN_KEY", KEY)
    with serving() as (stand_in, url):
        yield stand_in, url


def world(
    folder: Path,
    url: str,
    generation: dict[str, Any] | None = None,
    must_serve_alike: bool = False,
    **prompt: Any,
) -> tuple[Task, TaskStore]:
    predictors = [
        {"name": "base", "kind": "transformers"},
        {"name": "claude", "kind": "anthropic", "model": "claude-sonnet-4"},
        {
            "name": "server", "kind": "openai_compatible", "model": "stand-in-small", "base_url": f"{url}/v1",
            "api_key_env": "STAND_IN_KEY", "serves": "base", "must_serve_alike": must_serve_alike,
        },
    ]  # fmt: skip
    task = write_task(
        folder,
        predictors=predictors,
        generation=generation or {},
        prompt={"system": "You are a torque expert.", **prompt},
    )
    return task, formatted(task, folder)


def test_a_server_that_tells_all_tokens_is_proven_by_them(
    tmp_path: Path, server: tuple[StandIn, str]
) -> None:
    stand_in, url = server
    task, store = world(tmp_path, url)
    stand_in.tokenize = Tokenizes(task.base_model_path, expand=True)
    verdict = served_report(task, store)
    assert verdict.passed, verdict.message
    assert stand_in.requests["tokenize"] == 16
    assert "prompt tokens of 16 of 16 rows, picture tokens of 16 of them" in verdict.message


def test_placeholders_alone_prove_no_pixels_and_prompt_token_counts_do(
    tmp_path: Path, server: tuple[StandIn, str]
) -> None:
    stand_in, url = server
    task, store = world(tmp_path, url)
    stand_in.tokenize = Tokenizes(task.base_model_path)
    verdict = served_report(task, store)
    assert not verdict.passed and verdict.metadata["differences"] == 0
    assert "proven: prompt tokens of 16 of 16 rows; not proven: the picture settings" in verdict.message
    predicted(task, store, "base")
    predicted(task, store, "server")
    verdict = served_report(task, store)
    assert verdict.passed and "prompt-token counts of 16 of them" in verdict.message


def test_answers_that_are_not_greedy_prove_nothing(tmp_path: Path, server: tuple[StandIn, str]) -> None:
    _, url = server
    task, store = world(tmp_path, url, generation={"do_sample": True})
    predicted(task, store, "base")
    predicted(task, store, "server")
    verdict = served_report(task, store)
    assert not verdict.passed and "base and server do not answer greedily" in verdict.message
    assert "not proven: the template" in verdict.message


@pytest.mark.parametrize("must", [False, True])
def test_the_check_stops_the_run_where_the_task_says_so(must: bool, tmp_path: Path) -> None:
    from vlm_pipeline.orchestration.assets import task_assets

    task, _ = world(tmp_path, "http://127.0.0.1:1", must_serve_alike=must)
    specs = {spec.name: spec for check in task_assets(task).checks for spec in check.check_specs}
    assert specs["served_alike"].blocking == must


def test_a_server_with_another_template_is_named_with_the_first_token_that_differs(
    tmp_path: Path, server: tuple[StandIn, str]
) -> None:
    stand_in, url = server
    task, store = world(tmp_path, url)
    template = load_processor(task.base_model_path).chat_template.replace(
        "<|im_start|>assistant\n", "<|im_start|>bot\n"
    )
    stand_in.tokenize = Tokenizes(task.base_model_path, template=template)
    verdict = served_report(task, store)
    assert not verdict.passed and "server is asked other tokens" in verdict.message
    assert "bot" in verdict.message and "assistant" in verdict.message


def test_a_server_that_sizes_pictures_differently_is_named(
    tmp_path: Path, server: tuple[StandIn, str]
) -> None:
    stand_in, url = server
    task, store = world(tmp_path, url)
    tell = Tokenizes(task.base_model_path, expand=True)
    picture = tell.processor.image_token_id
    stand_in.tokenize = lambda body: _twice(tell(body), picture)
    verdict = served_report(task, store)
    assert not verdict.passed and "failure 20" in verdict.message and "11 tokens more" in verdict.message


def _twice(ids: list[int], token: int) -> list[int]:
    return [one for index in ids for one in ([index, index] if index == token else [index])]


def predicted(task: Task, store: TaskStore, name: str, **changed: Any) -> None:
    """A prediction table in which each row's answer is its id; `changed` goes into the first row."""
    paths = [store.section("formatted", section) for section in SECTIONS]
    rows = []
    for number, ask in enumerate(conversation_asks(paths, ["val", "test"])):
        answer = {"text": ask.id, "tokens_in": 40 + number, **(changed if number == 0 else {})}
        rows.append(
            answered(ask, name, finish_reason="stop", tokens_out=3, latency_s=0.1, cost_usd=0.0, **answer)
        )
    write_predictions(store.path("predictions", f"{name}.parquet"), [prediction_table(rows)], {})


def test_without_tokens_prompt_counts_and_greedy_answers_are_compared(
    tmp_path: Path, server: tuple[StandIn, str]
) -> None:
    _, url = server  # its /tokenize answers 404
    task, store = world(tmp_path, url)
    verdict = served_report(task, store)
    assert not verdict.passed and "not proven: the template (it tells no tokens" in verdict.message
    predicted(task, store, "base")
    predicted(task, store, "server", text=" AXLE - REAR-2\n")  # servers strip white space
    verdict = served_report(task, store)
    assert verdict.passed and "greedy answers of 16 rows" in verdict.message and "404" in verdict.message
    predicted(task, store, "server", tokens_in=47)
    assert "its prompt has 47 tokens, ours 40" in served_report(task, store).message
    predicted(task, store, "server", text="something else")
    verdict = served_report(task, store)
    assert (
        not verdict.passed and "row AXLE - REAR-2" in verdict.message and "something else" in verdict.message
    )


def test_predictors_of_every_kind_are_told_what_the_asked_rows_say(tmp_path: Path) -> None:
    task, store = world(tmp_path, "http://127.0.0.1:1", instruction="Answer with number and unit.")
    verdict = parity_report(task, store)
    assert verdict.passed, verdict.message
    counted = {row["predictor"]: row for row in verdict.metadata["predictors"]["table"]}
    assert set(counted) == {"base", "claude", "server"}
    assert {(row["rows"], row["with_system"], row["pictures"]) for row in counted.values()} == {(16, 16, 16)}


def test_a_row_that_lost_its_system_prompt_on_the_way_to_a_predictor_is_found(tmp_path: Path) -> None:
    task, store = world(tmp_path, "http://127.0.0.1:1")
    path = store.section("formatted", SECTIONS[1])
    table = pq.read_table(path)
    messages = table["messages"].to_pylist()
    place = table["split"].to_pylist().index("test")
    messages[place] = json.dumps(json.loads(messages[place])[1:])
    pq.write_table(table.set_column(table.schema.get_field_index("messages"), "messages", [messages]), path)
    verdict = parity_report(task, store)
    assert (
        not verdict.passed and verdict.metadata["differences"] == 2
    )  # both hosted ones; the base reads the text
    assert (
        "claude is asked differently: it is told a picture where the row says 'You are a torque expert.' (system)"
        in verdict.message
    )
