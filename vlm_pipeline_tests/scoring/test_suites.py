"""How often answers of every style are read as a person reads them; a change of rules may not cost more than it brings."""

from __future__ import annotations

import pytest

from vlm_pipeline_tests.scoring.suites import READ, misread, rows

FLOORS = {"finals": 0.98, "scores": 0.97, "choices": 0.98, "refusals": 0.97, "quantities": 0.97}


@pytest.mark.parametrize("suite", READ)
def test_answers_are_read_as_a_person_reads_them(suite: str) -> None:
    wrong, n = misread(suite)
    shown = "\n".join(f"{row['text']!r} is {row['expected']!r}" for row in wrong)
    assert n > 100 and 1 - len(wrong) / n >= FLOORS[suite], shown


def test_suites_hold_every_answer_once() -> None:
    for suite in READ:
        found = rows(suite)
        keys = {(row["text"], str(row.get("choices"))) for row in found}
        assert len(keys) == len(found) and len({str(row["expected"]) for row in found}) >= 3
