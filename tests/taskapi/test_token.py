"""The token: fetched when there is none, kept while it is good, replaced when refused, and never told to anyone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import orjson
import pytest

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.faults import Fault
from aitp.demo.task_api import TaskApi
from aitp.errors import CredentialsRefused, ServiceFault
from tests.taskapi.desk import Desk, MakeDesk

GARBAGE = {
    "nothing": b"",
    "no json": b"\x00\xff{",
    "no object": b"[1]",
    "fields missing": b'{"value": "x"}',
    "fields too many": b'{"value": "x", "more": 1}',
    "wrong kinds": b'{"value": 1, "use_until": "x", "fetched_at": null, "replaced_at": [], "fingerprint": {}}',
    "huge": b"[" * 1_000_000,
}


def damaged(desk: Desk, **fields: object) -> None:
    """Change fields of the token's file."""
    path = token_file(desk)
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | fields))


def token_file(desk: Desk) -> Path:
    return desk.settings.runtime_dir / "token"


# Keeping it


def test_one_token_serves_many_calls_and_other_processes(desk_at: MakeDesk, task_api: TaskApi) -> None:
    desks = [desk_at(task_api.url) for _ in range(3)]
    for desk in desks * 2:
        desk.list()
    assert [desk.token_requests for desk in desks] == [[True], [], []]


def test_the_file_is_its_owners_alone_and_appears_whole(desk: Desk) -> None:
    before = os.umask(0)
    try:
        token = desk.tokens.current()
    finally:
        os.umask(before)
    assert stat.S_IMODE(token_file(desk).stat().st_mode) == 0o600
    assert orjson.loads(token_file(desk).read_bytes())["value"] == token
    assert sorted(path.name for path in token_file(desk).parent.iterdir()) == ["token", "token.lock"]


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_a_damaged_file_counts_as_no_token(desk_at: MakeDesk, task_api: TaskApi, garbage: bytes) -> None:
    desk = desk_at(task_api.url)
    token_file(desk).write_bytes(garbage)
    token_file(desk).chmod(0o600)
    desk.list()
    assert desk.token_requests == [True]
    assert desk_at(task_api.url).list() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"value": "with\r\nX-Header: smuggled"},
        {"value": "with a space"},
        {"value": ""},
        {"use_until": 1e300},
        {"fetched_at": 9e9, "use_until": 9e9 + 60},
        {"fetched_at": 0, "use_until": 9e9},
        {"use_until": 0},
        {"fingerprint": "of other settings"},
    ],
)
def test_nothing_in_the_file_is_believed_that_no_token_can_be(
    desk_at: MakeDesk, task_api: TaskApi, fields: dict[str, object]
) -> None:
    desk_at(task_api.url).list()
    desk = desk_at(task_api.url)
    damaged(desk, **fields)
    desk.list()
    assert desk.token_requests == [True]


def test_a_file_that_others_could_read_is_not_believed(desk_at: MakeDesk, task_api: TaskApi) -> None:
    desk_at(task_api.url).list()
    desk = desk_at(task_api.url)
    token_file(desk).chmod(0o644)
    desk.list()
    assert desk.token_requests == [True]
    assert stat.S_IMODE(token_file(desk).stat().st_mode) == 0o600


def test_a_link_in_the_files_place_is_neither_followed_nor_written_through(
    desk_at: MakeDesk, task_api: TaskApi, tmp_path: Path
) -> None:
    desk_at(task_api.url).list()
    desk = desk_at(task_api.url)
    elsewhere = token_file(desk).rename(tmp_path / "elsewhere")
    before = elsewhere.read_bytes()
    for name in ("token", "token.new"):
        (tmp_path / name).symlink_to(elsewhere)
    desk.list()
    assert desk.token_requests == [True]
    assert elsewhere.read_bytes() == before
    assert not token_file(desk).is_symlink()


def test_a_fifo_in_the_files_place_blocks_nobody(desk_at: MakeDesk, task_api: TaskApi) -> None:
    desk = desk_at(task_api.url)
    os.mkfifo(token_file(desk), 0o600)
    desk.list()
    assert desk.token_requests == [True]


def test_a_link_in_the_locks_place_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "token.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        desk.list()
    assert not (tmp_path / "elsewhere").exists()


