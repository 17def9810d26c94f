"""The application, request by request, over a real ledger, scoreboard and metrics directory."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from aitp import __version__, logs
from aitp.ledger.evidence import Failure, Report
from aitp.process.scoreboard import State
from aitp.tasks import Culprit, Ending, Outcome
from aitp.web.app import Application
from tests.ledger.world import set_limits
from tests.web.world import WORKER, World, ask, settings_in

PATHS = ("/", "/health", "/ready", "/metrics")
EVERYTHING_GARBLED = (
    b"",
    b"\0" * 4096,
    b"\xff" * 200_000,
    b"aitpsb01" + b"\xee" * 200_000,
    b"SQLite format 3\0" * 9000,
)


def test_health_says_exactly_what_monitors_expect(tmp_path: Path) -> None:
    world = World.create(tmp_path, RATE_LIMIT_PER_WEEK="0")
    world.admit("a", "b")
    world.claim(world.ledger())

    response = ask(world.app, "/health")

    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    assert response.json == {
        "status": "healthy",
        "service": "ai-task-processor",
        "version": __version__,
        "rate_limiting": {
            "enabled": True,
            "strategy": "rolling",
            "current_usage": {
                "minute": {"current": 1, "limit": 20, "remaining": 19},
                "hour": {"current": 1, "limit": 100, "remaining": 99},
                "day": {"current": 1, "limit": 500, "remaining": 499},
                "month": {"current": 1, "limit": 7500, "remaining": 7499},
            },
        },
    }
    assert list(response.json["rate_limiting"]["current_usage"]) == ["minute", "hour", "day", "month"]


def test_health_without_limits(tmp_path: Path) -> None:
    world = World.create(tmp_path, RATE_LIMIT_ENABLED="false")

    assert ask(world.app, "/health").json["rate_limiting"] == {
        "enabled": False,
        "strategy": "rolling",
        "current_usage": {},
    }


def test_limits_are_those_in_force_whatever_this_host_s_settings_say(world: World) -> None:
    set_limits(world.ledger(), "fixed", "UTC", {})
    told = ask(world.app, "/health").json["rate_limiting"]
    shutil.rmtree(world.settings.rate_limit_storage_path.parent)
    unread = ask(world.app, "/health").json["rate_limiting"]

    assert told == {"enabled": False, "strategy": "fixed", "current_usage": {}}
    assert unread == {"enabled": True, "strategy": "rolling", "current_usage": {}}


def test_mock_mode_cannot_be_missed(tmp_path: Path) -> None:
    world = World.create(tmp_path, OPENAI_API_KEY="your_openai_api_key_here")

    assert ask(world.app, "/health").json["mock"] is True
    assert b"Mock mode" in ask(world.app, "/").body
    assert b"\naitp_mock 1.0\n" in ask(world.app, "/metrics").body


def test_a_real_key_is_not_called_a_mock(world: World) -> None:
    assert "mock" not in ask(world.app, "/health").json
    assert b"Mock mode" not in ask(world.app, "/").body
    assert b"\naitp_mock 0.0\n" in ask(world.app, "/metrics").body


def test_a_master_that_hangs_is_unhealthy_with_the_reason(world: World) -> None:
    world.master(State.RUNNING, ticks=False)

    response = ask(world.app, "/health")

    assert (response.status, response.json["status"]) == (503, "unhealthy")
    assert response.json["reasons"] == ["the master does not make its rounds"]


def test_an_overrun_deadline_is_unhealthy_until_the_child_is_replaced(world: World) -> None:
    world.child(WORKER, State.BUSY, deadline=time.monotonic() - 60)
    assert ask(world.app, "/health").status == 503

    world.child(WORKER, State.IDLE)
    assert ask(world.app, "/health").status == 200


def test_ready(world: World) -> None:
    response = ask(world.app, "/ready")

    assert response.status == 200
    assert response.json == {"status": "ready", "service": "ai-task-processor"}


def test_not_ready_with_reasons(world: World) -> None:
    world.master(State.DRAINING)

    response = ask(world.app, "/ready")

    assert response.status == 503
    assert response.json == {
        "status": "not ready",
        "service": "ai-task-processor",
        "reasons": ["draining: the service is being stopped"],
        "problems": [
            {
                "code": "draining",
                "severity": "pending",
                "sentence": "draining: the service is being stopped",
                "advice": "It ends when the calls in flight are done, or their grace is over.",
            }
        ],
    }


def test_a_pause_in_the_ledger_is_a_reason(world: World) -> None:
    world.ledger().pause(True)

    assert ask(world.app, "/ready").json["reasons"] == ["paused by an operator"]


def test_refused_credentials_are_a_reason_with_their_message(world: World) -> None:
    world.admit("a")
    ledger = world.ledger()
    claim = world.claim(ledger)
    outcome = Outcome(claim.tasks[0], Ending.RETRY, reason="refused", culprit=Culprit.ACCOUNT)
    refused = Failure(Culprit.ACCOUNT, "OpenAI refuses OPENAI_API_KEY (401)", named=True)
    ledger.outcomes.finish(claim, Report([outcome], refused))

    (reason,) = ask(world.app, "/ready").json["reasons"]

    assert reason == "Circuit breaker is open for openai: OpenAI refuses OPENAI_API_KEY (401)"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
def test_only_get_and_head_are_allowed(world: World, path: str, method: str) -> None:
    response = ask(world.app, path, method)

    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_headers_of_get_and_no_body(world: World, path: str) -> None:
    get, head = ask(world.app, path), ask(world.app, path, "HEAD")

    assert head.body == b""
    assert (head.status, head.headers.keys()) == (get.status, get.headers.keys())
    assert int(get.headers["Content-Length"]) == len(get.body)
    assert int(head.headers["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/nothing", "/health/", "//", "/metrics.txt", "/../etc/passwd", "", "/<script>"])
def test_anything_else_is_not_found(world: World, path: str) -> None:
    response = ask(world.app, path)

    assert response.status == 404
    assert b"script" not in response.body


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
def test_every_answer_is_guarded_against_browsers(world: World, path: str) -> None:
    headers = ask(world.app, path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_at_all_is_there(tmp_path: Path, path: str) -> None:
    response = ask(Application(settings_in(tmp_path)), path)

    assert response.status == (200 if path in ("/", "/metrics") else 503)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("garbage", EVERYTHING_GARBLED, ids=range(len(EVERYTHING_GARBLED)))
@pytest.mark.parametrize("path", PATHS)
def test_garbage_in_every_file(tmp_path: Path, path: str, garbage: bytes) -> None:
    settings = settings_in(tmp_path)
    for file in ("data/ledger.db", "run/scoreboard", "run/token", "run/metrics/counter_1.db", "run/metrics/x_y_z.db"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(garbage)

    response = ask(Application(settings), path)

    assert response.status == (200 if path in ("/", "/metrics") else 503)
    assert b"Traceback" not in response.body


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE breakers",
        "DELETE FROM ledger",
        "DELETE FROM polls",
        "DELETE FROM breakers",
        "UPDATE ledger SET version = 99",
        "UPDATE ledger SET timezone = 'Nowhere/Land'",
        "INSERT INTO limits (period, allowed) VALUES ('fortnight', 1)",
        "UPDATE polls SET succeeded_at = 9e999",
        "UPDATE polls SET succeeded_at = -1e300",
        "UPDATE breakers SET opened_at = 9e999, state = 'open'",
        "UPDATE breakers SET reason = CAST(x'c328' AS TEXT), state = 'open'",
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_ledger_that_makes_no_sense(world: World, path: str, damage: str) -> None:
    ledger = world.ledger()
    with ledger._database.transaction() as connection:
        connection.execute(damage)
    ledger.close()

    response = ask(world.app, path)

    assert response.status in ((200,) if path in ("/", "/metrics", "/health") else (200, 503))


def test_a_broken_ledger_does_not_make_the_process_look_dead(world: World) -> None:
    world.settings.rate_limit_storage_path.write_bytes(b"not a ledger")

    health = ask(world.app, "/health")

    assert health.status == 200
    assert health.json["rate_limiting"] == {"enabled": True, "strategy": "rolling", "current_usage": {}}
    assert "ledger" in ask(world.app, "/ready").json["reasons"][0]


def test_no_text_and_no_secret_is_ever_shown(world: World) -> None:
    world.admit("t1")

    for path in PATHS:
        body = ask(world.app, path).body
        for secret in (b"nobody may see", b"the-client-secret", b"the-provider-key"):
            assert secret not in body


def test_a_bug_in_a_request_is_logged_and_answered_without_a_traceback(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    app = world.app
    app.settings = None  # type: ignore[assignment]

    response = ask(app, "/health")

    assert response.status == 500
    assert response.body == b"See the service's log.\n"
    assert "NoneType" in capfd.readouterr().out


def test_settings_loaded_again_are_seen_by_the_next_request(world: World, tmp_path: Path) -> None:
    app = world.app
    app.settings = settings_in(tmp_path, OPENAI_API_KEY="your_openai_api_key_here")

    assert ask(app, "/health").json["mock"] is True
