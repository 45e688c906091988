"""Answers that must match a regular expression (or a JSON schema), by outlines-core.

A predictor variant with `constrained` shows how much of a gain is format: the knowledge is the same, only tokens
that keep the answer inside the pattern may be chosen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vlm_pipeline.inference.formats import PatternError


class Pattern:
    """A compiled pattern over one tokenizer's vocabulary; `guide()` gives a fresh state per answer."""

    def __init__(self, pattern: str, tokenizer: Any, eos: Sequence[int], vocabulary: int) -> None:
        """pattern: a regular expression, or a JSON schema (text that starts with "{")."""
        from outlines_core import Index, Vocabulary
        from outlines_core.json_schema import build_regex_from_schema

        try:
            regex = build_regex_from_schema(pattern) if pattern.lstrip().startswith("{") else pattern
            tokens = _token_bytes(tokenizer, set(eos))
            self._index = Index(regex, Vocabulary(eos[0], tokens))
        except Exception as error:  # the Rust side raises several unexported types
            raise PatternError(
                f"the pattern {pattern!r} cannot be used with this vocabulary: {error}"
            ) from error
        self._eos, self._size = list(eos), vocabulary

    def guide(self, device: torch.device) -> _Guide:
        from outlines_core import Guide

        return _Guide(Guide(self._index), self._eos, self._size, device)


class _Guide:
    def __init__(self, guide: Any, eos: list[int], vocabulary: int, device: torch.device) -> None:
        self._guide, self._eos, self._size, self._device = guide, eos, vocabulary, device
        self._seen = 0
        self._bits = np.zeros((vocabulary + 31) // 32, dtype=np.int32)

    def allowed(self, new: list[int]) -> torch.Tensor:
        """Which tokens [V] keep the answer inside the pattern; `new` are the ids chosen so far."""
        for token in new[self._seen :]:
            self._guide.advance(token, return_tokens=False)
        self._seen = len(new)
        self._guide.write_mask_into(self._bits.ctypes.data, self._bits.size, 4)
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._size].astype(bool)
        if self._guide.is_finished():
            allowed[self._eos] = True
        return torch.from_numpy(allowed).to(self._device)


def _token_bytes(tokenizer: Any, eos: set[int]) -> dict[str | bytes, list[int]]:
    """Token text as bytes -> ids; special tokens are left out, they never belong to an answer."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder) | eos
    from_bytes = _byte_alphabet() if _is_byte_level(tokenizer) else None
    found: dict[str | bytes, list[int]] = {}
    for token, number in tokenizer.get_vocab().items():
        if number in special:
            continue
        if from_bytes is not None:
            text = bytes(from_bytes[letter] for letter in token if letter in from_bytes)
        elif token.startswith("<0x") and token.endswith(">"):
            text = bytes([int(token[3:-1], 16)])
        else:
            text = token.replace("\u2581", " ").encode()
        if text:
            found.setdefault(text, []).append(number)
    return found


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _byte_alphabet() -> dict[str, int]:
    """Letter -> byte of byte-level BPE vocabularies (GPT-2, Qwen, Llama 3)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in plain)
    return letters | {chr(256 + number): byte for number, byte in enumerate(others)}
