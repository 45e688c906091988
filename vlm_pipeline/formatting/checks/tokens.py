"""Are the ids what the model's own template and tokenizer make of the row? Failures 5, 6, 10-13, 15, 17-19."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlm_pipeline.examples.example import ImageRef, text_of
from vlm_pipeline.formatting.checks.evidence import Evidence, Model
from vlm_pipeline.formatting.conversation import Conversation, all_texts, learned_turns, template_messages
from vlm_pipeline.formatting.template import CONTROL_LIKE, RenderError, control_pattern, render_text

_SPEAKERS = frozenset(("system", "user", "assistant", "human", "bot", "tool", "im_start", "inst"))
_ENDS = frozenset(("im_end", "eot_id"))  # of other models' turns
_END = "end"  # of some models' turns, and of tagged sections of an answer: tells nothing without a speaker


def check_ids(row: Evidence, model: Model) -> None:
    """12 (and what else can keep ids from being the tokens of the text): cut rows, a second BOS."""
    _check_bos(row, model)
    if row.same_ids:
        return
    expected = np.asarray(row.encoding.ids)
    actual = row.short_ids
    bos = model.tokenizer.bos_token_id
    if bos is not None and (actual == bos).sum() > (expected == bos).sum():
        if not any(finding.number == 10 for finding in row.found):
            row.add(
                10, "the ids hold more BOS tokens than the text", "tokenize with add_special_tokens=False"
            )
        return
    if len(actual) < len(expected) and np.array_equal(actual, expected[: len(actual)]):
        missing = model.decode(expected[len(actual) :])
        only_end = missing.lstrip().startswith((model.markers.end_of_turn, model.markers.inner_end_of_turn))
        row.add(
            6 if only_end else 5,
            f"the row ends {len(expected) - len(actual)} tokens early, without {missing[:60]!r}",
            "raise the length limit or shorten the row; never let a collator truncate",
        )
        return
    place = next(
        (i for i, (a, b) in enumerate(zip(actual, expected, strict=False)) if a != b),
        min(len(actual), len(expected)),
    )
    around = model.decode(actual[max(0, place - 3) : place + 3])
    row.add(
        12,
        f"token {place} is not what tokenizing the whole text gives (near {around!r})",
        "render the whole conversation and tokenize it once, never piece by piece",
    )


def _check_bos(row: Evidence, model: Model) -> None:
    bos = model.tokenizer.bos_token_id
    if bos is None or bos in (model.pad_id, *model.markers.end_ids):
        return
    turns = row.text.count(model.markers.opener) if model.markers.opener else 1
    expected = model.markers.bos_first + model.markers.bos_more * max(0, turns - 1)
    actual = int((row.ids == bos).sum())
    if actual != expected:
        row.add(
            10,
            f"{actual} BOS tokens where the template writes {expected}",
            "the template writes BOS itself: tokenize with add_special_tokens=False",
        )


def check_prompt(row: Evidence, model: Model) -> None:
    """11: the tokens that generation starts from are the first tokens of the training row."""
    remedy = "make both from one rendering; set prompt.template_args so that both agree, strip white space around answers"
    if row.prompt_ids is None:
        opener = model.markers.opener
        start = row.text.rfind(opener) + len(opener)
        if not opener or start < len(opener):
            return
        row.prompt_ids = model.encode([row.text[:start]])[0].ids
    prompt = np.asarray(row.prompt_ids)
    n_prompt = row.row.get("n_prompt")
    if not np.array_equal(prompt, row.short_ids[: len(prompt)]):
        place = next(
            (i for i, (a, b) in enumerate(zip(prompt, row.short_ids, strict=False)) if a != b),
            len(row.short_ids),
        )
        row.add(
            11,
            f"the generation prompt and the row part at token {place}: {model.decode(prompt[place : place + 6])!r} "
            f"against {model.decode(row.short_ids[place : place + 6])!r}",
            remedy,
        )
    elif n_prompt is not None:
        grown = sum(row.image_runs[: int((prompt == model.image_token_id).sum())]) if row.image_runs else 0
        length = len(prompt) + (grown - int((prompt == model.image_token_id).sum()) if row.image_runs else 0)
        if length != n_prompt:
            row.add(11, f"n_prompt says {n_prompt} tokens, the prompt has {length}", remedy)


def check_rendering(row: Evidence, model: Model) -> None:
    """13 and 19: rendered anew from its messages by the model's own template, the row is the same."""
    if row.messages is None:
        return
    talk = Conversation(row.messages, [], row.tools)
    pattern = control_pattern(model.tokenizer)
    for where, text in all_texts(talk):
        hit = pattern.search(text)
        if hit is not None:
            row.add(
                19,
                f"{where} holds the control token {hit.group()} as text; it opens or ends a turn of its own",
                f"write it differently in the source, for example {hit.group()[0]} {hit.group()[1:]}",
            )
            return
    try:
        messages = template_messages(talk, model.parts)
        arguments = model.prompt.template_args
        text = render_text(model.processor, messages, talk.tools, arguments)
        prompt = (
            render_text(model.processor, messages[:-1], talk.tools, arguments, generation=True)
            if len(messages) > 1
            else None
        )
    except RenderError as error:
        row.add(error.number, error.message, error.remedy)
        return
    if text != row.text:
        place = next(
            (i for i, (a, b) in enumerate(zip(text, row.text, strict=False)) if a != b),
            min(len(text), len(row.text)),
        )
        row.add(
            13,
            f"the model's own template renders {text[place : place + 40]!r} where the row has {row.text[place : place + 40]!r}",
            "format the rows with the processor of the model that is trained, and no other template",
        )
        return
    if prompt is not None and row.row.get("prompt_text") is not None and prompt != row.row["prompt_text"]:
        row.add(
            11,
            f"the generation prompt is {prompt[-60:]!r} by the template, {row.row['prompt_text'][-60:]!r} in the row",
            "make prompt and row from one rendering",
        )
    _check_inner_prompts(row, model, talk)


