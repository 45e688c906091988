"""A model's processor and what can be asked of it: chat template, control tokens, image settings.

The only place that loads processors. Nothing here names a model: markers are learned by rendering probes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from vlm_pipeline.settings.data import ImageSettings
from vlm_pipeline.store import content_hash

# What people write where a control token is meant; whether it is one, the vocabulary decides.
CONTROL_LIKE = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]"
)


_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "A word."}}},
    },
}


class RenderError(ValueError):
    """A row or template cannot be rendered without loss. `number` is the row of the failure catalogue."""

    def __init__(self, number: int, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.number = number
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class Markers:
    """How this template opens and closes an assistant turn, learned from a rendered probe."""

    opener: str  # what add_generation_prompt appends; where that is nothing, what follows a user's words in a prompt
    end_of_turn: str  # the control token that ends the last assistant turn
    end_of_turn_id: int
    inner_end_of_turn: str  # the same between turns; differs in a few templates
    inner_end_of_turn_id: int
    bos_first: int  # BOS tokens that the template writes for one question and answer
    bos_more: int  # and for each further pair

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset((self.end_of_turn_id, self.inner_end_of_turn_id))


def load_processor(model: str | Path, revision: str | None = None, image: ImageSettings | None = None) -> Any:
    """The processor of a vision-language model, or the tokenizer of a text model, by the Auto classes.

    model: folder or hub id. image: pixel budget; None (or None fields) keeps the processor's own.
    Raises OSError when there is no such model, ValueError when a pixel budget cannot be set or no fast
    tokenizer exists (offsets of tokens in the text are needed to place labels).
    """
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(str(model), revision=revision, trust_remote_code=False)
    if not getattr(tokenizer_of(processor), "is_fast", False):
        raise ValueError(
            f"{model} has no fast tokenizer; convert it with `tokenizers` and save it beside the model"
        )
    if image is not None and (image.min_pixels or image.max_pixels):
        _set_pixel_budget(processor, image, str(model))
    return processor


def shared_processor(model: str, revision: str | None = None, image: ImageSettings | None = None) -> Any:
    """`load_processor`, remembered while the files of a local model stay as they are; nobody may change it."""
    folder = Path(model)
    times = tuple(file.stat().st_mtime_ns for file in sorted(folder.iterdir())) if folder.is_dir() else ()
    return _remembered(model, revision, image or ImageSettings(), times)


@lru_cache(maxsize=2)
def _remembered(model: str, revision: str | None, image: ImageSettings, _times: tuple[int, ...]) -> Any:
    return load_processor(model, revision, image)


def _set_pixel_budget(processor: Any, image: ImageSettings, model: str) -> None:
    from dataclasses import is_dataclass

    images = image_processor_of(processor)
    size = getattr(images, "size", None)
    if is_dataclass(size):
        size = {key: value for key, value in dict(size).items() if value is not None}
    if (
        not isinstance(size, dict)
        or set(size) != {"shortest_edge", "longest_edge"}
        or size["longest_edge"] < 10_000
    ):
        raise ValueError(
            f"{model} has no pixel budget ({'no picture input' if images is None else f'its image size is {size}'}); "
            "remove image.min_pixels and image.max_pixels from the task"
        )
    low, high = image.min_pixels or size["shortest_edge"], image.max_pixels or size["longest_edge"]
    if low > high:
        raise ValueError(f"image.min_pixels {low} is above image.max_pixels {high}")
    changed = {"shortest_edge": low, "longest_edge": high}
    images.size = type(images.size)(**changed) if is_dataclass(images.size) else changed


def tokenizer_of(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def image_processor_of(processor: Any) -> Any | None:
    return getattr(processor, "image_processor", None)


def template_of(processor: Any) -> Any:
    """The chat template in force: a string, or a dict of named ones. Raises RenderError(13) without one."""
    template = getattr(processor, "chat_template", None)
    if not template:
        raise RenderError(
            13,
            "the model has no chat template (a bare base model?)",
            "use the instruct variant, or put its chat_template.jinja into the model folder",
        )
    return template


def template_hash(processor: Any) -> str:
    """Hash of the chat template in force."""
    return content_hash(template_of(processor))


def image_settings(processor: Any) -> dict[str, Any] | None:
    """Everything that decides which pixels a model sees, JSON-ready; None for a text model."""
    images = image_processor_of(processor)
    if images is None:
        return None
    from dataclasses import is_dataclass

    settings: dict[str, Any] = {}
    for key, value in images.to_dict().items():
        if is_dataclass(value):
            value = dict(value)
        if isinstance(value, dict):
            value = {name: inner for name, inner in value.items() if inner is not None}
        if isinstance(value, tuple):
            value = list(value)
        if key not in ("processor_class", "auto_map") and value is not None:
            settings[key] = value if isinstance(value, int | float | str | list | dict) else str(value)
    return settings


def image_settings_differences(trained: dict[str, Any] | None, served: dict[str, Any] | None) -> list[str]:
    """One line per image setting that differs, for example `size.longest_edge: 1003520, now 200000`."""
    before, after = _flat(trained or {}), _flat(served or {})
    return [
        f"{key}: {before.get(key, 'absent')}, now {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat.update(_flat(inner, f"{prefix}{key}."))
        else:
            flat[prefix + key] = inner
    return flat


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Text -> id of every control token: special ones, and added ones that are written like one (`<|…|>`).

    Added plain words, such as Qwen's `<tool_call>`, are vocabulary and no control tokens.
    """
    found = {
        str(token): index
        for token, index in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    }
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.special or CONTROL_LIKE.fullmatch(token.content):
            found[token.content] = index
    return found


