"""The smallest models that a real Ollama loads: random weights, made here, 60 to 120 kB each.

Written as GGUF 3 (github.com/ggml-org/ggml, docs/gguf.md): magic, counts, metadata, the tensors' names and shapes, then
their numbers. What such models say is nonsense; that they say it, and how much they read, is what tests need.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

Tensor = np.ndarray[Any, np.dtype[np.float32]]

ALIGNMENT = 32
WIDTH = 32
EMBEDDING_CONTEXT = 64  # tokens; about a letter each
CHAT_CONTEXT = 2_560  # tokens; a byte each
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _CONTROL = 1, 3  # kinds of tokens
_HEADS = 4


def embedding_model(seed: int = 0) -> bytes:
    """A BERT of one layer: vectors of WIDTH numbers; a token a letter, and no letter but those of English."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *(f"▁{letter}" for letter in letters), *letters]
    metadata = {
        "general.architecture": "bert",
        "bert.context_length": EMBEDDING_CONTEXT,
        "bert.embedding_length": WIDTH,
        "bert.feed_forward_length": 2 * WIDTH,
        "bert.block_count": 1,
        "bert.attention.head_count": _HEADS,
        "bert.attention.head_count_kv": _HEADS,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,  # the mean
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_CONTROL] * len(special) + [_NORMAL] * (len(tokens) - len(special)),
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3,  # so it is spelt
    }
    draw = _drawn(seed)
    tensors = {
        "token_embd.weight": draw(len(tokens), WIDTH),
        "token_types.weight": draw(2, WIDTH),
        "position_embd.weight": draw(EMBEDDING_CONTEXT, WIDTH),
        **{f"blk.0.{name}.weight": draw(WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        **{f"blk.0.{name}.bias": draw(WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        "blk.0.ffn_up.weight": draw(2 * WIDTH, WIDTH),
        "blk.0.ffn_up.bias": draw(2 * WIDTH),
        "blk.0.ffn_down.weight": draw(WIDTH, 2 * WIDTH),
        "blk.0.ffn_down.bias": draw(WIDTH),
    }
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        tensors |= {f"{norm}.weight": np.ones(WIDTH, "<f4"), f"{norm}.bias": np.zeros(WIDTH, "<f4")}
    return _gguf(metadata, tensors)


def chat_model(seed: int = 0) -> bytes:
    """A Llama of one layer whose tokens are bytes."""
    tokens = [*_symbols_of_bytes(), "th", "<|begin|>", "<|end|>"]
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": CHAT_CONTEXT,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": 2 * WIDTH,
        "llama.block_count": 1,
        "llama.attention.head_count": _HEADS,
        "llama.attention.head_count_kv": _HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // _HEADS,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_NORMAL] * (len(tokens) - 2) + [_CONTROL] * 2,
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }
    draw = _drawn(seed)
    ones = np.ones(WIDTH, "<f4")
    tensors = {
        "token_embd.weight": draw(len(tokens), WIDTH),
        "output.weight": draw(len(tokens), WIDTH),
        "output_norm.weight": ones,
        "blk.0.attn_norm.weight": ones,
        "blk.0.ffn_norm.weight": ones,
        **{f"blk.0.{name}.weight": draw(WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        "blk.0.ffn_gate.weight": draw(2 * WIDTH, WIDTH),
        "blk.0.ffn_up.weight": draw(2 * WIDTH, WIDTH),
        "blk.0.ffn_down.weight": draw(WIDTH, 2 * WIDTH),
    }
    return _gguf(metadata, tensors)


def _drawn(seed: int) -> Any:
    source = np.random.default_rng(seed)
    return lambda *shape: np.asarray(source.normal(scale=0.4, size=shape), "<f4")


def _symbols_of_bytes() -> list[str]:
    """How GPT-2's tokenizer writes each byte: printable ones as themselves, the others as letters from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _gguf(metadata: Mapping[str, object], tensors: Mapping[str, Tensor]) -> bytes:
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [_string(key) + _typed(value) for key, value in metadata.items()]
    numbers, offset = [], 0
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]  # the fastest index first
        head.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset))
        numbers.append(_aligned(tensor.tobytes()))
        offset += len(numbers[-1])
    return _aligned(b"".join(head)) + b"".join(numbers)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _typed(value: object) -> bytes:
    kind, data = _value(value)
    return struct.pack("<I", kind) + data


def _value(value: object) -> tuple[int, bytes]:
    match value:
        case bool():
            return _BOOL, struct.pack("<?", value)
        case int():
            return _UINT32, struct.pack("<I", value)
        case float():
            return _FLOAT32, struct.pack("<f", value)
        case str():
            return _STRING, _string(value)
        case [int(), *_]:
            return _ARRAY, struct.pack(f"<IQ{len(value)}i", _INT32, len(value), *value)
        case [*_]:
            kind = _value(value[0])[0]
            return _ARRAY, struct.pack("<IQ", kind, len(value)) + b"".join(_value(each)[1] for each in value)
    raise TypeError(type(value))
