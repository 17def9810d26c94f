"""Schedules for several hosts on one PostgreSQL: `bin/test --chaos --fleet --runs N --seed S`.

What befalls one host's processes befalls a host's, drawn anew each time; and there is more: the server is killed and
started again, or stands still; a host's line to it is cut; a host is lost for a while, or stands still for longer than
the grace and goes on, with calls in flight whose tasks are others' by then; the hosts' clocks are minutes apart. The
checker is the one of a single host. Clocks are the server's, which nobody sets, so time passes as it does: there are
limits by the minute alone, and no texts that take hours to be told from a bad world.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from aitp.ledger.engine import Place
from aitp.tasks import Fleet
from tests.chaos import gathering
from tests.chaos.acts import Acts, Undo, tell
from tests.chaos.checker import violations
from tests.chaos.clocks import Clock
from tests.chaos.record import Record
from tests.chaos.run import Performance, Result
from tests.chaos.schedule import Act, Schedule, draw
from tests.chaos.stage import Stage
from tests.chaos.work import Work
from tests.services.line import Line, dial_unix
from tests.services.postgres import PostgreSQL, postgres_server

GRACE_SECONDS = 4.0
# Of the acts of one host, what has a sense here: its disk is not the ledger's, its clock decides nothing.
OF_ONE_HOST = frozenset({
    *("kill_worker", "kill_relay", "kill_master", "kill_metrics", "kill_supervisord", "pause_worker", "pause_relay"),
    *("stop_worker_for_good", "pause_master", "reload", "fault", "provider_down", "api_down", "provider_burst"),
    *("api_burst", "redirects", "refusal", "remove_task", "revoke_tokens", "no_descriptors"),
})  # fmt: skip
OF_FLEETS = {"restart_server": 5, "stop_server": 4, "cut_line": 5, "suspend_host": 5, "lose_host": 6, "clocks_apart": 4}
OF_OTHERS = ("OLLAMA", "SUPPORTED", "HYBRID")  # settings
LIMITS = (0, 0, 60, 90)
CALM_SECONDS = 240.0


class Host(Stage):
    """One host's stage. `suspended`: its processes that stood still, and since when others might take them for dead."""

    def __init__(self, directory: Path, server: PostgreSQL, name: str) -> None:
        directory.mkdir()
        super().__init__(directory)
        self._server = server
        dial = partial(dial_unix, server.folder / f".s.PGSQL.{server.port}")
        self.line = Line(socket.create_server(("127.0.0.1", 0)), dial)
        url = f"postgresql://aitp@127.0.0.1:{self.line.port}/postgres?sslmode=disable"
        self.configure(LEDGER_URL=url, HOST_NAME=name, HOST_GRACE_SECONDS=20)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CHAOS_GRACE_SECONDS": str(GRACE_SECONDS)}

    def join(self, other: Stage) -> None:
        """Work for the same task API, with the same providers."""
        self._world = other.world
        self.configure(**other.world.environment)

    @property
    def place(self) -> Place:
        return Fleet(SecretStr(self._server.url), "aitp", "the suite", 60.0, self.runtime_dir / "fleet", "the fleet's")

    def taken_for_dead(self) -> None:
        """Others may release what these processes have in hand."""
        self.note_deaths(self.pids())

    def clear(self) -> None:
        self.line.mend()
        super().clear()
        self.line.close()


