"""The header of a safetensors file, read with bounds: what the file claims is checked before a tensor is read.

Format: 8 bytes little-endian length, that many bytes of JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER = 10_000_000  # bytes; an adapter of a 70-billion-parameter model needs less than one tenth
MAX_TENSORS = 100_000
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}


class Rejected(Exception):
    """This adapter is not evaluated; the message is the reason on the leaderboard."""


class Incomplete(Rejected):
    """The file is shorter than its own header says: it is still being copied, or was cut off."""


@dataclass(frozen=True)
class TensorInfo:
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, types and shapes of the tensors. Raises Rejected for anything that the format does not allow."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(8)
        if len(start) < 8:
            raise Incomplete(f"{path.name} has {size} bytes, too few for a safetensors file")
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER:
            raise Rejected(
                f"{path.name} announces a header of {length} bytes, more than {MAX_HEADER} are not read"
            )
        text = handle.read(length)
    if len(text) < length:
        raise Incomplete(f"{path.name} ends within its header")
    tensors, end = _tensors(path.name, _parse(path.name, text))
    if size < 8 + length + end:
        raise Incomplete(f"{path.name} has {size} bytes, its header speaks of {8 + length + end}")
    if size > 8 + length + end:
        raise Rejected(f"{path.name} holds {size - 8 - length - end} bytes that belong to no tensor")
    return tensors


def _parse(name: str, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"the header of {name} is not valid: {str(error)[:120]}") from error
    if not isinstance(header, dict):
        raise Rejected(f"the header of {name} is no JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise Rejected(f"{name} names {len(header)} tensors, more than {MAX_TENSORS}")
    return header


def _tensors(name: str, header: dict[str, Any]) -> tuple[dict[str, TensorInfo], int]:
    """Tensor infos, and the number of data bytes; the parts must follow each other without gap or overlap."""
    infos: dict[str, TensorInfo] = {}
    parts: list[tuple[int, int, str]] = []
    for tensor, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise Rejected(f"{name}: the entry of {tensor[:80]!r} is not valid") from None
        numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
        if not all(type(one) is int and one >= 0 for one in numbers) or len(shape) > 8 or dtype not in _BYTES:
            raise Rejected(f"{name}: type, shape or place of {tensor[:80]!r} is not valid")
        if math.prod(shape) * _BYTES[dtype] != end - begin:
            raise Rejected(f"{name}: {tensor[:80]!r} has another size than its shape {shape} needs")
        infos[tensor] = TensorInfo(dtype, tuple(shape))
        parts.append((begin, end, tensor))
    position = 0
    for begin, end, tensor in sorted(parts):
        if begin != position:
            raise Rejected(f"{name}: the bytes of {tensor[:80]!r} overlap or leave a gap")
        position = end
    return infos, position
