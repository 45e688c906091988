"""Options of the gate. They are registered here because pytest reads the conftest of the folder it is given first;
`deepeval test run` hands options that it does not know on to pytest."""

from __future__ import annotations

import os

import pytest

from vlm_pipeline.scoring.gate.gate import Gate, GateError


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gate", "stored predictions against the task's bars")
    group.addoption("--task", default=None, help="task folder (holds task.yaml)")
    group.addoption("--store", default=None, help="store root (default: VLM_PIPELINE_STORE)")
    group.addoption(
        "--model", default=None, help="predictor to hold to the bars (default: the first with an adapter)"
    )
    group.addoption("--split", default="test", help="split to score (default: test)")
    group.addoption("--sections", default=None, help="comma-separated sections (default: all)")
    group.addoption("--max-samples", type=int, default=None, help="at most this many rows per section")
    group.addoption("--output", default=None, help="write every figure to this JSON file")
    group.addoption(
        "--demonstrated", action="store_true", help="the whole interval must pass, not the estimate only"
    )
    group.addoption("--each-row", action="store_true", help="one DeepEval test per row besides the bars")
    group.addoption("--confident", action="store_true", help="let DeepEval send results to Confident AI")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--confident"):
        os.environ.pop("CONFIDENT_API_KEY", None)
        os.environ.pop("API_KEY", None)
    try:
        config.stash[GATE] = Gate.from_options(config.getoption)
    except GateError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    gate = metafunc.config.stash[GATE]
    if "bar" in metafunc.fixturenames:
        bars = gate.bars()
        metafunc.parametrize("bar", bars, ids=[bar["name"] for bar in bars])
    if "row" in metafunc.fixturenames:
        rows = gate.rows() if metafunc.config.getoption("--each-row") else []
        metafunc.parametrize("row", rows, ids=[f"{gate.model}-{row['section']}-{row['id']}" for row in rows])


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = session.config.getoption("--output")
    if output and not hasattr(session.config, "workerinput"):
        session.config.stash[GATE].write(output)


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Gate:
    return request.config.stash[GATE]


GATE = pytest.StashKey[Gate]()
