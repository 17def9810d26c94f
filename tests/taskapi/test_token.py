"""The token: fetched when there is none, kept while it is good, replaced when refused, and never told to anyone."""

from __future__ import annotations

import base64
import math
import os
import stat
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote_plus

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.task_api import TaskApi
from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.taskapi.grant import DEFAULT_LIFETIME_SECONDS, LONGEST_LIFETIME_SECONDS, lifetime_of
from aitp.taskapi.tokenfile import Lock, TokenFile
from tests.providers.scripted import reply, scripted
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
    [{"OAUTH2_CLIENT_ID": "other"}, {"OAUTH2_CLIENT_SECRET": "other"}, {"OAUTH2_SCOPE": "read"}],
    ids=["id", "secret", "scope"],
)
def test_a_token_of_other_settings_is_not_used(desk_at: MakeDesk, task_api: TaskApi, changed: dict[str, str]) -> None:
    first, second = desk_at(task_api.url), desk_at(task_api.url, **changed)
    first.list()
    try:
        second.list()
    except CredentialsRefused:
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


def test_a_token_that_cannot_be_refreshed_is_used_while_it_lives(
    desk: Desk, authorization: AuthorizationServer
) -> None:
    authorization.expires_in = 600
    first = desk.tokens.current()
    authorization.faults.add(Fault(status=503))
    desk.clock.step(545)  # a minute before its end, and 5 s

    assert desk.tokens.current() == first
    assert desk.tokens.current() == first
    assert desk.token_requests == [True, False]  # tried once, and not again at once
    desk.clock.step(11)
    assert desk.tokens.current() == first
    assert desk.token_requests == [True, False, False]
    desk.clock.step(60)
    with pytest.raises(ServiceFault):
        desk.tokens.current()

    authorization.faults.clear()
    assert desk.tokens.current() != first


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


@given(st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(), st.lists(st.integers())))
def test_a_life_is_always_a_sane_number_of_seconds(expires_in: object) -> None:
    assert 0 < lifetime_of(expires_in) <= LONGEST_LIFETIME_SECONDS


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [(3600, 3600.0), ("3600", 3600.0), (0.5, 0.5), (10**9, LONGEST_LIFETIME_SECONDS)]
    + [(odd, DEFAULT_LIFETIME_SECONDS) for odd in (None, True, 0, -5, "soon", math.nan, math.inf, 10**400, [1])],
)
def test_a_life_that_makes_no_sense_counts_as_not_said(expires_in: object, seconds: float) -> None:
    assert lifetime_of(expires_in) == seconds


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


# Asking for it


def test_the_request_is_what_the_standard_says(desk_at: MakeDesk, task_api: TaskApi) -> None:
    odd = "a:b+c%d/e?f&g=ü h"
    with scripted(reply(200, {"access_token": "x", "expires_in": 60})) as server:
        url = f"http://127.0.0.1:{server.port}/oauth2/token"
        more = {"OAUTH2_CLIENT_ID": odd, "OAUTH2_CLIENT_SECRET": odd, "OAUTH2_SCOPE": "read write"}
        desk_at(task_api.url, token_url=url, **more).tokens.current()
        [request] = server.requests
    assert request.line == "POST /oauth2/token HTTP/1.1"
    assert parse_qs(request.body.decode()) == {"grant_type": ["client_credentials"], "scope": ["read write"]}
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
    assert pair.isascii()
    assert [unquote_plus(part) for part in pair.split(":")] == [odd, odd]


