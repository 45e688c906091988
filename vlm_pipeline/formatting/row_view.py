"""Look at a formatted row: picture, rendered tokens, what is supervised, findings. HTML page and Markdown preview."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vlm_pipeline.examples.upright import open_upright
from vlm_pipeline.formatting.findings import Finding, picture_in_words
from vlm_pipeline.formatting.template import control_tokens, tokenizer_of
from vlm_pipeline.markdown import escape
from vlm_pipeline.store import write_text

_SHOWN_TOKENS = 6_000
_TEMPLATE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title><style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.3rem}h2{font-size:1.15rem;margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}h3{font-size:1.05rem}
img{max-width:100%;max-height:24rem;border:1px solid #ccc}
.tokens{font-family:ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f8fa;padding:1rem}
.s{background:#b7ebc1;outline:1px solid #8fd3a0}.c{color:#8250df}.p{background:#dbe7ff;padding:0 .3em}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
.bad{color:#b3261e;font-weight:600}.ok{color:#1a7f37;font-weight:600}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}.tokens{background:#161b22}
.s{background:#1b4d2b;outline-color:#2f7a45}.c{color:#c297ff}.p{background:#1f3557}.bad{color:#ff8a80}.ok{color:#56d364}}
</style>
<h1>{{ title }}</h1>{% if note %}<p>{{ note }}</p>{% endif %}
{% if views|length > 1 %}<nav><ol>{% for view in views %}<li><a href="#row-{{ loop.index }}">{{ view.row.id }}</a>
{% if view.why %}({{ view.why }}){% endif %}</li>{% endfor %}</ol></nav>{% endif %}
{% for view in views %}{% set row = view.row %}
<article id="row-{{ loop.index }}"><h2>{{ row.id }}</h2>
<table><tr><th>section</th><td>{{ row.section or "–" }}</td><th>split</th><td>{{ row.split or "–" }}</td>
<th>group</th><td>{{ row.group or "–" }}</td></tr>
<tr><th>tokens</th><td>{{ view.counts.tokens }}</td><th>supervised</th><td>{{ view.counts.supervised }}</td>
<th>picture tokens</th><td>{{ view.counts.pictures }}</td></tr>
<tr><th>prompt tokens</th><td>{{ row.n_prompt }}</td><th>content hash</th><td colspan="3">{{ row.content_hash }}</td></tr></table>
{% for picture in view.pictures %}<p>{% if picture.uri %}<img src="{{ picture.uri }}" alt="picture {{ loop.index }} of row {{ row.id }}">
{% else %}<em>picture cannot be shown: {{ picture.path }}</em>{% endif %}
<br><small>{{ picture.path }}{% if picture.grid %} · {{ picture.grid }} patches (t, h, w){% endif %}</small></p>{% endfor %}
<h3>Tokens <small>(<span class="s">supervised</span>, <span class="c">control</span>, <span class="p">picture</span>)</small></h3>
<div class="tokens">{% for piece in view.pieces %}<span class="{{ piece.kind }}" title="{{ piece.title }}">{{ piece.text }}</span>{% endfor %}</div>
<h3>Findings</h3>
{% if not checked %}<p>not checked yet: the check verified_format does it</p>{% elif view.findings %}<table><tr><th>failure</th><th>what</th><th>remedy</th></tr>
{% for finding in view.findings %}<tr><td class="bad">{{ finding.number }}</td><td>{{ finding.message }}</td><td>{{ finding.remedy }}</td></tr>
{% endfor %}</table>{% else %}<p class="ok">none</p>{% endif %}
<h3>Answer</h3><div class="tokens">{{ row.answer }}</div></article>{% endfor %}</html>
"""


def rows_html(
    title: str,
    rows: Iterable[dict[str, Any]],
    processor: Any,
    findings: Iterable[Finding] | None = (),
    *,
    note: str = "",
    why: Mapping[str, str] | None = None,
) -> str:
    """A self-contained page about some rows, each with the findings that name it (None: not checked yet).

    why: row id to why it is shown.
    """
    by_row: dict[str, list[Finding]] = {}
    for finding in findings or ():
        by_row.setdefault(str(finding.row_id), []).append(finding)
    views = [
        _view(row, processor, by_row.get(str(row["id"]), []), (why or {}).get(row["id"])) for row in rows
    ]
    return _template().render(title=title, note=note, views=views, checked=findings is not None)


def _view(row: dict[str, Any], processor: Any, findings: list[Finding], why: str | None) -> dict[str, Any]:
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    pieces = token_pieces(ids, labels, processor)
    counts = {
        "tokens": len(ids),
        "supervised": int((labels != -100).sum()),
        "pictures": sum(piece["count"] for piece in pieces if "p" in piece["kind"].split()),
    }
    paths, grids = row.get("images") or [], row.get("image_grid") or []
    pictures = [
        {"path": path, "uri": thumbnail(path, 800), "grid": tuple(grid) if grid is not None else None}
        for path, grid in itertools.zip_longest(paths, grids)
    ]
    return {
        "row": row, "counts": counts, "pictures": pictures, "pieces": pieces, "findings": findings, "why": why
    }  # fmt: skip