_patterns: WeakKeyDictionary[Any, tuple[int, re.Pattern[str]]] = WeakKeyDictionary()


def control_pattern(tokenizer: Any) -> re.Pattern[str]:
    """Matches any control token in text; what it matches outside the template would steer the model."""
    cached = _patterns.get(tokenizer)
    if cached is None or cached[0] != len(tokenizer):
        names = sorted(control_tokens(tokenizer), key=len, reverse=True)
        # A pattern that never matches, for a tokenizer without control tokens.
        cached = (len(tokenizer), re.compile("|".join(map(re.escape, names)) or r"(?!)"))
        _patterns[tokenizer] = cached
    return cached[1]


def render_text(
    processor: Any,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    arguments: dict[str, Any] | None = None,
    generation: bool = False,
) -> str:
    """The model's own `apply_chat_template`, as text. Raises RenderError(11) where the template refuses."""
    import jinja2

    try:
        return processor.apply_chat_template(
            messages, tools=tools, add_generation_prompt=generation, tokenize=False, **(arguments or {})
        )
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError) as error:
        if isinstance(error, RenderError):
            raise
        raise RenderError(
            11,
            f"the chat template refuses this conversation ({type(error).__name__}: {error})",
            "change the row to what the template can say (role order, one tool call a turn, system turn first), "
            "or use a model whose template can say it",
        ) from error


def takes_parts(processor: Any) -> bool:
    """Whether the template renders content given as a list of parts; else content must be one string."""
    return _takes_parts(processor, content_hash(template_of(processor)))


@lru_cache(maxsize=64)
def _takes_parts(processor: Any, _template: str) -> bool:
    probe = [{"role": "user", "content": [{"type": "text", "text": "zqprobeqz"}]}]
    try:
        text = render_text(processor, probe)
    except RenderError:
        return False
    return "zqprobeqz" in text and not re.search(r"['\"]text['\"]:", text)


def markers(processor: Any, arguments: dict[str, Any] | None = None) -> Markers:
    """Learn how the template opens and closes assistant turns. Raises RenderError(6 or 15) where it never ends."""
    return _markers(processor, template_hash(processor), json.dumps(arguments or {}, sort_keys=True))


@lru_cache(maxsize=64)
def _markers(processor: Any, _template: str, arguments_json: str) -> Markers:
    arguments = json.loads(arguments_json)
    tokenizer = tokenizer_of(processor)
    marks = ["zqaskaqz", "zqsayaqz", "zqaskbqz", "zqsaybqz"]
    messages = [
        {"role": role, "content": [{"type": "text", "text": mark}] if takes_parts(processor) else mark}
        for role, mark in zip(("user", "assistant") * 2, marks, strict=True)
    ]
    text, tools = render_probe(processor, messages, arguments)
    places = [text.find(mark) for mark in marks]
    if -1 in places or places != sorted(places):
        raise RenderError(
            13,
            "the chat template does not render a plain two-turn conversation in order",
            "use the template of the model's own repository",
        )
    asked, prompted = (
        render_text(processor, messages[:1], tools, arguments, generation) for generation in (False, True)
    )
    appended = prompted[len(asked) :] if prompted.startswith(asked) else ""
    after_question = prompted[prompted.find(marks[0]) + len(marks[0]) :]
    inner = _first_control(tokenizer, text[places[1] + len(marks[1]) : places[2]])
    last = _first_control(tokenizer, text[places[3] + len(marks[3]) :])
    bos = tokenizer.bos_token or "\0"
    first = render_text(processor, messages[:2], tools, arguments).count(bos)
    return Markers(
        appended or after_question, last[0], last[1], inner[0], inner[1], first, text.count(bos) - first
    )


def _first_control(tokenizer: Any, after_answer: str) -> tuple[str, int]:
    match = control_pattern(tokenizer).search(after_answer)
    if match is not None:
        return match.group(), control_tokens(tokenizer)[match.group()]
    invented = CONTROL_LIKE.search(after_answer)
    if invented is not None:
        raise RenderError(
            15,
            f"the template ends an assistant turn with {invented.group()}, which is not a token of this vocabulary",
            "use the model's own chat template, or add the token to the vocabulary and train its embedding",
        )
    raise RenderError(
        6,
        f"the template ends an assistant turn with {after_answer[:40]!r}, which holds no control token: "
        "the model could never learn to stop",
        "use a template whose assistant turns end with the model's end-of-turn token",
    )


def render_probe(
    processor: Any, messages: list[dict[str, Any]], arguments: dict[str, Any] | None = None
) -> tuple[str, list[dict[str, Any]] | None]:
    """A probe's text, and the tools it took: some tool-use templates render nothing without tools."""
    try:
        return render_text(processor, messages, None, arguments), None
    except RenderError:
        return render_text(processor, messages, [_PROBE_TOOL], arguments), [_PROBE_TOOL]


def generation_eos_ids(model: str | Path, processor: Any, revision: str | None = None) -> frozenset[int]:
    """Ids that stop generation: the model's generation config, else its config, else the tokenizer's eos."""
    from transformers import AutoConfig, GenerationConfig

    for load in (
        GenerationConfig.from_pretrained,
        partial(AutoConfig.from_pretrained, trust_remote_code=False),
    ):
        try:
            config = load(str(model), revision=revision)
        except (OSError, ValueError):
            continue
        eos = getattr(config, "eos_token_id", None)
        if eos is None and hasattr(config, "get_text_config"):
            eos = getattr(config.get_text_config(), "eos_token_id", None)
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    eos = tokenizer_of(processor).eos_token_id
    return frozenset() if eos is None else frozenset([eos])
