"""Is the state after the hour the expected one: each finding says what was looked at and what was seen."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from vlm_pipeline.definitions import build_defs
from vlm_pipeline.examples.stage import quarantine_records
from vlm_pipeline.promotion.pointer import PROMOTED, read_pointer
from vlm_pipeline.regeneration.rounds import history
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline_tests.end_to_end.daemon import made_by
from vlm_pipeline_tests.end_to_end.daemon_hour import script
from vlm_pipeline_tests.end_to_end.daemon_hour.hour import Hour, Made, materializations
from vlm_pipeline_tests.end_to_end.daemon_hour.world import ANSWERS, NAME
from vlm_pipeline_tests.end_to_end.loop import Loop

LOOKED_AT_AGAIN = {"quarantine", "promoted_adapter", "openai_finetune/gpt_tuned"}  # they remember nothing
# What history, times and a person's word enter: not to be compared with a store that saw the last content only.
OF_HISTORY = re.compile(r"rounds|report|leaderboard|promoted|candidates/|checks/base_layers|regeneration_request|(predictions|metrics)/(?!base$|tuned$|gpt$|gpt_tuned$)")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    asks: str
    passed: bool
    seen: str


def findings(hour: Hour) -> list[Finding]:
    """Everything that is to be true in the end; `hour` is at rest, and its daemon at work until it is killed here."""
    with dg.DagsterInstance.from_config(str(hour.daemon.home)) as instance:
        found = [
            _runs(hour, instance),
            _once(instance),
            _nothing_twice(instance),
            _up_to_date(hour, instance),
        ]
    found += [
        _of_events(hour),
        _hosted(hour),
        _leaderboard(hour),
        _quarantine(hour),
        _rounds(hour),
        _promoted(hour),
    ]
    hour.daemon.kill()
    return [*found, _same_as_undisturbed(hour), _left_behind(hour)]


def happened(hour: Hour, name: str) -> bool:
    return any(noted.event.name == name for noted in hour.noted)


def _finding(asks: str, seen: object, expected: object) -> Finding:
    passed = seen == expected
    return Finding(asks, passed, str(seen) if passed else f"{seen}, expected {expected}")


def _runs(hour: Hour, instance: dg.DagsterInstance) -> Finding:
    runs = instance.get_runs()
    bad = [
        f"{made_by(run)} {run.status.value}: {_why(instance, run)}"
        for run in runs
        if not run.is_success and run.run_id not in hour.killed
    ]
    killed = sum(run.run_id in hour.killed for run in runs)
    seen = (
        f"{len(runs)} runs: {sum(run.is_success for run in runs)} succeeded, {killed} were open at a SIGKILL"
    )
    return Finding("no run failed but those that were killed", not bad, "; ".join([seen, *bad]))


def _why(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """What Dagster says of a run that failed, in one line."""
    told = [entry for entry in instance.all_logs(run.run_id) if entry.is_dagster_event]
    failures = [
        one
        for one in told
        if one.dagster_event_type in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE)
    ]
    if not failures:
        return f"last told: {told[-1].user_message}" if told else "nothing was told"
    event = failures[0].get_dagster_event()
    error = getattr(event.event_specific_data, "error", None)
    return " ".join(
        f"{event.message} {error.message if error else ''} {error.cause.message if error and error.cause else ''}".split()
    )[:600]


def _once(instance: dg.DagsterInstance) -> Finding:
    """A sensor's run key is its event and `, try n`."""
    keys = [
        run.tags["dagster/run_key"]
        for run in instance.get_runs()
        if run.is_success and "dagster/run_key" in run.tags
    ]
    events = Counter(key.rpartition(", try ")[0] for key in keys)
    twice = [event for event, count in events.items() if count > 1]
    return Finding(
        "one event of a sensor ended in one successful run",
        not twice,
        "; ".join([f"{len(events)} events", *twice]),
    )


