"""One Excel workbook: metrics, differences, sections, changes with pictures, costs, rows.

Numbers are numbers, headers carry filters. Text that came from a model or a row is only ever written as a string
cell: `strings_to_formulas`, `strings_to_urls` and `strings_to_numbers` are off and `write_string` is used, so
`=HYPERLINK(...)` is what people read, not what Excel runs. The only links lead to the rows in the report beside the workbook. The bytes depend on the content only.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlm_pipeline.reporting.blocks import Blocks
from vlm_pipeline.reporting.rows import Change, Row
from vlm_pipeline.reporting.thumbnails import Thumbnails
from vlm_pipeline.reporting.view import Comparison, Table, is_number

CELL_LIMIT = 32_767  # characters that Excel keeps in one cell
ROW_LIMIT = 1_048_575
LINK_LIMIT = 60_000  # of 65,530 links that Excel takes in one sheet
_CUT = " … (cut; rows.parquet holds all)"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_EPOCH = datetime(2000, 1, 1)


def write_workbook(
    path: Path,
    view: Comparison,
    rows: Sequence[Row],
    changes: tuple[Sequence[Change], Sequence[Change]],
    thumbnails: Thumbnails,
    blocks: Blocks,
) -> None:
    """Write the workbook to `path` (not atomic; the caller renames)."""
    with _book(path, view.title) as book:
        sheets = _Sheets(book)
        shares = {metric.label for metric in view.metrics if metric.percent}
        sheets.add(
            "Metrics", metrics_table(view), (30, 24, 12, 12, 12, 8, 10, 14), _formats(shares, 0, (2, 3, 4))
        )
        formats = _formats(shares, 2, (4, 5, 6), signed=True, p=(8, 9))
        sheets.add(
            "Differences", differences_table(view), (22, 22, 30, 20, 12, 12, 12, 8, 10, 10, 8, 8, 8), formats
        )
        of_headline = (
            (lambda cells, column: "share" if column in (2, 3, 4) else "")
            if view.headline.percent
            else _plain
        )
        sheets.add("Sections", sections_table(view), (22, 24, 12, 12, 12, 8, 10), of_headline)
        _changes_sheet(sheets, view, changes, thumbnails)
        sheets.add("Costs", blocks.costs, (26,) + (14,) * 12)
        sheets.add(
            "Rows",
            rows_table(view, rows),
            (22, 14, 18, 40, 24, 16, 50, 10, 12, 20, 18, 18, 40, 10, 10, 10, 10, 40, 30, 20),
            links=_report_links(),
        )
        sheets.add(
            "Quarantine",
            blocks.quarantine_rows if blocks.quarantine_rows.rows else blocks.quarantine,
            (30, 24, 70),
        )
        sheets.add("Findings", blocks.findings, (26, 8, 60, 40, 60))


def write_predictions_workbook(
    path: Path, title: str, rows: Sequence[dict[str, Any]], about: dict[str, Any]
) -> None:
    """One prediction table as it lies in the store, and on a second sheet what is recorded beside it (not atomic).

    rows: columns of `inference.prediction.SCHEMA`.
    """
    columns = tuple(rows[0]) if rows else ()
    recorded = tuple(
        (name, json.dumps(value) if isinstance(value, (dict, list)) else value)
        for name, value in about.items()
    )
    with _book(path, title) as book:
        sheets = _Sheets(book)
        lines = tuple(tuple(row.values()) for row in rows)
        sheets.add("Predictions", Table(columns, lines), [50 if name == "text" else 16 for name in columns])
        sheets.add("About", Table(("What", "Value"), recorded), (24, 100))


def _book(path: Path, title: str) -> Any:
    import xlsxwriter

    options = {
        "constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False,
        "nan_inf_to_errors": True,
    }  # fmt: skip
    book = xlsxwriter.Workbook(str(path), options)
    book.set_properties({"title": title, "created": _EPOCH, "comments": "Written by vlm_pipeline"})
    return book


def metrics_table(view: Comparison) -> Table:
    """One line per metric and predictor; shares stay in [0, 1]."""
    lines = []
    for metric in view.metrics:
        for predictor in view.measured:
            e = view.estimates.get((predictor.name, metric.key))
            if e is not None:
                lines.append(
                    (metric.label, predictor.full_label, e.value, e.low, e.high, e.n, e.unscored, e.grade)
                )
    lines += [
        (view.headline.label, p.full_label, None, None, None, None, None, f"{p.status}: {p.reason}")
        for p in view.predictors
        if not p.measured
    ]
    return Table(
        ("Metric", "Predictor", "Estimate", "Low", "High", "n", "Unscored", "Grade or status"), tuple(lines)
    )


def differences_table(view: Comparison) -> Table:
    labels = {p.name: p.full_label for p in view.predictors}
    lines = tuple(
        (
            labels.get(d.predictor, d.predictor), labels.get(d.baseline, d.baseline), view.metric_label(d.metric), d.section or "all rows",
            d.value, d.low, d.high, d.n, d.p, d.p_adjusted, d.wins, d.ties, d.losses,
        )
        for d in view.differences
    )  # fmt: skip
    columns = (
        "Predictor",
        "Compared with",
        "Metric",
        "Section",
        "Difference",
        "Low",
        "High",
        "n",
        "p",
        "p adjusted",
        "Wins",
        "Ties",
        "Losses",
    )
    return Table(columns, lines)


def sections_table(view: Comparison) -> Table:
    lines = []
    for section in view.sections:
        for predictor in view.measured:
            e = view.section_estimates.get((predictor.name, section))
            if e is not None:
                lines.append((section, predictor.full_label, e.value, e.low, e.high, e.n, e.unscored))
    return Table(("Section", "Predictor", view.headline.label, "Low", "High", "n", "Unscored"), tuple(lines))


def rows_table(view: Comparison, rows: Sequence[Row]) -> Table:
    """One line per row and predictor, the same as rows.csv."""
    return Table(ROW_COLUMNS, tuple(row_lines(view, rows)))


ROW_COLUMNS = (
    "id", "section", "group", "question", "expected", "predictor", "answer", "outcome", "score", "read_as", "rule", "failure", "reason",
    "tokens_in", "tokens_out", "latency_s", "cost_usd", "image", "error", "stand_in",
)  # fmt: skip


def row_lines(view: Comparison, rows: Sequence[Row]):
    """Cells of every (row, predictor) in ROW_COLUMNS order; a row that nobody answered keeps one line."""
    order = {p.name: p.stand_in for p in view.predictors}
    for row in rows:
        head = (row.id, row.section, row.group, row.question, row.expected)
        answered = [name for name in order if name in row.answers]
        if not answered:
            yield (*head, None, None, "no prediction", *(None,) * 9, row.image, None, None)
        for name in answered:
            a = row.answers[name]
            yield (
                *head, name, a.text, a.outcome, a.score, a.extracted, a.rule, a.failure, a.reason, a.tokens_in, a.tokens_out,
                a.latency_s, a.cost_usd, row.image, a.error, order[name],
            )  # fmt: skip


def _plain(cells: Sequence[Any], column: int) -> str:
    return ""


def _formats(
    shares: set[str], metric: int, values: tuple[int, ...], signed: bool = False, p: tuple[int, ...] = ()
) -> Callable[[Sequence[Any], int], str]:
    """Format of a cell by its line: the columns `values` are shares where the line's metric is one."""

    def of(cells: Sequence[Any], column: int) -> str:
        if column in p:
            return "p"
        if column in values:
            return (
                ("points" if signed else "share") if cells[metric] in shares else "signed" if signed else ""
            )
        return ""

    return of


