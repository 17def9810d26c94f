"""/metrics: sums of the files, gauges of the moment, and what happens when the files are in disorder."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from aitp.ledger.breakers import Cooldown
from aitp.ledger.evidence import Report
from aitp.metrics import COST, FAMILIES, MOCK, CallStatus, Family, open_metrics, prepare_directory, reading
from aitp.process.scoreboard import State
from aitp.tasks import Ending, Outcome, TaskStatus
from aitp.web.gauges import Scrape
from tests.ledger.world import set_limits
from tests.metrics.reading import Series, parse, value
from tests.web.world import RELAY, WORKER, World, ask


def scrape(world: World) -> Series:
    response = ask(world.app, "/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(response.body)


def families_in(text: bytes) -> dict[str, tuple[str, str]]:
    """Type and help of each family that a scrape declares."""
    types = dict(line.split(" ")[2:4] for line in text.decode().splitlines() if line.startswith("# TYPE "))
    helps = [line.split(" ", 3)[2:4] for line in text.decode().splitlines() if line.startswith("# HELP ")]
    assert len(helps) == len(types)
    return {name: (types[name], help) for name, help in helps}


def test_a_scrape_of_a_fresh_service_has_every_family_with_its_type(world: World) -> None:
    found = families_in(ask(world.app, "/metrics").body)

    counted = [family for family in FAMILIES.values() if family is not COST]  # there are no prices
    assert found == {family.name: (family.type, family.help) for family in counted}


def test_every_sample_has_exactly_the_labels_of_its_family(world: World) -> None:
    for name, labels in scrape(world):
        family = FAMILIES.get(name) or FAMILIES[name.rsplit("_", 1)[0]]
        assert {label for label, _ in labels} - {"le"} == set(family.labels), name


def test_no_series_appears_late(world: World) -> None:
    before = scrape(world).keys()
    metrics = open_metrics(world.settings.runtime_dir / "metrics", WORKER)
    metrics.task_ended("text_embedding", TaskStatus.FAILED, 1)
    metrics.provider_request("openai", "text-embedding-3-small", CallStatus.TIMEOUT, 60)
    world.admit("a", "b")
    world.claim(world.ledger())
    world.child(WORKER, State.BUSY)

    assert scrape(world).keys() == before


def test_gauges_of_tasks_and_limits_are_the_ledgers(world: World) -> None:
    world.admit("a", "b", "c", "d")
    ledger = world.ledger()
    claim = world.claim(ledger)
    done = Outcome(claim.tasks[0], Ending.SUCCEEDED, b"[1]")
    ledger.outcomes.finish(claim, Report([done]))
    world.claim(ledger)

    series = scrape(world)

    assert value(series, "ai_tasks_in_flight") == 1
    assert value(series, "aitp_queue_tasks", state="ready") == 2
    assert value(series, "aitp_outbox_results") == 1
    assert value(series, "rate_limit_current_usage", period="minute") == 2
    assert value(series, "rate_limit_max_allowed", period="minute") == 20
    assert value(series, "rate_limit_remaining", period="minute") == 18
    assert value(series, "aitp_ledger_readable") == 1
    assert (value(series, "aitp_last_poll_timestamp_seconds") or 0) > time.time() - 60


def test_a_used_up_limit_says_when_room_frees_and_a_fixed_one_when_its_window_ends(tmp_path: Path) -> None:
    now = time.time()
    world = World.create(tmp_path, RATE_LIMIT_PER_MINUTE="1", RATE_LIMIT_PER_HOUR="2")
    world.admit("a")
    ledger = world.ledger()
    claim = world.claim(ledger)
    ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.SUCCEEDED, b"[1]")]))

    rolling = scrape(world)
    set_limits(ledger, "fixed", "UTC", {"minute": 1, "day": 9})
    fixed = scrape(world)

    room, end = "rate_limit_room_timestamp_seconds", "rate_limit_window_end_timestamp_seconds"
    assert now + 60 <= (value(rolling, room, period="minute") or 0) < now + 70
    assert value(rolling, room, period="hour") == 0
    assert value(rolling, end, period="minute") == 0
    midnight = (int(now) // 86_400 + 1) * 86_400
    assert value(fixed, end, period="day") in (midnight, midnight + 86_400)
    assert value(fixed, room, period="minute") in (0, value(fixed, end, period="minute"))


def test_readiness_is_a_number_too(world: World) -> None:
    assert value(scrape(world), "aitp_ready") == 1

    world.master(State.DRAINING)

    assert value(scrape(world), "aitp_ready") == 0


@pytest.mark.parametrize(("state", "number"), [("closed", 0), ("open", 1), ("half-open", 2)])
def test_breaker_states_are_numbers(world: World, state: str, number: int) -> None:
    ledger = world.ledger()
    with ledger._database.transaction() as connection:
        connection.execute("UPDATE breakers SET state = ? WHERE service = 'api'", (state,))

    series = scrape(world)

    assert value(series, "circuit_breaker_state", service="api") == number
    for service in ("oauth", "openai", "ollama", "wikidata"):
        assert value(series, "circuit_breaker_state", service=service) == 0


def test_a_cooldown_is_counted_for_its_service(world: World) -> None:
    world.admit("a")
    ledger = world.ledger()
    claim = world.claim(ledger)
    outcome = Outcome(claim.tasks[0], Ending.POSTPONED, reason="429")
    ledger.outcomes.finish(claim, Report([outcome], cooldown=Cooldown(30, None, "429")))

    series = scrape(world)

    assert value(series, "aitp_cooldowns", service="openai") == 1
    assert value(series, "aitp_cooldowns", service="ollama") == 0


def test_processes_are_counted_by_role_and_state(world: World) -> None:
    world.child(WORKER, State.BUSY)
    world.child(102, State.BUSY, deadline=time.monotonic() - 60)
    world.child(RELAY, State.GONE)

    series = scrape(world)

    assert value(series, "aitp_processes", role="worker", state="busy") == 2
    assert value(series, "aitp_processes", role="worker", state="idle") == 0
    assert value(series, "aitp_processes", role="relay", state="idle") == 0
    assert value(series, "aitp_master_running") == 1
    assert value(series, "aitp_deadlines_overrun") == 1


def test_gauges_whose_source_is_gone_are_left_out_and_counts_stay(world: World) -> None:
    open_metrics(world.settings.runtime_dir / "metrics", 1).auth(success=True)
    shutil.rmtree(world.settings.rate_limit_storage_path.parent)

    series = scrape(world)

    assert value(series, "aitp_ledger_readable") == 0
    assert value(series, "ai_tasks_in_flight") is None
    assert value(series, "oauth_token_requests_total", status="success") == 1


def test_a_scrape_that_cannot_read_a_file_repeats_the_last_good_sums_and_is_counted(tmp_path: Path) -> None:
    metrics, scrape = open_metrics(tmp_path, 1), Scrape(tmp_path)
    metrics.auth(success=True)
    scrape.text([])

    (tmp_path / "counter_2.db").write_bytes(b"no metrics file" * 99)
    metrics.auth(success=True)
    bad = parse(scrape.text([reading(MOCK, {(): 1})]))
    assert value(bad, "oauth_token_requests_total", status="success") == 1
    assert value(bad, "aitp_mock") == 1
    assert value(bad, "aitp_scrape_failures_total") == 1

    (tmp_path / "counter_2.db").unlink()
    good = parse(scrape.text([]))
    assert value(good, "oauth_token_requests_total", status="success") == 2
    assert value(good, "aitp_scrape_failures_total") == 1


def test_what_an_older_release_counted_and_this_one_does_not_is_not_shown(tmp_path: Path) -> None:
    retired = Family("retired_total", "counter", "One series a task.", ("task_id",))
    old = open_metrics(tmp_path, 1)
    old.count(retired, "64f3")
    old.close()
    open_metrics(tmp_path, 1).auth(success=True)

    series = parse(Scrape(tmp_path).text([]))

    assert {name for name, _ in series} == {"oauth_token_requests_total", "aitp_scrape_failures_total"}


def test_scrapes_beside_processes_that_start_and_count_never_fail(tmp_path: Path) -> None:
    prepare_directory(tmp_path)
    scrape = Scrape(tmp_path)
    for slot in range(1, 60):
        metrics = open_metrics(tmp_path, slot)
        metrics.auth(success=True)
        metrics.task_ended("text_embedding", TaskStatus.SUCCEEDED, 1)
        series = parse(scrape.text([]))

        assert value(series, "oauth_token_requests_total", status="success") == slot
        assert value(series, "aitp_scrape_failures_total") == 0


def test_a_label_value_cannot_break_the_format(tmp_path: Path) -> None:
    wild = 'a"b\\c\nd{e="f"} 1'
    open_metrics(tmp_path, 1, models=[wild]).tokens("openai", wild, "prompt_tokens", 3)

    assert value(parse(Scrape(tmp_path).text([])), "openai_tokens_used_total", model=wild, type="prompt_tokens") == 3


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_has_nothing_to_say(world: World) -> None:
    text = ask(world.app, "/metrics").body

    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b""), json.dumps(checked.stderr.decode())
