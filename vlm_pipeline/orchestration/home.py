"""Dagster's home of a checkout: `python -m vlm_pipeline.orchestration.home`, run by every make target. Imports no dagster.

Dagster's commands let `.env` of the working folder overrule what is exported, so `.env` has to say by itself that an
exported home wins: `DAGSTER_HOME=${DAGSTER_HOME:-<folder>}`.
"""

from __future__ import annotations

from pathlib import Path

from dotenv import dotenv_values, set_key

VARIABLE = "DAGSTER_HOME"
DEFAULT = Path(".vlm_pipeline", "dagster_home")


def prepare_home(project: Path) -> Path | None:
    """Write `.env` and link the shipped dagster.yaml; returns the home that commands started in `project` use.

    That is an exported DAGSTER_HOME (an empty one keeps no runs at all: None), else the one that `.env` names, else
    `.vlm_pipeline/dagster_home`. A home with a dagster.yaml of its own keeps it.
    """
    settings = project / ".env"
    written = dotenv_values(settings, interpolate=False).get(VARIABLE) or str(project / DEFAULT)
    if not written.startswith("${"):
        set_key(settings, VARIABLE, f"${{{VARIABLE}:-{written}}}", quote_mode="never")
    if not (name := dotenv_values(settings)[VARIABLE]):
        return None
    home = Path(name)
    home.mkdir(parents=True, exist_ok=True)
    shipped, used = project / "dagster.yaml", home / "dagster.yaml"
    if not used.exists():
        used.unlink(missing_ok=True)  # a link into a checkout that is gone
        used.symlink_to(shipped)
    return home


if __name__ == "__main__":
    prepare_home(Path.cwd())
