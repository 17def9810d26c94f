"""Asking for a token: what is sent, what each refusal says, and how long what comes back may be used."""

from __future__ import annotations

import base64
import math
from urllib.parse import parse_qs, parse_qsl, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.demo.authorization import DEMO_CLIENT_ID, AuthorizationServer
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.task_api import TaskApi
from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.taskapi.token import DEFAULT_LIFETIME_SECONDS, LONGEST_LIFETIME_SECONDS, lifetime_of
from tests.providers.scripted import reply, scripted
from tests.taskapi.desk import Desk, MakeDesk


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


@pytest.mark.parametrize(
    ("more", "form"),
    [
        ({"OAUTH2_SCOPE": ""}, {}),
        ({"OAUTH2_SCOPE": "read", "OAUTH2_AUDIENCE": "a b&c"}, {"scope": "read", "audience": "a b&c"}),
        (
            {"OAUTH2_CLIENT_AUTH": "post", "OAUTH2_SCOPE": "none", "OAUTH2_CLIENT_SECRET": "a+b ü&"},
            {"client_id": DEMO_CLIENT_ID, "client_secret": "a+b ü&"},
        ),
    ],
)
def test_what_is_empty_is_not_sent(
    desk_at: MakeDesk, task_api: TaskApi, more: dict[str, str], form: dict[str, str]
) -> None:
    with scripted(reply(200, {"access_token": "x", "expires_in": 60})) as server:
        desk_at(task_api.url, token_url=f"http://127.0.0.1:{server.port}/token", **more).tokens.current()
        [request] = server.requests
    sent = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
    assert sent == {"grant_type": "client_credentials", **form}
    assert ("authorization" in request.headers) is ("client_secret" not in form)


def test_a_token_may_be_created(desk_at: MakeDesk, task_api: TaskApi) -> None:
    with scripted(reply(201, {"access_token": "x", "expires_in": 60})) as server:
        assert desk_at(task_api.url, token_url=f"http://127.0.0.1:{server.port}/token").tokens.current() == "x"


def test_a_client_may_show_its_secret_in_the_form(
    desk_at: MakeDesk, task_api: TaskApi, authorization: AuthorizationServer
) -> None:
    authorization.client_auth = "post"
    with pytest.raises(CredentialsRefused, match="OAUTH2_CLIENT_AUTH"):
        desk_at(task_api.url).list()
    assert desk_at(task_api.url, OAUTH2_CLIENT_AUTH="post").list() == []


@pytest.mark.parametrize("nothing", ["", "none"])
def test_a_client_made_without_scopes_asks_for_none(desk_at: MakeDesk, task_api: TaskApi, nothing: str) -> None:
    with AuthorizationServer(scopes="") as without_scopes:
        task_api.authorization = without_scopes
        with pytest.raises(CredentialsRefused, match="OAUTH2_SCOPE"):
            desk_at(task_api.url, without_scopes.token_url).list()
        assert desk_at(task_api.url, without_scopes.token_url, OAUTH2_SCOPE=nothing).list() == []


def test_an_audience_is_asked_for_where_one_is_set(desk_at: MakeDesk, task_api: TaskApi) -> None:
    with AuthorizationServer(audiences="https://api.example.org") as strict:
        task_api.authorization = strict
        with pytest.raises(ServiceFault, match=r"invalid_request.*OAUTH2_AUDIENCE"):
            desk_at(task_api.url, strict.token_url, OAUTH2_AUDIENCE="https://elsewhere.example.org").list()
        assert desk_at(task_api.url, strict.token_url, OAUTH2_AUDIENCE="https://api.example.org").list() == []
        assert [issue.audience for issue in strict.issues] == ["https://api.example.org"]


ERRORS: list[tuple[int, object, type[AitpError], str]] = [
    (401, {"error": "invalid_client"}, CredentialsRefused, "invalid_client.*OAUTH2_CLIENT_SECRET"),
    (400, {"error": "invalid_client"}, CredentialsRefused, "OAUTH2_CLIENT_SECRET"),
    (400, {"error": "unauthorized_client"}, CredentialsRefused, "OAUTH2_CLIENT_ID"),
    (400, {"error": "invalid_scope"}, CredentialsRefused, "OAUTH2_SCOPE"),
    (400, {"error": "invalid_target"}, CredentialsRefused, "OAUTH2_AUDIENCE"),
    (403, {"error": "access_denied"}, CredentialsRefused, "OAUTH2_AUDIENCE"),
    (401, {"error": "access_denied"}, CredentialsRefused, "OAUTH2_CLIENT_SECRET"),
    (400, {"error": "invalid_resource"}, CredentialsRefused, "OAUTH2_AUDIENCE"),
    (403, {"error": "invalid_request"}, ServiceFault, "invalid_request.*OAUTH2_TOKEN_URL and OAUTH2_AUDIENCE"),
    (200, {"error": "invalid_client"}, CredentialsRefused, "OAUTH2_CLIENT_SECRET"),
    (200, {"error": "incorrect_client_credentials"}, ServiceFault, "200.*OAUTH2_TOKEN_URL"),
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
