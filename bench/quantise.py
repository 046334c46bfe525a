"""Writes a GGUF file's large tensors as Q8_0, llama.cpp's blocks of 32 numbers with one scale. For benches only.

Everything before the list of tensors is kept byte for byte, so the model stays the one it was.
"""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

ALIGNMENT, BLOCK = 32, 32
F32, F16, Q8_0 = 0, 1, 8
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One row of the list: the shape is as in the file, fastest first."""

    name: bytes
    shape: tuple[int, ...]
    kind: int
    offset: int


def quantise(source: Path, target: Path) -> None:
    """Every F16 matrix of `source` becomes Q8_0 in `target`; what is F32 stays."""
    data = source.read_bytes()
    file = io.BytesIO(data)
    tensors = _list(file)
    listed = file.tell()
    base = -(-listed // ALIGNMENT) * ALIGNMENT
    rows, body = b"", b""
    for tensor in tensors:
        kind, values = _converted(data[base + tensor.offset :], tensor)
        rows += _row(tensor, kind, len(body))
        body += values + b"\0" * (-len(values) % ALIGNMENT)
    head = data[: _list_begins(data)] + rows
    target.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + body)


def blocks_of(values: NDArray[np.float32]) -> bytes:
    """Q8_0: per 32 numbers a scale as float16 and 32 signed bytes."""
    grouped = values.reshape(-1, BLOCK)
    scale = np.abs(grouped).max(axis=1) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    whole = np.rint(grouped * inverse[:, None]).astype(np.int8)
    packed = np.empty(len(grouped), dtype=[("scale", "<f2"), ("whole", "i1", BLOCK)])
    packed["scale"], packed["whole"] = scale.astype(np.float16), whole
    return packed.tobytes()


def _converted(data: bytes, tensor: Tensor) -> tuple[int, bytes]:
    count = int(np.prod(tensor.shape))
    if tensor.kind == F32:
        return F32, data[: 4 * count]
    if tensor.kind != F16 or tensor.shape[0] % BLOCK:
        raise ValueError(f"{tensor.name!r} is of type {tensor.kind}, shape {tensor.shape}")
    return Q8_0, blocks_of(np.frombuffer(data[: 2 * count], dtype="<f2").astype(np.float32))


def _row(tensor: Tensor, kind: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return struct.pack("<Q", len(tensor.name)) + tensor.name + shape + struct.pack("<IQ", kind, offset)


def _list_begins(data: bytes) -> int:
    file = io.BytesIO(data)
    _skip_keys(file)
    return file.tell()


def _list(file: BinaryIO) -> list[Tensor]:
    found = []
    for _ in range(_skip_keys(file)):
        name = file.read(_number(file, 8))
        shape = tuple(_number(file, 8) for _ in range(_number(file, 4)))
        found.append(Tensor(name=name, shape=shape, kind=_number(file, 4), offset=_number(file, 8)))
    return found


def _skip_keys(file: BinaryIO) -> int:
    if file.read(4) != b"GGUF":
        raise ValueError("this is no GGUF file")
    _number(file, 4)
    tensors, keys = _number(file, 8), _number(file, 8)
    for _ in range(keys):
        file.read(_number(file, 8))
        _skip_value(file, _number(file, 4))
    return tensors


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == STRING:
        file.read(_number(file, 8))
    elif kind == ARRAY:
        inner, count = _number(file, 4), _number(file, 8)
        for _ in range(count):
            _skip_value(file, inner)
    else:
        file.read(SCALARS[kind])


def _number(file: BinaryIO, size: int) -> int:
    return int.from_bytes(file.read(size), "little")


if __name__ == "__main__":
    quantise(Path(sys.argv[1]), Path(sys.argv[2]))
