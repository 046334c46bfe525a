"""What an artifact's files say together: model metadata, and whether anything the runtime needs is missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from stack.core.digest import Digest
from stack.core.release import Artifact, FileEntry
from stack.registry.errors import HeaderInvalid, IncompleteArtifact, PickleRefused
from stack.registry.formats import ggml, gguf, safetensors
from stack.registry.formats.cursor import BrokenHeader, Readable
from stack.registry.paths import content_problem, magic_problem

Opener = Callable[[FileEntry], AbstractContextManager[Readable]]
Metadata = dict[str, Any]
LARGEST_JSON = 16 << 20
INDEX = "model.safetensors.index.json"


def inspect(artifact: Artifact, open_file: Opener) -> Metadata:
    """The metadata of a complete artifact. Raises ``HeaderInvalid``, ``IncompleteArtifact`` or ``PickleRefused``."""
    for entry in artifact.files:
        with open_file(entry) as file:
            refuse_pickle(entry.path, file.read_at(0, 64))
    metadata = _gguf(artifact, open_file) if artifact.format == "gguf" else _safetensors(artifact, open_file)
    return {key: _plain(value) for key, value in metadata.items() if value is not None}


def _plain(value: Any) -> Any:
    """A digest as the plain text that JSON and YAML know."""
    return str(value) if isinstance(value, str) else value


def refuse_pickle(path: str, head: bytes) -> None:
    """Raise ``PickleRefused`` for a name or a content that runs code when loaded."""
    reason = content_problem(path) or magic_problem(head)
    if reason:
        raise PickleRefused(path=path, reason=reason)


def _with_suffix(artifact: Artifact, suffix: str) -> list[FileEntry]:
    files = [entry for entry in artifact.files if entry.path.endswith(suffix)]
    if not files:
        raise IncompleteArtifact(format=artifact.format, missing=f"a {suffix} file")
    return files


def _gguf(artifact: Artifact, open_file: Opener) -> Metadata:
    headers: dict[str, gguf.GgufHeader] = {}
    for entry in _with_suffix(artifact, ".gguf"):
        with open_file(entry) as file:
            try:
                headers[entry.path] = gguf.read_header(file)
            except BrokenHeader as error:
                raise HeaderInvalid(path=entry.path, reason=str(error)) from error
    path = _primary(headers)
    _require_gguf(path, headers[path])
    return _gguf_metadata(headers[path], list(headers.values()))


def _primary(headers: Mapping[str, gguf.GgufHeader]) -> str:
    """The file with the metadata: the only one, or number 0 of a complete split."""
    numbers = {path: header.number("split.no") for path, header in headers.items()}
    counts = {header.number("split.count") or 1 for header in headers.values()}
    first = min(headers, key=lambda path: (numbers[path] or 0, path))
    if counts != {len(headers)} or sorted(n or 0 for n in numbers.values()) != list(range(len(headers))):
        reason = f"{len(headers)} GGUF file(s) do not make up one whole split of {sorted(counts)}"
        raise HeaderInvalid(path=first, reason=reason)
    return first


def _require_gguf(path: str, header: gguf.GgufHeader) -> None:
    name = header.values.get("general.architecture")
    if not isinstance(name, str) or not name:
        raise HeaderInvalid(path=path, reason="it names no architecture")
    for key in ("block_count", "context_length", "embedding_length"):
        if not header.number(f"{name}.{key}"):
            raise HeaderInvalid(path=path, reason=f"{name}.{key} is missing or 0")
    if not header.token_count:
        raise IncompleteArtifact(format="gguf", missing=f"a tokenizer (tokenizer.ggml.tokens in {path})")
    if header.chat_template_digest is None:
        raise IncompleteArtifact(format="gguf", missing=f"a chat template (tokenizer.chat_template in {path})")


def _gguf_metadata(header: gguf.GgufHeader, all_headers: list[gguf.GgufHeader]) -> Metadata:
    name = header.values["general.architecture"]
    types: Counter[str] = Counter()
    for one in all_headers:
        types.update(one.types)
    if not types:
        raise HeaderInvalid(path="*.gguf", reason="there are no tensors")
    number = header.number("general.file_type")
    named = None if number is None else ggml.FILE_TYPES.get(number)
    kv = header.values.get(f"{name}.attention.head_count_kv")
    heads = header.values.get(f"{name}.attention.head_count")
    tokenizer = header.values.get("tokenizer.ggml.model")
    return {
        "architecture": name,
        "parameters": sum(one.parameters for one in all_headers),
        "tensor_bytes": sum(one.tensor_bytes for one in all_headers),
        "tensor_count": sum(one.tensor_count for one in all_headers),
        "quantisation": named or types.most_common(1)[0][0],
        "context_length": header.number(f"{name}.context_length"),
        "block_count": header.number(f"{name}.block_count"),
        "embedding_length": header.number(f"{name}.embedding_length"),
        "feed_forward_length": header.number(f"{name}.feed_forward_length"),
        "head_count": _counts(heads),
        "head_count_kv": _counts(kv if kv is not None else heads),
        "key_length": header.number(f"{name}.attention.key_length"),
        "value_length": header.number(f"{name}.attention.value_length"),
        "vocabulary_size": header.number(f"{name}.vocab_size") or header.token_count,
        "tokenizer": tokenizer if isinstance(tokenizer, str) else None,
        "tokenizer_digest": header.tokenizer_digest,
        "chat_template_digest": header.chat_template_digest,
    }


def _counts(value: Any) -> int | list[int] | None:
    """A head count: one number, or one per layer."""
    if isinstance(value, list):
        return value if all(type(item) is int and 0 <= item < 2**31 for item in value) else None
    return value if type(value) is int and 0 < value < 2**31 else None


def _json(artifact: Artifact, open_file: Opener, name: str) -> dict[str, Any] | None:
    entry = next((file for file in artifact.files if file.path == name), None)
    if entry is None:
        return None
    if entry.size > LARGEST_JSON:
        raise HeaderInvalid(path=name, reason=f"it is larger than {LARGEST_JSON} bytes")
    with open_file(entry) as file:
        try:
            return safetensors.parse_object(file.read_at(0, entry.size), "the file")
        except BrokenHeader as error:
            raise HeaderInvalid(path=name, reason=str(error)) from error


def _required_json(artifact: Artifact, open_file: Opener, name: str) -> dict[str, Any]:
    value = _json(artifact, open_file, name)
    if value is None:
        raise IncompleteArtifact(format="safetensors", missing=name)
    return value


def _safetensors(artifact: Artifact, open_file: Opener) -> Metadata:
    config = _required_json(artifact, open_file, "config.json")
    tokenizer_config = _required_json(artifact, open_file, "tokenizer_config.json")
    tokenizer = next((file for file in artifact.files if file.path == "tokenizer.json"), None)
    if tokenizer is None:
        raise IncompleteArtifact(format="safetensors", missing="tokenizer.json")
    with open_file(tokenizer) as file:
        if not file.read_at(0, 64).lstrip().startswith(b"{"):
            raise HeaderInvalid(path="tokenizer.json", reason="it is not a JSON object")
    template = _template_digest(artifact, open_file, tokenizer_config)
    headers: dict[str, safetensors.SafetensorsHeader] = {}
    for entry in _with_suffix(artifact, ".safetensors"):
        with open_file(entry) as file:
            try:
                headers[entry.path] = safetensors.read_header(file)
            except BrokenHeader as error:
                raise HeaderInvalid(path=entry.path, reason=str(error)) from error
    _check_index(headers, _json(artifact, open_file, INDEX))
    return _safetensors_metadata(config, headers, tokenizer.sha256, template)


def _template_digest(artifact: Artifact, open_file: Opener, config: dict[str, Any]) -> Digest:
    """Of the template's text, so that it equals the digest of the same template inside a GGUF file."""
    entry = next((file for file in artifact.files if file.path == "chat_template.jinja"), None)
    if entry is not None and entry.size:
        return entry.sha256
    template = config.get("chat_template")
    if not template or not isinstance(template, str | list):
        raise IncompleteArtifact(format="safetensors", missing="a chat template (in tokenizer_config.json)")
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return Digest.of(text.encode("utf-8"))


