"""Whether a demo kept its promises: by what the servers saw, and by when the service said a result was recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from aitp.demo.sentences import text_of
from aitp.demo.world_process import WorldProcess
from aitp.ledger.stats import snapshot
from aitp.tasks import Place

# Log lines of other programs (supervisord) are not JSON.
LINE = re.compile(rb"^\{.*\}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures of the summary, and what was wrong: nothing, if the promises were kept."""

    tasks: int
    succeeded: int
    failed: int
    seconds: float
    calls: int
    texts_bought: int
    bought_again: int
    bought_after_record: int
    delivered_again: int
    tokens: int
    put_back: int
    deliveries_retried: int
    faults_struck: int
    most_calls_at_once: int
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()


def judge(
    world: WorldProcess,
    log: Path,
    ledger: Place,
    documents: Sequence[Mapping[str, Any]],
    seconds: float,
    seen_all: bool,
    lost: int = 0,
) -> Verdict:
    """Look at everything once the tasks are through. `seen_all`: no other provider than the world's was asked.

    `lost`: texts that may have been in calls of processes that were killed.
    """
    seen = world.summary()
    lines = list(lines_of(log.read_bytes()))
    recorded = {
        line["task_id"]: datetime.fromisoformat(line["timestamp"]).timestamp()
        for line in lines
        if line.get("event") == "Task processing completed"
    }
    tasks = len(documents)
    purchases = [*world.purchases(), *world.purchases(server="ollama_api")]
    task_of = {text_of(document): document["_id"] for document in documents}
    after = sum(
        purchase.status == 200 and purchase.received_wall > recorded.get(task_of.get(purchase.text, ""), float("inf"))
        for purchase in purchases
    )
    succeeded = seen.states.get("succeeded", 0)
    wrong = []
    if succeeded != tasks:
        wrong.append(f"{tasks - succeeded} of {tasks} tasks did not succeed")
    if seen.wrong_results and seen_all:
        wrong.append(f"{seen.wrong_results} results are not what the providers answered")
    if after or seen.bought_after_delivery:
        wrong.append(
            f"{max(after, seen.bought_after_delivery)} texts were bought again after their answer was recorded"
        )
    if seen.bought_again > lost and not seen.faults_struck:
        wrong.append(f"{seen.bought_again} texts were bought twice")
    return Verdict(
        tasks=tasks,
        succeeded=succeeded,
        failed=seen.states.get("failed", 0),
        seconds=seconds,
        calls=seen.calls,
        texts_bought=seen.texts_bought,
        bought_again=seen.bought_again,
        bought_after_record=after,
        delivered_again=seen.delivered_again,
        tokens=sum(line.get("tokens", 0) for line in lines if line.get("event") == "Provider call completed"),
        put_back=sum(line.get("event") == "Task put back" for line in lines),
        deliveries_retried=sum(line.get("event") == "Result could not be delivered, it waits" for line in lines),
        faults_struck=seen.faults_struck,
        most_calls_at_once=seen.most_calls_at_once,
        limits={name: (use.current, use.limit) for name, use in snapshot(ledger).limits.items()},
        wrong=tuple(wrong),
    )


def lines_of(log: bytes) -> Iterator[dict[str, Any]]:
    """What the service itself has logged."""
    for match in LINE.finditer(log):
        try:
            line = orjson.loads(match.group())
        except orjson.JSONDecodeError:
            continue
        if isinstance(line, dict):
            yield line
