"""Answers that are held to a pattern: always inside it, whatever else is asked of them."""

from __future__ import annotations

import pytest

from vlm_pipeline.inference.plan import Prompt
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline_tests.inference.answers import collect


def test_constrained_answers_match_the_pattern_and_free_ones_do_not(vision, page_prompts):
    import re

    from vlm_pipeline.inference.constrained import Pattern

    _, generator = vision
    regex = r"(yes|no), [0-9]{1,3}\.[0-9] mm"
    pattern = Pattern(regex, generator.tokenizer, generator.eos, 384)
    settings = GenerationSettings(max_new_tokens=20)
    answers = collect(generator.generate(page_prompts, settings, pattern=pattern))
    assert all(re.fullmatch(regex, answer.text) for answer in answers.values())
    assert {answer.finish_reason for answer in answers.values()} == {"stop"}
    free = collect(generator.generate(page_prompts, settings))
    assert not any(re.fullmatch(regex, answer.text) for answer in free.values())


@pytest.mark.parametrize(
    "settings",
    [
        GenerationSettings(preset="varied"),
        GenerationSettings(max_new_tokens=40, min_new_tokens=40),
        GenerationSettings(max_new_tokens=20, no_repeat_ngram_size=1),
    ],
    ids=["varied", "longer than the pattern", "no repetition"],
)
def test_the_pattern_has_the_last_word_over_lengths_and_repetitions(text, settings):
    """Where they forbid all that the pattern allows there is nothing to choose from, and sampling would fail."""
    import re

    from vlm_pipeline.inference.constrained import Pattern
    from vlm_pipeline.inference.plain import generate_plain

    model, generator = text
    regex = r"(yes|no), 111 mm"
    pattern = Pattern(regex, generator.tokenizer, generator.eos, model.config.vocab_size)
    prompts = [Prompt(tuple(generator.tokenizer(word)["input_ids"])) for word in ("one", "111 two")]
    options = {"pattern": pattern, "seeds": [1, 2]}
    branched = collect(generator.generate(prompts, settings, **options))
    plain = collect(generate_plain(generator, prompts, settings, **options))
    assert all(re.fullmatch(regex, answer.text) for answer in branched.values())
    assert {index: answer.ids for index, answer in branched.items()} == {
        index: answer.ids for index, answer in plain.items()
    }


def test_a_json_schema_gives_json(text):
    import json

    from vlm_pipeline.inference.constrained import Pattern, PatternError

    _, generator = text
    schema = '{"type": "object", "properties": {"score": {"enum": [1, 2, 3]}}, "required": ["score"]}'
    pattern = Pattern(schema, generator.tokenizer, generator.eos, 384)
    prompt = Prompt(tuple(generator.tokenizer("rate this")["input_ids"]))
    answer = collect(generator.generate([prompt], GenerationSettings(max_new_tokens=60), pattern=pattern))[0]
    assert json.loads(answer.text)["score"] in (1, 2, 3)
    with pytest.raises(PatternError, match="unclosed"):
        Pattern("(unclosed", generator.tokenizer, generator.eos, 384)