def _check_index(headers: Mapping[str, safetensors.SafetensorsHeader], index: dict[str, Any] | None) -> None:
    if index is None:
        if len(headers) > 1:
            raise IncompleteArtifact(format="safetensors", missing=f"{INDEX} for its {len(headers)} shards")
        return
    where = index.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(value, str) for value in where.values()):
        raise HeaderInvalid(path=INDEX, reason="it has no weight_map from tensor to file")
    actual = {name: path for path, header in headers.items() for name in header.names}
    if len(actual) != sum(len(header.names) for header in headers.values()):
        raise HeaderInvalid(path=INDEX, reason="two shards hold a tensor of the same name")
    if actual != where:
        wrong = sorted(name for name in actual.keys() | where.keys() if actual.get(name) != where.get(name))
        raise HeaderInvalid(path=INDEX, reason=f"it disagrees with the shards about {len(wrong)} tensor(s)")


def _positive(config: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = config.get(key)
        if type(value) is int and 0 < value < 2**53:
            return value
    return None


def _safetensors_metadata(
    config: dict[str, Any],
    headers: Mapping[str, safetensors.SafetensorsHeader],
    tokenizer: Digest,
    template: Digest,
) -> Metadata:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise HeaderInvalid(path="config.json", reason="it names no architectures")
    inner = config.get("text_config")
    text: dict[str, Any] = {**config, **inner} if isinstance(inner, dict) else config
    types: Counter[str] = Counter()
    for header in headers.values():
        types.update(header.types)
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    model_type = config.get("model_type")
    heads = _positive(text, "num_attention_heads", "n_head")
    found: Metadata = {
        "architecture": model_type if isinstance(model_type, str) and model_type else names[0],
        "parameters": sum(header.parameters for header in headers.values()),
        "tensor_bytes": sum(header.tensor_bytes for header in headers.values()),
        "tensor_count": sum(len(header.names) for header in headers.values()),
        "quantisation": method if isinstance(method, str) else types.most_common(1)[0][0],
        "context_length": _positive(text, "max_position_embeddings", "n_positions", "seq_length"),
        "block_count": _positive(text, "num_hidden_layers", "n_layer"),
        "embedding_length": _positive(text, "hidden_size", "n_embd"),
        "feed_forward_length": _positive(text, "intermediate_size"),
        "head_count": heads,
        "head_count_kv": _positive(text, "num_key_value_heads") or heads,
        "key_length": _positive(text, "head_dim"),
        "value_length": _positive(text, "head_dim"),
        "vocabulary_size": _positive(text, "vocab_size"),
        "tokenizer": "tokenizer.json",
        "tokenizer_digest": tokenizer,
        "chat_template_digest": template,
    }
    for key in ("context_length", "block_count", "embedding_length", "vocabulary_size"):
        if found[key] is None:
            raise HeaderInvalid(path="config.json", reason=f"it does not say the model's {key.replace('_', ' ')}")
    return found
