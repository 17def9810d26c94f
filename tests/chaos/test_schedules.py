"""One of the random schedules, for every day; `bin/test --chaos --runs 200` is the long form."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from aitp.demo.documents import TYPES
from tests.chaos.acts import Acts
from tests.chaos.clocks import EVES, ROOM_SECONDS
from tests.chaos.points import POINTS
from tests.chaos.schedule import (
    API_FAULTS,
    GATEWAY_STATUSES,
    MACHINE,
    PAGE_CAPS,
    PROCESSES,
    PROVIDER_FAULTS,
    draw,
)
from tests.chaos.work import BAD_CHATS, BAD_VECTORS, CHAT_KINDS, EMBEDDING, REFUSED

ROOT = Path(__file__).parents[2]
# It holds a power cut, a full disk, kills of supervisord, of workers and of everything, limits, a change of the clocks,
# chats, both providers and a gateway before them.
SEED = 11710
MANY = 300
MODES = ("openai", "ollama", "hybrid")


@pytest.mark.timeout(300)
def test_every_promise_is_kept() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--runs", "1", "--seed", str(SEED)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 schedules in" in done.stdout
    held = {act.name for act in draw(SEED).acts}
    assert {"power_cut", "full_disk", "kill_supervisord", "kill_worker", "kill_everything", "gateway"} <= held
    figures = dict(
        line.split() for line in done.stdout.splitlines() if re.fullmatch(r"  (deaths|twins|tasks) +\d+", line)
    )
    assert int(figures["tasks"]) > 100
    assert int(figures["deaths"]) > 0


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert str(draw(7)) == str(draw(7)) != str(draw(8))


def test_many_schedules_hold_every_kind_of_fault() -> None:
    acts = [act for seed in range(MANY) for act in draw(seed).acts]
    names = {act.name for act in acts}
    kinds = {str(act.options.get("kind", act.options.get("status"))) for act in acts if act.name == "fault"}

    assert {*PROCESSES, *MACHINE, "runner_deaths", "remove_model"} <= names
    assert {str(fault.get("kind", fault.get("status"))) for fault in (*PROVIDER_FAULTS, *API_FAULTS)} <= kinds
    assert {str(kind) for kind in CHAT_KINDS} <= kinds
    assert all(hasattr(Acts, f"_{name}") for name in names)


def test_many_schedules_hold_strangers_of_every_kind() -> None:
    drawn = [draw(seed) for seed in range(MANY)]

    bad = [(type_ == EMBEDDING, dict(manner)) for each in drawn for type_, manner in each.work.bad]
    assert all((True, manner) in bad for manner in BAD_VECTORS)
    assert all((False, manner) in bad for manner in BAD_CHATS)
    assert {each.servers["openai_api"].get("refuses") for each in drawn} == {None, *REFUSED}
    gateways = [act.options["status"] for each in drawn for act in each.acts if act.name == "gateway"]
    assert set(gateways) == set(GATEWAY_STATUSES)
    assert {each.servers["task_api"]["page_cap"] for each in drawn} == {None, *PAGE_CAPS}


def test_many_schedules_hold_every_kind_of_work_in_every_mode() -> None:
    drawn = [draw(seed) for seed in range(MANY)]

    assert {(each.work.mode, type_) for each in drawn for type_ in each.work.types} == set(product(MODES, TYPES))
    assert {point for each in drawn for act in each.acts if (point := act.options.get("point"))} == set(POINTS)
    struck = {(act.options["server"], each.work.mode) for each in drawn for act in each.acts if act.name == "fault"}
    assert {("ollama_api", "ollama"), ("ollama_api", "hybrid"), ("openai_api", "hybrid")} <= struck


def test_many_schedules_come_to_every_change_of_the_clocks_and_to_a_month_s_end_with_every_limit() -> None:
    drawn = [draw(seed) for seed in range(MANY)]

    eves = {(each.clock.zone, each.strategy) for each in drawn if each.clock.start_at is not None}
    assert eves == set(product({zone for zone, _ in EVES}, ("rolling", "fixed")))
    assert {period for each in drawn for period in each.clock.limits} == set(ROOM_SECONDS)


@pytest.mark.parametrize(("zone", "eve"), EVES)
def test_an_eve_is_one(zone: str, eve: datetime) -> None:
    before, after = (datetime.fromtimestamp(eve.timestamp() + seconds, ZoneInfo(zone)) for seconds in (-1, 0))

    assert before.utcoffset() != after.utcoffset() or before.month != after.month
