"""Reads a GGUF header (versions 2 and 3) and proves that the tensors it lists fill the file exactly.

Returns what the header says; whether that is enough to run the model is decided in ``inspection``.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from stack.core.digest import Digest
from stack.registry.formats import ggml
from stack.registry.formats.cursor import BrokenHeader, Cursor, Readable, digest_of_ranges

HEADER_LIMIT = 128 << 20
MOST_KEYS = 65_536
MOST_TENSORS = 131_072
MOST_ITEMS = 1 << 22
LONGEST_KEY = 1024
LONGEST_KEPT = 4 << 20
MOST_KEPT_ITEMS = 1024
TOKENIZER = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
_KEPT_SCALARS = 4096


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What one GGUF file says about itself."""

    values: dict[str, Any]
    tensor_count: int
    parameters: int
    tensor_bytes: int
    types: dict[str, int]
    token_count: int | None
    tokenizer_digest: Digest | None
    chat_template_digest: Digest | None

    def number(self, key: str) -> int | None:
        """A non-negative whole number among the values."""
        value = self.values.get(key)
        return value if type(value) is int and 0 <= value < 2**53 else None


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    kind: str
    elements: int
    size: int
    offset: int


@dataclass(kw_only=True)
class _Keys:
    """What is gathered while the key-value section goes by."""

    values: dict[str, Any]
    tokenizer: list[tuple[int, int]]
    token_count: int | None = None
    template: bytes | None = None


def read_header(file: Readable) -> GgufHeader:
    """Read and check one file. Raises ``BrokenHeader``."""
    cursor = Cursor(file, HEADER_LIMIT)
    tensor_count, key_count = _preamble(cursor)
    keys = _read_keys(cursor, key_count)
    tensors = [_read_tensor(cursor) for _ in range(tensor_count)]
    _check_layout(tensors, cursor.offset, _alignment(keys.values), file.size)
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[tensor.kind] += tensor.size
    template = keys.template
    return GgufHeader(
        values=keys.values,
        tensor_count=tensor_count,
        parameters=sum(tensor.elements for tensor in tensors),
        tensor_bytes=sum(tensor.size for tensor in tensors),
        types=dict(types.most_common()),
        token_count=keys.token_count,
        tokenizer_digest=digest_of_ranges(file, keys.tokenizer) if keys.token_count else None,
        chat_template_digest=Digest("sha256:" + hashlib.sha256(template).hexdigest()) if template else None,
    )


def _preamble(cursor: Cursor) -> tuple[int, int]:
    magic = cursor.take(4, 4)
    if magic != b"GGUF":
        raise BrokenHeader(f"it does not begin with GGUF but with {magic!r}")
    version = cursor.u32()
    if version not in (2, 3):
        swapped = version & 0xFFFF == 0
        raise BrokenHeader("it is big-endian GGUF" if swapped else f"GGUF version {version}, where 2 and 3 are read")
    tensors, keys = cursor.u64(), cursor.u64()
    if tensors > MOST_TENSORS or keys > MOST_KEYS:
        raise BrokenHeader(f"it claims {tensors} tensors and {keys} keys, which no model has: the header is damaged")
    return tensors, keys


def _read_keys(cursor: Cursor, count: int) -> _Keys:
    keys = _Keys(values={}, tokenizer=[])
    seen: set[str] = set()
    for _ in range(count):
        start = cursor.offset
        name = _text(cursor.take(cursor.u64(), LONGEST_KEY), "a key")
        if name in seen:
            raise BrokenHeader(f"the key {name} stands twice")
        seen.add(name)
        _read_value(cursor, name, keys)
        if name.startswith(TOKENIZER):
            keys.tokenizer.append((start, cursor.offset))
    return keys


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenHeader(f"{what} is not UTF-8") from error


