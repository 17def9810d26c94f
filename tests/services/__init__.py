"""The real servers on loopback that every test speaks to. Fixtures (tests/conftest.py) start them on free ports.

In a thread of the test process: quick, and everything is an attribute.

    def test_a_task_is_embedded(task_api, authorization, openai_api):
        [task_id] = task_api.add([a_task("Brasília foi inaugurada em 1960.")])
        ...  # run something with environment(task_api, authorization, openai_api)
        assert task_api.state(task_id) == "succeeded"
        assert same_vector(task_api.result(task_id), openai_api.expected("Brasília foi inaugurada em 1960."))

`task_api`       .url .add(documents) .state(id) .states() .result(id) .deliveries .deliveries_of(id) .remove(id);
                 switches: .honour_limit .lag_seconds .latency_seconds .list_seconds .body_limit_bytes .throttle
                 .redirect_unknown .introspection_down .broken_targets (ids) .follow_up (document -> documents)
`authorization`  .token_url .client_id .client_secret .issue() .active(token) .revoke_all() .issued .issues .refusals;
                 switches: .lifetime_seconds .expires_in (announced, if it is to differ)
`openai_api`     .base_url .key .bad_marker .purchases .times_bought() .times_answered() .expected(text, model, n)
all three        .exchanges (every request) .in_flight .most_at_once .faults .latency_seconds .stop() .start()
                 .down_for(seconds)
Who has an answer finds it in the record; what another process was answered, `wait_until` it is there.

Faults, the same for all three (aitp/demo/faults.py):

    openai_api.faults.add(Fault(path="/v1/embeddings", status=500, times=3))
    openai_api.faults.add(Fault(status=429, headers={"Retry-After": "2"}, probability=0.1))
    openai_api.faults.add(Fault(kind=FaultKind.WRONG_COUNT, skip=1, times=1))
    task_api.faults.add(Fault(method="PATCH", kind=FaultKind.LOSE, times=1))    # stored, acknowledgement lost
    task_api.faults.add(Fault(kind=FaultKind.DROP, for_seconds=60))             # accepts and closes for a minute
    task_api.down_for(60)                                                       # connection refused for a minute

`faults.times_struck(fault)` says how often one struck. All three together in threads: `aitp.demo.world.World`.

As a process of their own, for tests that fork, kill or measure CPU (a forked child would inherit the listening
sockets of servers in threads):

    with WorldProcess({"tasks": 200, "openai_api": {"latency_seconds": 0.5}}) as world:     # aitp/demo/world_process.py
        ...  # world.environment; .add_fault(server, fault) .set(server, switch=value) .down(server, seconds)
        ...  # .add_tasks(n) .add_documents([...]) .revoke_tokens() .purchases() .deliveries() .exchanges(server)
        wait_until(lambda: world.states() == {"succeeded": 200})
        assert world.summary().wrong_results == 0
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable
from typing import Any

from aitp.demo.world import environment

__all__ = ["a_task", "environment", "same_vector"]

_numbers = itertools.count(1)


def a_task(text: str = "The Danube flows through ten countries.", **fields: Any) -> dict[str, Any]:
    """A task document with an id of its own; any field may be given or replaced (`content=…`, `type=…`)."""
    document = {
        "_id": f"{next(_numbers):024x}",
        "type": "text_embedding",
        "state": "pending",
        "content": {"text": text, "model": "text-embedding-3-small"},
        "callbackRoute": "verification_update_embedding",
        "callbackParams": {"targetId": "65f000000000000000000001", "field": "embedding"},
        "createdAt": "2025-03-01T12:00:00.000Z",
        "__v": 0,
    }
    return document | fields


def same_vector(one: Iterable[float], other: Iterable[float]) -> bool:
    """Whether two vectors are equal as float32: what is delivered is written with the shortest float32 digits."""
    return array("f", one) == array("f", other)
