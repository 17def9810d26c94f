"""The page as it is sent: what it shows, what it never shows, and how it bears values that nobody foresaw."""

from __future__ import annotations

import html
import re
import time
from pathlib import Path

import certifi
import pytest

from aitp import logs
from aitp.ledger import Report
from aitp.metrics import CallStatus, open_metrics
from aitp.process.scoreboard import State
from aitp.providers.inventory import Inventory, ModelState, Stage, write_inventory
from aitp.settings import FIELDS, PROJECT_ROOT
from aitp.tasks import Ending, Outcome
from aitp.web.app import Application
from tests.web.world import RELAY, WORKER, World, ask, settings_in

ATTACK = "<script>alert('x')</script>&\"\u202e\x1b[31m"
HYBRID = {"PROCESSING_MODE": "hybrid", "SUPPORTED_MODELS": "nomic-embed-text,qwen3:0.6b"}


def page_of(world: World) -> str:
    """Without style and script."""
    sent = ask(world.app, "/").body.decode()
    return re.sub(r"<(style|script)>.*?</\1>", "", sent, flags=re.DOTALL)


def rows(page: str, section: str) -> list[list[str]]:
    """The text of a section's table rows, without their head."""
    found = re.search(rf'id="{section}".*?(?=<section|<details|</main>)', page, flags=re.DOTALL)
    assert found, f"no {section}"
    parts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", found[0])]
    return [[html.unescape(re.sub("<[^>]+>", "", part)) for part in row] for row in parts[1:]]


def figure(page: str, label: str) -> str:
    found = re.search(rf"<dt>{label}</dt><dd>(.*?)</dd>", page)
    assert found
    return re.sub("<[^>]+>", " ", found[1]).strip()


def change(world: World, statement: str, *values: object) -> None:
    ledger = world.ledger()
    with ledger._database.transaction() as connection:
        connection.execute(statement, values)
    ledger.close()


def test_tasks_processes_and_limits_of_this_moment(world: World) -> None:
    world.admit("t1", "t2")
    world.claim(world.ledger())
    world.child(WORKER, State.BUSY, task_id="64f3a2b1c8e9d00000000001", deadline=time.monotonic() + 60.5)

    page = page_of(world)

    assert (figure(page, "waiting"), figure(page, "in flight")) == ("1 oldest 0 s", "1")
    assert ["worker 101", "busy", "42 s", "64f3a2b1c8e9d00000000001", "60 s", "7"] in rows(page, "processes")
    assert rows(page, "limits")[0] == ["minute", "", "1 of 20", "19", ""]
    assert next(row[:2] for row in rows(page, "services")) == ["api", "closed"]
    for link in ("/metrics", "/health", "/ready"):
        assert f'<a href="{link}">' in page


def test_an_exhausted_limit_says_when_there_is_room_again(tmp_path: Path) -> None:
    world = World.create(tmp_path, RATE_LIMIT_PER_MINUTE="1")
    world.admit("t1", "t2")
    ledger = world.ledger()
    claim = world.claim(ledger)
    ledger.claims.finish(claim, Report([Outcome(claim.tasks[0], Ending.SUCCEEDED, b"[1]")]))
    ledger.close()

    page = page_of(world)

    assert rows(page, "limits")[0] == ["minute", "", "1 of 1", "0", "60 s"]
    assert "The limit per minute is used up (1 of 1)" in page
    assert "RATE_LIMIT_PER_MINUTE" in page


def test_the_last_hour_and_the_last_errors(world: World) -> None:
    world.admit("t1", "t2")
    ledger = world.ledger()
    for ending, reason in ((Ending.SUCCEEDED, ""), (Ending.FAILED, "the text is empty")):
        claim = world.claim(ledger)
        result = b"[1]" if ending is Ending.SUCCEEDED else None
        outcomes = [Outcome(claim.tasks[0], ending, result, reason)]
        ledger.claims.finish(claim, Report(outcomes, seconds=1.5))
    ledger.close()

    page = page_of(world)

    assert (figure(page, "succeeded"), figure(page, "failed")) == ("1 in the last hour", "1 in the last hour")
    assert "1 succeeded, 1 failed</title>" in page
    assert "2 calls, mean 1.5 s, slowest 1.5 s</title>" in page
    assert rows(page, "errors") == [
        ["0 s ago", "openai", "failed, text_embedding", "the text is empty", "1", "t2"],
    ]


def test_tokens_are_summed_over_all_processes(world: World) -> None:
    for slot in (WORKER, WORKER + 1):
        metrics = open_metrics(world.settings.runtime_dir / "metrics", slot)
        metrics.provider_request("openai", "text-embedding-3-small", CallStatus.SUCCESS, 0.1)
        metrics.provider_request("openai", "text-embedding-3-small", CallStatus.TIMEOUT, 60.0)
        metrics.tokens("openai", "text-embedding-3-small", "prompt_tokens", 1500)
        metrics.close()

    assert rows(page_of(world), "models") == [["text-embedding-3-small", "openai", "4", "2", "3,000", "0"]]


def test_metrics_files_that_cannot_be_read_are_said_so(world: World) -> None:
    (world.settings.runtime_dir / "metrics" / "counter_9.db").write_bytes(b"\x40\0\0\0" + b"\xee" * 60)

    assert "The metrics files cannot be read." in page_of(world)


