"""The prediction stage over a store of real rows and hosted models on loopback: what is remembered, what one run may
spend, and what becomes of a predictor that cannot answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from vlm_pipeline.compute.payload import Reporter
from vlm_pipeline.inference.hosted_run import stand_in as label_of
from vlm_pipeline.inference.prediction import read_about
from vlm_pipeline.inference.predictors import fine_tune_info
from vlm_pipeline.inference.run import run
from vlm_pipeline.inference.stage import make_fine_tune, make_predictions, payload_request
from vlm_pipeline.manifest import Artifact
from vlm_pipeline.scoring.stage import predictor_status
from vlm_pipeline.store import read_json
from vlm_pipeline.task import Task
from vlm_pipeline_tests.inference.test_openai_finetune import write_rows
from vlm_pipeline_tests.promotion.world import Answers, World, quiet
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn

PREDICTORS = """\
  - {name: small, kind: openai, model: gpt-4o-mini}
  - {name: large, kind: openai, model: gpt-4o}
  - {name: unpriced, kind: openai, model: a-model-of-tomorrow}
  - {name: lost, kind: transformers, adapter: nowhere}
  - {name: held, kind: transformers, constrained: true}
  - {name: broken, kind: transformers, constrained: "(unclosed"}
  - {name: own, kind: openai_compatible, model: stand-in-large, base_url: "BASE", api_key_env: OPENAI_API_KEY}
  - {name: ft_one, kind: openai_finetuned, model: gpt-4o-2024-08-06}
  - {name: ft_two, kind: openai_finetuned, model: gpt-4o-mini-2024-07-18}
  - {name: ft_none, kind: openai_finetuned, model: gpt-5}
"""


class Stage:
    """The stage with the real payload in this process; `asked` counts its starts."""

    def __init__(self, world: World) -> None:
        self.world, self.task, self.store = world, world.rows(), world.store
        self.asked = 0

    def predict(self, name: str, task: Task | None = None, run_id: str = "r", before: Any = None) -> Artifact:
        def payload(request: dict[str, Any]) -> dict[str, Any]:
            self.asked += 1
            if before:
                before()
            return run(request, Reporter(silent=True))[0]

        task = task or self.task
        predictor = next(one for one in task.predictors if one.name == name)
        return make_predictions(task, self.store, predictor, payload, picked=True, run_id=run_id, log=quiet)

    def fine_tune(self, name: str, task: Task | None = None) -> Artifact:
        task = task or self.task
        predictor = next(one for one in task.predictors if one.name == name)
        return make_fine_tune(task, self.store, predictor, run_id="r", log=quiet)

    def info(self, name: str) -> dict[str, Any]:
        predictor = next(one for one in self.task.predictors if one.name == name)
        return read_json(fine_tune_info(self.task, self.store, predictor), default={})


@pytest.fixture
def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The stand-in, the stage, and a function that points the clients at another server."""

    def at(url: str) -> None:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)

    with serving(StandIn(job_s=0.0)) as (stand_in, url):
        at(url)
        splits = {"train": 3, "val": 1, "test": 1}
        world = World(
            tmp_path, Answers({}), splits=splits, predictors=PREDICTORS.replace("BASE", f"{url}/v1"), more="budget: {money_usd: 5}\n"
        )  # fmt: skip
        stage = Stage(world)
        train = stage.store.path("openai", "train_with_images.jsonl")
        train.parent.mkdir(parents=True)
        write_rows(train)
        yield stand_in, stage, at


def poor(task: Task, usd: float) -> Task:
    return task.model_copy(update={"budget": task.budget.model_copy(update={"money_usd": usd})})


