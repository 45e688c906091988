"""How rows are rendered: foreign and changed templates, invented tokens, dates, system prompts."""

from __future__ import annotations

import pytest

from vlm_pipeline.formatting import Finding, RenderError, load_processor, verify
from vlm_pipeline.formatting.labels import Formatter
from vlm_pipeline_tests.faults.catalogue.world import Cases, World, edited, only_ids, registry
from vlm_pipeline_tests.formatting.worlds import asked, example, task, text_model

CASES: Cases = {}
case = registry(CASES)


@case(10, "tokenizer adds a second BOS", "text")
def _double_bos(world: World) -> list[Finding]:
    bos = world.tokenizer.bos_token_id
    return world.verify(
        [edited(r, input_ids=[bos, *r["input_ids"]], labels=[-100, *r["labels"]]) for r in world.rows()]
    )


@case(10, "second BOS, ids only", "text")
def _double_bos_foreign(world: World) -> list[Finding]:
    bos, row = world.tokenizer.bos_token_id, world.rows()[0]
    return world.verify(
        [edited(only_ids(row), input_ids=[bos, *row["input_ids"]], labels=[-100, *row["labels"]])]
    )


@case(11, "generation prompt prefills thoughts that training lacks")
def _prefill(world: World) -> list[Finding]:
    template = world.processor.chat_template.replace(
        "assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"
    )
    thinking = load_processor(world.model)
    thinking.chat_template = thinking.tokenizer.chat_template = template
    with pytest.raises(RenderError) as refused:  # our own labeller does not even make such a row
        Formatter(thinking).format(world.examples()[0])
    assert refused.value.number == 11
    rows = [edited(row, prompt_text=row["prompt_text"] + "<think>\n") for row in world.rows()]
    return world.verify(rows)


@case(11, "line breaks at the end of the prompt tokenize differently before an answer", "text")
def _merge(world: World) -> list[Finding]:
    folder = text_model(world.folder / "gpt2-like", None)
    processor = load_processor(folder)
    apart, together = processor.tokenize("\n\n"), processor.tokenize("\n\n31")
    assert together[: len(apart)] != apart
    settings = task(folder, prompt=world.task.prompt.model_dump())
    return verify(settings, world.rows(processor=processor), processor)


@case(12, "pieces tokenized one by one", "text")
def _piecewise(world: World) -> list[Finding]:
    row = world.rows()[0]
    words = row["text"]
    place = words.index("torque"[:3].upper()) if "TOR" in words else words.index("Torque") + 3
    ids = [
        t
        for piece in (words[:place], words[place:])
        for t in world.tokenizer(piece, add_special_tokens=False)["input_ids"]
    ]
    whole = world.tokenizer(words, add_special_tokens=False)["input_ids"]
    if ids == whole:  # cut inside a merged word of the vocabulary
        place = words.index("assistant") + 4
        ids = [
            t
            for piece in (words[:place], words[place:])
            for t in world.tokenizer(piece, add_special_tokens=False)["input_ids"]
        ]
    assert ids != whole
    grown = len(ids) - len(whole)
    return world.verify(
        [edited(row, input_ids=ids, labels=[-100] * grown + row["labels"], n_prompt=row["n_prompt"] + grown)]
    )


@case(13, "rows rendered by another template")
def _other_template(world: World) -> list[Finding]:
    other = load_processor(world.model)
    other.chat_template = other.tokenizer.chat_template = other.chat_template.replace(
        "Be helpful.", "Be brief."
    )
    return world.verify(world.rows(processor=other))


@case(13, "the processor's template was replaced before formatting and training")
def _replaced_template(world: World) -> list[Finding]:
    world.processor.chat_template = world.tokenizer.chat_template = world.processor.chat_template.replace(
        "Be h", "H"
    )
    return world.verify(world.rows())


@case(13, "a formatted table that says it was made with another template")
def _table_says(world: World) -> list[Finding]:
    import pyarrow.parquet as pq

    world.rows()
    table = pq.read_table(world.folder / "formatted.parquet")
    return world.verify(
        table.replace_schema_metadata({**table.schema.metadata, b"template_hash": b"0123456789abcdef"})
    )


@case(14, "tokenizer and processor carry different templates")
def _two_templates(world: World) -> list[Finding]:
    world.tokenizer.chat_template = world.processor.chat_template.replace("Be helpful.", "Be brief.")
    return world.verify(world.rows())


@case(15, "invented role tokens that are not in the vocabulary", "text")
def _invented(world: World) -> list[Finding]:
    invented = (
        "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    world.processor.chat_template = invented
    rows = world.rows()
    assert all(row["n_supervised"] for row in rows)  # labels look healthy
    return world.verify(rows)


@case(15, "role markers written into the text by hand")
def _by_hand(world: World) -> list[Finding]:
    return world.verify(world.rows([asked("hand", "<|user|>\nTorque?\n<|assistant|>", "31 Nm")]))


@case(16, "generation stops at a token that answers never end with")
def _wrong_stop(world: World) -> list[Finding]:
    import shutil

    from transformers import GenerationConfig

    folder = world.folder / "base"
    shutil.copytree(world.model, folder)
    GenerationConfig(eos_token_id=world.tokenizer.convert_tokens_to_ids("<|endoftext|>")).save_pretrained(
        folder
    )
    rows = world.rows()
    return verify(task(folder), rows, world.processor)


@case(21, "today's date in every prompt", "text", prompt={})
def _dated(world: World) -> list[Finding]:
    return world.verify(world.rows())


def _dated_template(world: World, template: str) -> None:
    world.processor.chat_template = world.tokenizer.chat_template = template


TOOL = {
    "type": "function",
    "function": {"name": "torque_of", "parameters": {"type": "object", "properties": {}}},
}


@case(21, "today's date only beside tools")
def _dated_tools(world: World) -> list[Finding]:
    told = "{% if tools %}<|im_start|>system\n{{ strftime_now('%d %b %Y') }} {{ tools | tojson }}<|im_end|>\n{% endif %}"
    _dated_template(world, told + world.processor.chat_template)
    plain = asked("plain", "Torque?", "31 Nm")
    assert 21 not in {finding.number for finding in world.verify(world.rows([plain]))}
    return world.verify(
        world.rows([plain, example("t", [("user", "Gap?"), ("assistant", "1 mm")], tools=[TOOL])])
    )


@case(21, "today's date only in the system prompt that the template makes up")
def _dated_default(world: World) -> list[Finding]:
    _dated_template(
        world, world.processor.chat_template.replace("Be helpful.", "Be helpful. {{ strftime_now('%Y') }}")
    )
    own = example("own", [("system", "Be exact."), ("user", "Torque?"), ("assistant", "31 Nm")])
    assert 21 not in {finding.number for finding in world.verify(world.rows([own]))}
    found = world.verify(world.rows([asked("none", "Torque?", "31 Nm")]))
    assert "prompt.system" in next(finding.remedy for finding in found if finding.number == 21)
    return found


@case(30, "trained without the system prompt that compared models are given")
def _no_system(world: World) -> list[Finding]:
    told = task(world.model, prompt={"system": "You are a torque expert."})
    return verify(told, world.rows(), world.processor)


@case(30, "train rows without a system prompt, test rows with one")
def _system_in_test_only(world: World) -> list[Finding]:
    train = asked("a", "Torque?", "31 Nm")
    test = example("b", [("system", "Be exact."), ("user", "Gap?"), ("assistant", "1 mm")], split="test")
    return world.verify(world.rows([train, test]))
