"""Judged metrics against a judge on loopback, through DeepEval and the official clients."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.scoring.agreement import krippendorff_alpha
from vlm_pipeline.scoring.comparison import compare
from vlm_pipeline.scoring.judge import judge_table
from vlm_pipeline.settings.judging import (
    FaithfulnessSettings,
    GEvalSettings,
    JudgeSettings,
    JudgingSettings,
    RelevancySettings,
)
from vlm_pipeline_tests.scoring.rows import conditions, formatted, predictions
from vlm_pipeline_tests.servers.judge import Asked, JudgeServer, agreeable

REFUSAL = "I'm sorry, but I can't help with that request."
GEVAL = GEvalSettings(evaluation_steps=["Compare with the expected output."])


@pytest.fixture
def server():
    with JudgeServer() as running:
        yield running


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "anthropic-key")


def judge(server, provider="openai", **options) -> JudgeSettings:
    url = server.root if provider == "anthropic" else server.url
    price = {"input": 1.0, "output": 2.0}
    return JudgeSettings(
        provider=provider,
        model="judge-2026-01-01",
        base_url=url,
        **{"attempts": 1, "price": price, **options},
    )


def settings(*judges, metrics=(GEVAL,), **options) -> JudgingSettings:
    return JudgingSettings(judges=list(judges), metrics=list(metrics), **options)


def judged(tmp_path, wanted, texts, *, usd=1.0, **columns):
    rows = [row | columns for row in formatted(len(texts))]
    return table_of(tmp_path, wanted, rows, predictions(rows, "tuned", texts), usd=usd)


def table_of(tmp_path, wanted, rows, table, *, usd=1.0, **options):
    return judge_table(wanted, rows, table, cache_folder=tmp_path, budget=Budget(usd), **options)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "openai_compatible"])
def test_every_metric_through_every_client(server, tmp_path, provider):
    metrics = (RelevancySettings(), FaithfulnessSettings(), GEvalSettings())
    table, summary = judged(tmp_path, settings(judge(server, provider), metrics=metrics), ["It is 65 Nm."])
    assert {row["scorer"]: row["headline"] for row in table} == {
        "relevancy": 1.0,
        "faithfulness": 1.0,
        "correctness": 0.8,
    }
    assert all(row["status"] == "scored" for row in table)
    calls = server.questions()
    # DeepEval 4.3: relevancy asks 3 times, faithfulness 4 times, GEval twice
    assert (
        len(calls) == 9 and calls.count("verdicts") == 2 and calls.count("steps") == calls.count("score") == 1
    )
    assert {one.model for one in server.asked} == {"judge-2026-01-01"}
    assert server.asked[0].key == (
        "anthropic-key" if provider == "anthropic" else "openai-key" if provider == "openai" else "none"
    )
    assert server.asked[0].body["temperature"] == 0
    assert server.asked[0].body.get("response_format") == (
        None if provider == "anthropic" else {"type": "json_object"}
    )
    assert summary["usage"]["calls"] == 9 and summary["usage"]["tokens_in"] == 9000
    assert summary["usage"]["cost_usd"] == pytest.approx(9 * (1000 * 1.0 + 100 * 2.0) / 1e6)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_judge_sees_the_picture(server, tmp_path, provider):
    path = tmp_path / "page.png"
    Image.new("RGB", (20, 10), (200, 30, 30)).save(path)
    table, _ = judged(tmp_path, settings(judge(server, provider)), ["It is red."], images=[str(path)])
    assert table[0]["headline"] == 0.8
    assert server.asked[0].images == [path.read_bytes()]
    assert "DEEPEVAL:IMAGE" not in server.asked[0].text


def test_pictures_do_not_pile_up_in_memory(server, tmp_path):
    """DeepEval registers every picture it was ever shown."""
    from deepeval.test_case.llm_test_case import _MLLM_IMAGE_REGISTRY

    path = tmp_path / "page.png"
    Image.new("RGB", (20, 10)).save(path)
    before = len(_MLLM_IMAGE_REGISTRY)
    judged(tmp_path, settings(judge(server)), ["It is 1.", "It is 2."], images=[str(path)])
    assert len(_MLLM_IMAGE_REGISTRY) == before


def test_an_unreadable_picture_costs_its_row_and_no_other(server, tmp_path):
    rows = formatted(2)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows[0]["images"] = [str(tmp_path / "broken.png")]
    table, _ = table_of(
        tmp_path, settings(judge(server)), rows, predictions(rows, "m", ["It is 1.", "It is 2."])
    )
    assert [row["status"] for row in table] == ["unscored", "scored"] and "cannot be read" in table[0][
        "detail"
    ]


def test_answers_are_cached_by_content_and_not_by_name(server, tmp_path):
    """DeepEval marks a picture by a random id: a cache keyed by the prompt as it is would never hit."""
    first, second = tmp_path / "a.png", tmp_path / "copy of a.png"
    Image.new("RGB", (20, 10), (200, 30, 30)).save(first)
    second.write_bytes(first.read_bytes())
    wanted = settings(judge(server))
    before, _ = judged(tmp_path, wanted, ["It is red."], images=[str(first)])
    after, summary = judged(tmp_path, wanted, ["It is red."], images=[str(second)])
    assert after == before and len(server.asked) == 1
    assert summary["usage"] == {"calls": 0, "cache_hits": 1, "tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0}
    Image.new("RGB", (20, 10), (200, 30, 31)).save(second)
    judged(tmp_path, wanted, ["It is red."], images=[str(second)])
    assert len(server.asked) == 2


def test_refusals_are_scored_before_the_judge(server, tmp_path):
    """Without claims DeepEval gives a refusal 1.0 for faithfulness and for relevancy."""
    table, summary = judged(
        tmp_path, settings(judge(server), metrics=(RelevancySettings(), FaithfulnessSettings())), [REFUSAL]
    )
    assert [(row["headline"], row["failure"], row["rule"]) for row in table] == [
        (0.0, "refusal", "refused")
    ] * 2
    assert server.asked == []
    assert summary["metrics"]["relevancy"]["judges"]["judge-2026-01-01"]["n_refused"] == 1


def test_a_refusal_is_right_where_the_gold_answer_refuses(server, tmp_path):
    table, _ = judged(tmp_path, settings(judge(server)), [REFUSAL], answer=REFUSAL)
    assert table[0]["headline"] == 1.0 and table[0]["failure"] is None


@pytest.mark.parametrize(
    ("metric", "question", "reply"),
    [
        (GEVAL, "score", {"score": 15, "reason": "splendid"}),
        (GEVAL, "score", {"score": -3, "reason": "dreadful"}),
        (GEVAL, "score", {"reason": "I forgot the score"}),
        (GEVAL, "score", "eight out of ten"),
        (RelevancySettings(), "verdicts", {"verdicts": [{"verdict": "maybe"}]}),
    ],
)
def test_invalid_judgements_are_no_scores(tmp_path, metric, question, reply):
    with JudgeServer(lambda asked: reply if asked.question == question else agreeable(asked)) as server:
        table, _ = judged(tmp_path, settings(judge(server), metrics=(metric,)), ["It is 65 Nm."])
    assert table[0]["status"] == "unscored" and table[0]["headline"] is None
    assert table[0]["values"]["score"] is None and "judge-2026-01-01" in table[0]["detail"]


def test_an_outage_costs_its_row_and_no_other(server, tmp_path):
    server.failures = [500]
    table, _ = judged(tmp_path, settings(judge(server), concurrency=1), ["It is 1 Nm.", "It is 2 Nm."])
    assert [row["status"] for row in table] == ["unscored", "scored"]
    assert "InternalServerError" in table[0]["detail"]
    again, _ = judged(tmp_path, settings(judge(server), concurrency=1), ["It is 1 Nm.", "It is 2 Nm."])
    assert [row["status"] for row in again] == ["scored", "scored"]


def test_the_client_retries_what_can_be_retried(server, tmp_path):
    server.failures = [429]
    table, _ = judged(tmp_path, settings(judge(server, attempts=3)), ["It is 1 Nm."])
    assert table[0]["status"] == "scored"


def test_failed_requests_of_the_predictor_are_errors_and_not_judged(server, tmp_path):
    table, summary = judged(tmp_path, settings(judge(server)), [None])
    assert (table[0]["status"], table[0]["detail"]) == ("error", "timeout") and server.asked == []
    assert summary["n_left_out"] == 1


@pytest.mark.parametrize("given", [[], [JudgeSettings(provider="anthropic", model="m")]])
def test_no_usable_judge_is_not_run_and_no_number(tmp_path, monkeypatch, given):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    table, summary = judged(tmp_path, settings(*given), ["It is 65 Nm."])
    assert table == [] and summary["status"].startswith("not run: ")
    assert ("ANTHROPIC_API_KEY is not set" in summary["status"]) == bool(given)


def test_no_call_is_made_that_the_budget_of_the_run_may_not_pay(server, tmp_path):
    """Six at once: what is promised counts, and the ledger is the one that the run's hosted predictors use."""
    ledger = tmp_path / "spend" / "run.jsonl"
    other = Budget(0.0100, ledger)
    other.settle(other.reserve(0.004), 0.004)  # a hosted predictor of the same run
    rows = formatted(6)
    table, summary = judge_table(
        settings(judge(server, max_tokens=2000), concurrency=6), rows,
        predictions(rows, "tuned", [f"It is {i} Nm." for i in range(6)]),
        cache_folder=tmp_path, budget=Budget(0.0100, ledger),
    )  # fmt: skip
    scored = sum(row["status"] == "scored" for row in table)
    assert 1 <= scored < 6 and summary["usage"]["calls"] == scored == len(server.asked)
    assert Budget(1, ledger).spent_usd == pytest.approx(0.004 + 0.0012 * scored) and other.spent_usd <= 0.0100
    assert summary["n_silent"] == 6 - scored
    assert all("USD" in row["detail"] for row in table if row["status"] == "unscored")


