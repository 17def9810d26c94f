"""The path from what came over the wire to the JSON that is delivered."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.providers.vectors import UnusableVector, vector_from_base64, vector_from_numbers
from tests.providers.embeddings import as_base64

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(float32, min_size=1, max_size=40).filter(any))
def test_each_number_reads_back_as_the_same_float32(numbers: list[float]) -> None:
    for vector in (vector_from_base64(as_base64(numbers)), vector_from_numbers(numbers)):
        read = orjson.loads(vector)
        assert struct.pack(f"{len(read)}f", *read) == struct.pack(f"{len(numbers)}f", *numbers)


def test_digits_are_the_shortest_that_float32_needs() -> None:
    assert vector_from_base64(as_base64([0.1, 1 / 3, -1e-7])) == b"[0.1,0.33333334,-1e-7]"


def test_1024_numbers_fit_well_into_a_small_body() -> None:
    numbers = np.random.default_rng(1).standard_normal(1024)
    unit = (numbers / np.sqrt((numbers**2).sum())).astype("<f4")

    assert len(vector_from_base64(base64.b64encode(unit.tobytes()).decode())) < 14_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AAA",  # padding is missing
        "AAAA",  # three bytes are no float32
        "AACAPw==" + "AACAPw==",  # two vectors
        "AACA Pw==",
        "AACAPw==\n",
        "á",
        as_base64([1.0, float("nan")]),
        as_base64([float("inf")]),
        as_base64([0.0, -0.0]),
    ],
)
def test_what_is_no_vector_in_base64_is_refused(text: str) -> None:
    with pytest.raises(UnusableVector):
        vector_from_base64(text)


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [0, 0.0],
        [1e-60],
        ["1"],
        [1.0, "2"],
        [1.0, None],
        [True],
        [[1.0]],
        [[1.0], 2.0],
        [1e39],
        [float("nan")],
        [10**400],
        [{}],
    ],
)
def test_what_is_no_list_of_numbers_is_refused(numbers: list[Any]) -> None:
    with pytest.raises(UnusableVector):
        vector_from_numbers(numbers)
