"""A schedule: what a run begins with and what befalls it, drawn from a seed. The same seed, the same schedule.

Every schedule has a few processes killed, something wrong with the provider and with the task API; some have fault
points, clocks that step, limits that are reached, a full disk, a power cut. `work.py` draws what is to be done,
`clocks.py` when.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from aitp.demo.faults import FaultKind
from tests.chaos.clocks import DAY, HOUR, ROOM_SECONDS, Clock, draw_eve
from tests.chaos.points import AT_TAKEOVER, COMMON
from tests.chaos.work import Work, draw_strangers, draw_work

ACTIVE_SECONDS = 8.0
LOADS, LOAD_SECONDS = 20, 0.4
MONTH = 31 * DAY
ROOM_AT = (2.5, 5.0)

# What may befall a run: name → how many times in ten schedules.
PROCESSES = {
    "kill_worker": 7,
    "kill_relay": 5,
    "kill_master": 3,
    "kill_metrics": 1,
    "kill_supervisord": 2,
    "kill_everything": 2,
    "power_cut": 3,
    "pause_worker": 2,
    "pause_relay": 1,
    "stop_worker_for_good": 1,
    "pause_master": 1,
    "reload": 1,
}
MACHINE = {"full_disk": 2, "no_descriptors": 1, "no_memory": 1, "step_clock": 3, "no_names": 1}

# Each strikes a request by chance, so that the breakers judge as they would judge a service that stumbles.
PROVIDER_FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"status": 401},
    {"kind": FaultKind.DROP},
    {"kind": FaultKind.RESET},
    {"kind": FaultKind.LOSE},
    {"kind": FaultKind.CUT},
    {"kind": FaultKind.RESET_IN_HEAD},
    {"kind": FaultKind.RESET_IN_BODY},
    {"kind": FaultKind.TOO_SHORT},
    {"kind": FaultKind.TOO_LONG},
    {"kind": FaultKind.HANG},
    {"kind": FaultKind.TRICKLE, "seconds": 1.0},
    {"kind": FaultKind.STALL, "seconds": 1.0},
    {"kind": FaultKind.GARBAGE},
    {"kind": FaultKind.ENDLESS},
    {"kind": FaultKind.WRONG_COUNT},
    {"kind": FaultKind.WRONG_INDEX},
    {"kind": FaultKind.WRONG_LENGTH},
    {"kind": FaultKind.NOT_A_NUMBER},
)
API_FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 502},
    {"status": 408},
    {"status": 425},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"kind": FaultKind.DROP},
    {"kind": FaultKind.RESET},
    {"kind": FaultKind.LOSE},
    {"kind": FaultKind.CUT},
    {"kind": FaultKind.RESET_IN_HEAD},
    {"kind": FaultKind.RESET_IN_BODY},
    {"kind": FaultKind.TOO_SHORT},
    {"kind": FaultKind.TOO_LONG},
    {"kind": FaultKind.HANG},
    {"kind": FaultKind.TRICKLE, "seconds": 1.0},
    {"kind": FaultKind.STALL, "seconds": 1.0},
    {"kind": FaultKind.GARBAGE, "method": "GET"},
    {"kind": FaultKind.ENDLESS, "method": "GET"},
)
AUTHORIZATION_FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"kind": FaultKind.DROP},
    {"kind": FaultKind.GARBAGE},
    {"kind": FaultKind.ENDLESS},
    {"kind": FaultKind.STALL, "seconds": 1.0},
)
REFUSALS = (400, 404, 409, 413, 422)
# What a gateway or a login in front of the task API answers for a while, to deliveries.
GATEWAY_STATUSES = (200, 302, 404, 502)
# Entries a page, whatever is asked for; more than twice those that stay pending, or nobody would ever see the others.
PAGE_CAPS = (30, 60)
BURSTS = ("provider_down", "api_down", "provider_burst", "api_burst", "redirects")


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens `at` seconds after the work began."""

    at: float
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.at:5.2f} s  {self.name} {_told(self.options)}".rstrip()


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run. `loads`: (seconds, tasks); `odd`: with documents that nobody can use; `twins`: with tasks of equal
    text."""

    seed: int
    settings: Mapping[str, Any]
    servers: Mapping[str, Mapping[str, Any]]
    loads: tuple[tuple[float, int], ...]
    acts: tuple[Act, ...]
    work: Work = field(default_factory=Work)
    clock: Clock = field(default_factory=lambda: Clock("UTC"))
    strategy: str = "rolling"
    odd: bool = False
    twins: bool = False
    small_disk: bool = False

    @property
    def workers(self) -> int:
        return int(self.settings["CONCURRENCY_LIMIT"])

    @property
    def max_retries(self) -> int:
        return int(self.settings.get("MAX_RETRIES", 3))

    def __str__(self) -> str:
        tasks = sum(count for _, count in self.loads)
        lines = [f"seed {self.seed}: {tasks} tasks ({', '.join(sorted(set(self.work.types)))}), {self.workers} workers"]
        if self.clock.start_at is not None:
            lines.append(f"  it is {datetime.fromtimestamp(self.clock.start_at, ZoneInfo(self.clock.zone))}")
        lines += [f"  {name}={value}" for name, value in self.settings.items()]
        lines += [f"  {server} {_told(switches)}" for server, switches in self.servers.items()]
        lines += [f"  a bad text of {type_}: {_told(manner)}" for type_, manner in self.work.bad]
        return "\n".join([*lines, *(f"  {act}" for act in self.acts)])


def _told(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    chance, more = random.Random(seed), random.Random(f"{seed} work and clock")
    acts = [*_of_processes(chance), *_of_machine(chance), *_of_network(chance), *_of_points(chance)]
    limit = chance.choice((0, 0, 20, 30))
    strategy = chance.choice(("rolling", "fixed"))
    # Work all the time, or most faults would meet nobody.
    loads = tuple((round(LOAD_SECONDS * number, 2), chance.randint(2, 8)) for number in range(LOADS))
    settings = _settings(chance)
    strange = random.Random(f"{seed} strangers")
    work = draw_strangers(strange, draw_work(more, seed))
    acts += _of_gateways(strange)
    clock = Clock(settings["RATE_LIMIT_TIMEZONE"], {"minute": limit} if limit else {})
    if more.random() < 0.35:
        clock = draw_eve(more)
    acts += _of_work(more, work, acts)
    acts += [Act(at, "step_clock", {"seconds": seconds}) for at, seconds in clock.steps]
    if clock.limits:
        # Time is what frees room: an hour, a day's end and a month's end make room as they should, and no more.
        acts += [Act(at, "step_clock", {"seconds": clock.room_seconds}) for at in ROOM_AT]
    if clock.room_seconds > DAY or any(act.options.get("seconds", 0.0) >= DAY for act in acts):
        # What a server refuses is forgotten after a day: with a day every few seconds nothing would be learned.
        work = replace(work, servers={name: each for name, each in work.servers.items() if name != "openai_api"})
    return Schedule(
        seed,
        {**settings, **work.settings, **_limits(clock, strategy)},
        {
            **work.servers,
            "openai_api": {
                **work.servers.get("openai_api", {}),
                "latency_seconds": chance.choice((0.02, 0.1, 0.3)),
                "fault_seed": seed,
            },
            "task_api": {
                "latency_seconds": chance.choice((0.0, 0.02, 0.1)),
                "lag_seconds": chance.choice((0.0, 0.5, 2.0)),
                "honour_limit": chance.random() < 0.3,
                "repeats": chance.random() < 0.3,
                "page_cap": strange.choice((None, None, *PAGE_CAPS)),
                "fault_seed": seed,
            },
            "authorization": {"lifetime_seconds": chance.choice((4.0, 20.0, 3600.0)), "fault_seed": seed},
        },
        loads,
        tuple(sorted(acts, key=lambda act: act.at)),
        work,
        clock,
        strategy,
        odd=chance.random() < 0.4,
        # Not where a clock goes on by a day or more: results are forgotten then.
        twins=not any(act.options.get("seconds", 0.0) >= DAY for act in acts) and chance.random() < 0.5,
        small_disk=any(act.name == "full_disk" for act in acts),
    )


def _settings(chance: random.Random) -> dict[str, Any]:
    zone = chance.choice(("UTC", "America/Sao_Paulo", "Europe/Lisbon", "Asia/Kathmandu"))
    return {
        "CONCURRENCY_LIMIT": chance.randint(2, 4),
        "RELAY_PROCESSES": chance.randint(1, 3),
        "EMBEDDING_BATCH_SIZE": chance.choice((1, 3, 8)),
        "POLLING_INTERVAL_SECONDS": chance.choice((0.5, 1.0)),
        "REQUEST_TIMEOUT": 1.5,
        "OPENAI_TIMEOUT": 1.5,
        "SHUTDOWN_GRACE_SECONDS": 8,
        "RETRY_BACKOFF_FACTOR": 1,
        "MAX_RETRIES": 4,
        # High: a task that is hit time and again is not to pass for poison.
        "MAX_TASK_CRASHES": 50,
        "CIRCUIT_BREAKER_RECOVERY_SECONDS": 0.7,
        "RATE_LIMIT_TIMEZONE": zone,
    }


def _limits(clock: Clock, strategy: str) -> dict[str, Any]:
    limits = {f"RATE_LIMIT_PER_{period.upper()}": clock.limits.get(period, 0) for period in ROOM_SECONDS}
    enabled = str(bool(clock.limits)).lower()
    return {"RATE_LIMIT_ENABLED": enabled, **limits, "RATE_LIMIT_STRATEGY": strategy, "RATE_LIMIT_TIMEZONE": clock.zone}


def _some(chance: random.Random, weights: Mapping[str, int], most: int) -> list[str]:
    names = [name for name, weight in weights.items() if chance.random() < weight / 10]
    chance.shuffle(names)
    return names[:most]


def _moment(chance: random.Random) -> float:
    return round(chance.uniform(0.3, ACTIVE_SECONDS), 2)


def _of_processes(chance: random.Random) -> list[Act]:
    return [Act(_moment(chance), name) for name in _some(chance, PROCESSES, 4)]


def _of_machine(chance: random.Random) -> list[Act]:
    acts = []
    for name in _some(chance, MACHINE, 2):
        if name == "step_clock":
            # An hour (as by the wrong time zone), a month, a suspend. Changes of the clocks are in clocks.py.
            steps = chance.choice(((HOUR,), (-HOUR,), (HOUR, -HOUR), (-HOUR, HOUR), (MONTH,), (-30.0,), (90.0,)))
            acts += [Act(_moment(chance), name, {"seconds": seconds}) for seconds in steps]
        else:
            acts.append(Act(_moment(chance), name, {"for_seconds": round(chance.uniform(0.5, 2.0), 2)}))
    return acts


def _of_network(chance: random.Random) -> list[Act]:
    acts = []
    for server, faults, most in (
        ("openai_api", PROVIDER_FAULTS, 3),
        ("task_api", API_FAULTS, 3),
        ("authorization", AUTHORIZATION_FAULTS, 1),
    ):
        for fault in chance.sample(faults, chance.randint(0 if most == 1 else 1, most)):
            odds = {"probability": chance.choice((0.1, 0.3, 1.0)), "times": chance.randint(1, 3)}
            acts.append(Act(_moment(chance), "fault", {"server": server, **fault, **odds}))
    for name in chance.sample(BURSTS, chance.randint(0, 2)):
        acts.append(Act(_moment(chance), name, {"for_seconds": round(chance.uniform(0.5, 2.5), 2)}))
    if chance.random() < 0.3:
        acts.append(Act(_moment(chance), "refusal", {"status": chance.choice(REFUSALS)}))
    if chance.random() < 0.2:
        acts.append(Act(_moment(chance), "remove_task"))
    if chance.random() < 0.2:
        acts.append(Act(_moment(chance), "revoke_tokens"))
    return acts


def _of_work(chance: random.Random, work: Work, acts: Sequence[Act]) -> list[Act]:
    """What befalls this work besides. Where Ollama does it all, what befell OpenAI befalls Ollama."""
    more = [Act(_moment(chance), "fault", fault) for fault in work.faults]
    more += [Act(_moment(chance), name, options) for name, options in work.acts]
    if "openai_api" not in work.providers:
        more += [
            Act(act.at + 0.01, act.name, {**act.options, "server": "ollama_api"})
            for act in acts
            if act.name in ("provider_down", "provider_burst")
        ]
    return more


def _of_gateways(chance: random.Random) -> list[Act]:
    if chance.random() > 0.4:
        return []
    options = {"status": chance.choice(GATEWAY_STATUSES), "seconds": round(chance.uniform(1.0, 4.0), 2)}
    return [Act(_moment(chance), "gateway", options)]


def _of_points(chance: random.Random) -> list[Act]:
    acts = []
    for point in chance.sample(COMMON, chance.randint(0, 3)):
        action = chance.choice(("kill", "kill", "kill", "memory", "descriptors"))
        acts.append(Act(_moment(chance), "point", {"point": point, "action": action}))
    if chance.random() < 0.3:
        at = _moment(chance)
        acts.append(Act(at, "point", {"point": chance.choice(AT_TAKEOVER), "action": "kill"}))
        acts.append(Act(at + 0.1, "kill_worker"))
    return acts
