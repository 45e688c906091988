"""Adapters from the hub: the real client over HTTP. Names are looked at before a byte is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm_pipeline_tests.candidates import foreign
from vlm_pipeline_tests.servers.hub import TOKEN, Hub, Repository, running_hub

# One look, then the download of what it found; settings and store as the sensor and the asset use them.
_LOOK = """
import json, sys, time
from pathlib import Path
from vlm_pipeline.candidates.header import Rejected
from vlm_pipeline.candidates.sources import fetch
from vlm_pipeline.candidates.watch import scan
from vlm_pipeline.settings.promotion import CandidateSettings
from vlm_pipeline.store import TaskStore
folder, state = Path(sys.argv[1]), json.loads(sys.argv[2])
found = scan(CandidateSettings(hub=["team/adapter"]), TaskStore("demo", folder), state, time.time())
answer = {"ids": [one.id for one in found.found], "waiting": found.waiting, "state": state}
for one in found.found:
    (folder / one.id).mkdir(parents=True)
    try:
        fetch(one, folder / one.id, 10_000_000)
    except Rejected as error:
        answer["rejected"] = str(error)
    answer["files"] = sorted(file.name for file in (folder / one.id).iterdir() if file.is_file())
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as served:
        yield served


def look(hub: Hub, folder: Path, state: dict | None = None) -> dict:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(folder / "hf"),
    }
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(folder), json.dumps(state or {})], env=env, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def upload(hub: Hub, folder: Path) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    before = hub.repositories.get("model/team/adapter")
    commits = [*(before.commits if before else []), "upload"]
    hub.repositories["model/team/adapter"] = Repository(False, files, commits)
    hub.downloads.clear()


def test_a_new_revision_is_found_once_and_only_the_readable_files_are_fetched(
    hub: Hub, tmp_path: Path
) -> None:
    folder = foreign.write(tmp_path / "theirs")
    (folder / "README.md").write_text("hello")
    upload(hub, folder)
    first = look(hub, tmp_path / "a")
    (found,) = first["ids"]
    assert found.startswith("team--adapter-") and first["files"] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert set(hub.downloads) == {"adapter_config.json", "adapter_model.safetensors"}
    due = {"hub": {"team/adapter": {**first["state"]["hub"]["team/adapter"], "next": 0}}}
    assert look(hub, tmp_path / "b", due)["ids"] == []
    upload(hub, folder)
    assert look(hub, tmp_path / "c", due)["ids"] not in ([], [found])


def test_a_repository_with_pickles_or_code_is_refused_without_a_download(hub: Hub, tmp_path: Path) -> None:
    folder = foreign.write(tmp_path / "theirs")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    upload(hub, folder)
    refused = look(hub, tmp_path / "a")
    assert "pickle file" in refused["rejected"] and refused["files"] == [] and hub.downloads == []
