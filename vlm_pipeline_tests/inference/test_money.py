"""Budgets, prices and patience of hosted models: what may be spent is never exceeded, whoever spends it."""

from __future__ import annotations

import random
import threading
import time
from email.utils import formatdate

import httpx
import pytest

from vlm_pipeline.inference.budget import Budget, BudgetExhausted
from vlm_pipeline.inference.hosted_run import make_hosted
from vlm_pipeline.inference.limiter import Limiter, backoff_s
from vlm_pipeline.inference.patience import judge_error
from vlm_pipeline.inference.prices import PriceError, price_of
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline_tests.inference.test_hosted import PRICE, ask, asks, collect, predictor_for, settings_for
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving


def test_retry_after_is_obeyed():
    limiter = Limiter(8)
    limiter.refused(0.2)
    started = time.monotonic()
    with limiter.slot():
        assert time.monotonic() - started >= 0.19
    assert limiter.limit == 4
    limiter.refused(None)
    assert limiter.limit == 4, "one burst of 429 halves once"
    for _ in range(100):
        limiter.succeeded()
    assert limiter.limit == 8


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": 60}, 60),
        ({"retry-after": -60}, 0),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "86400"}, 120),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_seconds_milliseconds_and_as_a_date(headers, seconds):
    from openai import RateLimitError

    headers = {
        name: formatdate(time.time() + value, usegmt=True) if isinstance(value, int) else value
        for name, value in headers.items()
    }
    response = httpx.Response(429, headers=headers, request=httpx.Request("POST", "http://localhost"))
    verdict = judge_error(RateLimitError("slowly", response=response, body=None))
    assert verdict.kind == "slower"
    assert verdict.retry_after_s is None if seconds is None else abs(verdict.retry_after_s - seconds) < 5


def test_backoff_is_jittered_and_bounded():
    pauses = [backoff_s(attempt, random.Random(attempt), most=30) for attempt in range(1, 40)]
    assert len(set(pauses)) > 30 and max(pauses) <= 30 and min(pauses) >= 0


def test_the_budget_stops_before_the_next_call():
    rows = asks(30)
    with serving() as (stand_in, url):
        unlimited = predictor_for("chat", url)
        price_of_ten = sum(sorted(unlimited.upper_usd(row.body) for row in rows)[:10])
        budget = Budget(price_of_ten)
        answers = collect(predictor_for("chat", url, budget=budget, concurrency=1), rows)
        paid = sum(answer.cost_usd for answer in answers.values())
        assert budget.spent_usd <= budget.limit_usd and paid <= budget.limit_usd
        assert stand_in.requests.total() == len([one for one in answers.values() if one.error is None]) > 0
    stopped = [answer for answer in answers.values() if answer.error]
    assert len(answers) == 30 and stopped and all("not asked" in (answer.error or "") for answer in stopped)


def test_a_zero_budget_sends_nothing():
    with serving() as (stand_in, url):
        answers = collect(predictor_for("chat", url, budget=Budget(0.0)), asks(3))
        assert stand_in.requests.total() == 0
    assert all("not asked" in (answer.error or "") for answer in answers.values())


def test_the_budget_holds_over_processes_and_counts_lost_calls(tmp_path):
    ledger = tmp_path / "run.jsonl"
    first, second = Budget(1.0, ledger), Budget(1.0, ledger)
    ticket = first.reserve(0.6)
    with pytest.raises(BudgetExhausted):
        second.reserve(0.5)
    first.settle(ticket, 0.1)
    lost = second.reserve(0.5)
    assert Budget(1.0, ledger).spent_usd == pytest.approx(0.6), "an unsettled call counts at its upper bound"
    second.settle(lost, 0.5)
    with pytest.raises(BudgetExhausted):
        first.reserve(0.41)


def test_a_call_costs_no_more_time_or_memory_after_many_others(tmp_path):
    """Sums over all calls made the hundred-thousandth three times as dear as the first."""
    budget, other = (Budget(1000.0, tmp_path / "run.jsonl") for _ in range(2))
    for number in range(300):
        budget.settle(budget.reserve(1.0), 0.5)
        other.reserve(0.25) if number % 100 == 0 else None
    open_call = budget.reserve(2.0)
    assert budget.spent_usd == other.spent_usd == pytest.approx(150 + 0.75 + 2)
    assert budget._open == {open_call: 2.0}, "settled calls are not kept"


def test_the_budget_holds_under_threads():
    budget = Budget(1.0)
    granted = []

    def spend() -> None:
        for _ in range(20):
            try:
                granted.append(budget.reserve(0.03))
            except BudgetExhausted:
                return

    threads = [threading.Thread(target=spend) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(granted) == 33


def test_a_call_is_priced_with_the_tokens_that_it_asks_for():
    """The responses API gives 16 tokens at least, however few are wanted."""
    few = GenerationSettings(max_new_tokens=2)
    prices = {}
    for kind in ("chat", "responses"):
        predictor = make_hosted(settings_for(kind), few, Budget(1.0), env=environment("http://unused"))
        prices[kind] = predictor.upper_usd(ask(1).body)
        body = predictor.api.request(ask(1).body, few)
        assert predictor.api.most_out(few) == body.get("max_output_tokens", body.get("max_completion_tokens"))
    assert prices["responses"] - prices["chat"] == pytest.approx(14 * PRICE["output"] / 1e6)


def test_prices_by_family_override_and_unknown_model(tmp_path):
    assert price_of("gpt-4o-mini-2024-07-18", env={}).input == 0.15
    assert price_of("ft:gpt-4o-mini-2024-07-18:me::abc", env={}).output == 1.20
    assert price_of("gpt-4o", env={}).of(1_000_000, 0, batch=True) == 1.25
    path = tmp_path / "prices.yaml"
    path.write_text("as_of: 2027-01-01\nmodels:\n  gpt-4o: {input: 9, output: 8}\n")
    own = price_of("gpt-4o-2024-11-20", env={"VLM_PIPELINE_PRICES": str(path)})
    assert (own.input, own.as_of) == (9, "2027-01-01")
    with pytest.raises(PriceError, match="some-new-model"):
        price_of("some-new-model", env={})


@pytest.mark.parametrize("text", ["? ! ? ! ?", "1 2 3 4 5 6 7 8", "\U0001f642" * 4, "\u0e01" * 9, "x"])
def test_the_upper_bound_of_a_call_holds_for_every_text(text):
    """The worst vocabulary has a token for every byte; three bytes a token is an average, which such texts exceed."""
    from vlm_pipeline.estimates import text_tokens

    assert text_tokens(text, at_most=True) >= len(text.encode()) > text_tokens(text) - 1
