"""Deterministic embeddings, cheap: unit length, one for each (text, model, dimensions), base64 as on the wire.

A pool of random directions is made once for each length; the text's hash picks one and sets the signs of its first
24 numbers. So two texts share a vector by a chance of one in four billion, and a text costs a few microseconds.
"""

from __future__ import annotations

import base64
import math
import random
import struct
from array import array
from functools import lru_cache
from hashlib import blake2b

SIGNED = 24  # numbers whose sign the text sets; 24 x 4 bytes are a whole number of base64 groups
_SIGNED_FLOATS = struct.Struct(f"<{SIGNED}f")
_SIGNED_CHARACTERS = SIGNED * 4 * 4 // 3


def encoded_vector(text: str, model: str, dimensions: int) -> bytes:
    """The vector as base64 of little-endian float32."""
    key = blake2b(f"{model}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    bits = int.from_bytes(key[1:4], "big")
    if dimensions < SIGNED:
        return base64.b64encode(_direction(dimensions, key[0]))
    first, rest = _pooled(dimensions, key[0])
    signed = [-number if bits >> position & 1 else number for position, number in enumerate(first)]
    return base64.b64encode(_SIGNED_FLOATS.pack(*signed)) + rest


def vector(text: str, model: str, dimensions: int) -> list[float]:
    """The same as numbers: what a test may compare a result with (they are float32)."""
    return array("f", base64.b64decode(encoded_vector(text, model, dimensions))).tolist()


@lru_cache(maxsize=4096)
def _pooled(dimensions: int, choice: int) -> tuple[tuple[float, ...], bytes]:
    data = _direction(dimensions, choice)
    return _SIGNED_FLOATS.unpack_from(data), base64.b64encode(data)[_SIGNED_CHARACTERS:]


@lru_cache(maxsize=4096)
def _direction(dimensions: int, choice: int) -> bytes:
    generator = random.Random(f"{dimensions}/{choice}")
    numbers = [generator.gauss(0.0, 1.0) for _ in range(dimensions)]
    length = math.sqrt(sum(number * number for number in numbers))
    return struct.pack(f"<{dimensions}f", *(number / length for number in numbers))
