"""The beginning of a round: what is wanted, and the rows that are made of it. Its end is in `judging`.

Nothing here runs the loop in between; the orchestration does. Every step may be repeated after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from filelock import FileLock

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.overlay import overlay_files, overlay_version, write_layer
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.manifest import Artifact, code_version, make_once, read_manifest, require
from vlm_pipeline.progress import Progress
from vlm_pipeline.regeneration.costs import ahead, charged, of_rounds, spent
from vlm_pipeline.regeneration.few_shot import choose_shots, write_shots
from vlm_pipeline.regeneration.making import SectionRows, as_layer, known_facts, make_rows, preview
from vlm_pipeline.regeneration.request import make_request
from vlm_pipeline.regeneration.rounds import (
    Log,
    history,
    keep_aside,
    layer_of,
    names_of,
    next_number,
    remember,
    take_back_rows,
    undo,
    unfinished,
    why_stop,
)
from vlm_pipeline.settings.data import Shot
from vlm_pipeline.store import TaskStore, content_hash, read_json, write_json
from vlm_pipeline.task import Task

NO_ROWS: dict[str, Any] = {"rows": {}, "previews": {}, "shots": []}  # of a round that has made none yet


def make_regeneration_request(task: Task, store: TaskStore, log: Log) -> Artifact:
    """`regeneration_request.json`: what the next round would make, or why there is none."""
    names = [f"raw/{name}" for name in task.sections.names]
    inputs = {
        **require(store, ["weak_sections"], "Materialize weak_sections."),
        **require(store, names, "Materialize raw_examples."),
        "settings": task.settings_hash("regeneration", "budget", "predictors"),
        "rounds": content_hash([[one["round"], one["status"]] for one in history(store)]),
        "code": code_version("regeneration"),
    }

    def make() -> Artifact:
        request = _request(task, store)
        path = store.path("regeneration_request.json")
        write_json(path, request)
        log(request["stop"] or f"weak: {', '.join(one['section'] for one in request['sections'])}")
        metadata = {
            "weak": len(request["sections"]),
            "stop": request["stop"],
            "teacher": request["teacher"] or "none is set: a person (python -m vlm_pipeline hand-over)",
            "strategies": ", ".join(request["strategies"]),
            "sections": {"table": [_flat(one) for one in request["sections"]]},
        }
        return Artifact(content_hash(request), metadata, (path,))

    return make_once(store, "regeneration_request", inputs, make, log)


def _request(task: Task, store: TaskStore) -> dict[str, Any]:
    weak = read_json(store.path("weak_sections.json"))
    more = ahead(task, store, weak["predictor"])
    stop = why_stop(weak, history(store), task.budget, task.regeneration, more)
    learner = next((one for one in task.predictors if one.name == weak["predictor"]), None)
    if stop is None and getattr(learner, "adapter", None) != "trained":
        stop = f"{weak['predictor']} does not use the trained adapter: it would not learn from new rows"
    rows = [row for name in weak["weak"] for row in read_raw(store.section("raw", name))]
    return make_request(weak, rows, task.regeneration, stop)


def _flat(section: dict[str, Any]) -> dict[str, Any]:
    counts = {
        name: ", ".join(f"{key}: {n}" for key, n in section[name].items())
        for name in ("failures", "difficulty", "kinds")
    }
    return {**section, **counts}


def make_regenerated_rows(
    task: Task, store: TaskStore, sections: Sequence[str], *, new_round: bool, log: Log
) -> dict[str, Artifact]:
    """The overlay of the given sections as it lies in the store; with `new_round`, after a round has filled it.

    A round that was begun and not judged goes on: nothing is made, or paid, a second time.
    """
    store.base.mkdir(parents=True, exist_ok=True)
    with FileLock(store.path("rounds.lock")):
        _tidy(task, store, log)
        before = {name: overlay_version(store, name) for name in sections}
        if new_round:
            _begin_round(task, store, sections, log)
    rounds = history(store)
    made = {}
    for name in sections:
        version = overlay_version(store, name)
        files = tuple(overlay_files(store, name))
        same = version == before[name]
        reason = "the overlay is as it was" if same else "a round has filled it"
        made[name] = Artifact(version, _overlay_metadata(store, name, rounds), files, same, reason)
    return made


def _overlay_metadata(store: TaskStore, section: str, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    own = [one for one in rounds if section in one["rows"]]
    files = [file.name for file in overlay_files(store, section)]
    metadata: dict[str, Any] = {
        "layers": len({name.split(".", 1)[0] for name in files}),
        "files": ", ".join(files),
    }
    if not own:
        return {**metadata, "rows_made": 0}
    last = own[-1]
    counts = last["rows"][section]
    return {
        **metadata,
        "round": last["round"],
        "status": last["status"],
        "rows_made": counts["made"],
        "rows_kept": counts["replaced"] + counts["new"],
        "rows_replaced": counts["replaced"],
        "rows_new": counts["new"],
        "rows_confirmed": counts["confirmed"],
        "rows_withdrawn": counts["withdrawn"],
        "rows_rejected": sum(counts["rejected"].values()),
        **{f"rejected_{kind}": n for kind, n in counts["rejected"].items()},
        "teacher": last["teacher"],
        "cost_usd": float(last["cost_usd"]),
        "preview": {"md": last["previews"].get(section, "")},
    }


def _begin_round(task: Task, store: TaskStore, sections: Sequence[str], log: Log) -> None:
    """Make the rows of the next round and open it; goes on with one that is unfinished."""
    rounds = history(store)
    begun = unfinished(rounds)
    if begun and begun["status"] == "open":
        log(f"round {begun['round']} is open: its rows lie in the overlay, the loop goes on with them")
        return
    if read_manifest(store, "weak_sections") is None:
        log("no loop has run yet, so nothing is known to be weak: this run is the first loop")
        return
    request = _request(task, store)
    if request["stop"]:
        log(f"no round: {request['stop']}")
        return
    wanted = [one for one in request["sections"] if one["section"] in sections]
    if not wanted:
        log("none of the sections of this run is weak")
        return
    number = next_number(rounds)
    wanted = [{**one, "round": number} for one in wanted]
    entry = {
        "round": number,
        "sections": [one["section"] for one in wanted],
        "predictor": request["predictor"],
        "strategies": request["strategies"],
        "teacher": request["teacher"],
        "weak_before": [one["section"] for one in request["sections"]],
    }
    entry = prepare_round(task, store, entry)
    left_usd = task.regeneration.money_usd - of_rounds(rounds[: number - 1]).usd
    made = _make_sections(task, store, wanted, layer_of(number), left_usd, log)
    shots = []
    if "few_shot" in request["strategies"]:
        shots = choose_shots(task, wanted, {one.section: one.borne_out for one in made})
        if not shots:
            log("no worked example: no borne-out row of these sections has one picture, in the task folder")
    open_round(task, store, entry, made, log, shots)


def _tidy(task: Task, store: TaskStore, log: Log) -> None:
    """Finish what a killed run left: rows that nobody has read are taken out, a roll-back is completed."""
    begun = unfinished(history(store))
    if begun and begun["status"] == "rolling back":
        undo(task, store, begun, log)
    elif begun and begun["status"] == "preparing":
        take_back_rows(store, begun)
        remember(store, {**begun, **NO_ROWS})
        log(f"round {begun['round']} was being prepared when its run ended; the next round makes it again")


def prepare_round(task: Task, store: TaskStore, entry: dict[str, Any]) -> dict[str, Any]:
    """Remember that a round has begun, before anything is paid for it; the entry with what was spent until then.

    A round whose preparation was killed goes on under its number and bears what it had cost.
    """
    begun = unfinished(history(store))
    before = begun["spent_before"] if begun else asdict(spent(task, store))
    entry = charged(task, store, {**entry, **NO_ROWS, "status": "preparing", "spent_before": before})
    remember(store, entry)
    return entry


def open_round(
    task: Task,
    store: TaskStore,
    entry: dict[str, Any],
    made: Sequence[SectionRows],
    log: Log,
    shots: Sequence[Shot] = (),
) -> None:
    """Put rows into the overlay as a round of their own, a prepared one. The caller holds `rounds.lock`."""
    layer = layer_of(entry["round"])
    entry = {
        **charged(task, store, entry),
        "rows": {one.section: one.counts for one in made},
        "previews": {one.section: preview([one]) for one in made},
        "shots": [shot.model_dump() for shot in shots],
    }
    if not shots and not any(one.rows or one.withdrawn for one in made):
        for one in made:
            write_layer(task, store, one.section, layer, **{**as_layer(one), "rows": ()})
        reason = "Rolled back: no proposed row passed the vetting, and no train row was found to be wrong."
        remember(store, {**entry, "status": "rolled back", "decision": reason})
        log(reason)
        return
    remember(store, entry)
    keep_aside(store, entry["round"], names_of(task))
    for one in made:
        write_layer(task, store, one.section, layer, **as_layer(one))
    if shots:
        write_shots(store, layer, shots)
    remember(store, {**entry, "status": "open"})
    log(f"round {entry['round']} is open: {', '.join(one.section for one in made)}")


def _make_sections(
    task: Task, store: TaskStore, wanted: Sequence[dict[str, Any]], layer: str, left_usd: float, log: Log
) -> list[SectionRows]:
    from vlm_pipeline.formatting.template import load_processor
    from vlm_pipeline.regeneration.proposals import TeacherError
    from vlm_pipeline.regeneration.teachers import make_teacher
    from vlm_pipeline.regeneration.vetting import HeldOut

    teacher = make_teacher(task, store, layer, log, left_usd)
    known = known_facts(task)
    held_out = HeldOut.of(all_rows(task, store))
    processor = load_processor(task.base_model_path, task.revision, task.image)
    made = []
    for request in Progress(log, quiet=True).over("sections made", wanted, len(wanted)):
        rows = list(read_raw(store.section("raw", request["section"])))
        log(
            f"{request['section']}: {request['train_rows']} train rows of {request['pages']} pages go to {teacher.name}"
        )
        made.append(make_rows(task, request, rows, teacher, known, held_out, processor, layer, log))
    silent = [one for part in made for one in part.rejected if one.kind == "no_answer"]
    if silent and not any(part.rows or part.borne_out for part in made):
        raise TeacherError(f"{teacher.name} answered nothing; first reason: {silent[0].reason}")
    return made


def all_rows(task: Task, store: TaskStore) -> Any:
    """Rows of all sections, streamed."""
    return (row for name in task.sections.names for row in read_raw(store.section("raw", name)))


def train_rows(store: TaskStore, section: str) -> list[Example]:
    return [row for row in read_raw(store.section("raw", section)) if row.split == "train"]
