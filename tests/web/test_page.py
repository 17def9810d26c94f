"""The page as it is sent: what it shows, what it never shows, and how it bears values that nobody foresaw."""

from __future__ import annotations

import html
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import pytest

from aitp import logs
from aitp.ledger.evidence import Report
from aitp.ledger.hosts import Host
from aitp.ledger.stats import Bar, History, WaitingTasks
from aitp.metrics import CallStatus, open_metrics
from aitp.process.scoreboard import Record, State
from aitp.process.service import page_address
from aitp.providers.inventory import Inventory, ModelState, Stage, write_inventory
from aitp.settings import FIELDS, PROJECT_ROOT
from aitp.tasks import Ending, Outcome
from aitp.web.app import Application
from aitp.web.health import problems, read_facts, read_past
from aitp.web.page import outlook, render, waits_for
from tests.web.world import KIND, RELAY, WORKER, World, ask, settings_in

ATTACK = "<script>alert('x')</script>&\"\u202e\x1b[31m"
HYBRID = {"PROCESSING_MODE": "hybrid", "SUPPORTED_MODELS": "nomic-embed-text,qwen3:0.6b"}


def page_of(world: World, path: str = "/") -> str:
    """Without style and script."""
    sent = ask(world.app, path).body.decode()
    return re.sub(r"<(style|script)>.*?</\1>", "", sent, flags=re.DOTALL)


def rows(page: str, section: str) -> list[list[str]]:
    """The text of a section's table rows, without their head."""
    found = re.search(rf'id="{section}".*?(?=<section|<details id="settings"|</main>)', page, flags=re.DOTALL)
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


def test_the_hosts_of_a_fleet_and_how_long_each_has_been_away(world: World) -> None:
    facts = read_facts(world.settings)
    assert facts.ledger
    hosts = (
        Host(0, "one", True, facts.ledger.taken_at - 3, "2.1.0", 20, 2, "one:8001"),
        Host(1, "two", False, facts.ledger.taken_at - 660, "2.1.0", 8, 1, "[fd00::2]:8001"),
        Host(2, "three", False, None, "", 0, 0, ""),
        Host(3, ATTACK, True, 1.0, ATTACK, 0, 0, '"onclick="alert(1)'),
    )
    facts = replace(facts, ledger=replace(facts.ledger, hosts=hosts))
    page = render(facts, read_past(world.settings), world.settings, problems(facts, world.settings)).decode()

    assert rows(page, "hosts")[:3] == [
        ["one", "here", "20", "2", "2.1.0", "one:8001"],
        ["two", "away seen 11 min ago", "8", "1", "2.1.0", "[fd00::2]:8001"],
        ["three", "away never seen", "0", "0", "", ""],
    ]
    assert '<a href="http://[fd00::2]:8001/">' in page
    assert "<script>alert" not in page
    assert '"onclick' not in page
    assert 'id="hosts"' not in page_of(world)


@pytest.mark.parametrize(
    ("listens_on", "found_at"),
    [
        ("0.0.0.0", "one:8001"),
        ("*", "one:8001"),
        ("[::]", "one:8001"),
        ("10.0.0.7", "10.0.0.7:8001"),
        ("fd00::7", "[fd00::7]:8001"),
    ],
)
def test_a_host_s_page_is_found_where_it_listens_or_by_its_name(tmp_path: Path, listens_on: str, found_at: str) -> None:
    fleet = {"LEDGER_URL": "postgresql://aitp@db/aitp", "HOST_NAME": "one"}
    assert page_address(settings_in(tmp_path, METRICS_HOST=listens_on, **fleet)) == found_at


def test_an_exhausted_limit_says_when_there_is_room_again(tmp_path: Path) -> None:
    world = World.create(tmp_path, RATE_LIMIT_PER_MINUTE="1")
    world.admit("t1", "t2")
    ledger = world.ledger()
    claim = world.claim(ledger)
    ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.SUCCEEDED, b"[1]")]))
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
        ledger.outcomes.finish(claim, Report(outcomes, seconds=1.5))
    ledger.close()

    page = page_of(world)

    assert (figure(page, "succeeded"), figure(page, "failed")) == ("1 in the last hour", "1 in the last hour")
    assert 'aria-label="Tasks a minute, last hour: 1 succeeded, 1 failed, 0 put back."' in page
    assert "2 calls, 1.5 s on average." in page
    assert [row[1:] for row in rows(page, "past") if row[1] != "0"] == [["1", "1", "0", "0", "1.5 s", "1.5 s"]]
    assert rows(page, "types") == [["text_embedding", "0", "1", "1", "1.5 s", "1.5 s"]]
    assert rows(page, "errors") == [
        [
            "0 s ago",
            "openai",
            "failed, text_embedding",
            "the text is empty",
            "1",
            "t2",
            "aitp tasks --type text_embedding",
        ],
    ]