@pytest.mark.parametrize(
    ("options", "usd", "why"),
    [
        ({}, 0.0, "not run: the task may spend nothing (budget.money_usd is 0)"),
        ({"price": None}, 1.0, "not run: no price is known for judge-2026-01-01"),
    ],
)
def test_a_judge_that_may_not_be_paid_or_has_no_price_is_not_run(server, tmp_path, options, usd, why):
    table, summary = judged(tmp_path, settings(judge(server, **options)), ["It is 1 Nm."], usd=usd)
    assert table == [] and summary["status"].startswith(why) and server.asked == []


def test_a_server_of_ones_own_without_a_price_costs_nothing(server, tmp_path):
    own = judge(server, "openai_compatible", price=None)
    table, summary = judged(tmp_path, settings(own), ["It is 1 Nm."], usd=0.0)
    assert table[0]["status"] == "scored" and summary["usage"]["cost_usd"] == 0.0


def test_no_key_leaves_with_a_judges_refusal(tmp_path, monkeypatch, caplog):
    """Providers repeat the key that they refuse."""
    monkeypatch.setenv("JUDGE_KEY", "secret-key-of-the-judge")

    class Refusing(JudgeServer):
        def _answer(self, body, parts, images, key):
            return 401, f"Incorrect API key provided: {key}"

    with Refusing() as server:
        wanted = settings(judge(server, "openai_compatible", api_key_env="JUDGE_KEY"))
        table, summary = judged(tmp_path, wanted, ["It is 1 Nm.", "It is 2 Nm."])
    assert [row["status"] for row in table] == ["unscored"] * 2 and "Incorrect API key" in table[0]["detail"]
    assert summary["n_silent"] == 2
    assert "secret-key" not in json.dumps([table, summary]) + caplog.text


