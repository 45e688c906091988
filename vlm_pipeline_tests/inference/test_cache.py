"""The row cache holds under everything that happens to files: kills, several writers, torn and damaged lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vlm_pipeline.inference.cache import HEADER, CacheError, RowCache, request_key

WRITER = textwrap.dedent(
    """
    import sys
    from vlm_pipeline.inference.cache import RowCache
    folder, name, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    cache = RowCache(folder, "model")
    for number in range(count):
        cache.put_many({f"{name}-{number}-{part}": "x" * size for part in range(3)})
        print(number, flush=True)
    """
)


def start_writer(folder: Path, name: str, count: int, size: int = 50) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(count), str(size)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_values_come_back_in_a_new_process_view(tmp_path):
    RowCache(tmp_path, "m").put_many({"a": {"text": "ü\n"}, "b": [1, None]})
    fresh = RowCache(tmp_path, "m")
    assert fresh.get_many(["a", "b", "c"]) == {"a": {"text": "ü\n"}, "b": [1, None]}
    assert len(fresh) == 2 and "a" in fresh and "c" not in fresh


def test_header_states_key_layout_and_write_order(tmp_path):
    cache = RowCache(tmp_path, "m")
    cache.put("a", 1)
    header = json.loads(cache.path.read_text().splitlines()[0])
    assert header == HEADER and {"version", "key", "layout", "write_order"} <= set(header)


def test_key_depends_on_each_part_and_on_nothing_else():
    base = {"images": ["i1", "i2"], "prompt": "p", "model": "m", "generation": {"a": 1, "b": 2}, "sample": 0}
    changes = [
        {"images": ["i2", "i1"]},
        {"prompt": "q"},
        {"model": "n"},
        {"generation": {"a": 1}},
        {"sample": 1},
    ]
    keys = {request_key(**{**base, **change}) for change in [{}, *changes]}
    assert len(keys) == 6
    assert request_key(**{**base, "generation": {"b": 2, "a": 1}}) in keys


def test_first_entry_of_a_key_wins(tmp_path):
    cache = RowCache(tmp_path, "m")
    cache.put("a", 1)
    cache.put("a", 2)
    assert RowCache(tmp_path, "m").get("a") == 1


def test_open_reader_sees_what_another_process_appends(tmp_path):
    reader = RowCache(tmp_path, "m")
    assert reader.get("a") is None
    RowCache(tmp_path, "m").put("a", 1)
    assert reader.get("a") == 1


def test_torn_last_line_is_skipped_by_readers_and_cut_by_the_next_writer(tmp_path):
    cache = RowCache(tmp_path, "m")
    cache.put_many({"a": 1, "b": 2})
    whole = cache.path.read_bytes()
    for cut in range(1, 30):
        cache.path.write_bytes(whole[:-cut])
        reader = RowCache(tmp_path, "m")
        assert reader.get("a") == 1 and reader.get("b") is None
        reader.put("c", 3)
        assert RowCache(tmp_path, "m").get_many(["a", "b", "c"]) == {"a": 1, "c": 3}
        assert RowCache(tmp_path, "m").damaged == 0


def test_torn_header_does_not_make_the_cache_unusable(tmp_path):
    cache = RowCache(tmp_path, "m")
    cache.path.parent.mkdir(parents=True)
    cache.path.write_bytes(b'{"format": "vlm_pi')
    cache.put("a", 1)
    assert RowCache(tmp_path, "m").get("a") == 1


def test_damaged_middle_line_costs_only_itself(tmp_path):
    cache = RowCache(tmp_path, "m")
    cache.put_many({"a": "one", "b": "two", "c": "three"})
    cache.path.write_bytes(cache.path.read_bytes().replace(b'"two"', b'"twX"'))
    reader = RowCache(tmp_path, "m")
    assert reader.get_many(["a", "b", "c"]) == {"a": "one", "c": "three"} and reader.damaged == 1


def test_a_foreign_file_is_refused_with_its_name(tmp_path):
    cache = RowCache(tmp_path, "m")
    cache.path.parent.mkdir(parents=True)
    cache.path.write_text('{"some": "json"}\n')
    with pytest.raises(CacheError, match=r"m\.jsonl"):
        cache.get("a")


def test_namespace_cannot_leave_the_folder(tmp_path):
    with pytest.raises(CacheError):
        RowCache(tmp_path, "../evil")


def test_two_writer_processes_lose_nothing(tmp_path):
    writers = [start_writer(tmp_path, name, 40) for name in ("one", "two")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    cache = RowCache(tmp_path, "model")
    assert len(cache) == 2 * 40 * 3 and cache.damaged == 0


def test_sigkill_in_the_middle_of_writing_loses_no_confirmed_value(tmp_path):
    """Kill writers at random moments; whatever a writer confirmed on its output must be readable, whole."""
    confirmed = {}
    for attempt in range(4):
        writer = start_writer(tmp_path, f"w{attempt}", 100_000, size=200_000)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01 + 0.013 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        lines = writer.stdout.read().split()
        writer.wait(10)
        confirmed[f"w{attempt}"] = max([0, *map(int, lines)])
    cache = RowCache(tmp_path, "model")
    cache.put("after", 1)
    expected = [
        f"{name}-{number}-{part}"
        for name, last in confirmed.items()
        for number in range(last + 1)
        for part in range(3)
    ]
    found = cache.get_many(expected)
    assert [key for key in expected if found.get(key) != "x" * 200_000] == []
    assert cache.get("after") == 1 and cache.damaged == 0