def test_all_hosted_models_of_a_run_spend_from_one_budget(hosted) -> None:
    """Every predictor is a payload of its own; each with a full purse would spend the limit many times over."""
    server, stage, _ = hosted
    first = stage.predict("small").metadata
    assert first["failed"] == 0 and first["spent_usd"] == pytest.approx(first["cost_usd"])
    second = stage.predict("large").metadata
    assert second["spent_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])
    assert [path.name for path in stage.store.path("spend").iterdir()] == ["r.jsonl"]
    settings = next(one for one in stage.task.predictors if one.name == "large")
    request = payload_request(stage.task, stage.store, settings, [], [], "r")
    assert request["run_id"] == "r"

    limit = 1.1 * second["spent_usd"]
    asked = server.requests["completions"]
    stage.task.root.joinpath("task.yaml").write_text(
        stage.task.root.joinpath("task.yaml").read_text().replace("money_usd: 5", f"money_usd: {limit:.8f}")
    )
    for path in (stage.store.cache / "rows").glob("*.jsonl"):
        path.unlink()
    third = stage.predict("own", run_id="r2").metadata  # costs nothing, and so never counts
    assert third["failed"] == 0 and third["spent_usd"] == 0
    again = run(
        payload_request(stage.task, stage.store, settings, [stage.store.section("formatted", "torque")], ["test"], "r"),
        Reporter(silent=True),
    )[0]  # fmt: skip
    assert again["failed"] > 0 and again["spent_usd"] <= limit
    assert server.requests["completions"] - asked == third["asked"] + again["asked"] - again["failed"]


def test_a_fine_tune_leaves_the_models_of_its_run_the_rest_of_the_budget(hosted) -> None:
    _, stage, _ = hosted
    job = stage.fine_tune("ft_one").metadata
    spent = stage.predict("small").metadata
    assert spent["spent_usd"] == pytest.approx(job["at_most_usd"] + spent["cost_usd"])
    assert job["at_most_usd"] > job["estimated_usd"] > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unpriced", "no price is known for a-model-of-tomorrow"),
        ("lost", "the adapter nowhere does not exist"),
    ],
)
def test_a_predictor_that_cannot_answer_is_not_run_and_no_file_is_looked_for(hosted, name, reason) -> None:
    _, stage, _ = hosted
    made = stage.predict(name)
    assert made.metadata["status"].startswith("not run: ") and reason in made.metadata["status"]
    assert made.files == () and predictor_status(stage.store, name) == made.metadata["status"]


