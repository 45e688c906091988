"""Which Dagster home commands use that are started in a checkout, whatever its `.env` held before."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.orchestration.home import prepare_home

PROJECT = Path(__file__).parents[2]
WORK = """
import dagster as dg

@dg.asset
def rows():
    raise ValueError("picture 7 is missing")

defs = dg.Definitions([rows], jobs=[dg.define_asset_job("work", "*")])
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (folder / "work.py").write_text(WORK)
    return folder


def test_an_exported_home_is_not_overruled_by_the_env_file_of_the_checkout(checkout: Path) -> None:
    """Runs of tests and benchmarks landed in the user's own home."""
    own, exported = prepare_home(checkout), checkout.parent / "exported"
    assert own is not None
    exported.mkdir()
    environment = {**os.environ, "DAGSTER_HOME": str(exported), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-W", "ignore", "-m"]
    started = subprocess.run(
        [*command, "dagster", "job", "execute", "-f", "work.py", "-j", "work"],
        cwd=checkout, env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert started.returncode == 1
    assert runs_in(exported) == 1
    assert runs_in(own) == 0
    told = subprocess.run(
        [*command, "vlm_pipeline.orchestration.why", "work"],
        cwd=checkout, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "rows: ValueError: picture 7 is missing" in told.stderr


def runs_in(home: Path) -> int:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return len(instance.get_runs())


def test_the_shipped_settings_are_in_force_in_the_home_of_the_checkout(checkout: Path) -> None:
    (checkout / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text("utf-8"))
    home = prepare_home(checkout)
    assert home == checkout / ".vlm_pipeline" / "dagster_home"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.telemetry_enabled is False
        assert instance.global_op_concurrency_default_limit == 1  # the pool `gpu` holds one step
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 10
        assert not instance.nux_enabled


@pytest.mark.parametrize(
    ("before", "home"),
    [
        ("", "checkout/.vlm_pipeline/dagster_home"),
        ("OPENAI_API_KEY=abc\n", "checkout/.vlm_pipeline/dagster_home"),
        ("DAGSTER_HOME={}/old home\nOPENAI_API_KEY=abc\n", "old home"),
        ('OPENAI_API_KEY=abc\nDAGSTER_HOME="{}/old home"', "old home"),
    ],
)
def test_an_env_file_that_is_there_is_completed_and_never_loses_a_line(
    checkout: Path, before: str, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = checkout / ".env"
    settings.write_text(before.format(checkout.parent))
    for _ in range(2):
        assert prepare_home(checkout) == checkout.parent / home
    assert settings.read_text().count("DAGSTER_HOME=${DAGSTER_HOME:-") == 1
    assert ("OPENAI_API_KEY=abc" in settings.read_text()) == ("OPENAI_API_KEY" in before)
    monkeypatch.setenv("DAGSTER_HOME", str(checkout.parent / "exported"))
    assert prepare_home(checkout) == checkout.parent / "exported"


def test_a_home_keeps_its_own_dagster_yaml_and_a_dead_link_is_replaced(checkout: Path) -> None:
    home = prepare_home(checkout)
    assert home is not None
    (home / "dagster.yaml").unlink()
    (home / "dagster.yaml").symlink_to(checkout / "gone.yaml")
    prepare_home(checkout)
    assert (home / "dagster.yaml").resolve() == checkout / "dagster.yaml"
    (home / "dagster.yaml").unlink()
    (home / "dagster.yaml").write_text("# mine\n")
    prepare_home(checkout)
    assert (home / "dagster.yaml").read_text() == "# mine\n"


def test_commands_started_at_once_in_a_new_home_make_its_tables_once(checkout: Path) -> None:
    """Two processes that both make Dagster's tables end with `UNIQUE constraint failed: alembic_version`."""
    home = checkout / "new home"
    call = "import os, sys, pathlib; from vlm_pipeline.dagster_home import create_storage; create_storage(pathlib.Path(sys.argv[1]), os.environ)"
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    several = [subprocess.Popen([sys.executable, "-c", call, str(home)], env=environment) for _ in range(3)]
    assert [process.wait(60) for process in several] == [0, 0, 0]
    assert {"runs.db", "schedules.db", "index.db"} <= {path.name for path in home.rglob("*.db")}
