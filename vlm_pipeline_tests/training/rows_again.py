"""Rows of a section made again in a test's store: other content hashes, and a training set of them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_pipeline.manifest import Artifact, make_once
from vlm_pipeline.store import TaskStore


def write_rows_again(store: TaskStore, sections: Sequence[str], rows: pa.Table, section: str) -> pa.Table:
    """Write all sections, with new content hashes in the named one ("": in none); returns the rows as written."""
    names, hashes = (rows.column(name).to_pylist() for name in ("section", "content_hash"))
    hashes = [f"{one}+" if name == section else one for name, one in zip(names, hashes, strict=True)]
    place = rows.schema.get_field_index("content_hash")
    rows = rows.set_column(place, "content_hash", pa.array(hashes))
    for name in sections:
        path = store.section("formatted", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.filter(pa.compute.equal(rows["section"], name)), path)
    version = str(hash(tuple(hashes)))
    make_once(store, "training_set", {"rows": version}, lambda: Artifact(version))
    return rows
