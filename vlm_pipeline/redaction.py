"""Keys never leave the process: whatever is shown, logged or stored of a failure goes through `redact`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_KEY_VARIABLES = re.compile(r"(KEY|KEY_ID|TOKEN|SECRET|PASSWORD)$")
_KEY_SHAPES = re.compile(r"\b(?:sk|hf|pk)[-_][A-Za-z0-9*_-]{8,}")
_IN_URL = re.compile(r"(?<=://)[^/\s@]+@|(?<=[Ss]ignature=)[^&\s]+")  # user:password@, a presigned query
_SHORTEST = 6  # letters; a shorter value is a word rather than a key


def redact(text: str, env: Mapping[str, str] | None = None) -> str:
    """`text` without anything that is a key of this environment (or of `env`) or looks like one."""
    values = {
        value
        for name, value in (os.environ if env is None else env).items()
        if _KEY_VARIABLES.search(name.upper()) and len(value) >= _SHORTEST
    }
    for value in sorted(values, key=len, reverse=True):  # a key that holds another one goes first
        text = text.replace(value, "***")
    return _IN_URL.sub("***", _KEY_SHAPES.sub("***", text))
