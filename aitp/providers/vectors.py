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
    """What was sent is no vector that may be stored. The message says why, without the numbers."""


def vector_from_base64(text: str, length: int | None) -> bytes:
    """JSON of little-endian float32 in base64. `length`: how many were asked for, None if the model decides."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)  # otherwise it skips what is no base64, and shifts the rest
        vector = np.frombuffer(raw, dtype="<f4")
    except ValueError as error:
        raise UnusableVector("expected float32 in base64") from error
    return vector_json(vector, length)


def vector_from_numbers(numbers: list[Any], length: int | None, *, unit: bool = False) -> bytes:
    """JSON of a list of numbers: for servers that know no base64. `unit`: brought to length 1."""
    try:
        values = np.asarray(numbers)
    except ValueError as error:
        raise UnusableVector("expected a flat list of numbers") from error
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise UnusableVector("expected a flat list of numbers")
    # What does not fit float32 becomes infinite, what has no direction no number: both are refused as such.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if unit:
            values = values / np.sqrt(np.square(values, dtype="<f8").sum())
        return vector_json(values.astype("<f4"), length)


def vector_json(vector: np.ndarray[Any, np.dtype[np.float32]], length: int | None) -> bytes:
    """JSON of `vector` (float32) in the shortest digits. UnusableVector: it is empty, not finite, or not as asked."""
    if length is not None and len(vector) != length:
        raise UnusableVector(f"expected {length} numbers, got {len(vector)}")
    if not len(vector) or not np.isfinite(vector).all():
        raise UnusableVector("expected finite numbers, and at least one")
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)
