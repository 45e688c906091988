"""Untrusted text in Markdown stays text: judged by a CommonMark parser, not by how the source looks."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from vlm_pipeline.markdown import escape, records_table, table

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = (
    "![x](http://evil.invalid/p.png)",
    "[a](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "a\\|b | c",
    "**b** _i_ `c` ~~s~~ $x$ &lt; &#33;",
    "# heading",
    "- list",
    "1. list",
    "---",
    "```",
    "line\n\n# two",
    "[ref]: http://evil.invalid",
    "trailing \\",
)


def shown(text: str) -> str:
    return " ".join(text.replace("\x00", "\ufffd").split())


def visible(markup: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", markup)).strip()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_stands(text: str) -> None:
    markup = PARSER.render(escape(text))
    assert re.findall(r"<(\w+)", markup) == ["p"]
    assert visible(markup) == shown(text)


# Control characters are left out: parsers differ on them, and none of them is markup.
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\\`*_[]()!|~#<>&\n -+=1.:"))


@settings(max_examples=300, deadline=None)
@given(st.lists(_TEXT, min_size=2, max_size=2))
@example(["\\", "|"])
def test_no_text_leaves_its_cell(cells: list[str]) -> None:
    markup = PARSER.render(table(("first", "second"), [cells]))
    body = markup.split("<tbody>", 1)[1]
    assert set(re.findall(r"<(\w+)", body)) == {"tr", "td"}
    found = re.findall(r"<td[^>]*>(.*?)</td>", body, re.DOTALL)
    assert [visible(cell) for cell in found] == [shown(cell) for cell in cells]


def test_numbers_are_short_and_stand_at_the_right() -> None:
    lines = table(("name", "share"), [("a", 0.123456), ("b", None), ("c", 2.0)]).splitlines()
    assert lines[1] == "| --- | --: |"
    assert lines[2:] == ["| a | 0.1235 |", "| b |  |", "| c | 2 |"]


def test_left_out_rows_are_counted() -> None:
    assert table(("n", "x"), [(n, "") for n in range(2000)], 3).splitlines()[-1] == "| … 1,997 more rows |  |"


def test_records_take_their_columns_from_the_first() -> None:
    assert records_table([]) == "*(empty)*"
    text = records_table([{"row_id": "a", "holds": True}, {"row_id": "b"}])
    assert text.splitlines() == ["| row id | holds |", "| --- | --- |", "| a | yes |", "| b |  |"]


def test_ordinary_sentences_stay_readable() -> None:
    text = "Better: tuned answers 66 % (n 550) exactly, -4.5 points in manual_qa."
    assert escape(text) == text