def _check_inner_prompts(row: Evidence, model: Model, talk: Conversation) -> None:
    """11 for the learned turns before the last one: a model that is asked for them is asked what training shows."""
    system = talk.messages[0]["role"] == "system"
    talk = replace(talk, first_own=system + 2 * len(model.prompt.few_shot))
    inner = [index for index in learned_turns(talk, model.prompt) if index < len(talk.messages) - 1]
    prompts = []
    for index in inner:
        try:
            messages = template_messages(talk.before(index), model.parts)
            prompts.append(
                render_text(
                    model.processor, messages, talk.tools, model.prompt.template_args, generation=True
                )
            )
        except RenderError as error:
            row.add(error.number, error.message, error.remedy)
            return
    for index, prompt, encoding in zip(inner, prompts, model.encode(prompts), strict=True):
        if not np.array_equal(encoding.ids, row.short_ids[: len(encoding.ids)]):
            row.add(
                11,
                f"a model is asked for turn {index + 1} with a prompt that is not how the row begins (it ends with "
                f"{prompt[-40:]!r})",
                "set prompt.supervise: last, or give the turn weight 0, so that it is context only",
            )
            return


def check_pictures(row: Evidence, model: Model) -> None:
    """17 and 18: one placeholder a picture, as many tokens as its patches."""
    images = row.row.get("images")
    if row.messages is not None:
        _check_parts(row, model)
    if images is None:
        return
    shown = row.text.count(model.image_token) if model.image_token else 0
    if shown > len(images):
        row.add(
            18,
            f"the text shows {shown} pictures, the row has {len(images)}",
            "drop keys that hold None from content parts before rendering ({type, text} or {type, image} only)",
        )
        return
    if shown < len(images):
        row.add(
            17,
            f"the row has {len(images)} pictures, the text shows {shown}",
            "use the model's own template; never cut a row",
        )
        return
    expected = _expected_tokens(row, model, images)
    if expected is not None and sum(expected) != sum(row.image_runs):
        row.add(
            17,
            f"{sum(row.image_runs)} placeholder tokens where the pictures have {sum(expected)} ({expected})",
            "format the rows again with the present image settings; never cut a row",
        )


def _expected_tokens(row: Evidence, model: Model, images: list[str]) -> list[int] | None:
    """Tokens of each picture, from the picture files as they are now; findings where they cannot be read."""
    hashes = row.row.get("image_sha256") or images
    grids = row.row.get("image_grid") or [None] * len(images)
    expected = []
    for path, digest, grid in zip(images, hashes, grids, strict=True):
        if not Path(path).is_file():
            row.add(17, f"the picture {path} is gone", "restore the file, or format the section again")
            return None
        try:
            tokens = model.pictures.count(ImageRef(path, None, digest, 0, 0, ""))
        except RenderError as error:
            row.add(error.number, error.message, error.remedy)
            return None
        if grid is not None and tuple(grid) != tokens.grid:
            row.add(
                17,
                f"the row says {tuple(grid)} patches for {path}, the processor makes {tokens.grid}",
                "format the rows again with the present image settings",
            )
        expected.append(tokens.count)
    return expected


def _check_parts(row: Evidence, model: Model) -> None:
    """18: what users and systems say is in the text, and no part is both text and picture."""
    for number, message in enumerate(row.messages or (), start=1):
        content = message["content"]
        if isinstance(content, list) and any(
            "text" in part and {"image", "image_url", "index"} & part.keys() for part in content
        ):
            row.add(
                18,
                f"a content part of turn {number} has both a text and a picture key; templates render it as a picture",
                "drop keys that hold None from content parts before rendering",
            )
            return
        if message["role"] in ("user", "system"):
            text = text_of(content).strip()
            if text and text not in row.text and json.dumps(text, ensure_ascii=False)[1:-1] not in row.text:
                row.add(
                    18,
                    f"the text of turn {number} ({message['role']}) was lost in rendering: {text[:60]!r}",
                    "check the content parts",
                )
                return


def check_control_words(row: Evidence, model: Model, plain: Counter[str]) -> None:
    """15: control tokens of the rendering are in the vocabulary. plain: counts look-alikes that rows use as text."""
    words = {match.group() for match in CONTROL_LIKE.finditer(row.text)} - model.controls.keys()
    if not words:
        return
    texts = all_texts(Conversation(row.messages, [], row.tools)) if row.messages else []
    data = "\n".join(text for _, text in texts)
    names = {word: word.strip("<|>｜[]/").lower() for word in words}
    by_hand = any(names[word] in _SPEAKERS for word in words if word in data)
    for word in sorted(words):
        name = names[word]
        ids = model.encode([word])[0].ids
        if word not in data:
            row.add(
                15,
                f"the rendering holds {word}, which is no token of this model ({len(ids)} tokens)",
                "use the model's own chat template, or add the token to the vocabulary and train its embedding",
            )
        elif name in _SPEAKERS | _ENDS or (name == _END and by_hand):
            row.add(
                15,
                f"the row's text holds the role marker {word}, which is no token of this model ({len(ids)} tokens)",
                "give turns as messages with roles; do not write another model's markers into the text",
            )
        else:
            plain[word] += 1
