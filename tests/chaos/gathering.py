"""Gathering the record: from the servers, the journal, the log, the ledger and what is left on the machine."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
import orjson

from aitp.demo.faults import FaultKind
from aitp.ledger.locks import QUEUE_BYTE, SlotLocks
from aitp.process.scoreboard import LAST_SLOT
from tests.chaos.record import Buy, Fate, Patch, Record, Sent
from tests.chaos.schedule import Schedule
from tests.chaos.stage import Stage

# What spoils an answer although its status is 200 and all of it arrived: any, vectors, or what a chat model says.
SPOILT = frozenset({FaultKind.GARBAGE, FaultKind.TOO_SHORT, FaultKind.TRICKLE, FaultKind.STALL})
SPOILT_VECTORS = SPOILT | {
    *(FaultKind.WRONG_COUNT, FaultKind.WRONG_INDEX, FaultKind.WRONG_LENGTH, FaultKind.NOT_A_NUMBER)
}
# What is wrong with an answer in a chat. The model itself says with the first that it is the text.
UNUSABLE = frozenset({
    *(FaultKind.REFUSAL, FaultKind.CUT_ANSWER, FaultKind.NO_JSON, FaultKind.OUT_OF_LIST, FaultKind.EMPTY)
})  # fmt: skip
CHATS = frozenset({"/v1/chat/completions", "/api/chat"})
# What may be there after an orderly stop.
KEPT = re.compile(
    r"data/ledger\.db(\.lock|-wal|-shm)?|run/(scoreboard|token|token\.lock|models(\.\w+)*)"
    r"|run/metrics/(.*\.db(\.damaged)?|known\.json)"
)


def gather(stage: Stage, schedule: Schedule, documents: Sequence[Sent], scrape: str) -> Record:
    """Stop the service, and gather all there is to judge it by."""
    truth = _truth(stage.ledger_path, stage.controls.offset)
    gauges = {name: value for name, value in _samples(scrape) if name in truth}
    exit_code = stage.stop()
    ahead = time.time() - time.monotonic()
    held, dead, unreadable = _ledger(stage.ledger_path)
    buys, declined = [], set[str]()
    bad = {document.text for document in documents if document.fate is Fate.FAILS}
    for provider in ("openai", "ollama"):
        bought, refused = purchases(stage, provider, bad)
        buys += bought
        declined |= refused
    journal = stage.controls.journal()
    summary = stage.world.summary()
    return Record(
        documents=documents,
        buys=buys,
        patches=patches(stage),
        states=stage.world.states_by_id(),
        journal=journal,
        deaths=[*stage.deaths, *deaths_in(stage.log(), ahead), *_deaths_at_points(journal)],
        workers=schedule.workers,
        max_retries=schedule.max_retries,
        most_calls_at_once=summary.most_calls_at_once,
        power_cuts=stage.power_cuts,
        troubles=[*stage.troubles, *_troubles_at_points(journal)],
        clock=stage.controls.steps,
        wall_minus_monotonic=ahead,
        limits=schedule.clock.limits,
        strategy=schedule.strategy,
        zone=schedule.clock.zone,
        declined=frozenset(declined),
        wrong_results=stage.world.wrong_results(),
        held=held,
        dead=dead,
        unreadable=frozenset(unreadable),
        redirected=sum(exchange.authorized for exchange in stage.elsewhere.exchanges),
        exit_code=exit_code,
        leftovers=list(_leftovers(stage)),
        gauges=gauges,
        truth=truth,
        uncaught=uncaught(stage.log()),
    )


def patches(stage: Stage) -> list[Patch]:
    """What was delivered."""
    return [
        Patch(
            delivery.task_id,
            delivery.state,
            delivery.status,
            delivery.whole,
            delivery.received_monotonic,
            delivery.answered_monotonic,
        )
        for delivery in stage.world.deliveries()
    ]


def purchases(stage: Stage, provider: str, bad: Collection[str]) -> tuple[list[Buy], set[str]]:
    """What one of them worked on, and the texts that it declined."""
    exchanges = {exchange.number: exchange for exchange in stage.world.exchanges(f"{provider}_api")}
    buys = []
    declined = set[str]()
    for purchase in stage.world.purchases(server=f"{provider}_api"):
        exchange = exchanges[purchase.call]
        chat, paid = exchange.path in CHATS, purchase.status == 200
        spoils = SPOILT | UNUSABLE if chat else SPOILT_VECTORS
        zeros = exchange.fault == FaultKind.ZEROS and purchase.text in bad
        clean = paid and purchase.answered and exchange.fault not in spoils and not zeros
        at, ended = purchase.received_monotonic, purchase.ended_monotonic
        buys.append(Buy(purchase.text, purchase.call, paid, clean, at, ended, provider, chat, purchase.status == 404))
        if chat and exchange.fault == FaultKind.REFUSAL:
            declined.add(purchase.text)
    return buys, declined


def deaths_in(log: str, ahead: float) -> Iterable[tuple[int, float]]:
    """Children that a master has seen die, and when."""
    for line in _lines(log):
        if line.get("event") == "Child died":
            yield int(line["pid"]), datetime.fromisoformat(line["timestamp"]).timestamp() - ahead


def _deaths_at_points(journal: Sequence[Any]) -> Iterable[tuple[int, float]]:
    """Killed there, or left with an answer because it could not be recorded: perhaps when no master lived to say so."""
    for line in journal:
        if line["step"] == "struck" and (line["action"] == "kill" or line["point"].startswith("finish.")):
            yield int(line["pid"]), float(line["at"])


def _troubles_at_points(journal: Sequence[Any]) -> Iterable[tuple[float, float]]:
    for line in journal:
        if line["step"] == "struck" and line["action"] in ("memory", "descriptors"):
            yield float(line["at"]), float(line["at"])


def uncaught(log: str) -> list[str]:
    """Errors that nobody foresaw. What this machine's troubles raise is foreseen."""
    found = []
    for line in _lines(log):
        if line.get("event") in ("Unexpected error", "Child failed", "Child could not start"):
            found.append(f"{line['event']}: {str(line.get('exception', ''))[-1500:]}")
    return found


