"""Look at a formatted row: picture, rendered tokens, what is supervised, findings. HTML page and Markdown preview."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vlm_pipeline.formatting.findings import Finding, picture_in_words
from vlm_pipeline.formatting.template import control_tokens, tokenizer_of

_SHOWN_TOKENS = 6_000
_TEMPLATE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ row.id }}</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:1.6rem}img{max-width:100%;max-height:24rem;border:1px solid #ccc}
.tokens{font-family:ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f8fa;padding:1rem}
.s{background:#b7ebc1;outline:1px solid #8fd3a0}.c{color:#8250df}.p{background:#dbe7ff;padding:0 .3em}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
.bad{color:#b3261e;font-weight:600}.ok{color:#1a7f37;font-weight:600}</style>
<h1>{{ row.id }}</h1>
<table><tr><th>section</th><td>{{ row.section or "–" }}</td><th>split</th><td>{{ row.split or "–" }}</td>
<th>group</th><td>{{ row.group or "–" }}</td></tr>
<tr><th>tokens</th><td>{{ counts.tokens }}</td><th>supervised</th><td>{{ counts.supervised }}</td>
<th>picture tokens</th><td>{{ counts.pictures }}</td></tr>
<tr><th>prompt tokens</th><td>{{ row.n_prompt }}</td><th>content hash</th><td colspan="3">{{ row.content_hash }}</td></tr></table>
{% for picture in pictures %}<p>{% if picture.uri %}<img src="{{ picture.uri }}" alt="picture {{ loop.index }}">
{% else %}<em>picture cannot be shown: {{ picture.path }}</em>{% endif %}
<br><small>{{ picture.path }}{% if picture.grid %} · {{ picture.grid }} patches (t, h, w){% endif %}</small></p>{% endfor %}
<h2>Tokens <small>(<span class="s">supervised</span>, <span class="c">control</span>, <span class="p">picture</span>)</small></h2>
<div class="tokens">{% for piece in pieces %}<span class="{{ piece.kind }}" title="{{ piece.title }}">{{ piece.text }}</span>{% endfor %}</div>
<h2>Findings</h2>
{% if findings %}<table><tr><th>failure</th><th>what</th><th>remedy</th></tr>
{% for finding in findings %}<tr><td class="bad">{{ finding.number }}</td><td>{{ finding.message }}</td><td>{{ finding.remedy }}</td></tr>
{% endfor %}</table>{% else %}<p class="ok">none</p>{% endif %}
<h2>Answer</h2><div class="tokens">{{ row.answer }}</div></html>
"""


def row_html(row: dict[str, Any], processor: Any, findings: Iterable[Finding] = ()) -> str:
    """A self-contained page about one formatted row (a dict of the formatted table's columns)."""
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
    return _template().render(
        row=row, counts=counts, pictures=pictures, pieces=pieces, findings=list(findings)
    )


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
        f"**{_plain(row['id'])}** · {_plain(row['split'] or '')} · {row['n_tokens']} tokens, {row['n_supervised']} supervised"
    ]
    lines += [f"![picture]({uri})" for uri in (thumbnail(image, 160) for image in row["images"][:2]) if uri]
    words = picture_in_words(
        row["input_ids"], row["labels"], tokenizer_of(processor), getattr(processor, "image_token_id", None)
    )
    lines += ["Supervised tokens stand in ⟦ ⟧:", _fenced(words)]
    return "\n\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown cannot take for markup."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~])", r"\\\1", text.replace("\n", " "))


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def thumbnail(path: str, side: int) -> str | None:
    """The picture as a JPEG data URI, at most `side` pixels long; None where it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=False).from_string(_TEMPLATE)


def write_row_views(
    rows: Sequence[dict[str, Any]], processor: Any, folder: Path, findings: Iterable[Finding] = ()
) -> list[Path]:
    """One page a row under `folder`, named by content hash; the findings that name the row stand on it."""
    from vlm_pipeline.store import write_text

    by_row: dict[str, list[Finding]] = {}
    for finding in findings:
        by_row.setdefault(str(finding.row_id), []).append(finding)
    written = []
    for row in rows:
        path = folder / f"{row['content_hash']}.html"
        write_text(path, row_html(row, processor, by_row.get(str(row["id"]), ())))
        written.append(path)
    return written
