"""A vector's short path: from what a provider sent to the JSON that is delivered, without a list of Python floats.

float32 is what the models compute and what OpenAI sends in base64. orjson prints each with the fewest digits that
read back as the same float32: half the bytes of the float64 digits, which matters where a body may have 100 kB.
"""

from __future__ import annotations

import binascii
from typing import Any

import numpy as np
import orjson

from aitp.errors import UselessAnswer


class UnusableVector(ValueError):
    """What was sent is no vector that may be stored. The message says what was sent, without the numbers."""


def vector_of(service: str, embedding: object) -> bytes | UselessAnswer:
    """JSON of what a `service` sent as the vector of a text, or what is wrong with it."""
    try:
        if isinstance(embedding, str):
            return vector_from_base64(embedding)
        if isinstance(embedding, list):
            return vector_from_numbers(embedding)
        raise UnusableVector("not one vector for this text")
    except UnusableVector as error:
        return UselessAnswer(f"{service} sent {error}")


def vector_from_base64(text: str) -> bytes:
    """JSON of little-endian float32 in base64."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)  # otherwise it skips what is no base64, and shifts the rest
        vector = np.frombuffer(raw, dtype="<f4")
    except ValueError as error:
        raise UnusableVector("an unusable vector: expected float32 in base64") from error
    return vector_json(vector)


def vector_from_numbers(numbers: list[Any]) -> bytes:
    """JSON of a list of numbers: for servers that know no base64."""
    try:
        values = np.asarray(numbers)
    except ValueError as error:
        raise UnusableVector("an unusable vector: expected a flat list of numbers") from error
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise UnusableVector("an unusable vector: expected a flat list of numbers")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused as such
        return vector_json(values.astype("<f4"))


def vector_json(vector: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """JSON of `vector` (float32) in the shortest digits. UnusableVector: empty, not finite, all zeros."""
    if not len(vector) or not np.isfinite(vector).all():
        raise UnusableVector("an unusable vector: expected finite numbers, and at least one")
    if not vector.any():
        raise UnusableVector("an unusable vector: expected a direction, got nothing but zeros")
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)


def numbers_in(vector: bytes) -> int:
    """How many numbers such JSON holds."""
    return vector.count(b",") + 1
