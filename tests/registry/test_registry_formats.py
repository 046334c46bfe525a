"""Header readers: any bytes give metadata or a clear refusal; the tensors must fill the file exactly."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import pytest
import written
from hypothesis import given
from hypothesis import strategies as st

from stack.registry.formats import gguf, safetensors
from stack.registry.formats.cursor import BrokenHeader, Bytes, Cursor

WHOLE = written.gguf()
PLAIN = written.safetensors(written.PLAIN)


def refuse(data: bytes, word: str | None = None) -> None:
    with pytest.raises(BrokenHeader, match=word):
        gguf.read_header(Bytes(data))


def with_tensor(shape: list[int], kind: int, size: int) -> bytes:
    return written.gguf(tensors={"t": (shape, kind, size)})


def test_gguf_reads_what_was_written() -> None:
    header = gguf.read_header(Bytes(WHOLE))
    assert header.values["general.architecture"] == "llama"
    assert header.values["tokenizer.ggml.token_type"] == [1] * 40
    assert header.token_count == 40
    assert header.types == {"F16": 2560, "Q8_0": 170, "F32": 128}
    assert gguf.read_header(Bytes(written.gguf(version=2))).parameters == header.parameters


def test_gguf_may_end_with_or_without_padding() -> None:
    size = len(WHOLE)
    unpadded = WHOLE[: size - (-170 % 32)]
    assert gguf.read_header(Bytes(unpadded)).parameters == gguf.read_header(Bytes(WHOLE)).parameters
    refuse(unpadded[:-1], "cut off")
    refuse(WHOLE[:-1], "padded or has")
    refuse(WHOLE + b"\0", "appended")


def test_every_truncation_is_refused() -> None:
    padding = -170 % 32
    for end in range(len(WHOLE) - padding):
        refuse(WHOLE[:end])
    for end in range(len(PLAIN)):
        with pytest.raises(BrokenHeader):
            safetensors.read_header(Bytes(PLAIN[:end]))


def test_the_tokenizer_digest_covers_the_tokenizer_only() -> None:
    first = gguf.read_header(Bytes(WHOLE))
    other = gguf.read_header(Bytes(written.gguf({**written.KEYS, "tokenizer.ggml.tokens": ["x"] * 40})))
    renamed = gguf.read_header(Bytes(written.gguf({"general.name": "n", **written.KEYS})))
    assert first.tokenizer_digest == renamed.tokenizer_digest != other.tokenizer_digest
    assert first.chat_template_digest == other.chat_template_digest


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "ends after byte 0"),
        (b"GGML" + bytes(40), "does not begin with GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "where 1024 is the most"),
        (with_tensor([33], 8, 34), "impossible for Q8_0"),
        (with_tensor([0, 32], 0, 0), "impossible"),
        (with_tensor([32], 99, 64), "unknown type 99"),
        (with_tensor([1] * 5, 0, 4), "5 dimensions"),
        (with_tensor([2**62, 2**62, 2**62, 2**62], 0, 4), "cut off"),
        (written.gguf({**written.KEYS, "general.alignment": 0}), "alignment"),
        (written.gguf({**written.KEYS, "general.alignment": 7}), "alignment"),
        (written.gguf({**written.KEYS, "general.alignment": "x"}), "alignment"),
        (written.gguf({**written.KEYS, "llama.rope.freq_base": float("nan")}), "finite"),
        (written.gguf({**written.KEYS, "tokenizer.ggml.tokens": [1, 2]}), "strings"),
        (written.gguf({**written.KEYS, "deep": [[1], [2]]}), "unsupported"),
    ],
)
def test_impossible_gguf(data: bytes, word: str) -> None:
    refuse(data, word)


def test_a_huge_array_is_refused_without_being_read() -> None:
    name = b"tokenizer.ggml.tokens"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(name)) + name
    refuse(head + struct.pack("<IIQ", 9, 8, 2**40), "is the most")
    refuse(head + struct.pack("<IIQ", 9, 8, 2**20) + bytes(80), "cut off")
    refuse(head + struct.pack("<IIQ", 9, 4, 2**20) + bytes(80), "strings")
    other = head.replace(b"tokens", b"scores")
    refuse(other + struct.pack("<IIQ", 9, 6, 2**20) + bytes(80), "cut off")


def test_tensors_that_overlap_are_refused() -> None:
    first = WHOLE.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    data = bytearray(WHOLE)
    assert struct.unpack_from("<Q", data, first)[0] == 2560
    struct.pack_into("<Q", data, first, 0)
    refuse(bytes(data), "begin at 0")


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    for read, prefix in ((gguf.read_header, b"GGUF\x03\0\0\0"), (safetensors.read_header, b"")):
        for candidate in (data, prefix + data):
            with pytest.raises(BrokenHeader):
                read(Bytes(candidate))


@given(st.integers(0, len(WHOLE) - 3000), st.binary(min_size=1, max_size=9))
def test_an_overwritten_gguf_header(at: int, patch: bytes) -> None:
    data = WHOLE[:at] + patch + WHOLE[at + len(patch) :]
    try:
        header = gguf.read_header(Bytes(data))
    except BrokenHeader as error:
        assert str(error)
    else:
        assert header.tensor_bytes == 2560 + 128 + 170


@given(st.lists(st.text(max_size=40), max_size=60), st.integers(1, 64))
def test_skipping_strings_lands_behind_them(strings: list[str], window: int) -> None:
    data = b"".join(struct.pack("<Q", len(s.encode())) + s.encode() for s in strings)

    cursor = Cursor(Bytes(data + b"end."), 1 << 20, window)
    cursor.skip_strings(len(strings))
    assert cursor.take(4, 4) == b"end."


def test_a_header_beyond_the_limit_is_refused() -> None:
    cursor = Cursor(Bytes(bytes(100)), 10)
    cursor.skip(8)
    with pytest.raises(BrokenHeader, match="longer than"):
        cursor.take(4, 4)
    with pytest.raises(BrokenHeader, match="longer than"):
        cursor.skip(2**70)


def test_safetensors_reads_what_was_written() -> None:
    header = safetensors.read_header(Bytes(PLAIN))
    assert header.names == {"model.embed_tokens.weight", "model.norm.weight"}
    assert (header.parameters, header.tensor_bytes, header.types) == (1312, 2688, {"BF16": 2560, "F32": 128})


def packed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(**change: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (struct.pack("<Q", 2**63) + bytes(20), "claims"),
        (packed(b"[1, 2]"), "not a JSON object"),
        (packed(b"{" * 50_000), "not readable as JSON"),
        (packed(b'{"a":' * 50_000), "not readable as JSON"),
        (packed(b'{"t": 1, "t": 2}'), "stands twice"),
        (packed(b'{"t": NaN}'), "NaN"),
        (packed(b'{"t": ' + b"9" * 5000 + b"}"), "not readable"),
        (packed(b"\xff\xff{}"), "not readable"),
        (packed({"__metadata__": {}}), "0 tensors"),
        (packed(one(), bytes(9)), "appended"),
        (packed(one(), bytes(7)), "cut off"),
        (packed(one(dtype="F31"), bytes(8)), "unknown dtype"),
        (packed(one(dtype=[]), bytes(8)), "unknown dtype"),
        (packed(one(shape=[-1]), bytes(8)), "impossible shape"),
        (packed(one(shape=[True, 2]), bytes(8)), "impossible shape"),
        (packed(one(shape=[3]), bytes(8)), "does not have the size"),
        (packed(one(data_offsets=[8, 0]), bytes(8)), "does not have the size"),
        (packed(one(data_offsets=[8, 16]), bytes(16)), "hole or overlap"),
        (packed(one(more=1), bytes(8)), "not described"),
        (packed({**one(), "u": one()["t"]}, bytes(8)), "hole or overlap"),
    ],
)
def test_impossible_safetensors(data: bytes, word: str) -> None:
    with pytest.raises(BrokenHeader, match=word):
        safetensors.read_header(Bytes(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["F32", "F16"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "t"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.binary(max_size=16))
def test_any_json_header(header: dict[str, Any], data: bytes) -> None:
    try:
        found = safetensors.read_header(Bytes(packed(header, data)))
    except BrokenHeader as error:
        assert str(error)
    else:
        assert found.tensor_bytes == len(data)


class Endless:
    """A terabyte that begins with ``head`` and goes on with zeros: also an endless row of empty strings."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.size = 1 << 40

    def read_at(self, offset: int, count: int) -> bytes:
        return self._head[offset : offset + count].ljust(count, b"\0")


def test_a_hostile_header_costs_little_memory() -> None:
    name = b"tokenizer.ggml.tokens"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 100_000, 60_000, len(name)) + name + struct.pack("<IIQ", 9, 8, 1 << 18)
    tracemalloc.start()
    try:
        for read in (gguf.read_header, safetensors.read_header):
            with pytest.raises(BrokenHeader):
                read(Endless(head))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