class FleetActs(Acts):
    """What befalls a fleet. Each act is some host's."""

    def __init__(self, hosts: Sequence[Host], server: PostgreSQL, chance: random.Random) -> None:
        super().__init__(hosts[0], chance)
        self._hosts = hosts
        self._server = server
        self.server_deaths: list[tuple[float, float]] = []

    def perform(self, name: str, options: Any) -> Undo | None:
        self._stage = self._chance.choice(self._hosts)
        return super().perform(name, options)

    def _kill_supervisord(self) -> None:
        if self._stage.process is not None and self._stage.process.poll() is None:
            super()._kill_supervisord()

    def _restart_server(self) -> None:
        killed = time.monotonic()
        self._server.restart()
        self.server_deaths.append((killed, time.monotonic()))

    def _stop_server(self, seconds: float) -> None:
        with self._server.stopped():
            time.sleep(seconds)

    def _cut_line(self) -> Undo:
        host = self._some_host()
        host.taken_for_dead()
        host.line.cut()

        def mend() -> None:
            host.taken_for_dead()
            host.line.mend()

        return mend

    def _suspend_host(self) -> Undo:
        host = self._some_host()
        pids = host.pids()
        host.taken_for_dead()
        for pid in pids:
            tell(pid, signal.SIGSTOP)

        def resume() -> None:
            host.taken_for_dead()
            for pid in pids:
                tell(pid, signal.SIGCONT)

        return resume

    def _lose_host(self) -> Undo:
        host = self._some_host()
        host.taken_for_dead()
        host.kill_everything()
        return lambda: host.start("run", wait=False)

    def _clocks_apart(self, seconds: float) -> None:
        self._some_host().controls.step_clock(seconds)

    def _some_host(self) -> Host:
        assert isinstance(self._stage, Host)
        return self._stage


class FleetPerformance(Performance):
    """A schedule on the stages of its hosts."""

    def __init__(self, hosts: Sequence[Host], server: PostgreSQL, schedule: Schedule) -> None:
        super().__init__(hosts[0], schedule)
        self._hosts = hosts
        self._server = server
        self._acts: FleetActs = FleetActs(hosts, server, self._chance)

    def begin(self) -> None:
        first, *others = self._hosts
        first.open_world(0, **self._schedule.servers)
        self.load(self._schedule.loads[0][1])
        first.start("run", **self._schedule.settings)
        for host in others:
            host.join(first)
            host.start("run", **self._schedule.settings)

    def conclude(self) -> list[str]:
        for host in self._hosts:
            self.figures["points left"] += len(host.controls.disarm())
        give_up = time.monotonic() + CALM_SECONDS
        while not self._all_is_calm():
            assert time.monotonic() < give_up, f"not calm after {CALM_SECONDS:g} s\n{self._how_things_stand()}"
            for host in self._hosts:
                assert host.process is not None
                assert host.process.poll() is None, f"a service ended by itself with {host.process.returncode}"
            time.sleep(0.2)
        self._hosts[0].world.clear_faults()
        record = self._gather()
        self._count(record)
        return violations(record)

    def _gather(self) -> Record:
        hosts, schedule = self._hosts, self._schedule
        exit_codes = [host.stop() for host in hosts]
        ahead = time.time() - time.monotonic()
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute("SET search_path = aitp")
            held: dict[str, str] = dict(
                connection.execute("SELECT id, state FROM tasks WHERE state <> 'dead'").fetchall()
            )
            dead: dict[str, str] = dict(
                connection.execute(
                    "SELECT id, COALESCE(refusal, '') FROM tasks JOIN results USING (seq) WHERE state = 'dead'"
                ).fetchall()
            )
        purchases = [gathering.purchases(hosts[0], provider, ()) for provider in ("openai", "ollama")]
        journal = sorted((line for host in hosts for line in host.controls.journal()), key=lambda line: line["at"])
        logs = [host.log() for host in hosts]
        return Record(
            documents=self._documents,
            buys=[buy for bought, _ in purchases for buy in bought],
            patches=gathering.patches(hosts[0]),
            states=hosts[0].world.states_by_id(),
            journal=journal,
            deaths=[
                *(death for host in hosts for death in host.deaths),
                *(death for log in logs for death in gathering.deaths_in(log, ahead)),
            ],
            workers=schedule.workers * len(hosts),
            max_retries=schedule.max_retries,
            most_calls_at_once=0,  # an orphan of a host that was lost may end its call beside its successor
            server_deaths=self._acts.server_deaths,
            troubles=[trouble for host in hosts for trouble in host.troubles],
            wall_minus_monotonic=ahead,
            limits=schedule.clock.limits,
            strategy=schedule.strategy,
            zone=schedule.clock.zone,
            wrong_results=hosts[0].world.wrong_results(),
            held=held,
            dead=dead,
            redirected=sum(exchange.authorized for host in hosts for exchange in host.elsewhere.exchanges),
            exit_code=max(exit_codes),
            leftovers=[f"process {pid} is left" for host in hosts for pid in host.pids()],
            uncaught=[found for log in logs for found in gathering.uncaught(log)],
        )