@pytest.mark.parametrize("model", ["gpt-4o-latest", "claude-3-5-sonnet-latest", "models/judge:latest"])
def test_an_alias_that_moves_is_no_judge(model):
    with pytest.raises(ValueError, match="alias that moves"):
        JudgeSettings(provider="openai", model=model)


def test_a_name_without_a_date_is_told_apart():
    def dated(model, provider="openai", **options):
        return JudgeSettings(provider=provider, model=model, **options).dated

    assert dated("gpt-4o-2024-08-06") and dated("claude-sonnet-4-20250514", "anthropic")
    assert not dated("gpt-4o") and not dated("claude-sonnet-4", "anthropic")
    assert dated("qwen", "openai_compatible", base_url="http://127.0.0.1:1/v1")


def test_the_version_follows_the_code_of_judging(monkeypatch):
    from vlm_pipeline.scoring import row_scorers
    from vlm_pipeline.scoring.judge import judge_version

    pinned = [JudgeSettings(provider="openai", model="judge-2026-01-01")]
    before, source = judge_version(GEVAL, pinned), row_scorers._source
    assert before == judge_version(GEVAL.model_copy(update={"threshold": 0.9}), pinned)
    for module in ("judge_bench", "judge_models", "refusals"):
        with monkeypatch.context() as patch:
            patch.setattr(
                row_scorers,
                "_source",
                lambda name, module=module: source(name) + "# changed" * (name == module),
            )
            assert judge_version(GEVAL, pinned) != before


