from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

from vlm_pipeline.reporting import BuiltReport, ReportInputs
from vlm_pipeline.reporting.cells import excerpt, tidy
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.rows import Answer
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.reporting.synthetic import HOSTILE

FETCHING = ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction", "background")


class _Scan(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append((tag, dict(attrs)))


def _tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    scan = _Scan()
    scan.feed(page)
    return scan.tags


def test_the_page_requests_nothing(page: str) -> None:
    for tag, attributes in _tags(page):
        for name in FETCHING:
            value = attributes.get(name)
            if value:
                beside = value in ("rows.csv", "rows.parquet", "report.xlsx") and tag == "a"
                assert value.startswith(("#", "data:image/")) or beside, (tag, name, value[:80])
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag


def test_no_inline_handler_or_style(page: str) -> None:
    for tag, attributes in _tags(page):
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (
            tag,
            attributes,
        )


def test_policy_is_strict(page: str) -> None:
    policy = next(a["content"] for t, a in _tags(page) if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert policy.count("'sha256-") == 2 and "base-uri 'none'" in policy


def test_hostile_text_never_becomes_a_tag(page: str) -> None:
    assert HOSTILE["script"] not in page and "<img src=x" not in page
    scripts = [a for t, a in _tags(page) if t == "script"]
    assert [a.get("type") for a in scripts] == ["text/plain", "application/json", None]


def test_blocks_stand_in_the_order_of_a_decision(page: str) -> None:
    ids = [a["id"] for t, a in _tags(page) if t == "section"]
    assert ids == [
        "decision",
        "metrics",
        "differences",
        "training",
        "answers",
        "sections",
        "weak",
        "changes",
        "cost",
        "rows",
        "quarantine",
        "provenance",
    ]
    links = [
        a["href"]
        for t, a in _tags(page)
        if t == "a" and str(a.get("href")).startswith("#") and "=" not in a["href"]
    ]
    assert [f"#{i}" for i in ids] == links[1:]


def test_stand_ins_and_absent_predictors_are_named(page: str) -> None:
    assert "is a stand-in (loopback stand-in)" in page
    assert "OPENAI_API_KEY is not set" in page and "the hosted fine-tune job is still running" in page


def test_every_figure_on_the_page_has_a_table_beside_it(page: str, built: BuiltReport) -> None:
    for figure in built.figures:
        after = page.split(f'id="figure-{figure.name}"', 1)[1]
        assert "<table>" in after.split("<figure", 1)[0], figure.name


def test_excerpt_marks_what_was_read_and_leaves_out_the_rest() -> None:
    text = "a" * 2000 + "42" + "b" * 2000
    pieces = excerpt(Answer(text, span=(2000, 2002)))
    assert [kind for _, kind in pieces] == ["", "", "read", "", ""]
    assert pieces[2][0] == "42" and pieces[0][0] == "… " and pieces[-1][0] == " …"
    assert 900 <= sum(len(piece) for piece, _ in pieces) <= 1100
    assert excerpt(Answer("plain")) == [("plain", "")] and excerpt(Answer("")) == []


def test_numbers_that_nothing_bears_out_are_marked_apart_from_what_was_read() -> None:
    text = "48 Nm, then 90 deg; not 77"
    answer = Answer(text, span=(0, 5), flagged=((12, 18), (0, 2), (24, 26), (24, 99), (3, 3)))
    assert [(text[a:b], kind) for a, b, kind in answer.marks()] == [
        ("48", "read flagged"), (" Nm", "read"), ("90 deg", "flagged"), ("77", "flagged"),
    ]  # fmt: skip
    assert "".join(piece for piece, _ in excerpt(answer)) == text
    assert [kind for _, _, kind in answer.marks(cut=10)] == ["read flagged", "read"]


def test_rows_of_a_weak_section_are_shown_with_picture_and_answers(page: str) -> None:
    weak = page.split('id="weak"', 1)[1].split("<section", 1)[0]
    cards = weak.split('<article class="card')[1:]
    assert len(cards) == 2 and "2 val rows that show it" in weak
    for card in cards:
        assert (
            "diagrams-val-0000" in card and 'src="data:image/webp' in card and card.count("answer b-p") == 2
        )


def test_links_to_rows_lead_to_rows_of_the_page(page: str, built: BuiltReport) -> None:
    ids = set(read_json(built.folder / "report.json")["row_ids"])
    linked = {
        unquote(str(a["href"])[5:])
        for t, a in _tags(page)
        if t == "a" and str(a.get("href")).startswith("#row=")
    }
    assert linked and linked <= ids
    assert "fluids-val-gone" in page and "fluids-val-gone" not in linked, (
        "a row that is not here is named, not linked"
    )


def test_the_decision_is_printed_with_labels_and_without_doubling_the_badge(inputs: ReportInputs) -> None:
    view = read_comparison(inputs)
    text = "Better: tuned answers 60 % [46, 73] exactly, base 17 %: +43 points on 60 rows, p < 0.001. Not by format alone: base is read leniently."
    first, more = tidy(replace(view, decision=replace(view.decision, sentence=text)), "Better")
    assert (
        first.replace("\u00a0", " ")
        == "Tuned adapter answers 60 % [46, 73] exactly, Tiny base 17 %: +43 points on 60 rows, p < 0.001."
    )
    assert more == "Not by format alone: Tiny base is read leniently."
    assert "[46,\u00a073]" in first