def _nothing_twice(instance: dg.DagsterInstance) -> Finding:
    """A run that waited in line may find that another one, or a round that was undone, has left it nothing to do."""
    last: dict[tuple[str, str | None], Made] = {}
    again, count = [], 0
    for made in materializations(instance):
        before = last.get(made.name)
        # The source of raw_examples is no asset: its version is not among the inputs.
        anew = not made.reused and made.name[0] not in {"raw_examples", *LOOKED_AT_AGAIN}
        count += anew
        if anew and made.inputs and before and before.inputs == made.inputs:
            again.append(f"{made.name[0]} {made.name[1] or ''}")
        last[made.name] = made
    asks = "nothing was computed twice in succession from the same inputs"
    return Finding(asks, not again, "; ".join([f"{count} artifacts were computed", *again]))


def _up_to_date(hour: Hour, instance: dg.DagsterInstance) -> Finding:
    """Dagster's own view of what is out of date."""
    definitions = build_defs(tasks=[hour.world.task])
    graph = definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    stale, count = [], 0
    for key in sorted(graph.materializable_asset_keys):
        partitions = graph.get(key).partitions_def
        for name in (
            partitions.get_partition_keys(dynamic_partitions_store=instance) if partitions else [None]
        ):
            count += 1
            if resolver.get_status(key, name) != StaleStatus.FRESH:
                stale.append(f"{'/'.join(key.path[1:])} {name or ''}")
    return Finding(
        "Dagster shows everything as made and up to date",
        not stale,
        "; ".join([f"{count} partitions", *stale]),
    )


def _of_events(hour: Hour) -> Finding:
    """Each event led to what it makes necessary, exactly."""
    wrong = []
    for noted in hour.noted:
        if (
            noted.event.makes is not None
            and noted.made - LOOKED_AT_AGAIN != noted.event.makes - LOOKED_AT_AGAIN
        ):
            more, less = (
                noted.made - noted.event.makes - LOOKED_AT_AGAIN,
                noted.event.makes - noted.made - LOOKED_AT_AGAIN,
            )
            wrong.append(f"{noted.event.name}: also {sorted(more)}, not {sorted(less)}")
    told = sum(noted.event.makes is not None for noted in hour.noted)
    return Finding(
        "every event led to what it makes necessary, and to nothing else",
        not wrong,
        "; ".join([f"{told} events", *wrong]),
    )


def _hosted(hour: Hour) -> Finding:
    """One job for each training set, and the one of the present rows is brought in."""
    stand_in = hour.world.stand_in
    files = [stand_in.files[job["training_file"]][1] for job in stand_in.jobs.values()]
    info = read_json(hour.world.store.path("openai", "fine_tune_info.json"))
    present = hour.world.store.path("openai", "train_with_images.jsonl").read_bytes()
    brought = (
        info["status"] == "succeeded"
        and stand_in.files[stand_in.jobs[info["job_id"]]["training_file"]][1] == present
    )
    seen = (
        f"{len(files)} jobs of {len(set(files))} training sets; that of the present rows is {info['status']}"
    )
    failed = sum(stand_in.injected.values())
    asked = failed > 0 or not happened(hour, "service fails")
    return Finding(
        "one hosted fine-tuning job a training set, also where the service fails",
        brought and asked and len(files) == len(set(files)),
        f"{seen}; {failed} requests were answered 429 or 500",
    )


def _leaderboard(hour: Hour) -> Finding:
    board = read_json(hour.world.store.path("leaderboard.json"))
    own = [path.parent.name for path in hour.world.store.path("adapters").glob("[!.]*/record.json")]
    own = [
        name
        for name in own
        if "foreign" not in read_json(hour.world.store.path("adapters", name, "record.json"))
    ]
    fitting = {"adapters": ["theirs"], "half copied": ["slow"], "while it is down": ["late", "later"]}
    ranked = ["tuned", *own, "team--adapter", *(["team--adapter"] if happened(hour, "hub moves") else [])]
    ranked += [name for event, names in fitting.items() if happened(hour, event) for name in names]
    expected = {"ranked": sorted(ranked), "rejected": [], "waiting": []}
    if happened(hour, "adapters"):
        expected["rejected"] = ["pickled", "stranger"]
    names = {
        group: sorted(re.sub(r"-[0-9a-f]{8}$", "", one["id"]) for one in board[group]) for group in expected
    }
    reasons = {re.sub(r"-[0-9a-f]{8}$", "", one["id"]): one["reason"] for one in board["rejected"]}
    found = _finding(
        "the leaderboard ranks every adapter that fits, and names the refused with the reason",
        names,
        expected,
    )
    right = "pickle file" in reasons.get("pickled", "pickle file") and "does not fit" in reasons.get(
        "stranger", "does not fit"
    )
    return Finding(found.asks, found.passed and right, found.seen)


