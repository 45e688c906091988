"""What happens in the hour: rows, adapters, a hub, a hosted service, a person, and SIGKILL."""

from __future__ import annotations

import os
import time

from vlm_pipeline.regeneration.rounds import history
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.end_to_end.daemon_hour.hour import Event, Hour
from vlm_pipeline_tests.end_to_end.daemon_hour.world import ANSWERS, GROUPS, NAME, rows_of
from vlm_pipeline_tests.servers.hosted_api.stand_in import Faults

SENSORS = ("raw_files", "automation", "candidates", "improve", "gpt_tuned_fine_tune")
DAY_S = 86_400.0
MORE_TORQUE = {**GROUPS, "train": 9}
MORE_FLUIDS = {**GROUPS, "test": 9}
MORE_GAPS = {"train": 2, "test": 1}
BROKEN = 2  # lines of the torque file that are no rows
WEIGHTS = "adapter_model.safetensors"
NOTHING: frozenset[str] = frozenset()


READ = frozenset(f"raw_examples[{section}]" for section in ANSWERS)  # a source is read as a whole
JUDGED = frozenset({"comparison", "report"})


def _models(*names: str) -> set[str]:
    return {f"{stage}/{name}" for stage in ("predictions", "metrics") for name in names}


def train_rows(section: str) -> frozenset[str]:
    """What other train rows make necessary: what is made from them, and no model that is not trained on them is asked."""
    made = {"openai_jsonl", "dataset", "training_set", "plan", "adapter", *_models("tuned", "gpt_tuned")}
    return READ | {f"formatted_examples[{section}]"} | made | JUDGED


def test_rows(section: str) -> frozenset[str]:
    """Of other test rows: every model is asked about them, and nothing is trained."""
    made = {"dataset", "weak_sections", *_models("base", "tuned", "gpt", "gpt_tuned")}
    return READ | {f"formatted_examples[{section}]"} | made | JUDGED


FROM_NOTHING = READ.union(*(train_rows(one) | test_rows(one) for one in ANSWERS)) | {
    "probes",
    "regeneration_request",
}


def _begin(hour: Hour) -> None:
    hour.world.push(seed=1)
    hour.daemon.switch_on(*(f"{NAME}_{name}" for name in SENSORS))
    hour.daemon.start()
    pointer = hour.world.store.path("promoted.json")
    hour.daemon.wait(pointer.is_file, 1800, "rows to a promoted adapter, from nothing")


def _more_train_rows(hour: Hour) -> None:
    hour.world.stand_in.job_s = DAY_S  # this time the hosted job takes long
    hour.world.write("torque", rows_of("torque", MORE_TORQUE))


def _same_again(hour: Hour) -> None:
    for file in sorted((hour.world.root / "raw").glob("*.jsonl")):
        file.write_bytes(file.read_bytes())
        os.utime(file)


def _kill_in_a_tick(hour: Hour) -> None:
    hour.kill("inside a sensor's tick", hour.daemon.in_a_tick)


def _job_ends(hour: Hour) -> None:
    hour.world.stand_in.job_s = 20.0


def _new_file(hour: Hour) -> None:
    hour.world.write("gaps_more", rows_of("gaps", MORE_GAPS, mark="new"))
    hour.kill("while an adapter is trained", lambda: hour.daemon.at_work("vlm_pipeline.training"))


def _hub_moves(hour: Hour) -> None:
    hour.world.push(seed=2)


def _broken_rows(hour: Hour) -> None:
    hour.world.write("torque", rows_of("torque", MORE_TORQUE), broken=BROKEN)


def _service_fails(hour: Hour) -> None:
    stand_in = hour.world.stand_in
    stand_in.faults = Faults(0.5, hour.seed, kinds=("429", "500"))
    hour.world.write("fluids", rows_of("fluids", MORE_FLUIDS))
    hour.daemon.wait(
        lambda: sum(stand_in.injected.values()) > 0, 1800, "the hosted API is asked about new rows"
    )
    time.sleep(hour.minutes)  # a sixtieth of the time
    stand_in.faults = Faults()