def _report_links() -> Callable[[int, Any], str]:
    """Address of the row in the report beside the workbook, for cells with a row's id; Excel takes so many links only."""
    left = LINK_LIMIT

    def address(column: int, cell: Any) -> str:
        nonlocal left
        place = quote(str(cell), safe="") if column == 0 and left > 0 else ""
        if not 0 < len(place) < 1_000:
            return ""
        left -= 1
        return f"external:index.html#row={place}"

    return address


class _Sheets:
    """Sheets with one style: bold header with filter, frozen first line, fixed widths."""

    def __init__(self, book: Any) -> None:
        self.book = book
        self.header = book.add_format(
            {"bold": True, "bg_color": "#EEF1F5", "bottom": 1, "text_wrap": True, "valign": "top"}
        )
        self.text = book.add_format({"valign": "top"})
        self.link = book.add_format({"valign": "top", "font_color": "#0A5A9C", "underline": 1})
        shown = {
            "": "General",
            "share": "0.0%",
            "points": "+0.0%;-0.0%;0.0%",
            "signed": "+0.00;-0.00;0.00",
            "p": "0.0000",
        }
        self.numbers = {
            name: book.add_format({"valign": "top", "num_format": code}) for name, code in shown.items()
        }

    def add(
        self,
        name: str,
        table: Table,
        widths: Sequence[float] = (),
        formats: Callable[[Sequence[Any], int], str] = _plain,
        links: Callable[[int, Any], str] = lambda column, cell: "",
    ) -> Any | None:
        """None where the table is empty: no sheet rather than an empty one."""
        if not table.rows:
            return None
        sheet = self.book.add_worksheet(name)
        self.start(sheet, table.columns, min(len(table.rows), ROW_LIMIT), widths)
        for line, cells in enumerate(table.rows[:ROW_LIMIT], start=1):
            for column, cell in enumerate(cells):
                self.write(sheet, line, column, cell, formats(cells, column), links(column, cell))
        return sheet

    def start(self, sheet: Any, columns: Sequence[str], count: int, widths: Sequence[float]) -> None:
        for column, width in enumerate(widths[: len(columns)]):
            sheet.set_column(column, column, width)
        sheet.freeze_panes(1, 1)
        sheet.autofilter(0, 0, count, len(columns) - 1)
        for column, title in enumerate(columns):
            sheet.write_string(0, column, title, self.header)

    def write(self, sheet: Any, line: int, column: int, cell: Any, style: str = "", link: str = "") -> None:
        if isinstance(cell, bool):
            sheet.write_boolean(line, column, cell, self.text)
        elif is_number(cell):
            sheet.write_number(line, column, cell, self.numbers[style])
        elif link:
            sheet.write_url(line, column, link, self.link, cell_string(str(cell)))
        elif cell is not None and cell != "" and not isinstance(cell, float):
            sheet.write_string(line, column, cell_string(str(cell)), self.text)


