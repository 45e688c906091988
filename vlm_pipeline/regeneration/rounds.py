"""The history of rounds, when to stop, and how a round is undone.

A round begins by keeping the loop's artifacts aside (hard links: no copy, no time) and ends by keeping what it made or
by putting them back, byte for byte. `rounds.json` is written before and after each step, so a killed round goes on
where it stopped. A round's status:

``preparing``     its rows are being written; nothing has read them yet, and they are written again after a kill
``open``          its rows lie in the overlay; the loop has to run once before it can be judged
``kept``          val shows a gain; its rows stay
``rolling back``  val shows none; artifacts are being put back, and again after a kill
``rolled back``   everything is as it was before
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.overlay import remove_layer
from vlm_pipeline.manifest import FOLDER as MANIFESTS
from vlm_pipeline.regeneration.costs import NOTHING, Cost, of_rounds
from vlm_pipeline.regeneration.few_shot import shots_file
from vlm_pipeline.scoring.looks import looks_at_test
from vlm_pipeline.settings.budget import BudgetSettings
from vlm_pipeline.settings.regeneration import RegenerationSettings
from vlm_pipeline.store import TaskStore, atomic_folder, read_json, write_json
from vlm_pipeline.task import Task

Log = Callable[[str], None]

UNFINISHED = ("preparing", "open", "rolling back")
WITHOUT_GAIN = 2  # rounds in succession, after which the loop stops

# Artifacts with a life of their own, which no round made: a foreign adapter, a promotion, a hosted job.
_NOT_OURS = ("candidates", "leaderboard", "promoted", "final", "openai_finetune")
# Adapters are named by what they were made from and stay where they are; batches and hosted jobs go on by themselves.
_STAYS = (
    "adapters/",
    "checkpoints/",
    "openai/fine_tune_info",
    "predictions/batches/",
    "predictions/journal/",
)
_LOOSE = (
    "quarantine",
    "openai",
    "report",
    "findings.json",
)  # written by the loop, not all of it in manifests


def history(store: TaskStore) -> list[dict[str, Any]]:
    """All rounds, oldest first."""
    return read_json(store.path("rounds.json"), default={"rounds": []})["rounds"]


def unfinished(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The round that has begun and not ended; there is at most one, the last."""
    return dict(rounds[-1]) if rounds and rounds[-1]["status"] in UNFINISHED else None


def remember(store: TaskStore, entry: Mapping[str, Any]) -> None:
    """Write one round into the history, in place of what was known of it."""
    rounds = [known for known in history(store) if known["round"] != entry["round"]]
    rounds = sorted([*rounds, dict(entry)], key=lambda known: known["round"])
    write_json(store.path("rounds.json"), {"rounds": rounds, "looks_at_test": looks_at_test(store)})


def next_number(rounds: Sequence[Mapping[str, Any]]) -> int:
    """Of the round to prepare: a new one, or the one whose preparation was killed."""
    begun = unfinished(rounds)
    return begun["round"] if begun and begun["status"] == "preparing" else len(rounds) + 1


def layer_of(number: int) -> str:
    """Name of a round's files in the overlay."""
    return f"round-{number:03d}"


def why_stop(
    weak: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    budget: BudgetSettings,
    settings: RegenerationSettings,
    ahead: Cost = NOTHING,
) -> str | None:
    """Why no further round may start, or None. Counts finished rounds; an unfinished one goes on regardless.

    ahead: what one more round is going to take; it does not start where less is left.
    """
    done = [one for one in rounds if one["status"] not in UNFINISHED]
    if not weak["weak"]:
        undecided = weak["undecided"]
        if not undecided:
            return "thresholds are demonstrated: every section is above its bar with its whole interval"
        return f"no section is shown to be below its bar; undecided with the present val rows: {', '.join(undecided)}"
    if len(done) >= budget.rounds:
        return f"{len(done)} rounds were made and budget.rounds is {budget.rounds}"
    last = done[-WITHOUT_GAIN:]
    if len(last) == WITHOUT_GAIN and all(one["status"] == "rolled back" for one in last):
        return f"{WITHOUT_GAIN} rounds in succession brought no demonstrable gain"
    spent, money, seconds = of_rounds(done), settings.money_usd, settings.accelerator_seconds
    if (money and spent.usd >= money) or spent.usd + ahead.usd > money:
        return (
            f"{spent.usd:.2f} USD are spent, one more round would pay hosted models about {ahead.usd:.2f}, and "
            f"regeneration.money_usd is {money:.2f}"
        )
    if seconds and (spent.seconds >= seconds or spent.seconds + ahead.seconds > seconds):
        return (
            f"{spent.seconds:,.0f} accelerator seconds are spent, one more round would take about {ahead.seconds:,.0f}, "
            f"and regeneration.accelerator_seconds is {seconds:,.0f}"
        )
    return None


