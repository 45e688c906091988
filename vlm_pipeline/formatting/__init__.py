"""Chat template rendering, labels, verification, row view; OpenAI JSONL and its validator.

Names are resolved on first use, so that importing this package costs nothing at code location load.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_OWNERS = {
    "conversation": ("Conversation", "build_conversation"),
    "findings": ("CATALOGUE", "Finding"),
    "labels": ("Formatted", "Formatter", "Prompt", "format_example", "generation_prompt"),
    "pictures": ("open_image", "pixel_inputs"),
    "table": ("SectionResult", "format_section", "read_formatted_rows"),
    "template": (
        "RenderError",
        "generation_eos_ids",
        "image_settings",
        "image_settings_differences",
        "load_processor",
        "template_hash",
    ),
    "verification": ("blocking", "verify"),
}
_MODULE_OF = {name: module for module, names in _OWNERS.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
