"""Healthy or not, ready or not: every reason, as a table over one good moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitp.ledger.hosts import Host
from aitp.ledger.stats import BreakerView, ProfileView, QuarantineView, Snapshot
from aitp.process.scoreboard import MASTER as SLOT_OF_MASTERS
from aitp.process.scoreboard import Record, State
from aitp.providers.inventory import Inventory, ModelState, Stage
from aitp.settings import PLACEHOLDER_KEY, Settings
from aitp.tasks import Service
from aitp.web.gauges import gauges
from aitp.web.health import Facts, Severity, _of_ledger, problems, read_facts, worst_first
from tests.ledger.test_locks import another_process_holds
from tests.web.world import RELAY, WORKER, settings_in

NOW = 1_800_000_000.0


def health_problems(facts: Facts, settings: Settings) -> list[str]:
    return [problem.sentence for problem in worst_first(problems(facts, settings), Severity.ERROR)]


def readiness_problems(facts: Facts, settings: Settings) -> list[str]:
    return [problem.sentence for problem in worst_first(problems(facts, settings), Severity.PENDING)]


CLOSED = BreakerView("closed", 0, None, None)
OPEN = BreakerView("open", 5, NOW - 10, NOW + 50, "401: see OPENAI_API_KEY")
LEDGER = Snapshot(
    taken_at=NOW,
    strategy="rolling",
    limits_enabled=False,
    paused=False,
    limits={},
    breakers={service.value: CLOSED for service in Service},
    cooldowns=(),
    paused_processors={},
    ready=0,
    waiting=0,
    claimed=0,
    finished=0,
    dead=0,
    unreadable=0,
    oldest_ready_age=0,
    oldest_finished_age=0,
    last_poll_at=NOW - 5,
    last_poll_problem=None,
    disk_free=10**9,
)
MASTER = Record(0, 1, State.RUNNING)
WELL = Facts(
    now=NOW,
    master=MASTER,
    master_ticks=True,
    children=(Record(RELAY, 2, State.IDLE), Record(WORKER, 3, State.BUSY)),
    overrun=(),
    ledger=LEDGER,
    ledger_problem="",
    has_token=True,
    inventory=Inventory({"nomic-embed-text": ModelState(Stage.PRESENT)}),
)


def with_ledger(**changes: Any) -> Facts:
    return replace(WELL, ledger=replace(LEDGER, **changes))


def with_breakers(*names: str, breaker: BreakerView = OPEN, **changes: Any) -> Facts:
    return with_ledger(breakers=LEDGER.breakers | dict.fromkeys(names, breaker), **changes)


def with_children(*states: tuple[int, State]) -> Facts:
    return replace(WELL, children=tuple(Record(slot, 9, state) for slot, state in states))


UNWELL: dict[str, tuple[Facts, str]] = {
    "no master": (replace(WELL, master=None, master_ticks=False), "the master is not running"),
    "master hangs": (replace(WELL, master_ticks=False), "the master does not make its rounds"),
    "another service": (
        replace(WELL, master=None, master_ticks=False, ledger_holder=7),
        "another service has this ledger (process 7), and this one waits for it to leave",
    ),
    "another service in another container, and a former master's line": (
        replace(WELL, master_ticks=False, ledger_holder=0),
        "another service has this ledger, and this one waits for it to leave",
    ),
    "our own master hangs": (
        replace(WELL, master_ticks=False, ledger_holder=MASTER.pid),
        "the master does not make its rounds",
    ),
    "deadline": (replace(WELL, overrun=(WELL.children[1],)), "slot 101 has overrun its deadline"),
}
NOT_READY: dict[str, tuple[Facts, str]] = UNWELL | {
    "draining": (replace(WELL, master=replace(MASTER, state=State.DRAINING)), "draining: the service is being stopped"),
    "no relay yet": (with_children((WORKER, State.IDLE)), "starting: no relay is at work yet"),
    "relay waits for its slot": (
        with_children((RELAY, State.WAITING), (WORKER, State.IDLE)),
        "starting: no relay is at work yet",
    ),
    "no worker yet": (
        with_children((RELAY, State.IDLE), (WORKER, State.STARTING)),
        "starting: no worker is at work yet",
    ),
    "no ledger": (replace(WELL, ledger=None, ledger_problem="the ledger is gone"), "the ledger is gone"),
    "disk": (with_ledger(disk_free=63 * 10**6), "the disk that holds the ledger is nearly full: 63 MB are free"),
    "upgrade": (
        with_ledger(needs_upgrade=True),
        "upgrade this host: the ledger is of the next release already, and nothing new is taken here",
    ),
    "paused": (with_ledger(paused=True), "paused by an operator"),
    "paused processor": (
        with_ledger(paused_processors={"text_embedding": NOW + 60}),
        "the processor of text_embedding is paused after several bugs in a row: see the log",
    ),
    "token": (replace(WELL, has_token=False), "there is no access token for the task API yet"),
    "api": (with_breakers("api"), "Circuit breaker is open for api: 401: see OPENAI_API_KEY"),
    "oauth probes": (
        with_breakers("oauth", breaker=BreakerView("half-open", 5, NOW, NOW)),
        "Circuit breaker is open for oauth",
    ),
    "provider": (with_breakers("openai"), "Circuit breaker is open for openai: 401: see OPENAI_API_KEY"),
    "provider, probe due, work waits": (
        with_breakers("openai", breaker=replace(OPEN, probe_at=NOW - 1), waiting=1),
        "Circuit breaker is open for openai: 401: see OPENAI_API_KEY",
    ),
    "bad poll": (with_ledger(last_poll_problem="503 from the API"), "the last poll: 503 from the API"),
    "bad poll, by an open breaker": (
        with_breakers("api", last_poll_problem=OPEN.reason),
        "Circuit breaker is open for api: 401: see OPENAI_API_KEY",
    ),
    "never polled": (with_ledger(last_poll_at=None), "the task API has not been polled yet"),
}
READY: dict[str, Facts] = {
    "all well": WELL,
    "limits exhausted": with_ledger(limits_enabled=True),
    "another provider's breaker": with_breakers("ollama", "wikidata"),
    "nobody is there to probe": with_breakers("openai", breaker=replace(OPEN, probe_at=NOW - 1)),
    "some children start": with_children((RELAY, State.IDLE), (WORKER, State.LEAVING), (102, State.IDLE)),
}


@pytest.mark.parametrize(("facts", "problem"), UNWELL.values(), ids=UNWELL.keys())
def test_what_makes_the_service_unhealthy(facts: Facts, problem: str, tmp_path: Path) -> None:
    assert health_problems(facts, settings_in(tmp_path)) == [problem]


@pytest.mark.parametrize(("facts", "problem"), NOT_READY.values(), ids=NOT_READY.keys())
def test_what_makes_the_service_not_ready(facts: Facts, problem: str, tmp_path: Path) -> None:
    assert readiness_problems(facts, settings_in(tmp_path)) == [problem]


@pytest.mark.parametrize("name", sorted(NOT_READY.keys() - UNWELL.keys()))
def test_what_no_restart_would_cure_leaves_the_service_healthy(name: str, tmp_path: Path) -> None:
    assert health_problems(NOT_READY[name][0], settings_in(tmp_path)) == []


@pytest.mark.parametrize("facts", READY.values(), ids=READY.keys())
def test_what_leaves_the_service_ready(facts: Facts, tmp_path: Path) -> None:
    assert readiness_problems(facts, settings_in(tmp_path)) == []


def test_several_problems_are_all_told(tmp_path: Path) -> None:
    facts = replace(with_ledger(paused=True, last_poll_at=None), has_token=False, master_ticks=False)

    assert len(readiness_problems(facts, settings_in(tmp_path))) == 4


HYBRID = {"PROCESSING_MODE": "hybrid"}
MODES: list[tuple[dict[str, str], tuple[str, ...], int]] = [
    ({"PROCESSING_MODE": "ollama"}, ("openai",), 0),
    ({"PROCESSING_MODE": "ollama"}, ("ollama",), 1),
    (HYBRID, ("ollama",), 0),
    (HYBRID, ("openai",), 0),
    (HYBRID, ("ollama", "openai"), 2),
    (HYBRID | {"HYBRID_FALLBACK": "false"}, ("ollama",), 1),
    (HYBRID | {"OPENAI_API_KEY": ""}, ("ollama",), 1),
]


@pytest.mark.parametrize(("mode", "open_breakers", "count"), MODES)
def test_a_provider_is_missed_only_if_none_stands_in(
    mode: dict[str, str], open_breakers: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, **mode)

    assert len(readiness_problems(with_breakers(*open_breakers), settings)) == count


PULLING = Inventory({"nomic-embed-text": ModelState(Stage.PULLING, 40, 100)})
FAILED = Inventory({"nomic-embed-text": ModelState(Stage.FAILED, 40, 100, "disk full")})
AGAIN = Inventory({"nomic-embed-text": ModelState(Stage.PULLING, 40, 100, failures=1)})
STOCKS: list[tuple[Inventory | None, str, str]] = [  # …, in mode ollama, in mode hybrid with a key
    (None, "have not been looked for yet", "have not been looked for yet"),
    (PULLING, "nomic-embed-text is being pulled: 40 %", "nomic-embed-text is being pulled: 40 %"),
    (Inventory({}), "nomic-embed-text is missing", "nomic-embed-text is missing"),
    (FAILED, "nomic-embed-text could not be pulled: disk full", ""),
    (AGAIN, "nomic-embed-text is being pulled: 40 %", ""),
    (Inventory({}, problem="connection refused"), "cannot be asked for its models: connection refused", ""),
    (Inventory({"nomic-embed-text": ModelState(Stage.PRESENT), "other": ModelState(Stage.FAILED)}), "", ""),
]


@pytest.mark.parametrize(("stock", "alone", "replaceable"), STOCKS)
def test_models_are_there_before_the_service_is_ready(
    stock: Inventory | None, alone: str, replaceable: str, tmp_path: Path
) -> None:
    for mode, said in (("ollama", alone), ("hybrid", replaceable), ("openai", "")):
        settings = settings_in(tmp_path, PROCESSING_MODE=mode, OPENAI_API_KEY="sk-real")
        found = readiness_problems(replace(WELL, inventory=stock), settings)

        assert len(found) == bool(said), found
        assert said in "".join(found)


def test_in_mock_mode_no_model_is_missed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, PROCESSING_MODE="hybrid", OPENAI_API_KEY=PLACEHOLDER_KEY)

    assert readiness_problems(replace(WELL, inventory=None), settings) == []


def test_a_second_service_on_one_ledger_says_whom_it_waits_for(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    assert "the master is not running" in readiness_problems(read_facts(settings), settings)
    with another_process_holds(settings.rate_limit_storage_path, str(SLOT_OF_MASTERS)) as other:
        said = problems(read_facts(settings), settings)

    assert (
        said[0].sentence == f"another service has this ledger (process {other.pid}), and this one waits for it to leave"
    )
    assert "RATE_LIMIT_STORAGE_PATH" in said[0].advice


def test_models_whose_tasks_wait_are_a_fault_and_what_requests_do_without_a_note(tmp_path: Path) -> None:
    waiting = QuarantineView("openai", "o3", "defining_topics", "model", "openai answered 404: it has no model o3", 9.0)
    adapted = ProfileView("openai", "text-embedding-3-small", ("encoding_format",), "openai answered 400", 1.0)

    settings = settings_in(tmp_path, CONCURRENCY_LIMIT="1", RELAY_PROCESSES="1")
    fault, note = problems(with_ledger(quarantines=(waiting,), profiles=(adapted,)), settings)

    assert fault.severity is Severity.FAULT
    assert "defining_topics by o3 (openai) wait" in fault.sentence
    assert "MODEL_ALIASES" in fault.advice
    assert note.severity is Severity.NOTE
    assert "do without encoding_format" in note.sentence


def a_host(number: int, *, is_here: bool) -> Host:
    return Host(number, f"host-{number}", is_here, NOW, "2.1.0", 3, 2, "")


def test_hosts_that_are_away_are_counted_and_named() -> None:
    hosts = tuple(a_host(number, is_here=number != 2) for number in (1, 2, 3))
    found = [each for each in _of_ledger(replace(LEDGER, hosts=hosts)) if each.code == "hosts"]
    assert [(each.severity, each.sentence) for each in found] == [(Severity.WARNING, "1 of 3 hosts is away")]
    assert "host-2" in found[0].advice
    here = replace(LEDGER, hosts=hosts[:1])
    assert not [each for each in _of_ledger(here) if each.code == "hosts"]


def test_gauges_tell_how_many_hosts_are_here_and_away(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    hosts = tuple(a_host(number, is_here=number != 2) for number in (1, 2, 3))
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in gauges(with_ledger(hosts=hosts), settings)
        for sample in family.samples
    }
    assert (told["aitp_hosts", "here"], told["aitp_hosts", "away"]) == (2, 1)
    assert told["aitp_host_info", "host-2", "2", "2.1.0"] == 1
    assert not [family for family in gauges(WELL, settings) if family.name == "aitp_hosts" and family.samples]
