"""The whole check, against real servers on loopback with what can be wrong with them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aitp.commands.check import Report, check, exit_code
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.world import World
from aitp.settings import EMBEDDING_MODEL
from aitp.web.health import Problem, Severity
from tests.ports import free_port

Change = Callable[[World], dict[str, str] | None]


@pytest.fixture
def demo() -> Iterator[World]:
    with World({"tasks": 30}) as world:
        yield world


def looked(world: World, folder: Path, environ: Mapping[str, str] | None = None, *, offline: bool = False) -> Report:
    places = {"RATE_LIMIT_STORAGE_PATH": str(folder / "data" / "ledger.db"), "RUNTIME_DIR": str(folder / "run")}
    modest = {"METRICS_HOST": "127.0.0.1", "METRICS_PORT": str(free_port()), "PROCESSING_MODE": "hybrid"}
    settings = {**world.environment(), **places, **modest, "REQUEST_TIMEOUT": "2", "AITP_ENV_FILE": ""}
    return check({**settings, **(environ or {})}, offline=offline)


def about(report: Report, subject: str) -> Problem:
    [found] = [finding for finding in report.findings if finding.code == subject]
    return found


def test_where_all_is_well_nothing_else_is_said(demo: World, tmp_path: Path) -> None:
    report = looked(demo, tmp_path)

    assert exit_code(report.findings, strict=True) == 0
    assert {finding.code for finding in report.findings if finding.severity is Severity.OK} >= {
        *("settings", "task types", "ledger", "disk", "runtime", "port", "files"),
        *("token", "task API", "openai", "ollama", "wikidata", "clock"),
    }
    assert "20 or more" in about(report, "task API").sentence


def test_nothing_is_taken_bought_pulled_or_written(demo: World, tmp_path: Path) -> None:
    demo.ollama_api.present.clear()
    looked(demo, tmp_path)

    assert demo.task_api.deliveries == []
    assert set(demo.task_api.states()) == {"pending"}
    assert (demo.openai_api.purchases, demo.ollama_api.purchases, demo.ollama_api.pulls) == ([], [], [])
    assert list(tmp_path.iterdir()) == []


def test_offline_asks_nobody(demo: World, tmp_path: Path) -> None:
    report = looked(demo, tmp_path, offline=True)

    assert exit_code(report.findings) == 0
    assert not any(server.exchanges for server in demo.servers.values())


def fault(server: str, **fields: object) -> Change:
    def change(world: World) -> None:
        world.servers[server].faults.add(Fault(**fields))  # type: ignore[arg-type]

    return change


def stop(server: str) -> Change:
    return lambda world: world.servers[server].stop()


def setting(**environ: str) -> Change:
    return lambda world: environ


def introspection_down(world: World) -> None:
    world.task_api.introspection_down = True


def no_embedding_model(world: World) -> None:
    world.openai_api.hidden.add("text-embedding-3-small")


def model_ends(world: World) -> None:
    world.openai_api.shutdowns[EMBEDDING_MODEL] = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}"


def no_models(world: World) -> None:
    world.ollama_api.present.clear()


def alone(change: Change) -> Change:
    """In mode ollama, where nobody stands in."""
    return lambda world: {**(change(world) or {}), "PROCESSING_MODE": "ollama"}


WRONG: dict[str, tuple[Change, str, Severity, str, str]] = {
    "secret": (setting(OAUTH2_CLIENT_SECRET="x"), "token", Severity.FAULT, "invalid_client", "OAUTH2_CLIENT_ID=aitp"),
    "client": (setting(OAUTH2_CLIENT_ID="y"), "token", Severity.FAULT, "invalid_client", "OAUTH2_CLIENT_ID=y"),
    "scope": (setting(OAUTH2_SCOPE="admin"), "token", Severity.FAULT, "invalid_scope", "the scope 'admin'"),
    "token URL": (
        lambda world: {"OAUTH2_TOKEN_URL": f"{world.authorization.url}/oauth2/auth"},
        "token",
        Severity.FAULT,
        "answered 404",
        "ends in /oauth2/token",
    ),
    "token silent": (fault("authorization", kind=FaultKind.HANG), "token", Severity.FAULT, "within 2 s", "answers"),
    "token trickle": (
        fault("authorization", kind=FaultKind.TRICKLE, seconds=0.5),
        "token",
        Severity.FAULT,
        "did not send its answer within 2 s",
        "answers",
    ),
    "API address": (
        lambda world: {"API_BASE_URL": f"{world.task_api.url}/api"},
        "task API",
        Severity.FAULT,
        "answered 404",
        "is what comes before /api/ai-tasks/pending",
    ),
    "API down": (stop("task_api"), "task API", Severity.FAULT, "could not be connected to", "See that the API runs"),
    "API rights": (introspection_down, "task API", Severity.FAULT, "refuses a fresh token", "introspects"),
    "API garbage": (
        fault("task_api", kind=FaultKind.GARBAGE),
        "task API",
        Severity.FAULT,
        "no JSON array",
        "API_BASE_",
    ),
    "API throttle": (fault("task_api", status=429), "task API", Severity.WARNING, "429", "Wait"),
    "key": (setting(OPENAI_API_KEY="sk-wrong"), "openai", Severity.FAULT, "refuses the key", "OPENAI_API_KEY"),
    "quota": (fault("openai_api", kind=FaultKind.QUOTA), "openai", Severity.FAULT, "quota", "billing"),
    "openai down": (stop("openai_api"), "openai", Severity.FAULT, "could not be connected to", "OPENAI_BASE_URL"),
    "openai model": (
        no_embedding_model,
        "openai",
        Severity.WARNING,
        "text-embedding-3-small",
        "DEFAULT_EMBEDDING_MODEL",
    ),
    "openai ends": (
        model_ends,
        "retirement",
        Severity.WARNING,
        "shuts the model text-embedding-3-small down",
        "DEFAULT_EMB",
    ),
    "ollama down": (stop("ollama_api"), "ollama", Severity.WARNING, "ollama", "OLLAMA_BASE_URL"),
    "ollama alone": (alone(stop("ollama_api")), "ollama", Severity.FAULT, "ollama", "OLLAMA_BASE_URL"),
    "ollama model": (no_models, "ollama", Severity.WARNING, "lacks nomic-embed-text", "aitp models pull"),
    "wikidata": (stop("wikidata_api"), "wikidata", Severity.FAULT, "could not be", "WIKIDATA_ENABLED=false"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found_and_explained(demo: World, tmp_path: Path, wrong: str) -> None:
    change, subject, severity, what, do = WRONG[wrong]

    found = about(looked(demo, tmp_path, change(demo)), subject)

    assert found.severity is severity
    assert what in found.sentence
    assert do in found.advice
    for secret in (demo.authorization.client_secret, demo.openai_api.key, "ory_at_"):
        assert secret not in repr(found)


def test_a_wrong_clock_is_told_from_a_server_with_a_wrong_one(demo: World, tmp_path: Path) -> None:
    demo.authorization.clock_ahead_seconds = -90
    one = about(looked(demo, tmp_path), "clock")
    for server in demo.servers.values():
        server.clock_ahead_seconds = -90
    all_of_them = about(looked(demo, tmp_path), "clock")

    assert (one.severity, all_of_them.severity) == (Severity.OK, Severity.WARNING)
    assert "the authorization server" not in one.sentence
    assert "s ahead" in all_of_them.sentence


def test_a_port_that_something_else_has_is_told_with_how_to_look_for_it(demo: World, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = about(looked(demo, tmp_path, {"METRICS_PORT": str(port)}, offline=True), "port")

    assert found.severity is Severity.FAULT
    assert "taken" in found.sentence
    assert f"ss -ltnp sport = :{port}" in found.advice


def test_settings_that_cannot_be_used_are_all_there_is_to_say(demo: World, tmp_path: Path) -> None:
    report = looked(demo, tmp_path, {"METRICS_PORT": "0", "LOG_LEVEL": "loud"})

    assert [finding.severity for finding in report.findings] == [Severity.ERROR, Severity.ERROR]
    assert exit_code(report.findings) == 78
    assert not any(server.exchanges for server in demo.servers.values())


def test_a_misspelt_name_is_a_warning_beside_what_is_wrong(demo: World, tmp_path: Path) -> None:
    report = looked(demo, tmp_path, {"METRICS_PORT": "0", "CONCURENCY_LIMIT": "3"})

    [wrong, odd] = report.findings
    assert (wrong.severity, odd.severity) == (Severity.ERROR, Severity.WARNING)
    assert (odd.sentence, odd.advice) == (
        "CONCURENCY_LIMIT is not a setting and is ignored",
        "Did you mean CONCURRENCY_LIMIT?",
    )


def test_a_folder_that_cannot_be_written_is_an_error(demo: World, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, where a folder should be")

    report = looked(demo, tmp_path, offline=True)

    assert about(report, "ledger").severity is Severity.ERROR
    assert "is not a directory" in about(report, "ledger").sentence
