"""Do the model's own files agree with what the rows were made with? Failures 13-16 and 20: one finding for the set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.template import (
    CONTROL_LIKE,
    RenderError,
    control_tokens,
    generation_eos_ids,
    image_settings,
    image_settings_differences,
    markers,
    render_probe,
    shared_processor,
    takes_parts,
    template_hash,
    template_of,
    tokenizer_of,
)
from vlm_pipeline.task import Task


def check_model(task: Task, processor: Any, tables: Sequence[dict[str, Any]] = ()) -> list[Finding]:
    """tables: what formatted tables say about their making (template_hash, image_settings)."""
    found = [
        *_same_templates(processor),
        *_vocabulary(processor),
    ]
    try:
        own = shared_processor(task.base_model_path, task.revision, task.image)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        own = None
        found.append(
            Finding(
                13,
                f"the template of {task.base_model} itself cannot be read to compare with ({reason})",
                "check base_model, revision and image in task.yaml",
            )
        )
    if own is not None:
        found += _own_template(own, processor, tables)
        found += _pixel_budget(own, processor, tables)
    found += _stops(task, processor)
    return found


def _own_template(own: Any, processor: Any, tables: Sequence[dict[str, Any]]) -> list[Finding]:
    remedy = "format the rows with load_processor(base_model) and leave its chat template alone"
    found = []
    if template_hash(own) != template_hash(processor):
        found.append(
            Finding(13, "the processor's chat template is not the one in the model's folder", remedy)
        )
    for made_with in sorted({table["template_hash"] for table in tables if table.get("template_hash")}):
        if made_with != template_hash(own):
            found.append(
                Finding(
                    13,
                    f"the rows were made with template {made_with}, the model has {template_hash(own)}",
                    remedy,
                )
            )
    return found


def _same_templates(processor: Any) -> list[Finding]:
    tokenizer = tokenizer_of(processor)
    theirs = getattr(tokenizer, "chat_template", None)
    if tokenizer is processor or not theirs or theirs == template_of(processor):
        return []
    return [
        Finding(
            14,
            "tokenizer and processor carry different chat templates; which one is used depends on the caller",
            "delete the template from tokenizer_config.json, or copy chat_template.jinja over it",
        )
    ]


def _vocabulary(processor: Any) -> list[Finding]:
    """15: what the template itself writes as control tokens is one special id each."""
    tokenizer = tokenizer_of(processor)
    parts = takes_parts(processor)
    words = (("system", "zqa"), ("user", "zqb"), ("assistant", "zqc"))
    probe = [
        {"role": role, "content": [{"type": "text", "text": word}] if parts else word} for role, word in words
    ]
    try:
        text, _ = render_probe(processor, probe)
    except RenderError:
        text, _ = render_probe(processor, probe[1:])
    known = control_tokens(tokenizer)
    found = []
    for word in sorted({match.group() for match in CONTROL_LIKE.finditer(text)}):
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if word not in known or len(ids) != 1:
            found.append(
                Finding(
                    15,
                    f"the template writes {word}, which is {len(ids)} ordinary tokens of this vocabulary",
                    "use the model's own chat template, or add the token to the vocabulary and train its embedding",
                )
            )
    return found


def _stops(task: Task, processor: Any) -> list[Finding]:
    try:
        end = markers(processor, task.prompt.template_args)
    except RenderError as error:
        return [Finding(error.number, error.message, error.remedy)]
    stops = generation_eos_ids(task.base_model_path, processor, task.revision)
    if end.end_of_turn_id in stops:
        return []
    names = ", ".join(sorted(str(tokenizer_of(processor).decode([index])) for index in stops)) or "nothing"
    return [
        Finding(
            16,
            f"answers end with {end.end_of_turn}, generation stops at {names}: a perfect model would never stop",
            f"add {end.end_of_turn_id} to eos_token_id in generation_config.json of {task.base_model}",
        )
    ]


def _pixel_budget(own: Any, processor: Any, tables: Sequence[dict[str, Any]]) -> list[Finding]:
    remedy = "format the rows again; set the pixel budget once, in task.yaml under image"
    now = image_settings(own)
    found = []
    differences = image_settings_differences(now, image_settings(processor))
    if differences:
        found.append(
            Finding(20, f"the processor is not set as the task says: {'; '.join(differences)}", remedy)
        )
    told = {
        "; ".join(image_settings_differences(table["image_settings"], now))
        for table in tables
        if "image_settings" in table
    }
    found += [
        Finding(20, f"the rows were made with other image settings: {differences}", remedy)
        for differences in sorted(filter(None, told))
    ]
    return found
