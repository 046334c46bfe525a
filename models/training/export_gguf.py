"""Turn a published safetensors folder into a GGUF file (f16) with tokenizer and chat template inside.

Written without timestamps or paths: the same folder gives the same bytes. Needs no torch.

    python models/training/export_gguf.py models/tiny-1.0/safetensors model.gguf tiny-1.0
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def read_bfloat16(path: Path) -> dict[str, Array]:
    """The tensors of a bfloat16 safetensors file, widened to float32 (numpy has no bfloat16)."""
    raw = path.read_bytes()
    header_size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + header_size]), raw[8 + header_size :]
    header.pop("__metadata__", None)
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise ValueError(f"{path}: {name} is {entry['dtype']}, BF16 expected")
        start, stop = entry["data_offsets"]
        halves = np.frombuffer(body[start:stop], np.uint16).astype(np.uint32)
        tensors[name] = (halves << 16).view(np.float32).reshape(entry["shape"])
    return tensors


def tensor_names(layers: int) -> dict[str, str]:
    """Hugging Face's tensor names and llama.cpp's, in the order they are written."""
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for layer in range(layers):
        for ours, theirs in LAYER_NAMES.items():
            names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    return names


def interleave(weight: Array, heads: int) -> Array:
    """Reorder rows of q or k: Hugging Face rotates halves of a head, llama.cpp rotates neighbours."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_architecture(writer: gguf.GGUFWriter, config: dict[str, Any], name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    tokenizer = _read_json(folder / "tokenizer.json")
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    texts = {index: text for text, index in tokenizer["model"]["vocab"].items()} | special
    ids = {text: index for index, text in special.items()}
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([texts[index] for index in range(vocab_size)])
    writer.add_token_types([control if index in special else normal for index in range(vocab_size)])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(_read_json(folder / "tokenizer_config.json")["chat_template"])


def _write_tensors(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    tensors = read_bfloat16(folder / "model.safetensors")
    names = tensor_names(config["num_hidden_layers"])
    if set(names) != set(tensors):
        raise ValueError(f"unexpected tensors: {sorted(set(names) ^ set(tensors))}")
    for ours, theirs in names.items():
        weight = tensors[ours]
        if "q_proj" in ours:
            weight = interleave(weight, config["num_attention_heads"])
        if "k_proj" in ours:
            weight = interleave(weight, config["num_key_value_heads"])
        # Norms stay float32, as llama.cpp wants them.
        kind = np.float32 if weight.ndim == 1 else np.float16
        writer.add_tensor(theirs, np.ascontiguousarray(weight.astype(kind)))


def export(folder: Path, target: Path, name: str) -> None:
    """Write `target` from the safetensors `folder`; `name` becomes `general.name`."""
    config = _read_json(folder / "config.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(target), "llama")
    _write_architecture(writer, config, name)
    _write_tokenizer(writer, folder, config["vocab_size"])
    _write_tensors(writer, folder, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
