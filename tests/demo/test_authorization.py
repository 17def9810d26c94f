"""The authorization server behaves as CONTRACT section 2 says."""

from __future__ import annotations

import base64

import pytest

from aitp.demo.authorization import AuthorizationServer
from tests.demo.talking import ask_token, basic, session
from tests.waiting import wait_until


def test_the_right_client_gets_a_bearer_token_that_is_active(authorization: AuthorizationServer) -> None:
    answer = ask_token(authorization)

    assert answer.status_code == 200
    token = answer.json()
    assert token["token_type"] == "bearer"
    assert token["expires_in"] == 3600
    assert token["scope"] == "read write"
    assert authorization.active(token["access_token"])
    assert authorization.issued == 1


def test_a_wrong_secret_is_invalid_client(authorization: AuthorizationServer) -> None:
    headers = basic(authorization.client_id, "guess")
    answer = session().post(authorization.token_url, data={"grant_type": "client_credentials"}, headers=headers)

    assert answer.status_code == 401
    assert answer.json()["error"] == "invalid_client"
    assert "error_description" in answer.json()
    assert authorization.refusals == ["invalid_client"]


def test_the_secret_without_form_encoding_is_refused(authorization: AuthorizationServer) -> None:
    pair = f"{authorization.client_id}:{authorization.client_secret}".encode()
    headers = {"Authorization": "Basic " + base64.b64encode(pair).decode()}
    answer = session().post(authorization.token_url, data={"grant_type": "client_credentials"}, headers=headers)

    assert answer.status_code == 401


def test_credentials_in_the_body_are_refused(authorization: AuthorizationServer) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": authorization.client_id,
        "client_secret": authorization.client_secret,
    }

    assert session().post(authorization.token_url, data=form).status_code == 401


def test_a_client_that_is_to_send_its_secret_in_the_form_may_send_it_in_no_other_way(
    authorization: AuthorizationServer,
) -> None:
    authorization.client_auth = "post"
    form = {
        "grant_type": "client_credentials",
        "client_id": authorization.client_id,
        "client_secret": authorization.client_secret,
    }

    assert session().post(authorization.token_url, data=form).status_code == 200
    assert session().post(authorization.token_url, data={**form, "client_secret": "guess"}).status_code == 401
    assert ask_token(authorization).status_code == 401


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"scope": "read admin"}, "invalid_scope"),
        ({"audience": "https://elsewhere.example.org"}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
    ],
)
def test_a_bad_request_is_400_with_its_name(
    authorization: AuthorizationServer, form: dict[str, str], error: str
) -> None:
    answer = ask_token(authorization, **form)

    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_a_token_ends_with_its_lifetime(authorization: AuthorizationServer) -> None:
    authorization.lifetime_seconds = 0.05
    authorization.expires_in = 3600
    answer = ask_token(authorization).json()

    assert answer["expires_in"] == 3600  # what it promises
    wait_until(lambda: not authorization.active(answer["access_token"]), timeout=2)


def test_revoked_tokens_are_not_active_and_later_ones_are(authorization: AuthorizationServer) -> None:
    old = ask_token(authorization).json()["access_token"]
    authorization.revoke_all()
    new = ask_token(authorization).json()["access_token"]

    assert not authorization.active(old)
    assert authorization.active(new)