def pick_rows(path: Path | str) -> dict[str, str]:
    """Row ids of a formatted table that tell most about it, and why: of each split the first, the longest, the shortest."""
    import pyarrow.parquet as pq

    best: dict[tuple[str, str], tuple[int, str]] = {}
    with pq.ParquetFile(path, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(columns=["id", "split", "n_tokens"]):
            for row in batch.to_pylist():
                split, length = row["split"] or "unsplit", row["n_tokens"]
                best.setdefault((f"first of {split}", split), (0, row["id"]))
                for name, rank in (("longest", -length), ("shortest", length)):
                    known = best.get((name, ""))
                    if known is None or rank < known[0]:
                        best[name, ""] = (rank, row["id"])
    picked: dict[str, str] = {}
    for (why, _), (_, row_id) in best.items():
        picked[row_id] = f"{picked[row_id]}, {why}" if row_id in picked else why
    return picked


def find_rows(paths: Path | str | Iterable[Path | str], ids: Iterable[str]) -> list[dict[str, Any]]:
    """Whole rows of formatted tables by id, in the order of the ids; ids that are not there are left out."""
    import pyarrow.parquet as pq

    wanted = list(dict.fromkeys(ids))
    found: dict[str, dict[str, Any]] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if len(found) == len(wanted):
            break
        for row in pq.read_table(path, filters=[("id", "in", wanted)]).to_pylist() if wanted else ():
            found.setdefault(row["id"], row)
    return [found[row_id] for row_id in wanted if row_id in found]


def write_section_page(
    path: Path | str, processor: Any, target: Path, title: str, findings: Iterable[Finding], command: str
) -> Path:
    """`rows/<section>.html`: the rows of `pick_rows`, with what verification found in them.

    command: what shows any other row.
    """
    why = pick_rows(path)
    note = f"Picked rows of this section as a model is trained on them. Any other row: {command}"
    write_text(target, rows_html(title, find_rows(path, why), processor, findings, note=note, why=why))
    return target


def token_pieces(ids: np.ndarray, labels: np.ndarray, processor: Any) -> list[dict[str, Any]]:
    """One piece a token ({text, kind, title, count}); a run of picture tokens is one piece. Long rows lose their middle."""
    tokenizer = tokenizer_of(processor)
    picture = getattr(processor, "image_token_id", None)
    controls = set(control_tokens(tokenizer).values())
    kinds = [
        "p" if index == picture else " ".join(["c"] * (index in controls) + ["s"] * (label != -100))
        for index, label in zip(ids.tolist(), labels.tolist(), strict=True)
    ]
    pieces: list[dict[str, Any]] = []
    position = 0
    for kind, run in itertools.groupby(kinds):
        length = sum(1 for _ in run)
        if kind == "p":
            pieces.append(
                {"text": f"[picture: {length} tokens]", "kind": "p", "title": str(picture), "count": length}
            )
        else:
            for index in ids[position : position + length].tolist():
                pieces.append(
                    {"text": tokenizer.decode([index]), "kind": kind, "title": str(index), "count": 1}
                )
        position += length
    if len(pieces) <= _SHOWN_TOKENS:
        return pieces
    left_out = len(pieces) - _SHOWN_TOKENS
    gap = {"text": f" […{left_out} tokens…] ", "kind": "p", "title": "", "count": 0}
    return [*pieces[: _SHOWN_TOKENS // 2], gap, *pieces[-_SHOWN_TOKENS // 2 :]]


def markdown_preview(path: Path | str, processor: Any, rows: int = 3) -> str:
    """The first rows of a formatted table, one for each picture, for a metadata pane: small and self-contained."""
    from vlm_pipeline.formatting.table import read_formatted_rows

    shown: list[dict[str, Any]] = []
    seen: set[str] = set()
    for row in read_formatted_rows(path):
        look = str(row["image_sha256"]) if row["images"] else row["id"]
        if look not in seen:
            seen.add(look)
            shown.append(row)
        if len(shown) == rows:
            break
    return "\n\n---\n\n".join(_markdown(row, processor) for row in shown) or "*no rows*"


def _markdown(row: dict[str, Any], processor: Any) -> str:
    lines = [
        f"**{escape(row['id'])}** · {escape(row['split'])} · {row['n_tokens']} tokens, {row['n_supervised']} supervised"
    ]
    lines += [f"![picture]({uri})" for uri in (thumbnail(image, 160) for image in row["images"][:2]) if uri]
    words = picture_in_words(
        row["input_ids"], row["labels"], tokenizer_of(processor), getattr(processor, "image_token_id", None)
    )
    lines += ["Supervised tokens stand in ⟦ ⟧:", _fenced(words)]
    return "\n\n".join(lines)


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def thumbnail(path: str, side: int) -> str | None:
    """The picture as a JPEG data URI, at most `side` pixels long; None where it cannot be read."""
    try:
        small = open_upright(path)
    except (OSError, ValueError):
        return None
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=False).from_string(_TEMPLATE)
