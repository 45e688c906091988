"""Shared-prefix generation gives exactly the texts of one-by-one greedy generation, and shares what it says it shares."""

from __future__ import annotations

from typing import Any

import pytest

from vlm_pipeline.inference.generate import Generator, UnsupportedModel
from vlm_pipeline.inference.plan import ImageInput, Prompt
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline_tests.inference import models, world
from vlm_pipeline_tests.inference.answers import GREEDY, collect, prompt_of, reference


def test_texts_equal_one_by_one_generation_with_images(vision, page_prompts):
    model, generator = vision
    answers = collect(generator.generate(page_prompts, GREEDY))
    expected = [reference(model, prompt, generator, GREEDY) for prompt in page_prompts]
    assert [answers[index].ids for index in range(len(page_prompts))] == expected
    assert len({answer.ids for answer in answers.values()}) > 3, (
        "the answers must differ for this test to mean anything"
    )


def test_batch_size_and_order_do_not_change_a_text(vision, page_prompts):
    _, generator = vision
    whole = collect(generator.generate(page_prompts, GREEDY))
    for rows in (1, 2, 4):
        parts = collect(generator.generate(page_prompts, GREEDY, max_rows=rows))
        assert {index: answer.text for index, answer in parts.items()} == {
            i: a.text for i, a in whole.items()
        }


def test_texts_equal_one_by_one_generation_of_a_text_model(text):
    model, generator = text
    tokenizer = generator.tokenizer
    system = "You answer from a list of tools: " + "tool, " * 20
    questions = [system + f"number {number}" for number in range(4)] + ["quite another question", "a", "ab"]
    prompts = [Prompt(tuple(tokenizer(question)["input_ids"])) for question in questions]
    answers = collect(generator.generate(prompts, GREEDY))
    expected = [reference(model, prompt, generator, GREEDY) for prompt in prompts]
    assert [answers[index].ids for index in range(len(prompts))] == expected


def test_an_image_goes_through_the_tower_once_and_the_page_is_prefilled_once(tmp_path):
    page = models.make_pages(tmp_path, 1, (84, 56))[0]
    prompts = [prompt_of(world.ask_row(page, world.question(0, index))) for index in range(6)]
    generator = Generator(world.small_vision_model(), world.processor())
    collect(generator.generate(prompts, GREEDY))
    assert generator.pictures.computed == 1
    passes = generator.forward_passes
    collect(generator.generate(prompts, GREEDY))
    assert generator.pictures.computed == 1
    assert generator.forward_passes - passes <= 2 + GREEDY.max_new_tokens, (
        "more than one prefill for one page"
    )


def test_rows_stop_early_free_the_batch_and_are_handed_over_at_once(
    vision, page_prompts, widths, monkeypatch
):
    model, generator = vision
    long = GenerationSettings(max_new_tokens=40)
    free = collect(generator.generate(page_prompts, long))
    stop_token = free[0].ids[2]
    monkeypatch.setattr(generator, "eos", [*generator.eos, stop_token])
    widths.clear()
    running = generator.generate(page_prompts, long)
    first = next(running)
    steps_until_then = len(widths)
    answers = collect([first, *running])
    expected = [
        reference(model, prompt, generator, long, eos_token_id=generator.eos) for prompt in page_prompts
    ]
    assert [answers[index].ids for index in range(len(page_prompts))] == expected
    assert answers[0].finish_reason == "stop" and len(answers[0].ids) <= 2
    assert {answer.finish_reason for answer in answers.values()} == {"stop", "length"}
    assert steps_until_then < len(widths) == 40, "an answer waited for its neighbours"
    assert widths[0] == len(page_prompts) and widths[-1] < widths[0], "finished rows stayed in the batch"
    ended = sorted(answers.values(), key=lambda answer: answer.latency_s)
    assert ended[0].finish_reason == "stop" and ended[-1].finish_reason == "length"


def test_stop_strings_cut_the_text(text):
    _, generator = text
    prompt = Prompt(tuple(generator.tokenizer("tell me something")["input_ids"]))
    free = collect(generator.generate([prompt], GenerationSettings(max_new_tokens=30)))[0].text
    stop = free[5:7]
    answer = collect(generator.generate([prompt], GenerationSettings(max_new_tokens=30, stop=[stop])))[0]
    assert answer.text == free[: free.index(stop)] and answer.finish_reason == "stop"


