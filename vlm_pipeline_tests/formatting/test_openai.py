"""OpenAI fine-tuning files: what is written passes the validator, and every documented limit has a broken file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.estimates import hosted_fine_tune, image_tokens
from vlm_pipeline.examples.seen import SeenKeys
from vlm_pipeline.formatting import format_section, load_processor
from vlm_pipeline.formatting.openai_jsonl import write_openai_jsonl
from vlm_pipeline.formatting.openai_report import max_tokens
from vlm_pipeline.formatting.openai_validator import AZURE, OPENAI, Limits, validate_jsonl
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline_tests.formatting.worlds import asked, dialogue, picture, picture_model
from vlm_pipeline_tests.formatting.worlds import example as row_of


def uri(
    kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (32, 32), media: str | None = None
) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    media = media or f"image/{kind.lower()}"
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def example(number: int = 0, url: str | None = None) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"What is {number}?"}]
    if url:
        parts.append({"type": "image_url", "image_url": {"url": url, "detail": "high"}})
    return {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a thing"}]}


def write(folder: Path, lines: list[Any]) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def rules(folder: Path, lines: list[Any], limits: Limits = OPENAI, **more: Any) -> set[str]:
    report = validate_jsonl(write(folder, lines), limits=limits, **more)
    return {finding.rule for finding in report.blocking}


def edit(change: Callable[[dict[str, Any]], Any]) -> list[Any]:
    broken = example(0, uri())
    change(broken)
    return [broken, *map(example, range(1, 12))]


def test_a_good_file_has_no_problem(tmp_path: Path) -> None:
    lines = [
        example(number, uri(kind, mode))
        for number, (kind, mode) in enumerate([("PNG", "RGB"), ("JPEG", "RGB"), ("WEBP", "RGBA")] * 4)
    ]
    report = validate_jsonl(write(tmp_path, lines))
    assert report.blocking == [] and report.examples == report.image_examples == report.images == 12
    assert [finding.rule for finding in report.findings] == [
        "people"
    ]  # what no offline check can know is said


BROKEN: dict[str, list[Any]] = {
    "json": [b"{not json", *map(example, range(12))],
    "messages": [[], {"messages": []}, *map(example, range(12))],
    "empty_line": [b"", *map(example, range(12))],
    "min_examples": [example(i) for i in range(9)],
    "unknown_key": edit(lambda e: e.update(metadata={"id": 1})),
    "role": edit(lambda e: e["messages"].insert(0, {"role": "human", "content": "?"})),
    "weight": edit(lambda e: e["messages"][1].update(weight=0.5)),
    "last_message": edit(lambda e: e["messages"].append({"role": "user", "content": "?"})),
    "no_answer": edit(lambda e: e["messages"][1].update(weight=0)),
    "content": edit(lambda e: e["messages"][1].update(content="")),
    "image_role": edit(lambda e: e["messages"][1].update(content=[{"type": "image_url", "image_url": {"url": uri()}}])),
    "image_format": edit(lambda e: e["messages"][0]["content"][1]["image_url"].update(url=uri("BMP"))),
    "image_mode": edit(lambda e: e["messages"][0]["content"][1]["image_url"].update(url=uri("PNG", "L"))),
    "image_url": edit(lambda e: e["messages"][0]["content"][1]["image_url"].update(url="images/page.png")),
    "image": edit(lambda e: e["messages"][0]["content"][1]["image_url"].update(detail="huge")),
    "max_images": edit(lambda e: e["messages"][0].update(content=[{"type": "image_url", "image_url": {"url": "https://e.x/p.png"}}] * 11)),
    "tokens": edit(lambda e: e["messages"][0]["content"][0].update(text="word " * 60_000)),
    "name": edit(lambda e: e["messages"][0].update(name="a b")),
    "tools": edit(lambda e: e.update(tools=[{"type": "function", "function": {"name": "math.factorial"}}])),
    "tool_calls": edit(lambda e: e["messages"][1].update(tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}])),
    "model_images": [example(0, uri()), *map(example, range(1, 12))],
    "functions": edit(lambda e: e.update(functions=7)),
    "function_call": edit(lambda e: e["messages"][1].update(function_call=7)),
    "parallel_tool_calls": edit(lambda e: e.update(parallel_tool_calls="yes")),
    "tool_call_id": edit(lambda e: e["messages"].insert(1, {"role": "tool", "tool_call_id": "c9", "content": "1"})),
    "encoding": [b"\xef\xbb\xbf" + json.dumps(example()).encode(), *map(example, range(1, 12))],
}  # fmt: skip


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_each_documented_limit_is_found(rule: str, tmp_path: Path) -> None:
    model = "gpt-3.5-turbo-0125" if rule == "model_images" else "gpt-4o-2024-08-06"
    assert rules(tmp_path, BROKEN[rule], model=model) == {rule}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = {"role": "user", "content": "Torque?"}
SAID = {"role": "assistant", "content": "31 Nm"}


def calling(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name != key}


RESULT = {"role": "tool", "tool_call_id": "c1", "content": "31"}
TURNS: dict[str, tuple[str, dict[str, Any]]] = {
    "call without id": ("tool_calls", {"messages": [ASKED, calling(without(CALL, "id"))], "tools": [TOOL]}),
    "call without type": ("tool_calls", {"messages": [ASKED, calling(without(CALL, "type"))], "tools": [TOOL]}),
    "unanswered call": ("tool_calls", {"messages": [ASKED, calling(CALL), ASKED, SAID], "tools": [TOOL]}),
    "one of two answered": ("tool_calls", {"messages": [ASKED, calling(CALL, {**CALL, "id": "c2"}), RESULT, SAID], "tools": [TOOL]}),
    "arguments are a list": ("tool_calls", {"messages": [ASKED, calling({**CALL, "function": {"name": "f", "arguments": "[1]"}})], "tools": [TOOL]}),
    "tool of another type": ("tools", {"messages": [ASKED, SAID], "tools": [{**TOOL, "type": "retrieval"}]}),
    "two tools of one name": ("tools", {"messages": [ASKED, SAID], "tools": [TOOL, TOOL]}),
    "parameters are text": ("tools", {"messages": [ASKED, SAID], "tools": [{**TOOL, "function": {"name": "f", "parameters": "x"}}]}),
    "empty text part": ("content", {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}, SAID]}),
    "GIF by URL": ("image_format", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://e.x/a.gif?v=1"}}]}, SAID]}),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
def test_turns_and_tools_that_the_api_refuses_are_found(name: str, tmp_path: Path) -> None:
    rule, line = TURNS[name]
    assert rules(tmp_path, [line, *map(example, range(1, 12))]) == {rule}


def test_turns_that_the_api_takes_give_no_problem(tmp_path: Path) -> None:
    lines = [
        {"messages": [ASKED, calling(CALL)], "tools": [TOOL]},  # the call is what is learned
        {"messages": [ASKED, calling(CALL), RESULT, SAID], "tools": [TOOL], "parallel_tool_calls": False},
        {"messages": [ASKED, calling(CALL), RESULT, ASKED, SAID]},  # the model may learn tools by heart
        {"messages": [{"role": "system", "content": "Greet."}, SAID]},
    ]
    report = validate_jsonl(write(tmp_path, [*lines, *map(example, range(1, 12))]))
    assert report.blocking == []
    assert [(f.rule, f.line) for f in report.findings] == [("no_tools", 3), ("no_user", 4)]


def test_the_length_of_an_example_is_that_of_the_model(tmp_path: Path) -> None:
    lines = edit(lambda e: e["messages"][0].update(content="word " * 25_000))
    assert rules(tmp_path, lines) == set()
    assert rules(tmp_path, lines, model="gpt-3.5-turbo-0125") == {"tokens"}


def test_sizes_and_counts_beyond_the_limits_are_found(tmp_path: Path) -> None:
    lines = [example(number, uri()) for number in range(12)]
    assert rules(tmp_path, lines, Limits(max_file_bytes=1000)) == {"file_size"}
    assert rules(tmp_path, lines, Limits(max_image_bytes=20)) == {"image_size"}
    assert rules(tmp_path, lines, Limits(max_image_examples=11)) == {"max_image_examples"}
    assert rules(tmp_path, BROKEN["max_images"], AZURE) == set()  # Azure takes 64 pictures an example
    assert rules(tmp_path, [example()], validation=True) == set()  # a validation file may be small


def test_a_long_example_is_counted_up_to_where_it_is_cut(tmp_path: Path) -> None:
    report = validate_jsonl(write(tmp_path, BROKEN["tokens"]))
    most = max_tokens("gpt-4o-2024-08-06")
    assert report.longest > most > report.tokens - 12 * 1000 > most - 12 * 1000


def test_a_data_uri_may_not_lie_about_its_format(tmp_path: Path) -> None:
    lines = [example(0, uri("JPEG", media="image/png")), *map(example, range(1, 12))]
    report = validate_jsonl(write(tmp_path, lines))
    assert [(finding.rule, finding.line) for finding in report.blocking] == [("image_format", 1)]


def test_duplicates_within_and_across_files_are_reported_but_do_not_block(tmp_path: Path) -> None:
    known = SeenKeys()
    first = validate_jsonl(write(tmp_path, [example(i % 11) for i in range(12)]), known_lines=known)
    second = validate_jsonl(write(tmp_path, [example(3)]), validation=True, known_lines=known)
    for report in (first, second):
        assert [(f.rule, f.blocking) for f in report.findings] == [("duplicate", False)]


def test_hostile_lines_are_findings_never_crashes(tmp_path: Path) -> None:
    lines = [
        b"[" * 100_000,
        b"\xff\xfe",
        b"null",
        b'{"messages": [1, null, {"role": {}, "content": {"a": 1}}]}',
        b'{"messages": [{"role": "user", "content": [null, {"type": "image_url", "image_url": "x"}]}], "tools": 7}',
        json.dumps({"messages": [{"role": "assistant", "content": "\ud800", "tool_calls": "x"}]}).encode(),
        example(1, "data:image/png;base64,!!!!"),
        example(2, "data:image/png;base64," + base64.b64encode(b"not a picture").decode()),
    ]
    report = validate_jsonl(write(tmp_path, lines))
    assert {finding.line for finding in report.blocking if finding.line} == set(range(1, 9))


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    from PIL import Image

    processor = load_processor(picture_model(tmp_path / "model"))
    grey = picture(tmp_path, "grey.png")
    Image.new("L", (84, 56), 90).save(grey.path)
    rows = [
        asked(f"r{i}", f"Torque {i}?", f"{i} Nm", grey if i % 2 else picture(tmp_path, "page.png"))
        for i in range(12)
    ]
    rows += [
        asked("v", "Gap?", "1 mm", split="val"),
        asked("t", "Test?", "2 mm", split="test"),
        dialogue("talk"),
    ]
    format_section(rows, processor, PromptSettings(), tmp_path / "torque.parquet")
    return [tmp_path / "torque.parquet"]


def test_written_files_pass_the_validator_and_say_what_training_says(
    tables: list[Path], tmp_path: Path
) -> None:
    files = write_openai_jsonl(tables, tmp_path / "openai", PromptSettings(supervise="last"))
    assert {name: found.rows for name, found in files.items()} == {
        "train_with_images": 13, "train_text_only": 13, "val_with_images": 1, "val_text_only": 1,
    }  # fmt: skip
    for name, found in files.items():
        report = validate_jsonl(found.path, validation=name.startswith("val"))
        assert [str(finding) for finding in report.blocking] == []  # the grey page was turned into RGB
    lines = [json.loads(line) for line in files["train_with_images"].path.read_text().splitlines()]
    assert [m.get("weight") for m in lines[-1]["messages"] if m["role"] == "assistant"] == [0, 0, None]
    text = [json.loads(line) for line in files["train_text_only"].path.read_text().splitlines()]
    assert text[0]["messages"][0]["content"] == "Torque 0?" and "image_url" not in json.dumps(text)
    served = write_openai_jsonl(
        tables, tmp_path / "urls", PromptSettings(), lambda path: f"https://e.x/{Path(path).name}"
    )
    assert "https://e.x/page.png" in served["train_with_images"].path.read_text()


def test_an_answer_of_weight_0_has_it_in_the_file_too(tmp_path: Path) -> None:
    turns = [
        ("user", "Q?"),
        ("assistant", {"content": "wrong", "weight": 0}),
        ("user", "Sure?"),
        ("assistant", "right"),
    ]
    table = tmp_path / "t.parquet"
    processor = load_processor(picture_model(tmp_path / "model"))
    format_section([row_of("w", turns)], processor, PromptSettings(), table)
    files = write_openai_jsonl([table], tmp_path / "openai", PromptSettings())
    (line,) = files["train_text_only"].path.read_text().splitlines()
    assert [m.get("weight") for m in json.loads(line)["messages"]] == [None, 0, None, None]


def test_provider_image_rules_match_their_published_examples() -> None:
    assert image_tokens("gpt-4o", 1024, 1024) == 765
    assert image_tokens("gpt-4o", 2048, 4096) == 1105
    assert image_tokens("gpt-4o", 4096, 8192, "low") == 85
    assert image_tokens("gpt-4.1-mini", 1024, 1024) == 1659  # 1024 patches x 1.62
    assert image_tokens("gpt-4.1-nano", 1800, 2400) == 3572  # 1452 patches x 2.46


def test_price_of_a_hosted_fine_tune_is_tokens_times_epochs() -> None:
    estimate = hosted_fine_tune(1000, 1_000_000, usd_per_million=25.0)
    assert (estimate.epochs, estimate.billed_tokens, estimate.cost_usd) == (3, 3_000_000, 75.0)
    assert hosted_fine_tune(10, 500, None, epochs=2).billed_tokens == 1000