def kept_aside(store: TaskStore, number: int) -> Path:
    """Folder with the artifacts as they were before a round."""
    return store.path("rounds", f"{number:03d}")


def keep_aside(store: TaskStore, number: int, predictors: Collection[str]) -> Path:
    """Link every artifact of the loop into the round's folder, whole or not at all; older folders are dropped.

    Writers replace files and never write into them, so a link keeps what it saw.
    """
    target = kept_aside(store, number)
    with atomic_folder(target) as staging:
        for file in _artifacts(store.base, predictors):
            _link(file, staging / file.relative_to(store.base))
    for older in target.parent.iterdir():
        if older != target:
            shutil.rmtree(older)
    return target


def put_back(store: TaskStore, number: int, predictors: Collection[str]) -> list[str]:
    """Make the loop's artifacts what they were before a round; returns the names of artifacts that changed.

    May be repeated: the folder is only read. Raises FileNotFoundError where it is gone (a later round has begun).
    """
    source = kept_aside(store, number)
    if not source.is_dir():
        raise FileNotFoundError(
            f"{source} is gone: only the last round can be put back; run the loop again after removing its rows"
        )
    before = manifest_versions(store, predictors)
    wanted = {file.relative_to(source) for file in source.rglob("*") if file.is_file()}
    for file in _artifacts(store.base, predictors):
        if file.relative_to(store.base) not in wanted:
            file.unlink()
    # Manifests last: an artifact whose manifest is in place is whole.
    for relative in sorted(wanted, key=lambda path: (path.parts[0] == MANIFESTS, path)):
        _link(source / relative, store.base / relative)
    after = manifest_versions(store, predictors)
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def take_back_rows(store: TaskStore, entry: Mapping[str, Any]) -> list[Path]:
    """Remove a round's rows, and its worked examples, from the overlay."""
    shots_file(store, layer_of(entry["round"])).unlink(missing_ok=True)
    return remove_layer(store, entry["sections"], layer_of(entry["round"]))


def manifest_versions(store: TaskStore, predictors: Collection[str]) -> dict[str, str]:
    """Data version of every artifact of the loop by name (`raw/torque`, `comparison`)."""
    folder = store.path(MANIFESTS)
    return {
        file.relative_to(folder).with_suffix("").as_posix(): read_json(file)["data_version"]
        for file in _manifests(store.base, predictors)
    }


def _artifacts(base: Path, predictors: Collection[str]) -> list[Path]:
    """What the loop has made from rows, by its own manifests, and these manifests."""
    found: set[Path] = set()
    for file in _manifests(base, predictors):
        found.add(file)
        manifest = read_json(file, default=None)
        found.update(base / name for name in manifest["files"] if not name.startswith(_STAYS))
    for name in _LOOSE:
        loose = base / name
        files = [loose] if loose.is_file() else loose.rglob("*")
        found.update(file for file in files if not file.relative_to(base).as_posix().startswith(_STAYS))
    return sorted(file for file in found if file.is_file())


def _manifests(base: Path, predictors: Collection[str]) -> list[Path]:
    """Manifests of the loop over these predictors: predictions of others are nobody's business here."""
    folder = base / MANIFESTS
    found = []
    for file in folder.rglob("*.json") if folder.is_dir() else ():
        kind, _, name = file.relative_to(folder).with_suffix("").as_posix().partition("/")
        if kind not in _NOT_OURS and (kind not in ("predictions", "metrics") or name in predictors):
            found.append(file)
    return sorted(found)


def _link(source: Path, target: Path) -> None:
    """A second name for the same bytes, put in place at once; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.link.tmp")
    staging.unlink(missing_ok=True)
    try:
        os.link(source, staging)
    except OSError:
        shutil.copy2(source, staging)
    staging.replace(target)
    staging.unlink(missing_ok=True)  # renaming onto another name of the same file leaves both


def undo(task: Task, store: TaskStore, entry: Mapping[str, Any], log: Log) -> list[str]:
    """Take a round's rows out of the overlay and put the artifacts back as they were; may be repeated."""
    take_back_rows(store, entry)
    changed = put_back(store, entry["round"], names_of(task))
    remember(store, {**entry, "status": "rolled back"})
    log(f"round {entry['round']} is undone: {len(changed)} artifacts are what they were before it")
    return changed


def names_of(task: Task) -> list[str]:
    return [predictor.name for predictor in task.predictors]
