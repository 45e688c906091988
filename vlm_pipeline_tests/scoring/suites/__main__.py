"""How often an answer is read as a person reads it, suite by suite."""

from vlm_pipeline.scoring.intervals import wilson
from vlm_pipeline_tests.scoring.suites import READ, misread

for suite in READ:
    wrong, n = misread(suite)
    low, high = wilson(n - len(wrong), n)
    print(f"{suite}: {(n - len(wrong)) / n * 100:.1f} % of {n} [{low * 100:.0f}, {high * 100:.0f}]")
    for row in wrong:
        print(f"    {row['text']!r} is {row['expected']!r}")
