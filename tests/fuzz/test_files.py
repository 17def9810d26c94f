"""What may stand in the small files that processes leave for each other, whoever else wrote there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.process.scoreboard import SIZE, Record, Scoreboard, State, glance, living_master
from aitp.providers.inventory import FILE_NAME, read_inventory
from aitp.taskapi.token import LONGEST_LIFETIME_SECONDS, Token, read_token
from tests.fuzz.cases import cases, likely, values


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """A scoreboard in use."""
    path = tmp_path_factory.mktemp("board") / "scoreboard"
    board = Scoreboard.create(path)
    for slot in (0, 1, 2, 101, 102, 103):
        board.write(Record(slot, 4_000 + slot, State.BUSY, 1.0, 2.0, 3.0, 4, "65f0c0ffee65f0c0ffee65f0"))
    yield path.read_bytes()
    board.close()


damage = st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=40)), max_size=12)


def assert_readable(path: Path) -> None:
    for record in glance(path):
        assert record.task_id.isprintable()
        assert isinstance(record.state, State)
        assert all(map(math.isfinite, (record.started, record.since, record.deadline)))
        orjson.dumps(asdict(record))
    living_master(glance(path))


@cases(8_000)
@given(patches=damage, length=st.one_of(st.just(SIZE), st.integers(0, SIZE)), near=st.booleans())
def test_a_scoreboard_with_anything_in_it_is_read_without_a_word(
    folder: Path, board: bytes, patches: list[tuple[int, bytes]], length: int, near: bool
) -> None:
    data = bytearray(board)
    for at, patch in patches:
        at = at % 512 if near else at
        data[at : at + len(patch)] = patch
    path = folder / "scoreboard"
    path.write_bytes(data[:length])

    assert_readable(path)


@cases(1_000)
@given(data=st.binary(max_size=2_000))
def test_a_scoreboard_that_is_none(folder: Path, data: bytes) -> None:
    path = folder / "scoreboard"
    path.write_bytes(data)

    assert_readable(path)


written = st.one_of(st.binary(max_size=200), values.map(lambda value: repr(value).encode()))


def as_json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits, half a character
        return repr(value).encode(errors="replace")


@cases(4_000)
@given(data=st.one_of(written, likely(dict.fromkeys(Token.__dataclass_fields__, 1.0) | {"value": "abc"}).map(as_json)))
def test_a_token_file_holds_a_plausible_token_or_none(folder: Path, data: bytes) -> None:
    path = folder / "token"
    path.write_bytes(data)
    path.chmod(0o600)
    token = read_token(path)

    assert token is None or token.use_until <= token.fetched_at + LONGEST_LIFETIME_SECONDS


MODEL = {"stage": "pulling", "completed": 1, "total": 2, "reason": "", "failures": 0}
RETIRED = {"model": "o3", "at": 1.0, "setting": "DEFAULT_CHAT_MODEL"}
KNOWN = {
    "models": {"nomic": MODEL}, "problem": "", "shutdowns": {"o3": 1.0}, "shutdowns_at": 1.0, "retirements": [RETIRED]
}  # fmt: skip


@cases(4_000)
@given(data=st.one_of(written, likely(KNOWN).map(as_json)))
def test_what_is_known_of_models_is_read_or_nothing_is_known(folder: Path, data: bytes) -> None:
    (folder / FILE_NAME).write_bytes(data)
    stock = read_inventory(folder)

    for state in (stock.models if stock else {}).values():
        assert isinstance(state.percent, int)
