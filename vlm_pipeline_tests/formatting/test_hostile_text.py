"""Hostile text through readers, rendering, tables and the validator: no crash, no lost row, no special id from a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_pipeline.examples import read_examples
from vlm_pipeline.formatting import RenderError, load_processor
from vlm_pipeline.formatting.labels import Formatter
from vlm_pipeline.formatting.openai_validator import validate_jsonl
from vlm_pipeline.formatting.template import control_tokens, tokenizer_of
from vlm_pipeline_tests.formatting.worlds import CHATML_TOKENS, asked, picture_model

_PIECES = st.one_of(
    st.text(max_size=40),
    st.sampled_from([*CHATML_TOKENS, "\u202e", "\u200f", "\x00", "\ufeff", "zqtx0001qz", "\r\n", "\n\n\n", "<|im_", "end|>", "{{ x }}", "</think>"]),
    st.characters(categories=["Cs", "Co", "Cc", "Mn"]),
)  # fmt: skip
TEXTS = st.lists(_PIECES, min_size=1, max_size=6).map("".join)


@pytest.fixture(scope="module")
def formatter(tmp_path_factory: pytest.TempPathFactory) -> Formatter:
    return Formatter(load_processor(picture_model(tmp_path_factory.mktemp("m") / "model")))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=TEXTS, answer=TEXTS, score=st.one_of(st.floats(allow_nan=True), st.none(), TEXTS))
def test_no_row_is_lost_and_no_special_id_comes_from_data(
    formatter: Formatter, tmp_path: Path, question: str, answer: str, score: Any
) -> None:
    row = {
        "conversations": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "metadata": {"id": "r", "score": score},
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    quarantine: list[Any] = []
    examples = list(read_examples(path, format="conversations_role", quarantine=quarantine))
    assert len(examples) + len(quarantine) == 1
    calm = formatter.format(asked("calm", "Torque?", "31 Nm"))
    template_ids = _controls(calm.input_ids, formatter)
    for example, made in zip(examples, formatter.format_many(examples), strict=True):
        if isinstance(made, RenderError):
            assert made.message and made.remedy and example.id
            continue
        assert _controls(made.input_ids, formatter) == template_ids
        decoded = formatter._tokenizer.decode([label for label in made.labels if label != -100])
        assert decoded == made.text[len(made.prompt_text) : made.text.rindex("<|im_end|>")] + "<|im_end|>"
        assert answer in decoded
    lines = tmp_path / "openai.jsonl"
    lines.write_text(json.dumps({"messages": row["conversations"]}) + "\n")
    assert validate_jsonl(lines, validation=True).examples == 1


def _controls(ids: Any, formatter: Formatter) -> list[int]:
    special = set(control_tokens(tokenizer_of(formatter.processor)).values())
    return [index for index in np.asarray(ids).tolist() if index in special]


def test_a_megabyte_of_text_is_formatted_or_refused_never_cut(formatter: Formatter) -> None:
    long = "torque and bolt " * 65_536
    made = formatter.format(asked("long", long, "31 Nm"))
    assert made.text.count("bolt") == 65_536 and len(made.input_ids) > 3 * 65_536


def test_unpaired_surrogates_are_refused_not_raised(formatter: Formatter) -> None:
    made = list(formatter.format_many([asked("bad", "a\ud800b", "x"), asked("good", "a", "x")]))
    assert isinstance(made[0], RenderError) and "surrogate" in made[0].message
    assert not isinstance(made[1], RenderError)
