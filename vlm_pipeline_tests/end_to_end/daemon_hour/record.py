"""The hour as Markdown: minute, event, what followed; then the final state, and what was not exercised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlm_pipeline_tests.end_to_end.daemon_hour.checks import LOOKED_AT_AGAIN, Finding
from vlm_pipeline_tests.end_to_end.daemon_hour.hour import Hour, Noted

NOT_EXERCISED = """\
Pictures and pages (the rows are text alone: a run takes seconds); a GPU; real hosted services and the real hub
(stand-ins on loopback, spoken to by the real clients); several machines, or a daemon and runs on different ones; a lost
or full disk; judges; worked examples and new questions as strategies of a round (answers were corrected); a sensor's
cursor that is lost (it cannot be deleted by hand); more than one task; days of work."""


def markdown(hour: Hour, found: Sequence[Finding]) -> str:
    passed = sum(one.passed for one in found)
    minutes = (hour.noted[-1].at + hour.noted[-1].rest_s) / 60
    lines = [
        "# An hour of the daemon",
        "",
        f"`python -m vlm_pipeline_tests.end_to_end.daemon_hour --minutes {hour.minutes:g} --seed {hour.seed}`: a real "
        "`dagster-daemon` with every sensor on, real payloads with the embedded base (a training of seconds), stand-ins "
        f"of the hosted API and the hub on loopback. {len(hour.noted)} events, {len(hour.moments)} SIGKILLs of daemon and "
        f"code server, {minutes:.0f} minutes: **{passed} of {len(found)} expectations of the final state hold**.",
        "",
        "| minute | event | runs that followed | computed anew | reused | at rest after |",
        "|---|---|---|---|---|---|",
        *(_row(noted) for noted in hour.noted),
        "",
        "Runs are named by what they make; the sensors' long ones by their first asset. *Computed anew* leaves out the "
        "candidates' assets, which follow adapters whenever they are found, and counts an artifact whose stage ran, "
        "whatever it found; *reused* are materializations whose stage found its inputs unchanged.",
        "",
        "## Killed",
        "",
        *(f"- {moment}" for moment in hour.moments),
        "",
        "## The final state",
        "",
        "| expected | | seen |",
        "|---|---|---|",
        *(f"| {one.asks} | {'yes' if one.passed else '**no**'} | {one.seen} |" for one in found),
        "",
        "## Not exercised",
        "",
        NOT_EXERCISED,
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _row(noted: Noted) -> str:
    made = sorted(noted.made - LOOKED_AT_AGAIN)
    rest = f"{noted.rest_s:.0f} s" if noted.runs else "no run"
    return f"| {noted.at / 60:.0f} | {noted.event.what} | {_runs(noted)} | {', '.join(made) or 'nothing'} | {noted.reused} | {rest} |"


def _runs(noted: Noted) -> str:
    counted: Counter[tuple[str, str]] = Counter()
    for (made, status), count in noted.runs.items():
        first, *others = made.split("+")
        counted[f"{first} and {len(others)} more" if others else first, status] += count
    shown = [
        f"{count} × {made}" + ("" if status == "SUCCESS" else f" ({status.lower()})")
        for (made, status), count in sorted(counted.items())
    ]
    return "; ".join(shown) or "none"