def test_where_the_file_cannot_be_written_the_process_keeps_its_own(desk: Desk, task_api: TaskApi) -> None:
    token_file(desk).mkdir()
    (token_file(desk) / "something").touch()
    for _ in range(3):
        desk.list()
    assert desk.token_requests == [True]
    task_api.faults.add(Fault(status=403))
    for _ in range(3):
        with pytest.raises(CredentialsRefused):
            desk.list()
    assert desk.token_requests == [True, True]


def test_a_token_that_could_not_be_written_outdoes_the_older_one_in_the_file(
    desk: Desk, task_api: TaskApi, authorization: AuthorizationServer, tmp_path: Path
) -> None:
    desk.list()
    (tmp_path / "token.new").mkdir()
    authorization.revoke_all()
    desk.list()
    task_api.faults.add(Fault(status=403))
    for _ in range(3):
        with pytest.raises(CredentialsRefused):
            desk.list()
    assert desk.token_requests == [True, True]


@pytest.mark.parametrize(
    "changed",
    [
        {"OAUTH2_CLIENT_ID": "other"},
        {"OAUTH2_CLIENT_SECRET": "other"},
        {"OAUTH2_SCOPE": "read"},
        {"OAUTH2_AUDIENCE": "x"},
    ],
    ids=["id", "secret", "scope", "audience"],
)
def test_a_token_of_other_settings_is_not_used(desk_at: MakeDesk, task_api: TaskApi, changed: dict[str, str]) -> None:
    first, second = desk_at(task_api.url), desk_at(task_api.url, **changed)
    first.list()
    try:
        second.list()
    except ServiceFault:
        assert second.token_requests == [False]
    else:
        assert second.token_requests == [True]


# Its life


@pytest.mark.parametrize(
    ("lifetime", "good_for"), [(3600, 3540), (121, 61), (120, 60), (100, 50), (10, 5), (10_000_000, 86_340)]
)
def test_it_is_used_until_a_minute_before_its_end_or_for_half_its_life(
    desk: Desk, authorization: AuthorizationServer, lifetime: int, good_for: int
) -> None:
    authorization.expires_in = lifetime
    desk.list()
    desk.clock.step(good_for - 2)
    desk.list()
    assert desk.token_requests == [True]
    desk.clock.step(3)
    desk.list()
    assert desk.token_requests == [True, True]


def test_a_clock_set_back_makes_nobody_wait_or_trust_for_longer(desk_at: MakeDesk, task_api: TaskApi) -> None:
    desk = desk_at(task_api.url)
    desk.list()
    desk.clock.step(-7200)
    desk.list()
    desk.list()
    assert desk.token_requests == [True, True]
    task_api.faults.add(Fault(status=403, times=1))
    desk.list()
    assert desk.token_requests == [True, True, True]


def test_a_token_fetched_after_the_clock_was_set_back_serves_the_others_too(
    desk_at: MakeDesk, task_api: TaskApi, authorization: AuthorizationServer
) -> None:
    one, other = desk_at(task_api.url), desk_at(task_api.url)
    one.list()
    authorization.revoke_all()
    one.list()
    for desk in (one, other):
        desk.clock.step(-7200)
        desk.list()
    assert (one.token_requests, other.token_requests) == ([True, True, True], [])


# Replacing it


def test_a_refused_token_that_another_process_replaced_already_is_not_replaced_again(
    desk_at: MakeDesk, task_api: TaskApi, authorization: AuthorizationServer
) -> None:
    one, other = desk_at(task_api.url), desk_at(task_api.url)
    one.list()
    other.list()
    authorization.revoke_all()
    one.list()
    other.list()
    assert (one.token_requests, other.token_requests) == ([True, True], [])


def test_it_is_replaced_once_a_minute_at_most_over_all_processes(desk_at: MakeDesk, task_api: TaskApi) -> None:
    one, other = desk_at(task_api.url), desk_at(task_api.url)
    task_api.faults.add(Fault(status=403))
    for desk in (one, other, one, other):
        with pytest.raises(CredentialsRefused) as caught:
            desk.list()
        assert caught.value.service == "api"
    assert one.token_requests + other.token_requests == [True, True]
    for desk in (one, other):
        desk.clock.step(61)
        with pytest.raises(CredentialsRefused):
            desk.list()
    assert one.token_requests + other.token_requests == [True, True, True]