def test_a_day_and_a_week_are_other_pages_of_the_same_service(world: World) -> None:
    change(
        world,
        "INSERT INTO minutes SELECT unixepoch() / 60 - i, 'text_embedding', 1, 1, 0, 0, 1.0, 1.0, NULL"
        " FROM (SELECT 5 AS i UNION SELECT 500 UNION SELECT 5000)",
    )
    seen = {path: page_of(world, path) for path in ("/", "/day", "/week")}

    assert [page.count("1 succeeded") > 0 for page in seen.values()] == [True, False, False]
    assert [rows(page, "types")[0][2] for page in seen.values()] == ["1", "2", "3"]
    assert [len(rows(page, "past")) for page in seen.values()] == [60, 72, 56]
    for path, span in (("/", "hour"), ("/day", "day"), ("/week", "week")):
        assert f"Last {span}</h2>" in seen[path]
        assert f'aria-current="page">{span}</a>' in seen[path]
        assert figure(seen[path], "succeeded") == "1 in the last hour"


@pytest.mark.parametrize(
    ("limits", "words", "is_drawn"),
    [
        ({"RATE_LIMIT_PER_MINUTE": "5"}, "limit 5 a minute", True),
        ({"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "300"}, "limit 300 an hour", True),
        ({"RATE_LIMIT_PER_MINUTE": "5000", "RATE_LIMIT_PER_HOUR": "5000"}, "limit 5,000 a minute", False),
        ({"RATE_LIMIT_ENABLED": "false"}, "", False),
    ],
)
def test_the_limit_is_a_line_if_the_chart_can_reach_that_high(
    tmp_path: Path, limits: dict[str, str], words: str, is_drawn: bool
) -> None:
    page = page_of(World.create(tmp_path, **limits))

    assert re.findall(r'key limit">(.*?)<', page) == ([words] if words else [])
    assert ('<path class="limit"' in page) == is_drawn


def test_tasks_that_wait_are_listed_with_what_they_wait_for(world: World) -> None:
    world.admit("t1", "t2", "t3")
    ledger = world.ledger()
    claim = world.claim(ledger)
    ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.RETRY)]))
    ledger.close()
    model, run = "text-embedding-3-small", "aitp tasks --type text_embedding"

    page = page_of(world)

    [[*seen, waits, command]] = rows(page, "waiting")
    assert (seen, command) == (["text_embedding", model, "3", "0 s"], run)
    assert waits.startswith("2 for their turn, 1 for another try in ")


WAITING = WaitingTasks(KIND, 3, 0, 0, 0.0, None)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({}, "3 for their turn"),
        ({"later": 3, "due_at": 1_012.0}, "3 for another try in 12 s"),
        ({"later": 1, "due_at": 1_012.0}, "2 for their turn, 1 for another try in 12 s"),
        ({"duplicates": 2}, "1 for their turn, 2 for the result of one like them"),
    ],
)
def test_what_tasks_wait_for_in_themselves_is_counted(tasks: dict[str, Any], words: str) -> None:
    assert waits_for(WAITING._replace(**tasks), 1_000.0) == words


@pytest.mark.parametrize(
    ("waiting", "before", "done", "words"),
    [
        (0, 90, 9, "Nothing waits."),
        (40, 40, 0, "40 wait, and none was done in the last 10 minutes."),
        (40, 40, 8, "Keeping up: 8 done, 8 new a minute; what waits takes 5 min."),
        (40, 130, 8, "Catching up: 8 done, 0 new a minute; drained in 4 min."),
        (40, 13, 8, "Falling behind: 8 done, 11 new a minute; what waits takes 5 min."),
        (14, 5, 8, "Keeping up: 8 done, 9 new a minute; what waits takes 105 s."),
    ],
)
def test_whether_the_service_catches_up_is_said_by_the_last_minutes(
    waiting: int, before: int, done: int, words: str
) -> None:
    minutes = (*(Bar(60.0 * i, 1, done, 0, 0, waiting=before) for i in range(59)), Bar(waiting=waiting))
    ledger: Any = SimpleNamespace(ready=waiting, waiting=0)

    assert outlook(History(minutes=minutes), ledger) == words
    assert outlook(History(minutes=minutes, more_there=True), ledger) == f"{words} The task API has more."