def _adapters(hour: Hour) -> None:
    hour.world.bring("theirs", seed=3)
    hour.world.bring("stranger", "another base", seed=4)
    hour.world.bring("pickled", "pickle", seed=5)
    half = hour.world.foreign(hour.world.folder / "made" / "slow", seed=6)
    target = hour.world.store.path("incoming") / "slow"
    target.mkdir()
    (target / "adapter_config.json").write_bytes((half / "adapter_config.json").read_bytes())
    weights = (half / WEIGHTS).read_bytes()
    (target / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    hour.kill("while a candidate is asked", lambda: hour.daemon.at_work("vlm_pipeline.inference"))


def _half_copied_is_finished(hour: Hour) -> None:
    known = read_json(hour.world.store.path("leaderboard.json"))
    assert not any(
        one["id"].startswith("slow") for group in ("ranked", "rejected", "waiting") for one in known[group]
    )
    half = hour.world.folder / "made" / "slow"
    (hour.world.store.path("incoming") / "slow" / WEIGHTS).write_bytes((half / WEIGHTS).read_bytes())


def _spoiled(hour: Hour) -> None:
    hour.world.write("fluids", rows_of("fluids", MORE_FLUIDS, wrong=True))
    hour.daemon.wait(
        lambda: bool(history(hour.world.store)), 1800, "a round begins for the section that got weak"
    )
    time.sleep(hour.random.uniform(0, 20))
    hour.kill(
        "inside a round",
        lambda: any("round" in name or "improve" in name for name, _ in hour.daemon.open_runs()),
    )
    hour.daemon.wait(
        lambda: history(hour.world.store)[-1]["status"] in ("kept", "rolled back"), 1800, "the round ends"
    )


def _roll_back(hour: Hour) -> None:
    hour.world.loop.run(NAME, "--why", "an answer in the wrong unit", command="roll-back")


def _while_it_is_down(hour: Hour) -> None:
    hour.kill_now("at rest, and left down for a while")
    hour.world.write("gaps_more", rows_of("gaps", {**MORE_GAPS, "test": 2}, mark="new"))
    hour.world.bring("late", seed=7)
    hour.world.bring("later", seed=8)
    time.sleep(hour.minutes / 2)
    hour.daemon.start()


EVENTS = (
    Event(0, "begin", "the daemon starts on rows alone, all sensors on; the watched repository holds an adapter", _begin, FROM_NOTHING),
    Event(7, "train rows", "four more train rows in the file of `torque`; the hosted job for them takes long", _more_train_rows, train_rows("torque")),
    Event(13, "same again", "all row files are written again with the same bytes and new time stamps", _same_again, NOTHING),
    Event(14, "kill in a tick", "SIGKILL of the daemon with its code server inside a sensor's tick; restart", _kill_in_a_tick, NOTHING),
    Event(16, "job ends", "the hosted fine-tuning job ends", _job_ends, JUDGED | _models("gpt_tuned")),
    Event(19, "new file", "a new file with rows of `gaps`; SIGKILL while the adapter is trained; restart", _new_file, train_rows("gaps") | test_rows("gaps")),
    Event(25, "hub moves", "the watched repository shows another revision", _hub_moves, NOTHING),
    Event(26, "broken rows", f"{BROKEN} broken lines in the file of `torque`", _broken_rows, READ | {"dataset", "report"}),
    Event(29, "service fails", "four more test rows of `fluids`, while every second request to the hosted API is answered 429 or 500", _service_fails, test_rows("fluids")),
    Event(34, "adapters", "four adapters at once: one fits, one is of another base, one is a pickle, one is half copied; SIGKILL while a candidate is asked; restart", _adapters, NOTHING),
    Event(39, "half copied", "the half-copied adapter is finished", _half_copied_is_finished, NOTHING),
    Event(42, "spoiled", "all train answers of `fluids` are wrong; SIGKILL inside the round that follows; restart", _spoiled),
    Event(52, "roll back", "`roll-back` by a person", _roll_back, NOTHING),
    Event(54, "while it is down", "SIGKILL; meanwhile four more test rows of `gaps` and two adapters; start after a while", _while_it_is_down, test_rows("gaps")),
)  # fmt: skip
