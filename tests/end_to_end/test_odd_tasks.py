"""Documents and results that nobody can do anything with cost the others nothing, and are told once."""

from __future__ import annotations

import json

from aitp.demo.faults import Fault
from aitp.demo.openai_api import BAD_MARKER
from aitp.ledger.inbox import Poll, PollOptions
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.tasks import NewTask, QueueKey
from tests.end_to_end.running import Service
from tests.services import a_task


def test_what_cannot_be_read_stays_pending_and_is_told_once(service: Service) -> None:
    world = service.open_world(10)
    [unknown, nameless] = world.add_documents([a_task(type="telepathy"), a_task(_id="not / an id")])
    service.start()
    service.start_metrics()
    service.await_states(succeeded=10, pending=2)

    def polls() -> int:
        return sum(exchange.method == "GET" for exchange in world.exchanges("task_api"))

    first = polls()
    service.wait(lambda: polls() >= first + 2, what="no more polls")

    told = {line["task_id"]: line["reason"] for line in service.said("Document cannot be read, it stays pending")}
    assert "telepathy" in told.pop(unknown)
    assert list(told.values()) == ["it has no usable _id"]
    assert {unknown, nameless}.isdisjoint(delivery.task_id for delivery in world.deliveries())
    assert (service.get("/ready") or (0, ""))[0] == 200  # such leftovers are no reason to worry


def test_tasks_of_a_type_whose_package_was_removed_wait_and_stop_no_others(service: Service) -> None:
    world = service.open_world()
    [orphaned] = world.add_documents([a_task(type="telepathy")])
    prepare(service.ledger_path, strategy="rolling", timezone="UTC", limits={})
    ledger = Ledger.open(service.ledger_path, LedgerConfig())
    poll = ledger.inbox.begin_poll(1, PollOptions(1, 1, 1))
    assert isinstance(poll, Poll)
    ledger.inbox.admit(poll, [NewTask(orphaned, QueueKey("telepathy", "crystal-ball"), b'{"text": "what?"}')])
    ledger.inbox.fail_poll(poll, "the service was stopped")
    ledger.close()

    service.start(CONCURRENCY_LIMIT=2)
    world.add_tasks(5)

    service.await_states(succeeded=5, pending=1)
    assert service.said("Child died") == []
    assert service.said("Task type is not registered any more, its tasks wait", task_type="telepathy")
    service.wait(lambda: service.snapshot().held == 1)  # a delivery is on record just after the task API has it


def test_invalid_content_of_a_known_type_is_failed_with_a_reason(service: Service) -> None:
    world = service.open_world(10)
    contents = ["", {"text": ""}, {"text": "x" * 10_001}, {"model": "text-embedding-3-small"}, None]
    invalid = world.add_documents([a_task(content=content) for content in contents])

    service.start()

    service.await_states(succeeded=10, failed=len(invalid))
    assert {d.task_id for d in world.deliveries() if d.state == "failed"} == set(invalid)
    assert len(world.purchases()) == 10
    assert service.said("Task processing failed") == []  # nobody tried


def test_a_lone_invalid_task_is_failed_too(service: Service) -> None:
    world = service.open_world()
    service.start()

    world.add_documents([a_task(content="")])

    service.await_states(failed=1)


def test_one_bad_text_in_a_batch_fails_alone(service: Service) -> None:
    world = service.open_world(15)
    [bad] = world.add_documents([a_task(f"This one is {BAD_MARKER}.")])

    service.start(CONCURRENCY_LIMIT=1, EMBEDDING_BATCH_SIZE=16)

    service.await_states(succeeded=15, failed=1)
    [failed] = [delivery for delivery in world.deliveries() if delivery.state == "failed"]
    assert failed.task_id == bad
    assert world.summary().bought_again == 0


def test_a_page_that_is_mostly_unreadable_fails_nothing_and_is_told(service: Service) -> None:
    world = service.open_world(9)
    world.add_documents([a_task(content={"prompt": "in another form"}) for _ in range(11)])
    service.start()
    service.start_metrics()

    service.await_states(succeeded=9, pending=11)
    told = "11 of 20 pending documents cannot be read: none of them is failed"
    assert service.said("Most of the pending documents cannot be read", reason=told)
    service.wait(lambda: len(world.exchanges("task_api")) > 9 + 4, what="no more polls")
    assert len(service.said("Most of the pending documents cannot be read")) <= 2  # each relay once
    status, body = service.get("/ready") or (0, "")
    assert status == 503
    assert "cannot be read" in body
    assert all(delivery.state == "succeeded" for delivery in world.deliveries())

    world.add_tasks(20)  # now they are the lesser part

    service.await_states(succeeded=29, failed=11)
    service.wait(lambda: (service.get("/ready") or (0, ""))[0] == 200, what="not ready")


def test_a_dead_letter_is_seen_retried_and_dropped(service: Service) -> None:
    world = service.open_world(3, task_api={"body_limit_bytes": 4_000})  # a vector has 12 kB: 413
    service.start()
    service.wait(lambda: service.snapshot().dead == 3, what="no dead letters")
    assert world.states() == {"pending": 3}

    code, listed = service.ask("dead", "list", "--json")
    letters = json.loads(listed)
    assert (code, len(letters)) == (0, 3)
    assert all("413" in letter["refusal"] and letter["status"] == "succeeded" for letter in letters)
    one, two, three = (letter["id"] for letter in letters)
    code, shown = service.ask("dead", "show", one, "--json")
    assert (code, len(json.loads(shown)["result"])) == (0, 1024)

    world.set("task_api", body_limit_bytes=102_400)
    assert service.ask("dead", "retry", one, two)[0] == 0
    service.await_states(succeeded=2, pending=1)
    assert service.ask("dead", "drop", "--yes", three)[0] == 0

    assert json.loads(service.ask("dead", "list", "--json")[1]) == []
    assert service.ask("dead", "retry", three)[0] == 1
    assert world.summary().bought_again == 0
    assert world.summary().wrong_results == 0


def test_a_result_that_the_callback_refuses_is_not_sent_again(service: Service) -> None:
    world = service.open_world(5)
    world.add_fault("task_api", Fault(method="PATCH", status=400, times=1))

    service.start()
    service.wait(lambda: service.snapshot().dead == 1 and service.snapshot().held == 0, what="no dead letter")

    assert world.states() == {"succeeded": 4, "pending": 1}
    assert len(service.said("Result refused, kept as a dead letter")) == 1
    assert sum(exchange.method == "PATCH" for exchange in world.exchanges("task_api")) == 5
