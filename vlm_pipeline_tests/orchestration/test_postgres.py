"""Dagster's records in a real PostgreSQL, set up as docs/more-machines.md says: loop, sensor, lost connections."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures

pytest.importorskip("dagster_postgres")
PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "more-machines.md"
_BINARIES = (Path("/usr/lib/postgresql"), Path("/usr/local/bin"), Path("/opt/homebrew/bin"))


def _server_binary(name: str) -> str | None:
    found = shutil.which(name) or next(
        (str(path) for folder in _BINARIES for path in sorted(folder.glob(f"**/bin/{name}"))), None
    )
    return found


class Server:
    """A PostgreSQL of its own on loopback; as root it runs as the system's user postgres, for it refuses root."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self._as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._as:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(self.data), "-U", "dagster", "-A", "trust", "--no-sync")
        self.start()

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as, str(_server_binary(name)), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=120,
        )

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://dagster@127.0.0.1:{self.port}/postgres"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not (_server_binary("initdb") and _server_binary("pg_ctl")):
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        made = Server(Path(name))
        yield made
        made.stop()


@pytest.fixture
def home(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped dagster.yaml with the lines of the page."""
    (lines,) = [
        text for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S) if "postgres_url" in text
    ]
    settings = (PROJECT / "dagster.yaml").read_text() + lines
    assert yaml.safe_load(settings)["storage"]["postgres"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text(settings)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.url)
    return tmp_path / "home"


def test_a_loop_is_recorded_and_survives_a_restart_of_the_database(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert "Postgres" in type(instance.event_log_storage).__name__
        graph = GraphWorld(tmp_path, instance, monkeypatch)
        assert not failures(graph.loop())
        started = list(graph.world.payloads)
    server.stop()
    server.start()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        graph.instance = instance
        assert not failures(graph.loop())
        runs = instance.get_runs()
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 2
        assert instance.get_latest_materialization_event(graph.key("report")) is not None
    assert graph.world.payloads == started, "the loop after the restart asked for work that was done"
    assert not list(home.rglob("*.db")), "records lie in files beside the database"


@pytest.mark.slow
def test_a_database_that_is_away_for_a_moment_costs_no_record(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch)
        assert not failures(graph.loop())
        server.stop()
        server.start()  # all connections of the instance are dead now
        assert not failures(graph.loop())