def draw_fleet(seed: int) -> Schedule:
    """The schedule of a seed: a single host's, without what has no sense here, and with what befalls fleets."""
    chance = random.Random(f"{seed} fleet")
    one = draw(seed)
    acts = [act for act in one.acts if act.name in OF_ONE_HOST and act.options.get("server") != "ollama_api"]
    for name, weight in OF_FLEETS.items():
        if chance.random() < weight / 10:
            at = round(chance.uniform(0.5, 8.0), 2)
            options: dict[str, Any] = {}
            if name == "stop_server":
                options["seconds"] = round(chance.uniform(0.5, 6.0), 2)
            elif name == "clocks_apart":
                options["seconds"] = chance.choice((-300.0, -45.0, 90.0, 600.0))
            elif name != "restart_server":
                options["for_seconds"] = round(chance.uniform(1.0, 3 * GRACE_SECONDS), 2)
            acts.append(Act(at, name, options))
    limit = chance.choice(LIMITS)
    settings = {
        **{name: value for name, value in one.settings.items() if not name.startswith(OF_OTHERS)},
        **dict.fromkeys((f"RATE_LIMIT_PER_{period}" for period in ("HOUR", "DAY", "WEEK", "MONTH")), 0),
        "PROCESSING_MODE": "openai",
        "RATE_LIMIT_ENABLED": str(bool(limit)).lower(),
        "RATE_LIMIT_PER_MINUTE": limit,
        "METRICS_HOST": "127.0.0.1",
    }
    servers = {
        name: {key: value for key, value in one.servers.get(name, {}).items() if key not in ("refuses", "serves")}
        for name in ("openai_api", "task_api", "authorization")
    }
    return replace(
        one,
        settings=settings,
        servers={
            **servers,
            "openai_api": {key: servers["openai_api"][key] for key in ("latency_seconds", "fault_seed")},
        },
        acts=tuple(sorted(acts, key=lambda act: act.at)),
        work=Work(),
        clock=Clock(one.clock.zone, {"minute": limit} if limit else {}),
        odd=False,
        twins=False,
        small_disk=False,
    )


def run_fleet(seed: int) -> Result:
    """The schedule of a seed, on two or three hosts."""
    schedule = draw_fleet(seed)
    directory = Path(tempfile.mkdtemp(prefix=f"aitp-chaos-fleet-{seed}-"))
    began = time.monotonic()
    hosts: list[Host] = []
    broken: Sequence[str] = ()
    figures: Any = {}
    with postgres_server(fsync="on", full_page_writes="on") as server:
        try:
            names = ("one", "two", "three")[: 2 + seed % 2]
            hosts += [Host(directory / name, server, name) for name in names]
            performance = FleetPerformance(hosts, server, schedule)
            figures = performance.figures
            broken = performance.play()
        except Exception as error:  # noqa: BLE001 (the border of a run: the others go on)
            broken = [f"the run did not come to its end: {type(error).__name__}: {str(error)[-6000:]}"]
        finally:
            for host in hosts[::-1]:
                host.clear()
    if not broken:
        shutil.rmtree(directory, ignore_errors=True)
    with suppress(KeyError):
        figures["hosts"] += len(hosts)
    return Result(seed, broken, time.monotonic() - began, figures, directory if broken else None)
