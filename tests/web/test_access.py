"""METRICS_TOKEN: who may see what."""

from __future__ import annotations

import base64
import hmac
from pathlib import Path

import pytest

from aitp.errors import ConfigurationError
from aitp.process.scoreboard import State
from tests.web.world import World, ask, settings_in

TOKEN = "0123456789abcdef-ABC"
CLOSED, OPEN = ("/", "/day", "/week", "/metrics"), ("/health", "/ready")


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


WRONG = [
    None,
    "",
    TOKEN,
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN.lower()}",
    f"Bearer {TOKEN}, {TOKEN}",
    "Bearer \xe9\xff",
    f"Digest {TOKEN}",
    f"Basic {TOKEN}",
    "Basic !!!",
    basic(TOKEN, ""),
    basic("admin", "admin"),
    basic("", ""),
]
RIGHT = [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} ", basic("", TOKEN), basic("prometheus", TOKEN)]


@pytest.fixture
def guarded(tmp_path: Path) -> World:
    return World.create(tmp_path, METRICS_TOKEN=TOKEN, OPENAI_API_KEY="your_openai_api_key_here")


@pytest.mark.parametrize("authorization", WRONG)
@pytest.mark.parametrize("path", CLOSED)
def test_metrics_and_page_are_for_those_who_know_the_token(
    guarded: World, path: str, authorization: str | None
) -> None:
    response = ask(guarded.app, path, authorization=authorization)

    assert response.status == 401
    assert response.challenges == ('Bearer realm="aitp"', 'Basic realm="aitp", charset="UTF-8"')
    assert response.body == b"This needs METRICS_TOKEN.\n"


@pytest.mark.parametrize("authorization", RIGHT)
@pytest.mark.parametrize("path", CLOSED + OPEN)
def test_a_scraper_sends_it_as_bearer_and_a_browser_as_password(guarded: World, path: str, authorization: str) -> None:
    trusted, usual = ask(guarded.app, path, authorization=authorization), World(guarded.settings, guarded.scoreboard)

    assert trusted.status == 200
    assert trusted.headers.keys() == ask(usual.app, path, authorization=f"Bearer {TOKEN}").headers.keys()


def test_probes_without_it_learn_the_status_and_nothing_else(guarded: World) -> None:
    well = {"/health": "healthy", "/ready": "ready"}
    for path, status in well.items():
        response = ask(guarded.app, path)
        assert (response.status, response.json) == (200, {"status": status, "service": "ai-task-processor"})

    guarded.master(State.DRAINING, ticks=False)
    for path, status in {"/health": "unhealthy", "/ready": "not ready"}.items():
        response = ask(guarded.app, path, authorization="Bearer wrong")
        assert (response.status, response.json) == (503, {"status": status, "service": "ai-task-processor"})
        assert "reasons" in ask(guarded.app, path, authorization=f"Bearer {TOKEN}").json


def test_a_refusal_costs_no_look_at_the_ledger(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("aitp.web.app.read_facts", look)

    assert ask(guarded.app, "/metrics").status == 401


def test_a_method_that_changes_something_is_refused_with_the_token_too(guarded: World) -> None:
    assert ask(guarded.app, "/metrics", "POST", f"Bearer {TOKEN}").status == 405


def test_it_is_compared_in_constant_time(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for authorization in WRONG:
        ask(guarded.app, "/", authorization=authorization)

    assert len(compared) == len(WRONG)


def test_without_one_everyone_may_look(world: World) -> None:
    assert all(ask(world.app, path, authorization="Bearer whatever").status == 200 for path in CLOSED + OPEN)


@pytest.mark.parametrize("token", ["short", "with a space in the middle", "ünprintable-0123456789", "\x00" * 20])
def test_one_that_could_be_guessed_or_cannot_be_sent_is_bad_configuration(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigurationError, match=r"METRICS_TOKEN=\*\*\*: must be one word of at least 16"):
        settings_in(tmp_path, METRICS_TOKEN=token)


def test_it_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    settings = settings_in(tmp_path, METRICS_TOKEN_FILE=str(tmp_path / "token"))

    assert settings.metrics_token is not None
    assert settings.metrics_token.get_secret_value() == TOKEN