def test_dead_letters_are_listed_with_the_command_to_deliver_them_again(world: World) -> None:
    change(world, "INSERT INTO queues (id, type, model, failed_at) VALUES (9, 'text_embedding', 'm', '')")
    for seq, name in enumerate(("plain", "-all", "x'; reboot #"), 1):
        task = (
            "INSERT INTO tasks (seq, id, queue, state, entered_sequence, entered_at) VALUES (?, ?, 9, 'dead', 1, 1.0)"
        )
        change(world, task, seq, name)
        result = (
            "INSERT INTO results (seq, status, body, finished_at, refusal, refused_at)"
            " VALUES (?, 'succeeded', ?, 1, '400: no', ?)"
        )
        change(world, result, seq, b"a-result-that-nobody-may-see", time.time() - 500 * seq)

    page = page_of(world)

    assert rows(page, "dead") == [
        ["plain", "text_embedding", "400: no", "8 min", "aitp dead retry plain"],
        ["-all", "text_embedding", "400: no", "17 min", "aitp dead retry -- -all"],
        ["x'; reboot #", "text_embedding", "400: no", "25 min", "aitp dead retry 'x'\"'\"'; reboot #'"],
    ]
    assert "nobody-may-see" not in page


def test_fifty_failures_are_there_and_most_of_them_folded(world: World) -> None:
    for number in range(50):
        change(
            world,
            "INSERT INTO recent_errors VALUES (?1, 'openai', 'linking', 'failed', ?1, 1.0, ?1, 1, 't9\nt8\nt9\nt7')",
            number,
        )

    page = page_of(world)

    assert len([row for row in rows(page, "errors") if row[0].endswith("ago")]) == 50
    assert "<summary>42 more</summary>" in page
    assert "<code>t9</code><details><summary>2 more</summary><code>t8</code> <code>t7</code> </details>" in page


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
    assert found["OAUTH2_CLIENT_SECRET"] == ("set, never shown", "environment")
    assert found["OPENAI_API_KEY"] == ("set, never shown", "environment")
    assert found["CONCURRENCY_LIMIT"] == ("1", "environment")
    assert found["MAX_RETRIES"] == ("3", "default")
    assert found["OLLAMA_OPTIONS"] == ("num_ctx: 8192", "environment")
    assert found["ORY_PROJECT_SLUG"] == ("not set", "default")
    assert found["RATE_LIMIT_ENABLED"] == ("true", "default")
    assert "the-client-secret" not in page
    assert "the-provider-key" not in page


def test_of_settings_that_name_a_file_the_page_shows_the_name_and_not_what_is_in_it(tmp_path: Path) -> None:
    authorities, prices = Path(certifi.where()), PROJECT_ROOT / "etc/prices.example.toml"
    world = World.create(tmp_path, TLS_CA_FILE=str(authorities), PRICES=str(prices))

    page = page_of(world)

    shown = {name: (value, origin) for name, value, origin in rows(page, "settings")}
    assert shown["TLS_CA_FILE"] == (str(authorities), "environment")
    assert shown["PRICES"] == (str(prices), "environment")
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

    assert [row[0] for row in rows(page, "processes")] == ["master", "relay 1", "worker 1001", "999 workers"]
    assert rows(page, "processes")[2] == ["worker 1001", "busy", "42 s", "the-busy-one", "", "7"]
    assert rows(page, "processes")[3] == ["999 workers", "idle", "", "", "", "6,993"]
    assert len(page) < 100_000


def test_of_a_hundred_busy_workers_the_late_and_the_slow_are_shown(world: World) -> None:
    for slot in range(WORKER, WORKER + 100):
        world.child(slot, State.BUSY, deadline=time.monotonic() + 60.0)
    world.child(WORKER + 77, State.BUSY, task_id="late", deadline=time.monotonic() - 60.0)
    world.scoreboard.write(Record(WORKER + 89, 4242, State.BUSY, time.time(), time.time() - 420, 0.0, 3, "slow"))

    page = page_of(world)

    shown = rows(page, "processes")
    assert (len(shown), shown[0][0]) == (16, "master")
    assert ["worker 178", "overdue", "42 s", "late", "0 s", "7"] in shown
    assert ["worker 190", "busy", "7 min", "slow", "", "3"] in shown
    assert "And 85 busy, 1 idle." in page


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
