"""What is supervised: labels that miss the answer, its end, or cover more than it."""

from __future__ import annotations

import numpy as np

from vlm_pipeline.formatting import Finding, format_section, verify
from vlm_pipeline.formatting.template import markers
from vlm_pipeline_tests.faults.catalogue.world import Cases, World, edited, only_ids, registry
from vlm_pipeline_tests.formatting.worlds import picture, task

CASES: Cases = {}
case = registry(CASES)


@case(1, "collator supervises everything, pictures too")
def _everything(world: World) -> list[Finding]:
    return world.verify([edited(row, labels=row["input_ids"]) for row in world.rows()])


@case(1, "prompt supervised as well", "text")
def _prompt_too(world: World) -> list[Finding]:
    row = world.rows()[0]
    labels = [-100] * 3 + row["input_ids"][3:]
    return world.verify([edited(row, labels=labels)])


GENERATION_MARKERS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'][0]['text'] }}<|im_end|>{% endgeneration %}\n{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
)


@case(2, "the library's assistant mask is all zero once a picture is there, generation markers or not")
def _zero_with_picture(world: World) -> list[Finding]:
    from PIL import Image

    with Image.open(picture(world.folder, "page.png").path) as page:
        shown = [{"type": "image", "image": page}, {"type": "text", "text": "Torque?"}]
        messages = [
            {"role": "user", "content": shown},
            {"role": "assistant", "content": [{"type": "text", "text": "31 Nm"}]},
        ]
        made = world.processor.apply_chat_template(
            messages,
            chat_template=GENERATION_MARKERS,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    ids, mask = made["input_ids"][0], made["assistant_masks"][0]
    labels = [index if kept else -100 for index, kept in zip(ids, mask, strict=True)]
    return world.verify([{"id": "one", "input_ids": ids, "labels": labels}])


@case(3, "template without generation markers: the library's own mask is empty", "text")
def _no_generation_markers(world: World) -> list[Finding]:
    messages = [{"role": m["role"], "content": m["content"]} for m in world.examples()[0].messages]
    made = world.tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, date_string="1 May 2025"
    )
    labels = [i if kept else -100 for i, kept in zip(made["input_ids"], made["assistant_masks"], strict=True)]
    return world.verify([{"id": "one", "input_ids": made["input_ids"], "labels": labels}])


@case(4, "response marker of another model is not found", "text")
def _wrong_marker(world: World) -> list[Finding]:
    row = world.foreign("### Question: torque?\n### Answer: 31 Nm", labels="none")
    return world.verify([row])


@case(5, "collator truncates the answer away")
def _truncated(world: World) -> list[Finding]:
    row = world.rows()[0]
    cut = row["n_prompt"] - 2
    return world.verify([edited(row, input_ids=row["input_ids"][:cut], labels=row["labels"][:cut])])


@case(5, "half of the answer truncated, ids only", "text")
def _half(world: World) -> list[Finding]:
    row = world.rows()[0]
    cut = row["n_prompt"] + 1
    return world.verify([edited(only_ids(row), input_ids=row["input_ids"][:cut], labels=row["labels"][:cut])])


@case(5, "a row beyond the length limit")
def _too_long(world: World) -> list[Finding]:
    rows = world.rows()
    narrow = task(world.model, prompt={"max_tokens": 20})
    made = format_section(world.examples(), world.processor, narrow.prompt, world.folder / "narrow.parquet")
    assert [q.kind for q in made.quarantined] == ["format_05", "format_05"]
    return verify(narrow, [edited(rows[0])], world.processor)


@case(6, "only the end-of-turn token is cut")
def _no_end(world: World) -> list[Finding]:
    row = world.rows()[0]
    place = max(np.flatnonzero(np.asarray(row["labels"]) != -100))
    return world.verify([edited(row, input_ids=row["input_ids"][:place], labels=row["labels"][:place])])


@case(6, "the end-of-turn token is there but not supervised", "text")
def _end_unsupervised(world: World) -> list[Finding]:
    row = world.rows()[0]
    labels = list(row["labels"])
    labels[max(np.flatnonzero(np.asarray(labels) != -100))] = -100
    return world.verify([edited(row, labels=labels)])


@case(7, "pad equals end of turn: the language-modelling collator masks the real one", "text")
def _pad_is_eos(world: World) -> list[Finding]:
    from transformers import DataCollatorForLanguageModeling

    world.tokenizer.pad_token = world.tokenizer.eos_token
    collate = DataCollatorForLanguageModeling(world.tokenizer, mlm=False)
    batch = collate([{"input_ids": row["input_ids"]} for row in world.rows()])
    labels = batch["labels"].clone()
    for line, row in enumerate(world.rows()):  # as completion-only collators do: the prompt is masked too
        mask = np.asarray(row["labels"]) == -100
        labels[line, : len(mask)][mask] = -100
    lengths = [
        row["n_tokens"] for row in world.rows()
    ]  # the collator's own mask would show where padding begins
    return world.verify(
        [
            {"id": f"row {line}", "input_ids": ids[:length], "labels": marks[:length]}
            for line, (ids, marks, length) in enumerate(
                zip(batch["input_ids"].tolist(), labels.tolist(), lengths, strict=True)
            )
        ]
    )


@case(8, "the end-of-turn token is credited to the next message")
def _credited(world: World) -> list[Finding]:
    row = world.rows()[1]
    labels, end = list(row["labels"]), markers(world.processor).end_of_turn_id
    first = next(i for i, label in enumerate(labels) if label == end)
    labels[first] = -100
    for place in (first + 1, first + 2):
        labels[place] = row["input_ids"][place]
    return world.verify([edited(row, labels=labels)])


@case(9, "the mask runs to the end of the sequence")
def _runs_on(world: World) -> list[Finding]:
    row = world.rows()[1]
    labels = list(row["labels"])
    first = next(i for i, label in enumerate(labels) if label != -100)
    labels[first:] = row["input_ids"][first:]
    return world.verify([edited(row, labels=labels)])


@case(9, "an assistant turn is left out")
def _left_out(world: World) -> list[Finding]:
    row = world.rows()[1]
    labels = list(row["labels"])
    first = next(i for i, label in enumerate(labels) if label != -100)
    stop = next(i for i in range(first, len(labels)) if labels[i] == -100)
    labels[first:stop] = [-100] * (stop - first)
    return world.verify([edited(row, labels=labels)])
