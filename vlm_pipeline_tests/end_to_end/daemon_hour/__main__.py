"""An hour of a real daemon under injected events, and whether it ends in the expected state.

    python -m vlm_pipeline_tests.end_to_end.daemon_hour --minutes 60 --record docs/daemon-hour.md

Everything is temporary: task, store, Dagster home, stand-ins of the hosted API and the hub on loopback. Exit status 1
when anything is not as expected. With fewer minutes the same events come as soon as the one before has come to rest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from vlm_pipeline_tests.end_to_end.daemon_hour.checks import findings
from vlm_pipeline_tests.end_to_end.daemon_hour.hour import Hour
from vlm_pipeline_tests.end_to_end.daemon_hour.record import markdown
from vlm_pipeline_tests.end_to_end.daemon_hour.script import EVENTS
from vlm_pipeline_tests.end_to_end.daemon_hour.world import World


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="EVENT", help="names of events, besides the first")
    parser.add_argument("--folder", type=Path, help="new folder to work in, kept; default: a temporary one")
    parser.add_argument("--record", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    events = [one for one in EVENTS if options.only is None or one.name in ("begin", *options.only)]
    with TemporaryDirectory(prefix="daemon-hour-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder)
        hour = Hour(world, options.minutes, options.seed, say=lambda text: print(text, flush=True))
        try:
            hour.run(events)
            found = findings(hour)
        finally:
            if hour.daemon.process is not None:
                hour.daemon.kill()
            world.close()
    text = markdown(hour, found)
    print(text)
    if options.record:
        options.record.write_text(text, "utf-8")
    return 0 if all(one.passed for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
