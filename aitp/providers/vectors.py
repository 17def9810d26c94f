"""A vector's short path: from what a provider sent to the JSON that is delivered, without a list of Python floats.

float32 is what the models compute and what OpenAI sends in base64. orjson prints each with the fewest digits that
read back as the same float32: half the bytes of the float64 digits, which matters where a body may have 100 kB.
"""

from __future__ import annotations

import binascii
from typing import Any

import numpy as np
import orjson


class UnusableVector(ValueError):
    """What was sent is no vector that may be stored. The message says what was sent, without the numbers."""


class WrongLength(UnusableVector):
    """It is a vector, of another `length` than was wanted."""

    def __init__(self, wanted: int, length: int) -> None:
        super().__init__(f"an unusable vector: expected {wanted} numbers, got {length}")
        self.length = length


def vector_from_base64(text: str, length: int | None) -> bytes:
    """JSON of little-endian float32 in base64. `length`: how many were asked for, None if the model decides."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)  # otherwise it skips what is no base64, and shifts the rest
        vector = np.frombuffer(raw, dtype="<f4")
    except ValueError as error:
        raise UnusableVector("an unusable vector: expected float32 in base64") from error
    return vector_json(vector, length)


def vector_from_numbers(numbers: list[Any], length: int | None) -> bytes:
    """JSON of a list of numbers: for servers that know no base64."""
    try:
        values = np.asarray(numbers)
    except ValueError as error:
        raise UnusableVector("an unusable vector: expected a flat list of numbers") from error
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise UnusableVector("an unusable vector: expected a flat list of numbers")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused as such
        return vector_json(values.astype("<f4"), length)


def vector_json(vector: np.ndarray[Any, np.dtype[np.float32]], length: int | None) -> bytes:
    """JSON of `vector` (float32) in the shortest digits. UnusableVector: empty, not finite, all zeros, not as asked."""
    if not len(vector) or not np.isfinite(vector).all():
        raise UnusableVector("an unusable vector: expected finite numbers, and at least one")
    if not vector.any():
        raise UnusableVector("an unusable vector: expected a direction, got nothing but zeros")
    if length is not None and len(vector) != length:
        raise WrongLength(length, len(vector))
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)
