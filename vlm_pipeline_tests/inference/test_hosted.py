"""Hosted predictors over real HTTP on loopback, by the real clients: every API, every fault, money and keys."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import traceback
from typing import Any

import pytest

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.chat import conversation_hash
from vlm_pipeline.inference.clients import client_for
from vlm_pipeline.inference.hosted_run import make_hosted
from vlm_pipeline.inference.openai_finetune import FineTuneError, refresh, submit
from vlm_pipeline.inference.patience import RequestFailed
from vlm_pipeline.inference.predict import Counts, predict_table
from vlm_pipeline.inference.prediction import Ask, Prediction, read_predictions
from vlm_pipeline.inference.predictors import availability
from vlm_pipeline.redaction import redact
from vlm_pipeline.settings.predictors import (
    AnthropicPredictor,
    AzureOpenAIPredictor,
    GenerationSettings,
    OpenAICompatiblePredictor,
    OpenAIFineTunedPredictor,
    OpenAIPredictor,
)
from vlm_pipeline_tests.servers.hosted_api.conversation import Question
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn, default_answer

GENERATION = GenerationSettings(max_new_tokens=20)
PRICE = {"input": 1.0, "output": 2.0}


def picture(number: int) -> ImageRef:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (number % 256, number // 256, 0)).save(buffer, "PNG")
    data = buffer.getvalue()
    return ImageRef(None, data, hashlib.sha256(data).hexdigest(), 32, 24, "PNG")


def ask(number: int, image: ImageRef | None = None) -> Ask:
    content: Any = f"What is value {number}?"
    images = [image] if image else []
    if image:
        content = [{"type": "image", "index": 0}, {"type": "text", "text": content}]
    talk = Conversation(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}], images
    )
    return Ask(
        f"r{number}",
        "s",
        "g",
        "test",
        conversation_hash(talk),
        tuple(one.sha256 for one in images),
        talk,
    )


def asks(count: int) -> list[Ask]:
    shared = picture(7)
    return [ask(number, shared if number % 2 else None) for number in range(count)]


def settings_for(kind: str, url: str = "") -> Any:
    common = {"name": kind.replace("_", "-"), "price": PRICE, "timeout_s": 10}
    return {
        "chat": lambda: OpenAIPredictor(kind="openai", model="stand-in-large", **common),
        "responses": lambda: OpenAIPredictor(
            kind="openai", model="stand-in-large", api="responses", **common
        ),
        "azure": lambda: AzureOpenAIPredictor(kind="azure_openai", deployment="stand-in-large", **common),
        "compatible": lambda: OpenAICompatiblePredictor(
            kind="openai_compatible",
            model="stand-in-large",
            base_url=f"{url}/v1",
            api_key_env="OPENAI_API_KEY",
            **common,
        ),
        "anthropic": lambda: AnthropicPredictor(kind="anthropic", model="stand-in-large", **common),
    }[kind]()


def predictor_for(kind: str, url: str, *, budget: Budget | None = None, **changes: Any) -> Any:
    settings = settings_for(kind, url).model_copy(update=changes)
    return make_hosted(settings, GENERATION, budget or Budget(1.0), env=environment(url))


def expected(rows: list[Ask]) -> dict[str, str]:
    """What the stand-in's arithmetic says to exactly these questions and picture bytes."""
    answers = {}
    for row in rows:
        text = f"What is value {row.id[1:]}?"
        answers[row.id] = default_answer(Question("stand-in-large", text, row.images, ""))
    return answers


def collect(predictor: Any, rows: list[Ask]) -> dict[str, Prediction]:
    return {row.id: row for batch in predictor.predict(rows) for row in batch}


@pytest.mark.parametrize("kind", ["chat", "responses", "azure", "compatible", "anthropic"])
def test_every_api_answers_with_and_without_pictures(kind):
    rows = asks(6)
    with serving() as (_, url):
        answers = collect(predictor_for(kind, url), rows)
    assert {row: answer.text for row, answer in answers.items()} == expected(rows)
    assert all(
        answer.error is None and answer.finish_reason == "stop" and answer.tokens_in > 0
        for answer in answers.values()
    )
    one = answers["r1"]
    assert one.cost_usd == pytest.approx((one.tokens_in * 1.0 + one.tokens_out * 2.0) / 1e6)


