"""A gate for CI over stored predictions: `pytest <this folder> --task data/manual_qa --model tuned`.

The same folder runs under `deepeval test run`. Nothing is generated; the exit code says whether the bars hold.
"""
