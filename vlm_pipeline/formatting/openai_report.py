"""Limits of the fine-tuning API, findings about a JSONL file, and what holds for the file as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

UNCHECKABLE = "pictures with people, faces, children or CAPTCHAs are dropped by the provider without an error; look for them yourself"


@dataclass(frozen=True)
class Limits:
    """What one provider takes."""

    name: str = "OpenAI"
    min_examples: int = 10
    max_image_examples: int = 50_000
    max_images: int = 10  # in one example
    max_image_bytes: int = 10 * 1024 * 1024
    max_file_bytes: int = 512 * 1024 * 1024
    max_tools: int = 128
    modes: tuple[str, ...] = ("RGB", "RGBA")
    vision_models: tuple[str, ...] = ("gpt-4o-2024-08-06",)  # those that are fine-tuned on pictures
    preference_models: tuple[str, ...] = (  # those that are fine-tuned on preferences
        "gpt-4.1-2025-04-14",
        "gpt-4.1-mini-2025-04-14",
        "gpt-4.1-nano-2025-04-14",
    )


OPENAI = Limits()
AZURE = Limits(
    name="Azure OpenAI",
    max_images=64,
    preference_models=("gpt-4o-2024-08-06", *Limits().preference_models),
    vision_models=("gpt-4o-2024-08-06", "gpt-4.1-2025-04-14", "gpt-4o", "gpt-4.1"),
)
# Of one training example, by the beginning of the model's name; longer ones are cut.
_MAX_TOKENS = {
    "gpt-3.5-turbo-0613": 4_096,
    "gpt-3.5": 16_385,
    "gpt-4-0613": 8_192,
    "babbage": 16_384,
    "davinci": 16_384,
}


def max_tokens(model: str) -> int:
    """Tokens of one training example; the longest beginning of the (fine-tuned) model's name decides."""
    name = model.removeprefix("ft:")
    known = [start for start in _MAX_TOKENS if name.startswith(start)]
    return _MAX_TOKENS[max(known, key=len)] if known else 65_536


def takes_pictures(model: str, limits: Limits) -> bool:
    """Is this model, or the one that it was tuned from, fine-tuned on pictures?"""
    return model.removeprefix("ft:").split(":", 1)[0] in limits.vision_models


def takes_preferences(model: str, limits: Limits) -> bool:
    """Is this model, or the one that it was tuned from, fine-tuned on preferences?"""
    return model.removeprefix("ft:").split(":", 1)[0] in limits.preference_models


@dataclass(frozen=True)
class JsonlFinding:
    """One broken rule. line: 1-based, None for the file as a whole. Non-blocking ones are accepted by the API."""

    rule: str
    message: str
    line: int | None = None
    blocking: bool = True

    def __str__(self) -> str:
        return f"{f'line {self.line}' if self.line else 'the file'}: {self.message}"


@dataclass
class JsonlReport:
    path: Path
    limits: Limits
    examples: int = 0
    image_examples: int = 0
    images: int = 0
    tokens: int = 0
    tokens_at_most: int = 0  # what a budget has to reckon with; `tokens` is what ordinary text takes
    longest: int = 0
    bytes: int = 0
    findings: list[JsonlFinding] = field(default_factory=list)

    @property
    def blocking(self) -> list[JsonlFinding]:
        return [finding for finding in self.findings if finding.blocking]


def join_reports(path: Path | str, limits: Limits, parts: Iterable[tuple[JsonlReport, int]]) -> JsonlReport:
    """The report of a file from those of its parts, each with its number of lines; findings get the file's lines."""
    whole = JsonlReport(Path(path), limits)
    lines = 0
    for part, length in parts:
        for name in ("examples", "image_examples", "images", "tokens", "tokens_at_most", "bytes"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        whole.longest = max(whole.longest, part.longest)
        whole.findings += [
            replace(finding, line=None if finding.line is None else finding.line + lines)
            for finding in part.findings
        ]
        lines += length
    return whole


def check_whole(report: JsonlReport, validation: bool) -> JsonlReport:
    """Add the findings of the file as a whole."""
    limits = report.limits

    def add(rule: str, message: str, blocking: bool = True) -> None:
        report.findings.append(JsonlFinding(rule, message, None, blocking))

    if report.bytes > limits.max_file_bytes:
        add(
            "file_size",
            f"{report.bytes:,} bytes, {limits.name} takes {limits.max_file_bytes:,}; set source.images_url to send pictures by URL, or use smaller ones",
        )
    if report.examples < limits.min_examples and not validation:
        add("min_examples", f"{report.examples} examples, {limits.name} needs at least {limits.min_examples}")
    if report.image_examples > limits.max_image_examples:
        add(
            "max_image_examples",
            f"{report.image_examples:,} examples with pictures, at most {limits.max_image_examples:,}",
        )
    if report.images:
        add("people", UNCHECKABLE, blocking=False)
    return report