def test_a_wrong_key_asks_once_and_shows_the_key_nowhere(tmp_path, caplog, monkeypatch, capfd):
    """The stand-in echoes the key in its refusal, as providers do in part; it must not get any further."""
    key = "sk-secret-8f7e6d5c4b3a"
    caplog.set_level(logging.DEBUG)
    with serving(StandIn(key="another key")) as (stand_in, url):
        for name, value in environment(url, key).items():
            monkeypatch.setenv(name, value)
        for kind in ("chat", "responses", "azure", "compatible", "anthropic"):
            predictor = make_hosted(settings_for(kind, url), GENERATION, Budget(1.0))
            output = tmp_path / f"{kind}.parquet"
            counts = predict_table(
                predictor,
                asks(20),
                cache_folder=tmp_path / "cache",
                output=output,
                about=lambda kind=kind: {"settings": settings_for(kind, url).model_dump(mode="json")},
            )
            assert counts.failed == 20
        assert stand_in.requests.total() < 5 * 20, "a refused key must stop the rest"
        batch = OpenAIPredictor(name="batch", kind="openai", model="stand-in-large", batch=True, price=PRICE)
        predictor = make_hosted(batch, GENERATION, Budget(1.0), journal=tmp_path / "batches.json")
        place = {"cache_folder": tmp_path / "cache", "output": tmp_path / "batch.parquet"}
        assert predict_table(predictor, asks(3), **place).failed == 3
        job = OpenAIFineTunedPredictor(name="ft", kind="openai_finetuned", model="gpt-4o-2024-08-06")
        rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}"}]} for n in range(12)]  # fmt: skip
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            info = tmp_path / "info.json"
            submit(
                tmp_path / "train.jsonl",
                None,
                job,
                info_path=info,
                budget=Budget(1.0),
                client=client_for(job),
            )
        except FineTuneError:
            print(traceback.format_exc())
        info.write_text(json.dumps({"job_id": "ftjob-1", "status": "running"}))
        try:
            refresh(info, client_for(job))
        except RequestFailed:
            print(traceback.format_exc())
    captured = capfd.readouterr()
    places = {"log": caplog.text, "out": captured.out, "err": captured.err}
    places |= {str(path): path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*.*")}
    for row in [row for table in tmp_path.glob("*.parquet") for row in read_predictions(table)]:
        places[f"row {row.id}"] = repr(row)
    assert captured.out.count("Incorrect API key") == 2, (
        "the fine-tune's refusals must be among what is searched"
    )
    leaks = [place for place, text in places.items() if key in text]
    assert leaks == []
    assert "Incorrect API key" in places["row r0"]


def test_redact_cuts_keys_of_the_environment_and_what_looks_like_one():
    text = redact("key=abcdef123 and sk-proj-AAAA1111bbbb, hf_abcdefgh12345", {"MY_API_KEY": "abcdef123"})
    assert "abcdef123" not in text and "AAAA1111" not in text and "hf_abcdefgh" not in text


@pytest.mark.parametrize("kind", ["chat", "anthropic"])
def test_a_model_that_refuses_temperature_is_asked_without_it(kind):
    with serving(StandIn(refuse_temperature=True)) as (stand_in, url):
        predictor = predictor_for(kind, url, concurrency=2)
        answers = collect(predictor, asks(8))
        assert 8 < stand_in.requests.total() <= 8 + 2 and predictor.dropped == {"temperature"}
    assert all(answer.error is None for answer in answers.values())


def test_answers_at_a_temperature_that_nobody_asked_for_are_not_cached(tmp_path):
    """Without its temperature of 0 the same question may get another answer: such an answer stands in no other table,
    and only a run that did not end goes on with it."""
    place = {"cache_folder": tmp_path / "cache", "output": tmp_path / "t.parquet"}
    with serving(StandIn(refuse_temperature=True)) as (stand_in, url):
        predict_table(predictor_for("chat", url), asks(3), **place)
        assert not list((tmp_path / "cache").rglob("*.jsonl"))
        dying = predictor_for("chat", url, concurrency=1)
        rows = dying.predict(asks(4))
        dying.predict = lambda _: iter([next(rows), next(rows)])  # the process ends after two answers
        predict_table(dying, asks(4), **place)
        rows.close()
        paid = stand_in.requests.total()
        counts = predict_table(predictor_for("chat", url), asks(4), **place)
        assert counts.reused == 2 and counts.failed == 0
        assert stand_in.requests.total() - paid <= 2 + 2, (
            "two rows, each refused with a temperature once at most"
        )
        assert predict_table(predictor_for("chat", url), asks(4), **place).reused == 0


def test_what_an_api_cannot_express_is_listed_and_what_it_would_cut_is_refused():
    from vlm_pipeline.inference.apis import AnthropicMessages, OpenAIChat, OpenAIResponses

    varied = GenerationSettings(preset="varied", temperature=1.5, stop=list("abcde"))
    talk = ask(1).body
    apis = {
        "chat": OpenAIChat(None, "m"), "compatible": OpenAIChat(None, "m", compatible=True),
        "responses": OpenAIResponses(None, "m"), "anthropic": AnthropicMessages(None, "m"),
    }  # fmt: skip
    common = ["min_new_tokens", "no_repeat_ngram_size", "repetition_penalty", "seed"]
    assert {name: api.unmet(varied) for name, api in apis.items()} == {
        "chat": [*common, "top_k"], "compatible": ["no_repeat_ngram_size", "seed"],
        "responses": [*common, "stop", "top_k"], "anthropic": [*common, "top_p", "temperature above 1"],
    }  # fmt: skip
    assert all(api.unmet(GENERATION) == [] for api in apis.values())
    assert apis["compatible"].request(talk, varied)["stop"] == list("abcde")
    assert "takes 4 stop strings" in (apis["chat"].refuse(varied) or "")
    assert all(apis[name].refuse(varied) is None for name in ("compatible", "responses", "anthropic"))


def test_answers_of_another_server_are_never_reused(tmp_path):
    rows = asks(2)
    with serving() as (_, one), serving() as (_, other):
        first, second = predictor_for("chat", one), predictor_for("chat", other)
        assert first.fingerprint != second.fingerprint
        place = {"cache_folder": tmp_path / "cache", "output": tmp_path / "t.parquet"}
        counts: list[Counts] = [predict_table(predictor, rows, **place) for predictor in (first, second)]
    assert [count.asked for count in counts] == [2, 2]


def test_unavailable_predictors_say_why(tmp_path):
    assert availability(settings_for("chat"), {}) == "not run: OPENAI_API_KEY is not set"
    assert (
        availability(settings_for("azure"), {})
        == "not run: AZURE_OPENAI_API_KEY and AZURE_OPENAI_ENDPOINT are not set"
    )
    assert availability(settings_for("anthropic"), {"ANTHROPIC_API_KEY": "x"}) is None
    nobody = settings_for("compatible", "http://127.0.0.1:9")
    assert "no server answers at http://127.0.0.1:9" in (availability(nobody, {"OPENAI_API_KEY": "x"}) or "")
    assert "may spend nothing" in (
        availability(settings_for("chat"), {"OPENAI_API_KEY": "x"}, budget_usd=0) or ""
    )