ERRORS: list[tuple[int, object, type[AitpError], str]] = [
    (401, {"error": "invalid_client"}, CredentialsRefused, "invalid_client.*OAUTH2_CLIENT_SECRET"),
    (400, {"error": "invalid_client"}, CredentialsRefused, "OAUTH2_CLIENT_SECRET"),
    (400, {"error": "unauthorized_client"}, CredentialsRefused, "OAUTH2_CLIENT_ID"),
    (400, {"error": "invalid_scope"}, CredentialsRefused, "OAUTH2_SCOPE"),
    (401, b"", CredentialsRefused, "OAUTH2_CLIENT_SECRET"),
    (403, b"<html>", CredentialsRefused, "OAUTH2_CLIENT_SECRET"),
    (400, {"error": "invalid_request"}, ServiceFault, "invalid_request.*OAUTH2_TOKEN_URL"),
    (400, {"error": ["invalid_client"]}, ServiceFault, "OAUTH2_TOKEN_URL"),
    (404, b"404 page not found", ServiceFault, "404.*OAUTH2_TOKEN_URL"),
    (302, b"", ServiceFault, "302.*OAUTH2_TOKEN_URL"),
    (204, b"", ServiceFault, "204.*OAUTH2_TOKEN_URL"),
    (500, b"", ServiceFault, "500"),
    (503, {"error": "invalid_client"}, ServiceFault, "503"),
    (200, b"<html>", ServiceFault, "200 without a token.*OAUTH2_TOKEN_URL"),
    (200, [], ServiceFault, "without a token"),
    (200, {"access_token": None}, ServiceFault, "without a token"),
    (200, {"access_token": "two words"}, ServiceFault, "without a token"),
    (200, {"access_token": "x" * 20_000}, ServiceFault, "without a token"),
]


@pytest.mark.parametrize(("status", "body", "kind", "words"), ERRORS)
def test_each_refusal_says_which_setting_to_look_at(
    desk_at: MakeDesk, task_api: TaskApi, status: int, body: object, kind: type[AitpError], words: str
) -> None:
    with scripted(reply(status, body)) as server:
        desk = desk_at(task_api.url, token_url=f"http://127.0.0.1:{server.port}/oauth2/token")
        with pytest.raises(kind, match=words) as caught:
            desk.list()
        assert type(caught.value) is kind
        assert getattr(caught.value, "service", "") == "oauth"
        assert (desk.token_requests, len(server.requests), task_api.exchanges) == ([False], 1, [])


def test_the_slug_is_named_where_the_address_comes_from_it(desk_at: MakeDesk, task_api: TaskApi) -> None:
    desk = desk_at(task_api.url)
    slug = {"oauth2_token_url": None, "ory_project_slug": "nobody", "http_trust_env": False}
    elsewhere = Desk(desk.settings.model_copy(update=slug))
    with pytest.raises(ServiceFault, match="ORY_PROJECT_SLUG"):
        elsewhere.list()


def test_429_of_the_token_endpoint_asks_for_a_pause(desk: Desk, authorization: AuthorizationServer) -> None:
    authorization.faults.add(Fault(status=429, headers={"Retry-After": "12"}))
    with pytest.raises(CooldownRequired) as caught:
        desk.list()
    assert (caught.value.service, caught.value.seconds) == ("oauth", 12.0)


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.CUT, FaultKind.GARBAGE])
def test_a_token_endpoint_that_fails_is_the_authorization_servers_fault(
    desk: Desk, authorization: AuthorizationServer, kind: FaultKind
) -> None:
    authorization.faults.add(Fault(kind=kind, times=1))
    with pytest.raises(ServiceFault, match="the token endpoint") as caught:
        desk.list()
    assert caught.value.service == "oauth"
    assert desk.list() == []
    assert desk.token_requests == [False, True]


# The lock


def test_the_lock_can_be_let_go_at_any_time_and_taken_again(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    lock.release()
    for _ in range(3):
        lock.__enter__()  # whose end never comes
    lock.release()
    with lock:
        pass
    lock.release()
    assert lock.descriptor is None


# What a request that failed leaves for those who waited


@pytest.mark.parametrize(
    "error",
    [
        ServiceFault("oauth", "503"),
        CredentialsRefused("oauth", "401"),
        CooldownRequired("oauth", "429", seconds=7.0, model=None),
    ],
)
def test_a_failure_is_told_as_it_was_to_those_of_the_same_settings_who_waited(tmp_path: Path, error: AitpError) -> None:
    before, ours, theirs = time.monotonic(), TokenFile(tmp_path / "token"), TokenFile(tmp_path / "token")
    with ours.lock:
        ours.note_failure(error, "settings")
    with theirs.lock:
        told = theirs.failure_since(before, "settings")
        assert theirs.failure_since(before, "other settings") is None
        assert theirs.failure_since(time.monotonic(), "settings") is None
    assert type(told) is type(error)
    assert vars(told) == vars(error)
    assert str(told) == str(error)