def test_several_judges_and_their_agreement(tmp_path):
    def strict_or_kind(asked: Asked):
        number = int(asked.text.rsplit("It is ", 1)[1].split()[0])
        return {"score": number - (2 if asked.model == "strict" else 0), "reason": "x"}

    with JudgeServer(strict_or_kind) as server:
        two = [
            JudgeSettings(provider="openai_compatible", model=name, base_url=server.url)
            for name in ("kind", "strict")
        ]
        table, summary = judged(tmp_path, settings(*two), [f"It is {i} Nm." for i in (2, 5, 8, 9)])
    assert [row["headline"] for row in table] == pytest.approx([0.1, 0.4, 0.7, 0.8])
    expected = krippendorff_alpha([[0.2, 0.5, 0.8, 0.9], [0.0, 0.3, 0.6, 0.7]])
    assert summary["metrics"]["correctness"]["agreement"]["krippendorff_alpha"] == pytest.approx(expected)


def test_the_judges_own_noise(tmp_path):
    scores = iter([6, 8, 6, 8, 6, 8])
    with JudgeServer(lambda asked: {"score": next(scores), "reason": "mood"}) as server:
        _, summary = judged(
            tmp_path, settings(judge(server), repeats=2, concurrency=1), [f"It is {i} Nm." for i in range(1)]
        )
    noise = summary["metrics"]["correctness"]["noise"]
    assert noise["sd"] == pytest.approx(0.2 / 2**0.5) and noise["flipped_share"] == 1.0


def test_calibration_against_people(tmp_path, server):
    lines = [
        {"question": "q", "answer": f"It is {i} Nm.", "expected": "8 Nm", "label": i % 2} for i in range(4)
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = formatted(1)
    _, summary = table_of(
        tmp_path,
        settings(judge(server), calibration="labels.jsonl"),
        rows,
        predictions(rows, "tuned", ["It is 9 Nm."]),
        task_folder=tmp_path,
    )
    report = summary["calibration"]["metrics"]["correctness"]["judge-2026-01-01"]
    assert report["n_scored"] == 4 and report["same_side_of_threshold"]["estimate"] == 0.5
    assert report["mae"]["estimate"] == pytest.approx(0.5)


def test_a_bad_calibration_line_is_named(tmp_path, server):
    (tmp_path / "labels.jsonl").write_text('{"question": "q", "answer": "a", "label": 7}')
    with pytest.raises(ValueError, match=r"labels.jsonl, line 1: label 7 is outside 0 to 1"):
        wanted = settings(judge(server), calibration="labels.jsonl")
        table_of(tmp_path, wanted, [], [], task_folder=tmp_path)


def test_judged_rows_compare_like_any_other(server, tmp_path):
    rows = formatted(24)
    table = predictions(rows, "base", [REFUSAL] * 24) + predictions(rows, "tuned", ["It is 65 Nm."] * 24)
    scores, _ = table_of(tmp_path, settings(judge(server)), rows, table)
    found = compare(scores, table, base="base", conditions=dict.fromkeys(("base", "tuned"), conditions()))
    assert found["decision"]["verdict"] == "better" and found["headline"]["metric"] == "score"


def test_a_sample_of_rows_is_the_same_for_every_predictor(server, tmp_path):
    rows = formatted(20)
    table = predictions(rows, "base", ["It is 1."] * 20) + predictions(rows, "tuned", ["It is 2."] * 20)
    scores, summary = table_of(tmp_path, settings(judge(server), max_rows=6), rows, table)
    chosen = {name: {row["id"] for row in scores if row["predictor"] == name} for name in ("base", "tuned")}
    assert chosen["base"] == chosen["tuned"] and len(chosen["base"]) == 6
    assert {row["section"] for row in scores} == {"a", "b"} and summary["n_cases"] == 12


def test_krippendorff_published_example():
    """Krippendorff 2011, example C: four observers, twelve units, missing values."""
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    assert krippendorff_alpha(table) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(table, level="nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None
