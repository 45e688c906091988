"""Events in their order and time before a daemon at work, and what followed each of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dagster as dg

from vlm_pipeline.candidates.sources import hub_id, known_candidates
from vlm_pipeline.inference.predictors import fine_tune_info
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.end_to_end.daemon import Daemon, Runs, made_by
from vlm_pipeline_tests.end_to_end.daemon_hour.world import NAME, REPOSITORY, World

LONG_S = 3600.0  # a hosted job that takes longer than this is held back by the script
QUIET_S = 30.0  # several looks of every sensor that looks at rows
CANDIDATES = (
    "candidate_predictions",
    "candidate_metrics",
    "leaderboard",
)  # follow adapters, whenever they come


@dataclass(frozen=True)
class Event:
    """`minute` of an hour. `makes`: the assets that are computed anew because of it, and no others (candidates aside);
    None where that depends on what else is going on."""

    minute: float
    name: str
    what: str
    act: Callable[[Hour], None]
    makes: frozenset[str] | None = None
    settled: bool = True  # it waits until everything before it has come to rest


@dataclass
class Noted:
    """One event as it went."""

    event: Event
    at: float  # seconds since the start
    runs: Runs = field(default_factory=Counter)
    made: set[str] = field(default_factory=set)  # assets computed anew
    reused: int = 0  # materializations that computed nothing
    rest_s: float = 0.0  # from the event to the end of the last run that followed


@dataclass
class Hour:
    world: World
    minutes: float
    seed: int = 0
    say: Callable[[str], None] = print
    noted: list[Noted] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)  # ids of runs that were open when a daemon was killed
    moments: list[str] = field(default_factory=list)  # when it was killed
    orphans: list[str] = field(default_factory=list)  # processes that outlived their daemon

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.daemon = Daemon(self.world.loop)
        self._bounds: list[float] = []

    def run(self, events: Sequence[Event]) -> None:
        """Let everything happen, at the earliest at its minute, and come to rest."""
        start = time.time()
        for event in events:
            time.sleep(max(0.0, start + event.minute * self.minutes - time.time()))
            if event.settled and self.noted:
                self.rest()
            self._bounds.append(time.time())
            self.noted.append(Noted(event, time.time() - start))
            self.say(f"{self.noted[-1].at / 60:5.1f} min  {event.what}")
            event.act(self)
        self.daemon.wait(self._hub_seen, 1800, "the revision of the watched repository is noticed")
        self.rest()
        for number, noted in enumerate(self.noted):
            end = self._bounds[number + 1] if number + 1 < len(self._bounds) else time.time()
            self._follow(noted, self._bounds[number], end)

    def rest(self) -> None:
        """Until nothing runs, nothing was added for a while and no hosted job is waited for."""
        self.daemon.wait(lambda: not self._job_at_work(), 1800, "the end of the hosted job is noticed")
        self.daemon.rest(QUIET_S, 1800)

    def _hub_seen(self) -> bool:
        shown = self.world.hub.repositories[f"model/{REPOSITORY}"].sha
        return hub_id(REPOSITORY, shown) in known_candidates(self.world.store)

    def _job_at_work(self) -> bool:
        if self.world.stand_in.job_s > LONG_S:
            return False
        task, store = self.world.task, self.world.store
        info = read_json(fine_tune_info(task, store, task.predictors[3]), default={})
        return info.get("status") in ("queued", "running", "validating_files")

    def kill(self, moment: str, condition: Callable[[], object], seconds: float = 1800.0) -> None:
        """SIGKILL of daemon, code server, runs and payloads when the condition holds; started again at once."""
        self.daemon.wait(lambda: bool(condition()), seconds, moment, every_s=0.02)
        self.kill_now(moment)
        time.sleep(5)  # a payload notices by itself that its run is gone
        self.orphans += [" ".join(words)[:160] for words in self.daemon.processes().values()]
        self.daemon.start()

    def kill_now(self, moment: str) -> None:
        """The same without waiting; nothing is started again."""
        with dg.DagsterInstance.from_config(str(self.daemon.home)) as instance:
            self.daemon.kill()
            open_runs = [run for run in instance.get_runs() if not run.is_finished]
        self.killed |= {run.run_id for run in open_runs}
        cut = [made_by(run) for run in open_runs]
        if looking := self.daemon.in_a_tick():
            cut.append(f"a look of {looking}")
        self.moments.append(f"{moment}; cut short: {', '.join(cut) or 'nothing'}")

    def _follow(self, noted: Noted, begin: float, end: float) -> None:
        with dg.DagsterInstance.from_config(str(self.daemon.home)) as instance:
            records = [
                one for one in instance.get_run_records() if begin <= one.create_timestamp.timestamp() < end
            ]
            noted.runs = Counter((made_by(one.dagster_run), one.dagster_run.status.value) for one in records)
            noted.rest_s = max((one.end_time or 0.0 for one in records), default=begin) - begin
            for event in materializations(instance, begin, end):
                (name, partition), reused = event.name, event.reused
                if reused:
                    noted.reused += 1
                elif name not in CANDIDATES:
                    noted.made.add(f"{name}[{partition}]" if partition else name)


@dataclass(frozen=True)
class Made:
    """One materialization."""

    name: tuple[str, str | None]  # asset without the task's name, partition
    at: float
    run_id: str
    reused: bool
    inputs: tuple[tuple[str, str], ...]  # versions of what it was made from


def materializations(
    instance: dg.DagsterInstance, begin: float | None = None, end: float | None = None
) -> list[Made]:
    """All of them between two times, in order."""
    found = []
    for key in instance.get_asset_keys([NAME]):
        for event in instance.fetch_materializations(
            dg.AssetRecordsFilter(key, after_timestamp=begin, before_timestamp=end), limit=10_000
        ).records:
            made = event.asset_materialization
            assert made is not None
            reused = "reused" in made.metadata and bool(made.metadata["reused"].value)
            versions = tuple(
                sorted(
                    (name.removeprefix("dagster/input_data_version/"), value)
                    for name, value in made.tags.items()
                    if name.startswith("dagster/input_data_version/")
                )
            )
            found.append(
                Made(
                    ("/".join(key.path[1:]), made.partition), event.timestamp, event.run_id, reused, versions
                )
            )
    return sorted(found, key=lambda one: one.at)
