"""Writes small but valid GGUF and safetensors artifacts and their manifests, byte by byte, for the tests to spoil."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stack.core.digest import Digest
from stack.core.release import Artifact, FileEntry

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
WORDS = [f"tok{number}" for number in range(40)]

KEYS: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 1,
    "llama.context_length": 256,
    "llama.embedding_length": 32,
    "llama.block_count": 2,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.token_type": [1] * len(WORDS),
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
}
# name -> (shape, type number, bytes)
TENSORS: dict[str, tuple[list[int], int, int]] = {
    "token_embd.weight": ([32, 40], 1, 32 * 40 * 2),
    "output_norm.weight": ([32], 0, 128),
    "blk.0.attn_q.weight": ([32, 5], 8, 5 * 34),
}


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, _text(value)
    kind = _typed(value[0])[0]
    return 9, struct.pack("<IQ", kind, len(value)) + b"".join(_typed(item)[1] for item in value)


def _filler(count: int, seed: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(count)


def gguf(
    keys: Mapping[str, Any] = KEYS,
    tensors: Mapping[str, tuple[list[int], int, int]] = TENSORS,
    seed: int = 0,
    version: int = 3,
) -> bytes:
    """A whole GGUF file."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)))
    for name, value in keys.items():
        kind, data = _typed(value)
        out += _text(name) + struct.pack("<I", kind) + data
    offset = 0
    for name, (shape, kind, size) in tensors.items():
        out += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, offset)
        offset += -(-size // 32) * 32
    out += bytes(-len(out) % 32)
    for number, (_, _, size) in enumerate(tensors.values()):
        out += _filler(size, seed + number) + bytes(-size % 32)
    return bytes(out)


def safetensors(tensors: Mapping[str, tuple[str, list[int], int]], seed: int = 0) -> bytes:
    """A whole safetensors file; tensors are name -> (dtype, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, shape, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + _filler(offset, seed)


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
}
PLAIN = {"model.embed_tokens.weight": ("BF16", [40, 32], 2560), "model.norm.weight": ("F32", [32], 128)}


def safetensors_files(config: Mapping[str, Any] = CONFIG) -> dict[str, bytes]:
    """The files of a safetensors artifact with one weights file."""
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": json.dumps({"model": {"vocab": {}}}).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": TEMPLATE}).encode(),
        "model.safetensors": safetensors(PLAIN),
    }


def sharded_files(shards: int = 3) -> dict[str, bytes]:
    """The files of a safetensors artifact in several shards with their index."""
    files = safetensors_files()
    del files["model.safetensors"]
    where: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        files[name] = safetensors({f"layer.{number}.weight": ("F16", [64, 32], 4096)}, seed=number)
        where[f"layer.{number}.weight"] = name
    files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    return files


def describe(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The manifest's list of these files."""
    return [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in sorted(files.items())
    ]


def set_digest(rows: list[dict[str, Any]]) -> str:
    """The digest of a manifest's list."""
    files = tuple(
        FileEntry(path=row["path"], size=row["size"], sha256=Digest("sha256:" + row["sha256"])) for row in rows
    )
    return str(Artifact.digest_of(files))


def body(artifacts: Mapping[str, Mapping[str, bytes]], version: str = "1.0") -> dict[str, Any]:
    """A manifest as a value: format -> files."""
    described = {}
    for kind, files in artifacts.items():
        rows = describe(files)
        described[kind] = {"root": f"demo-{version}/{kind}", "digest": set_digest(rows), "files": rows}
    return {
        "schema": 1,
        "name": "demo",
        "version": version,
        "description": "A model for tests.",
        "licence": "Apache-2.0",
        "source": "tests",
        "artifacts": described,
    }


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a directory."""
    for path, data in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def write_model(folder: Path, artifacts: Mapping[str, Mapping[str, bytes]], version: str = "1.0") -> Path:
    """Write the files and their manifest; the manifest's path."""
    value = body(artifacts, version)
    for kind, files in artifacts.items():
        write_files(folder / value["artifacts"][kind]["root"], files)
    path = folder / f"demo-{version}.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False, width=1000))
    return path