def _quarantine(hour: Hour) -> Finding:
    kinds = Counter(one["kind"] for one in quarantine_records(hour.world.task, hour.world.store))
    expected = script.BROKEN if happened(hour, "broken rows") else 0
    return _finding("the quarantine holds the broken lines", sum(kinds.values()), expected)


def _rounds(hour: Hour) -> Finding:
    seen = [
        (one["status"], one["sections"], one["rows"]["fluids"]["replaced"])
        for one in history(hour.world.store)
    ]
    spoiled = sum(
        row["conversations"][1]["content"] != ANSWERS["fluids"] and row["metadata"]["split"] == "train"
        for row in script.rows_of("fluids", script.MORE_FLUIDS, wrong=True)
    )
    expected = [("kept", ["fluids"], spoiled)] if happened(hour, "spoiled") else []
    return _finding("one round mended the spoiled section, row by row", seen, expected)


def _promoted(hour: Hour) -> Finding:
    """Each adapter that was trained on sound rows was promoted once; a roll-back shows the one before."""
    pointer = read_pointer(hour.world.store)
    promoted = [move["adapter_id"] for move in pointer["history"] if move["action"] == PROMOTED]
    back = happened(hour, "roll back")
    expected = promoted[-2] if back else promoted[-1]
    steps = [move["action"] for move in pointer["history"]]
    good = (
        pointer["adapter_id"] == expected
        and len(set(promoted)) == len(promoted)
        and steps.count("rolled back") == back
    )
    return Finding(
        "the promoted adapter is the expected one", good, f"{' -> '.join(steps)}: {pointer['adapter_id']}"
    )


def _same_as_undisturbed(hour: Hour) -> Finding:
    """Data versions of a fresh store that read the last content and the kept round's rows, by the plain command."""
    folder = hour.world.folder / "fresh"
    fresh = Loop(folder, hour.world.folder, hour.world.services)
    other, store = TaskStore(NAME, fresh.store), hour.world.store
    overlay = store.path("overlay")
    if overlay.is_dir():
        shutil.copytree(overlay, other.path("overlay"))
    for _ in range(2):  # the second run brings the hosted fine-tune in
        fresh.run(NAME, timeout=1800)
    versions = [_versions(one) for one in (store, other)]
    differ = sorted(
        name for name in {*versions[0], *versions[1]} if versions[0].get(name) != versions[1].get(name)
    )
    seen = "; ".join([f"{len(versions[1])} artifacts", *(f"{name} differs" for name in differ)])
    return Finding("data versions are those of an undisturbed run over the last content", not differ, seen)


def _versions(store: TaskStore) -> dict[str, str]:
    root = store.path(".manifests")
    names = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.json")}
    return {
        name: read_json(path)["data_version"] for name, path in names.items() if not OF_HISTORY.match(name)
    }


def _left_behind(hour: Hour) -> Finding:
    rubbish = [str(file) for file in hour.world.store.base.rglob("*.tmp")]
    orphans = [*hour.orphans, *(" ".join(words)[:160] for words in hour.daemon.processes().values())]
    seen = f"{len(rubbish)} half-written files, {len(orphans)} orphans after {len(hour.moments)} kills"
    return Finding(
        "no half-written file and no orphaned process is left",
        not rubbish and not orphans,
        "; ".join([seen, *rubbish, *orphans]),
    )