def test_min_new_tokens_penalty_and_no_repeat_match_transformers(text):
    model, generator = text
    settings = GenerationSettings(
        max_new_tokens=25, min_new_tokens=10, repetition_penalty=1.3, no_repeat_ngram_size=2
    )
    tokenizer = generator.tokenizer
    prompts = [
        Prompt(tuple(tokenizer(text)["input_ids"]))
        for text in ("abc abc abc", "a longer question about nothing")
    ]
    answers = collect(generator.generate(prompts, settings))
    extra = {"min_new_tokens": 10, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    assert [answers[i].ids for i in range(2)] == [
        reference(model, p, generator, settings, **extra) for p in prompts
    ]


def test_sampling_is_seeded_per_row_and_independent_of_the_batch(text):
    _, generator = text
    settings = GenerationSettings(preset="varied", max_new_tokens=20, min_new_tokens=5)
    prompts = [
        Prompt(tuple(generator.tokenizer(text)["input_ids"]))
        for text in ("one question", "another question", "third")
    ]
    together = collect(generator.generate(prompts, settings, seeds=[1, 2, 3]))
    alone = collect(generator.generate(prompts[1:2], settings, seeds=[2]))
    other = collect(generator.generate(prompts[1:2], settings, seeds=[9]))
    assert together[1].ids == alone[0].ids != other[0].ids


def test_an_unreadable_picture_costs_its_own_rows_only(vision, page_prompts, tmp_path):
    _, _generator = vision
    fresh = Generator(world.small_vision_model(), world.processor())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    bad = Prompt(page_prompts[0].ids, (ImageInput("0" * 64, page_prompts[0].images[0].grid, str(broken)),))
    answers = collect(fresh.generate([*page_prompts, bad], GREEDY))
    assert "broken.png" in (answers[len(page_prompts)].error or "")
    assert all(answers[index].error is None for index in range(len(page_prompts)))


def test_a_model_that_cannot_be_branched_is_refused_and_generated_one_by_one(page_prompts):
    """A model whose attention ignores our interface must never answer wrongly: the check compares logits."""
    from vlm_pipeline.inference.plain import generate_plain

    model = world.small_vision_model()
    generator = Generator(model, world.processor())
    layer = model.model.language_model.layers[0].self_attn
    plain_forward = type(layer).forward

    def ignores_prefix(
        self: Any, *args: Any, branches: Any = None, own_bias: Any = None, **kwargs: Any
    ) -> Any:
        return plain_forward(self, *args, **kwargs)

    layer.forward = ignores_prefix.__get__(layer)
    with pytest.raises(UnsupportedModel, match=r"differ|cannot be branched"):
        list(generator.generate(page_prompts, GREEDY))
    answers = collect(generate_plain(generator, page_prompts[:2], GREEDY))
    assert [answers[i].ids for i in range(2)] == [
        reference(model, p, generator, GREEDY) for p in page_prompts[:2]
    ]


def test_other_callers_of_the_model_keep_their_padding_masks(vision, page_prompts):
    """Our attention builds no padding mask, so it must be gone from the model outside of our own calls."""
    model, generator = vision
    collect(generator.generate(page_prompts[:1], GREEDY))
    assert model.config.get_text_config()._attn_implementation == "sdpa"


def test_a_penalty_in_the_models_own_folder_is_in_no_way_of_generating():
    """The table records the task's settings: one that it does not name must not decide, branched or one by one."""
    from vlm_pipeline.inference.plain import generate_plain

    tokenizer = models.make_tokenizer()
    answers = []
    for penalty in (1.0, 1.8):
        model = models.make_text_model(tokenizer)
        model.generation_config.repetition_penalty = penalty
        model.generation_config.min_new_tokens = 3
        generator = Generator(model, tokenizer)
        prompts = [Prompt(tuple(tokenizer(word)["input_ids"])) for word in ("abc abc abc", "a longer one")]
        settings = GenerationSettings(max_new_tokens=20)
        answers.append(collect(generator.generate(prompts, settings)))
        answers.append(collect(generate_plain(generator, prompts, settings)))
    ids = [[one[index].ids for index in (0, 1)] for one in answers]
    assert ids[0] == ids[1] == ids[2] == ids[3]
    penalised = models.make_text_model(tokenizer)
    extra = {"repetition_penalty": 1.8}
    assert reference(penalised, prompts[0], generator, settings, **extra) != ids[0][0], (
        "it would have mattered"
    )