def _lines(log: str) -> Iterable[dict[str, Any]]:
    for line in log.splitlines():
        if line.startswith("{"):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                continue


def _open(ledger: Path) -> apsw.Connection:
    return apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)


def _ledger(path: Path) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """(held: id → state, dead: id → reason, unreadable ids)."""
    connection = _open(path)
    try:
        held = dict(connection.execute("SELECT id, state FROM tasks WHERE state != 'dead'"))
        dead = dict(
            connection.execute(
                "SELECT id, COALESCE(refusal, '') FROM tasks JOIN results ON results.seq = tasks.seq"
                " WHERE state = 'dead'"
            )
        )
        unreadable = [str(task_id) for (task_id,) in connection.execute("SELECT id FROM malformed")]
        return held, dead, unreadable
    finally:
        connection.close()


def _truth(path: Path, offset: float) -> dict[str, float]:
    """What the gauges must say, counted row by row."""
    connection = _open(path)
    try:

        def count(sql: str, *bindings: Any) -> float:
            return float(connection.execute(sql, bindings).get)

        truth = {
            "ai_tasks_in_flight": count("SELECT COUNT(*) FROM tasks WHERE state = 'claimed'"),
            'aitp_queue_tasks{state="ready"}': count(
                "SELECT COUNT(*) FROM tasks WHERE state = 'ready' AND due_at IS NULL"
            ),
            'aitp_queue_tasks{state="waiting"}': count(
                "SELECT COUNT(*) FROM tasks WHERE state = 'ready' AND due_at IS NOT NULL"
            ),
            "aitp_outbox_results": count("SELECT COUNT(*) FROM tasks WHERE state = 'finished'"),
            "aitp_dead_letters": count("SELECT COUNT(*) FROM tasks WHERE state = 'dead'"),
            "aitp_unreadable_documents": count("SELECT COUNT(*) FROM malformed"),
        }
        for service, state in connection.execute("SELECT service, state FROM breakers"):
            truth[f'circuit_breaker_state{{service="{service}"}}'] = {"closed": 0.0, "open": 1.0}.get(state, 2.0)
        return truth
    finally:
        connection.close()


def _samples(scrape: str) -> Iterable[tuple[str, float]]:
    for line in scrape.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


def _leftovers(stage: Stage) -> Iterable[str]:
    """Processes, locks, files and sockets that an orderly stop should have left to nobody."""
    for pid in stage.pids():
        yield f"process {pid} is left: {_command(pid)}"
    locks = SlotLocks(stage.ledger_path)
    try:
        for slot in (*range(LAST_SLOT + 1), QUEUE_BYTE):
            if (holder := locks.holder(slot)) is not None:
                yield f"slot {slot} is still locked by {holder}"
    finally:
        locks.close()
    for folder in (stage.ledger_path.parent, stage.runtime_dir):
        for path in folder.rglob("*"):
            name = f"{folder.name}/{path.relative_to(folder)}"
            # What a full disk kept supervisord from writing, it does not take for its own, and writes over next time.
            unwritten = name == "run/supervisord.pid" and not path.stat().st_size
            if not path.is_dir() and not KEPT.fullmatch(name) and not unwritten:
                yield f"{name} is left"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "gone by now"