def test_a_table_of_an_earlier_run_is_not_taken_for_an_answer_when_the_server_died_after_the_check(
    hosted, monkeypatch
) -> None:
    stand_in, stage, _ = hosted
    assert stage.predict("own").metadata["failed"] == 0
    changed = stage.task.model_copy(
        update={"generation": stage.task.generation.model_copy(update={"max_new_tokens": 7})}
    )
    from vlm_pipeline.inference import predictors

    def nobody(*_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    dies = lambda: monkeypatch.setattr(predictors.socket, "create_connection", nobody)  # noqa: E731
    gone = stage.predict("own", changed, before=dies)
    assert gone.metadata["status"].startswith("not run: no server answers") and gone.files == ()
    monkeypatch.undo()
    for key, value in environment("http://unused", stand_in.key).items():
        monkeypatch.setenv(key, value)
    back = stage.predict("own", changed, run_id="next")
    assert back.metadata["failed"] == 0 and not back.reused, (
        "the server is back: nobody may remember that it was away"
    )


def test_answers_of_one_server_are_not_remembered_as_those_of_another(hosted) -> None:
    _, stage, at = hosted
    first = stage.predict("small")
    assert stage.predict("small").reused
    with serving() as (other, url):
        at(url)
        second = stage.predict("small")
        assert not second.reused and other.requests["completions"] == second.metadata["asked"] > 0
    assert first.data_version != second.data_version, "the table says where it comes from"


def test_several_fine_tunes_keep_apart_and_each_finds_its_own_job(hosted) -> None:
    stand_in, stage, _ = hosted
    for _ in range(2):
        for name in ("ft_one", "ft_two"):
            stage.fine_tune(name)
    assert len(stand_in.jobs) == 2
    models = {name: stage.info(name)["fine_tuned_model"] for name in ("ft_one", "ft_two")}
    assert models["ft_one"].startswith("ft:gpt-4o-2024") and models["ft_two"].startswith("ft:gpt-4o-mini")
    assert stage.store.path("openai", "fine_tune_info.json").is_file(), "the first one keeps the plain name"
    assert stage.predict("ft_two").metadata["failed"] == 0
    assert {model for model, *_ in stand_in.paid.values()} == {models["ft_two"]}


@pytest.mark.parametrize(
    ("name", "usd", "reason"),
    [("ft_one", 0.001, "raise budget.money_usd"), ("ft_none", 5, "no training price")],
)
def test_a_fine_tune_that_cannot_be_paid_is_not_run_and_neither_is_its_model(
    hosted, name, usd, reason
) -> None:
    stand_in, stage, _ = hosted
    made = stage.fine_tune(name, poor(stage.task, usd))
    assert made.metadata["status"].startswith("not run: ") and reason in made.metadata["status"]
    assert stage.info(name)["status"] == "not run" and not stand_in.files
    assert stage.predict(name).metadata["status"] == made.metadata["status"]


def test_files_that_are_missing_or_a_server_that_is_gone_stop_no_loop(hosted, monkeypatch) -> None:
    stand_in, stage, at = hosted
    monkeypatch.setattr("vlm_pipeline.inference.patience.backoff_s", lambda *_, **__: 0.0)
    at("http://127.0.0.1:9")
    gone = stage.fine_tune("ft_one").metadata["status"]
    assert gone.startswith("not run: ") and "127.0.0.1" in gone and "Connection" in gone
    stage.store.path("openai", "train_with_images.jsonl").unlink()
    assert "materialize openai_jsonl first" in stage.fine_tune("ft_one").metadata["status"]
    assert not stand_in.jobs


def test_a_model_tuned_on_other_rows_never_stands_in_for_a_refused_job(hosted) -> None:
    """The job of new rows is too expensive: the model of the old rows is no answer to the question that is asked."""
    stand_in, stage, _ = hosted
    stage.fine_tune("ft_one")
    old = stage.info("ft_one")["fine_tuned_model"]
    assert stage.predict("ft_one").metadata["failed"] == 0
    train = stage.store.path("openai", "train_with_images.jsonl")
    write_rows(train, word="other")
    refused = stage.fine_tune("ft_one", poor(stage.task, 0.001)).metadata["status"]
    assert stage.predict("ft_one").metadata["status"] == refused
    assert [past["fine_tuned_model"] for past in stage.info("ft_one")["history"]] == [old]
    write_rows(train)
    stage.fine_tune("ft_one")
    assert stage.info("ft_one")["fine_tuned_model"] == old and len(stand_in.jobs) == 1, (
        "found again, not paid again"
    )


def test_a_service_that_is_away_loses_no_job(hosted) -> None:
    stand_in, stage, _ = hosted
    stage.fine_tune("ft_one")
    before = stage.info("ft_one")
    stand_in.key = "changed"
    made = stage.fine_tune("ft_one")
    assert made.metadata["job"] == before["job_id"] and stage.info("ft_one") == before


@pytest.mark.parametrize(
    ("kind", "place", "label"),
    [
        ("small", "http://127.0.0.1:8000/v1", "stand-in on 127.0.0.1"),
        ("small", "http://[::1]:80/v1", "stand-in on ::1"),
        ("small", "http://anything.localhost/v1", "stand-in on anything.localhost"),
        ("small", "https://api.openai.com/v1", ""),
        ("own", "https://my-gpu.example.com/v1", ""),
    ],
)
def test_a_providers_model_that_this_machine_answers_for_is_a_stand_in(
    hosted, monkeypatch, kind, place, label
) -> None:
    _, stage, _ = hosted
    monkeypatch.setenv("OPENAI_BASE_URL", place)
    settings = next(one for one in stage.task.predictors if one.name == kind)
    changed = settings.model_copy(update={"base_url": place}) if kind == "own" else settings
    assert label_of(changed, None) == label


def test_the_stand_in_is_known_also_behind_a_server_of_ones_own_and_named_with_the_answers(hosted) -> None:
    """A compatible server on this machine is usually the user's own model: only one that says so is a stand-in."""
    server, stage, _ = hosted
    for name in ("own", "small"):
        assert stage.predict(name).metadata["stand_in"] == "stand-in on 127.0.0.1"
        assert (
            read_about(stage.store.path("predictions", f"{name}.parquet"))["stand_in"]
            == "stand-in on 127.0.0.1"
        )
    settings = next(one for one in stage.task.predictors if one.name == "own")
    server.owner = "vllm"
    client = OpenAI(api_key=server.key, base_url=settings.base_url)
    assert label_of(settings, client) == ""