def _read_value(cursor: Cursor, name: str, keys: _Keys) -> None:
    kind = cursor.u32()
    if kind in ggml.SCALARS:
        keys.values[name] = _scalar(cursor, kind, name)
    elif kind == ggml.STRING:
        length = cursor.u64()
        if name == TEMPLATE:
            keys.template = cursor.take(length, LONGEST_KEPT)
            _text(keys.template, "the chat template")
        elif length <= _KEPT_SCALARS:
            keys.values[name] = _text(cursor.take(length, _KEPT_SCALARS), name)
        else:
            cursor.skip(length)
    elif kind == ggml.ARRAY:
        _read_array(cursor, name, keys)
    else:
        raise BrokenHeader(f"{name} has the unknown type {kind}")


def _scalar(cursor: Cursor, kind: int, name: str) -> Any:
    code = struct.Struct("<" + ggml.SCALARS[kind])
    data = cursor.take(code.size, 8)
    if kind == 7 and data not in (b"\0", b"\1"):
        raise BrokenHeader(f"{name} is neither true nor false")
    value = code.unpack(data)[0]
    if isinstance(value, float) and not math.isfinite(value):
        raise BrokenHeader(f"{name} is not a finite number")
    return value


def _read_array(cursor: Cursor, name: str, keys: _Keys) -> None:
    kind, count = cursor.u32(), cursor.u64()
    if count > MOST_ITEMS:
        raise BrokenHeader(f"{name} claims {count} entries, where {MOST_ITEMS} is the most")
    if name == TOKENIZER + "tokens":
        if kind != ggml.STRING:
            raise BrokenHeader("the list of tokens does not hold strings")
        keys.token_count = count
    if kind == ggml.STRING:
        cursor.skip_strings(count)
    elif kind in ggml.SCALARS:
        code = struct.Struct(f"<{count}{ggml.SCALARS[kind]}") if count <= MOST_KEPT_ITEMS else None
        if code is not None and kind in (0, 1, 2, 3, 4, 5, 10, 11):
            keys.values[name] = list(code.unpack(cursor.take(code.size, 8 * MOST_KEPT_ITEMS)))
        else:
            cursor.skip(count * struct.calcsize("<" + ggml.SCALARS[kind]))
    else:
        raise BrokenHeader(f"{name} is an array of the unsupported type {kind}")


def _read_tensor(cursor: Cursor) -> _Tensor:
    name = _text(cursor.take(cursor.u64(), LONGEST_KEY), "a tensor's name")
    dimensions = cursor.u32()
    if not 1 <= dimensions <= 4:
        raise BrokenHeader(f"tensor {name:.80} has {dimensions} dimensions")
    shape = [cursor.u64() for _ in range(dimensions)]
    kind, offset = cursor.u32(), cursor.u64()
    if kind not in ggml.TENSOR_TYPES:
        raise BrokenHeader(f"tensor {name:.80} has the unknown type {kind}")
    title, block, width = ggml.TENSOR_TYPES[kind]
    elements = math.prod(shape)
    if elements == 0 or shape[0] % block:
        raise BrokenHeader(f"tensor {name:.80} has the shape {shape}, impossible for {title}")
    return _Tensor(kind=title, elements=elements, size=elements // block * width, offset=offset)


def _alignment(values: dict[str, Any]) -> int:
    alignment = values.get("general.alignment", 32)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment % 8:
        raise BrokenHeader(f"the alignment {alignment!r:.40} is impossible")
    return alignment


def _check_layout(tensors: list[_Tensor], header_end: int, alignment: int, size: int) -> None:
    """The tensors lie one after the other, each aligned, and end where the file ends (or its padding does)."""
    if not tensors:
        if not header_end <= size <= _aligned(header_end, alignment):
            raise BrokenHeader(f"it has {size} bytes and no tensors after byte {header_end}")
        return
    start = end = _aligned(header_end, alignment)
    for tensor in tensors:
        if start + tensor.offset != _aligned(end - start, alignment) + start:
            raise BrokenHeader(f"a tensor is said to begin at {tensor.offset}, where it can't: the header is damaged")
        end = start + tensor.offset + tensor.size
    if size not in (end, start + _aligned(end - start, alignment)):
        change = "cut off" if size < end else "padded or has something appended"
        raise BrokenHeader(f"its tensors end at byte {end}, the file at {size}: it is {change}")


def _aligned(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment
