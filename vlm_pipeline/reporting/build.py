"""Build a report: read the inputs once, draw, write everything whole, keep the earlier ones.

Layout of a report folder::

    index.html report.json summary.md report.xlsx rows.csv rows.parquet figures/<name>.{svg,png}    the newest
    versions/<data version>/…                                                                       the same, kept
    versions/index.json                                            versions in the order of their last publication

A version is written in a hidden folder and renamed when it is complete; then its files replace the newest ones, each
atomically. index.html needs none of the other files.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vlm_pipeline.reporting import summary
from vlm_pipeline.reporting.blocks import Blocks, make_blocks
from vlm_pipeline.reporting.changes import Changes, compare_reports
from vlm_pipeline.reporting.drawing import draw_figures
from vlm_pipeline.reporting.figures.style import Figure
from vlm_pipeline.reporting.inputs import ReportInputs
from vlm_pipeline.reporting.joining import join_rows, weak_rows
from vlm_pipeline.reporting.page import render_page
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.rows import Change, Row, largest_changes
from vlm_pipeline.reporting.thumbnails import make_thumbnails
from vlm_pipeline.reporting.view import Comparison
from vlm_pipeline.reporting.workbook import ROW_COLUMNS, row_lines, write_workbook
from vlm_pipeline.store import (
    atomic_folder,
    atomic_path,
    content_hash,
    read_json,
    write_bytes,
    write_json,
    write_table,
    write_text,
)

VERSIONS = "versions"
CARDS_BUDGET = 2_500_000  # bytes of the pictures of largest changes and weak sections
KEEP = 10  # versions kept beside the newest
_VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class BuiltReport:
    """What was written. `metadata` is plain JSON for an asset: `{"md": …}` and `{"path": …}` mark their kind."""

    folder: Path
    index: Path
    data_version: str
    files: tuple[Path, ...]
    metadata: dict[str, Any]
    figures: tuple[Figure, ...]
    sentence: str


def build_report(
    inputs: ReportInputs,
    folder: Path | str,
    log: Callable[[str], None] = lambda message: None,
    keep: int = KEEP,
) -> BuiltReport:
    """Write the report of `inputs` into `folder`. Equal inputs, also as to what was published before, give equal bytes.

    Raises ValueError when the comparison has no base or the data version cannot be a folder name, OSError when
    something cannot be written; the report that lay there stays usable then.
    """
    folder = Path(folder)
    view = read_comparison(inputs)
    log(f"report: {len(view.measured)} of {len(view.predictors)} predictors measured, reading rows")
    rows = join_rows(inputs, view)
    changes = largest_changes(rows, view)
    version = inputs.data_version or _version_of(inputs, view, rows)
    if not _VERSION_NAME.fullmatch(version):
        raise ValueError(
            f"the data version {version!r} cannot name a folder: use letters, digits, '.', '_' and '-'"
        )
    weak = weak_rows(inputs, view)
    thumbnails = make_thumbnails(_pictures_of_cards(changes, weak.values()), inputs.image_root, CARDS_BUDGET)
    final = folder / VERSIONS / version
    with ThreadPoolExecutor(1) as ahead:
        # Thousands of pictures take as long as all the rest; their decoding needs no interpreter lock.
        stamps = ahead.submit(make_thumbnails, _pictures(rows), inputs.image_root)
        log(f"report: drawing figures of {len(rows):,} rows")
        figures = draw_figures(inputs, view, rows, log)
        blocks = make_blocks(inputs, view, rows)
        document = summary.report_document(view, rows, blocks, version)
        blocks = replace(blocks, changes=_since(inputs, folder, version, document))
        with atomic_folder(final) as hidden:
            log("report: writing tables, workbook and page")
            write_json(hidden / "report.json", document)
            _write_tables(hidden, view, rows, blocks, figures)
            with atomic_path(hidden / "report.xlsx") as temporary:
                write_workbook(temporary, view, rows, changes, thumbnails, blocks)
            page = render_page(view, figures, rows, changes, weak, thumbnails, stamps.result(), blocks)
            write_text(hidden / "index.html", page)
    files = _publish(final, folder)
    _remember(folder, version, keep)
    preview = summary.summary_markdown(view, blocks, figures, pictures=("forest", "sections"))
    metadata: dict[str, Any] = {
        "decision": view.decision.sentence,
        "verdict": view.decision.verdict,
        "report": {"path": str((folder / "index.html").absolute())},
        "overview": {"md": preview},
        "rows": len(rows),
        "quarantined": blocks.quarantine_total,
        "weak_sections": len(document["weak_sections"]),
        **summary.headline_numbers(view),
    }
    log(f"report: {folder / 'index.html'}")
    return BuiltReport(
        folder, folder / "index.html", version, files, metadata, tuple(figures), view.decision.sentence
    )


def _write_tables(
    folder: Path, view: Comparison, rows: Sequence[Row], blocks: Blocks, figures: Sequence[Figure]
) -> None:
    """Summary, rows and figures, each as a file of its own."""
    write_text(folder / "summary.md", summary.summary_markdown(view, blocks, figures, link="index.html"))
    write_text(folder / "rows.csv", rows_csv(view, rows))
    write_table(folder / "rows.parquet", rows_arrow(view, rows))
    for figure in figures:
        write_text(folder / "figures" / f"{figure.name}.svg", figure.svg)
        write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)


def rows_csv(view: Comparison, rows: Sequence[Row]) -> str:
    """One line per row and predictor. Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(ROW_COLUMNS)
    for line in row_lines(view, rows):
        writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in line])
    return target.getvalue()


def _harmless(text: str) -> str:
    if text[:1] in ("=", "@", "\t", "\r") or (
        text[:1] in ("+", "-") and not re.fullmatch(r"[+-]?[\d.,\s%]*", text)
    ):
        return "'" + text
    return text.replace("\x00", "\ufffd")


def rows_arrow(view: Comparison, rows: Sequence[Row]) -> Any:
    """The same lines as a pyarrow Table with exact texts."""
    import pyarrow as pa

    numbers = {
        "score": pa.float64(),
        "tokens_in": pa.int64(),
        "tokens_out": pa.int64(),
        "latency_s": pa.float64(),
        "cost_usd": pa.float64(),
    }
    columns = list(zip(*row_lines(view, rows), strict=True)) or [()] * len(ROW_COLUMNS)
    arrays = [
        pa.array(column, numbers.get(name, pa.string()))
        for name, column in zip(ROW_COLUMNS, columns, strict=True)
    ]
    return pa.table(arrays, names=list(ROW_COLUMNS))


def _pictures_of_cards(
    changes: tuple[Sequence[Change], Sequence[Change]], weak: Iterable[Row]
) -> Iterator[tuple[str, str]]:
    """Pictures of the largest changes, then of weak sections."""
    yield from _pictures((*(change.row for side in changes for change in side), *weak))


def _pictures(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """(key, path) of the rows that have a picture; without a hash the path is the key."""
    for row in rows:
        if row.image:
            row.image_key = row.image_key or row.image
            yield row.image_key, row.image


def _version_of(inputs: ReportInputs, view: Comparison, rows: Sequence[Row]) -> str:
    """Hash of what the report shows; rows count by their answers, outcomes and notes."""
    answers = [
        (
            row.id,
            row.expected,
            [(name, a.text, a.outcome, a.score, a.reason) for name, a in row.answers.items()],
        )
        for row in rows
    ]
    documents = {
        field.name: getattr(inputs, field.name)
        for field in fields(inputs)
        if field.name
        not in ("rows", "weak_rows", "predictions", "scores", "data_version", "previous", "image_root")
    }
    return content_hash([documents, answers])


def _since(inputs: ReportInputs, folder: Path, version: str, document: dict[str, Any]) -> Changes | None:
    """Against the report that was published last; the same one published again is compared with the one before it."""
    previous = inputs.previous
    if previous is None:
        earlier = [name for name in _versions(folder) if name != version]
        kept = [folder / VERSIONS / name / "report.json" for name in reversed(earlier)]
        previous = next((read_json(path) for path in kept if path.exists()), None)
    return compare_reports(previous, document) if previous else None


def _versions(folder: Path) -> list[str]:
    """Kept versions in the order in which they were last published."""
    return [
        name
        for name in read_json(folder / VERSIONS / "index.json", default=[])
        if _VERSION_NAME.fullmatch(str(name))
    ]


def _remember(folder: Path, version: str, keep: int) -> None:
    """Note the version as the newest and remove the ones beyond `keep`."""
    versions = [name for name in _versions(folder) if name != version] + [version]
    for old in versions[:-keep]:
        shutil.rmtree(folder / VERSIONS / old, ignore_errors=True)
    write_json(folder / VERSIONS / "index.json", versions[-keep:])


def _publish(version_folder: Path, folder: Path) -> tuple[Path, ...]:
    """Put the version's files in front, each atomically (hard links where the file system has them); index.html last."""
    sources = sorted(
        (p for p in version_folder.rglob("*") if p.is_file()), key=lambda p: (p.name == "index.html", str(p))
    )
    targets = []
    for source in sources:
        target = folder / source.relative_to(version_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        link = target.with_name(f".{target.name}.new")
        link.unlink(missing_ok=True)
        try:
            os.link(source, link)
        except OSError:
            shutil.copyfile(source, link)
        link.replace(target)
        targets.append(target)
    present = {t.name for t in targets}
    for stale in (folder / "figures").glob("*"):
        if stale.name not in present:
            stale.unlink()
    return tuple(targets)
