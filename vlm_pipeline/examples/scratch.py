"""A database on disk that goes away with its connection: what is sorted and compared in it takes no memory per row."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

_WAITING = 5_000  # rows handed to the database at once


class Scratch:
    """Tables of a private temporary database, filled by `add` in batches and asked by `ask`."""

    def __init__(self, **tables: str) -> None:
        """tables: the columns of each table by its name, as SQL; of rows with one primary key the first is kept."""
        self._database = sqlite3.connect("")
        self._database.executescript(
            "PRAGMA cache_size=-4000; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE;"
            + "".join(f'CREATE TABLE "{name}" ({columns});' for name, columns in tables.items())
        )
        self._waiting: dict[str, list[Sequence[Any]]] = {name: [] for name in tables}

    def add(self, table: str, row: Sequence[Any]) -> None:
        waiting = self._waiting[table]
        waiting.append(row)
        if len(waiting) >= _WAITING:
            self._flush(table)

    def ask(self, question: str, arguments: Sequence[Any] = ()) -> sqlite3.Cursor:
        for table, waiting in self._waiting.items():
            if waiting:
                self._flush(table)
        return self._database.execute(question, arguments)

    def _flush(self, table: str) -> None:
        waiting = self._waiting[table]
        if waiting:
            marks = ",".join("?" * len(waiting[0]))
            self._database.executemany(f'INSERT OR IGNORE INTO "{table}" VALUES ({marks})', waiting)
            waiting.clear()
