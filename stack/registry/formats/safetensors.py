"""Reads the header of a safetensors file and proves that its tensors fill the file without holes or overlaps."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from stack.core.strict_json import NotJson, parse_json
from stack.registry.formats.cursor import BrokenHeader, Readable

HEADER_LIMIT = 16 << 20
MOST_TENSORS = 131_072

BITS: dict[str, int] = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
}


@dataclass(frozen=True, kw_only=True)
class SafetensorsHeader:
    """What one safetensors file says about itself."""

    names: frozenset[str]
    parameters: int
    tensor_bytes: int
    types: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    kind: str
    elements: int
    start: int
    end: int


def read_header(file: Readable) -> SafetensorsHeader:
    """Read and check one file. Raises ``BrokenHeader``."""
    if file.size < 10:
        raise BrokenHeader(f"it has only {file.size} bytes")
    length = int.from_bytes(file.read_at(0, 8), "little")
    if length > file.size - 8 or length > HEADER_LIMIT:
        raise BrokenHeader(f"its header claims {length} bytes: the file is cut off, damaged or not safetensors")
    header = parse_object(file.read_at(8, length), "its header")
    header.pop("__metadata__", None)
    if not header or len(header) > MOST_TENSORS:
        raise BrokenHeader(f"it lists {len(header)} tensors")
    tensors = [_tensor(name, entry) for name, entry in header.items()]
    _check_layout(tensors, file.size - 8 - length)
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[tensor.kind] += tensor.end - tensor.start
    return SafetensorsHeader(
        names=frozenset(header),
        parameters=sum(tensor.elements for tensor in tensors),
        tensor_bytes=sum(types.values()),
        types=dict(types.most_common()),
    )


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys, NaN or absurd depth. Raises ``BrokenHeader``."""
    try:
        value = parse_json(data, unique=True)
    except NotJson as error:
        raise BrokenHeader(f"{what} is not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BrokenHeader(f"{what} is not a JSON object")
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(name: str, entry: Any) -> _Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BrokenHeader(f"tensor {name!r:.80} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in BITS:
        raise BrokenHeader(f"tensor {name!r:.80} has the unknown dtype {kind!r:.40}")
    if not isinstance(shape, list) or len(shape) > 16 or not all(map(_is_count, shape)):
        raise BrokenHeader(f"tensor {name!r:.80} has an impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise BrokenHeader(f"tensor {name!r:.80} has impossible offsets")
    elements = math.prod(shape)
    if (offsets[1] - offsets[0]) * 8 != elements * BITS[kind]:
        raise BrokenHeader(f"tensor {name!r:.80} does not have the size that its shape and dtype {kind} give")
    return _Tensor(kind=kind, elements=elements, start=offsets[0], end=offsets[1])


def _check_layout(tensors: list[_Tensor], size: int) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda t: (t.start, t.end)):
        if tensor.start != end:
            raise BrokenHeader(f"its tensors leave a hole or overlap at byte {min(tensor.start, end)} of the data")
        end = tensor.end
    if end != size:
        change = "cut off" if size < end else "padded or has something appended"
        raise BrokenHeader(f"its tensors need {end} bytes, the file has {size}: it is {change}")
