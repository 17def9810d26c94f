"""What a refusal's own words may say: what is wrong, never what we sent."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.demo.task_api import TaskApi
from aitp.errors import AitpError, DeliveryRefused
from aitp.http import json_object
from aitp.taskapi.client import acknowledges, own_words
from tests.providers.scripted import reply, scripted
from tests.services import a_task
from tests.taskapi.desk import Desk, MakeDesk


def words(message: object, *sent: str) -> str:
    return own_words(orjson.dumps({"message": message}), 400, *sent)[1]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Embedding must be a non-empty array", "Embedding must be a non-empty array"),
        (["state must be a string", 7, "result is too long"], "state must be a string; result is too long"),
        ("two\nlines\x1b[31m and \u202e more", "two lines [31m and   more"),
        ('Cast failed for value "private words" at path "_id"', "Cast failed for value … at path …"),
        ("can't take 'private words' here", "can't take … here"),
        ("got `private words", "got …"),
        ("expected more than 3 of [0.125, -1.5e-07]", "expected more than 3 of […, …]"),
        ("words " * 50, ("words " * 50)[:200]),
        ("jwt eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9 expired", "jwt … expired"),
        ("AI task with ID 65f000000000000000000001 not found", "AI task with ID 65f000000000000000000001 not found"),
        (None, ""),
        ({"message": "x"}, ""),
    ],
)
def test_the_words_are_shown_without_what_they_quote(message: object, shown: str) -> None:
    assert words(message) == shown


def test_what_was_sent_does_not_come_back_unquoted_either() -> None:
    token, result = "ory_at_abcdefghijklmnop", '{"personalities":[{"name":"Maria da Conceição"}]}'
    said = words(f"jwt malformed: {token}; Maria da Conceição is not known", token, result)
    assert said == "jwt malformed: …; … is not known"


@pytest.mark.parametrize("body", [b"", b"<html>secret</html>", b"[]", b'"x"', b"\xff", b'{"message": {}}'])
def test_a_body_without_a_message_says_nothing(body: bytes) -> None:
    assert own_words(body, 400) == (False, "")


@given(st.binary(), st.text())
def test_no_body_is_too_odd(body: bytes, message: str) -> None:
    own, said = own_words(body, 404)
    assert not own
    assert len(said) <= 200
    assert not acknowledges(body, "65f000000000000000000001") or json_object(body)
    assert own_words(json.dumps({"message": message}).encode(), 400)[1].isprintable()


@given(st.text(min_size=8), st.text(), st.text())
def test_nothing_sent_is_repeated(sent: str, before: str, after: str) -> None:
    _, said = own_words(json.dumps({"message": before + sent + after}).encode(), 400, sent)
    assert sent not in said


def test_no_error_of_a_call_repeats_token_secret_or_result(desk_at: MakeDesk) -> None:
    result = ["a private sentence of the result"]
    probe = desk_at("http://127.0.0.1:1")
    token = probe.tokens.current()
    secret = probe.settings.oauth2_client_secret.get_secret_value()
    for status in (302, 400, 403, 404, 413, 429, 500):
        message = f"refused {token} and {result[0]}"
        for body in ({"statusCode": status, "message": message}, {"message": message}):
            with scripted(reply(status, body, Location=f"http://u:{token}@x/")) as server:
                with pytest.raises(AitpError) as caught:
                    desk_at(f"http://127.0.0.1:{server.port}").deliver(result=result)
                for private in (token, secret, result[0], "u:"):
                    assert private not in str(caught.value)


def test_a_refusals_reason_reaches_the_person_who_looks_at_it(desk: Desk, task_api: TaskApi) -> None:
    [task_id] = task_api.add([a_task()])
    with pytest.raises(DeliveryRefused, match="Embedding must be an array of numbers"):
        desk.deliver(task_id, ["not a number"])