def cell_string(text: str) -> str:
    """Text as Excel can hold it: no control characters, at most 32,767 characters."""
    text = _CONTROL.sub("\ufffd", text)
    return text if len(text) <= CELL_LIMIT else text[: CELL_LIMIT - len(_CUT)] + _CUT


def _changes_sheet(
    sheets: _Sheets,
    view: Comparison,
    changes: tuple[Sequence[Change], Sequence[Change]],
    thumbnails: Thumbnails,
) -> None:
    shown = [("improvement", c) for c in changes[0]] + [("regression", c) for c in changes[1]]
    if not shown:
        return
    sheet = sheets.book.add_worksheet("Changes")
    predictors = [p for p in view.measured if any(p.name in c.row.answers for _, c in shown)]
    columns = (
        "picture",
        "kind",
        "change",
        "id",
        "section",
        "question",
        "expected",
        *(f"answer of {p.label}" for p in predictors),
    )
    sheets.start(sheet, columns, len(shown), (24, 14, 10, 22, 16, 44, 26, *(44,) * len(predictors)))
    for line, (kind, change) in enumerate(shown, start=1):
        sheet.set_row(line, 96)
        picture = thumbnails.png(change.row.image_key)
        if picture:
            sheet.insert_image(
                line,
                0,
                f"{change.row.image_key}.png",
                {
                    "image_data": io.BytesIO(picture),
                    "x_offset": 3,
                    "y_offset": 3,
                    "object_position": 1,
                    "description": f"Image of row {change.row.id}",
                },
            )
        cells = (
            kind,
            change.gain,
            change.row.id,
            change.row.section,
            change.row.question,
            change.row.expected,
        )
        cells += tuple(
            change.row.answers[p.name].text if p.name in change.row.answers else None for p in predictors
        )
        for column, cell in enumerate(cells, start=1):
            sheets.write(sheet, line, column, cell)