def test_models_of_ollama_and_how_far_a_pull_is(tmp_path: Path) -> None:
    world = World.create(tmp_path, **HYBRID)
    states = {
        "nomic-embed-text": ModelState(Stage.PULLING, 30, 120),
        "qwen3:0.6b": ModelState(Stage.FAILED, reason="no such model"),
    }
    write_inventory(world.settings.runtime_dir, Inventory(states))

    assert rows(page_of(world), "models") == [
        ["nomic-embed-text", "pulling", " 25 %"],
        ["qwen3:0.6b", "failed", "no such model"],
    ]


def test_every_setting_is_shown_and_no_secret_is(tmp_path: Path) -> None:
    world = World.create(tmp_path, CONCURRENCY_LIMIT="1", OLLAMA_OPTIONS='{"num_ctx": 8192}', LOG_LEVEL="debug")
    page = page_of(world)
    found = {name: (value, origin) for name, value, origin in rows(page, "settings")}

    assert list(found) == list(FIELDS)
    assert found["OAUTH2_CLIENT_SECRET"] == ("set, never shown", "set")
    assert found["OPENAI_API_KEY"] == ("set, never shown", "set")
    assert found["CONCURRENCY_LIMIT"] == ("1", "set")
    assert found["MAX_RETRIES"] == ("3", "default")
    assert found["OLLAMA_OPTIONS"] == ("num_ctx: 8192", "set")
    assert found["ORY_PROJECT_SLUG"] == ("not set", "default")
    assert found["RATE_LIMIT_ENABLED"] == ("true", "default")
    assert "the-client-secret" not in page
    assert "the-provider-key" not in page


def test_of_settings_that_name_a_file_the_page_shows_the_name_and_not_what_is_in_it(tmp_path: Path) -> None:
    authorities, prices = Path(certifi.where()), PROJECT_ROOT / "etc/prices.example.toml"
    world = World.create(tmp_path, TLS_CA_FILE=str(authorities), PRICES=str(prices))

    page = page_of(world)

    shown = {name: (value, origin) for name, value, origin in rows(page, "settings")}
    assert shown["TLS_CA_FILE"] == (str(authorities), "set")
    assert shown["PRICES"] == (str(prices), "set")
    assert "CERTIFICATE" not in page


def test_a_secret_in_somebody_elses_words_is_masked(world: World) -> None:
    logs.conceal("the-provider-key")
    change(world, "UPDATE breakers SET state = 'open', reason = 'Incorrect key: the-provider-key'")

    assert "Incorrect key: ***" in page_of(world)
    assert "the-provider-key" not in page_of(world)


def test_whatever_is_shown_is_escaped(world: World) -> None:
    world.child(RELAY, State.BUSY, task_id=ATTACK)
    change(world, "UPDATE breakers SET state = 'open', reason = ?", ATTACK)
    change(
        world,
        "INSERT INTO cooldowns (provider, model, until, reason) VALUES (?1, ?1, ?2, ?1)",
        ATTACK,
        time.time() + 60,
    )
    change(world, "UPDATE polls SET problem = ?", ATTACK)
    change(world, "INSERT INTO recent_errors VALUES (1, ?1, ?1, ?1, ?1, 1.0, 2.0, 3, ?1)", ATTACK)

    page = page_of(world)

    assert page.count("&lt;script&gt;") >= 12
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_crowd_is_summed_up_and_who_is_at_work_is_shown(world: World) -> None:
    for slot in range(WORKER, WORKER + 1000):
        world.child(slot, State.IDLE)
    world.child(WORKER + 900, State.BUSY, task_id="the-busy-one")

    page = page_of(world)

    assert len(rows(page, "processes")) == 40
    assert ["worker 1001", "busy", "42 s", "the-busy-one", "", "7"] in rows(page, "processes")
    assert "And 962 idle." in page
    assert len(page) < 100_000


@pytest.mark.parametrize(
    "damage",
    [
        "INSERT INTO minutes SELECT unixepoch() / 60, 'text_embedding', 9e18, 9e18, 9e18, 9e18, 9e300, 9e999, NULL",
        "INSERT INTO minutes SELECT unixepoch() / 60, 'text_embedding', 0, -5, -5, -5, -1.0, -1.0, NULL",
        "INSERT INTO minutes SELECT unixepoch() / 60, 'text_embedding', 1, 1, 1, 1, -9e999, 9e999, NULL",
        "INSERT INTO recent_errors VALUES (1, '', '', '', '', -9e999, 9e999, 9223372036854775807, '')",
        "UPDATE limits SET allowed = 9223372036854775807",
        "DROP TABLE minutes",
        "DROP TABLE recent_errors",
    ],
)
def test_numbers_that_make_no_sense_do_not_break_it(world: World, damage: str) -> None:
    change(world, damage)

    answer = ask(world.app, "/")

    assert answer.status == 200
    assert b"Settings" in answer.body


def test_without_a_ledger_the_rest_is_still_shown(tmp_path: Path) -> None:
    answer = ask(Application(settings_in(tmp_path)), "/").body.decode()

    assert "The service is not running." in answer
    assert "There is no ledger at" in answer
    assert "no process is known" in answer
    assert "OAUTH2_CLIENT_ID" in answer


def test_a_look_at_it_is_cheap(world: World) -> None:
    """Also with a full hour: some 50 kB and a few milliseconds."""
    change(
        world,
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 119)"
        " INSERT INTO minutes SELECT unixepoch() / 60 - i, 'text_embedding', 99, 800, 9, 9, 99.0, 5.0, NULL FROM n",
    )
    app = world.app
    ask(app, "/")
    times = []
    for _ in range(10):
        began = time.process_time()
        size = len(ask(app, "/").body)
        times.append(time.process_time() - began)

    assert size < 60_000
    assert min(times) < 0.1
