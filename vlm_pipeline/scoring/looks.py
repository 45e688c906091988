"""How often the test split has been looked at: once for each trained model whose figures were made on its rows.

Whoever trained it, and whatever became of it: a round, a retraining by hand, a hosted fine-tune, an adapter made
elsewhere. The more looks, the likelier that the best figure is luck; promotion therefore looks at the final split. The
list is no artifact: undoing a round does not undo the look.
"""

from __future__ import annotations

from vlm_pipeline.store import TaskStore, read_json, write_json

FILE = "looks_at_test.json"


def look_at_test(store: TaskStore, model: str, rows: str) -> None:
    """Note a look; `model` is the version of its weights, `rows` that of the test rows. The same look counts once."""
    looks = read_json(store.path(FILE), default=[])
    if [model, rows] not in looks:
        write_json(store.path(FILE), [*looks, [model, rows]])


def looks_at_test(store: TaskStore) -> int:
    return len(read_json(store.path(FILE), default=[]))
