"""The real servers on loopback that every test speaks to. Fixtures (tests/conftest.py) start them on free ports.

In a thread of the test process: quick, and everything is an attribute.

    def test_a_refused_result_is_a_dead_letter(task_api, authorization, openai_api):
        [task_id] = task_api.add([a_task("Brasília foi inaugurada em 1960.")])
        ...  # run something with environment(task_api, authorization, openai_api)
        assert task_api.state(task_id) == "succeeded"
        assert task_api.result(task_id) == openai_api.expected("Brasília foi inaugurada em 1960.")

`task_api`       .url .add(documents) .state(id) .states() .result(id) .deliveries .deliveries_of(id) .remove(id);
                 switches: .honour_limit .lag_seconds .latency_seconds .list_seconds .body_limit_bytes .throttle
                 .redirect_unknown .introspection_down .broken_targets (ids) .follow_up (document -> documents)
`authorization`  .token_url .client_id .client_secret .issue() .active(token) .revoke_all() .issued .issues .refusals;
                 switches: .lifetime_seconds .expires_in (announced, if it is to differ)
`openai_api`     .base_url .key .bad_marker .purchases .times_bought() .times_answered() .expected(text, model, n)
all three        .exchanges (every request) .most_at_once .faults .latency_seconds .stop() .start() .down_for(seconds)

Faults, the same for all three (aitp/demo/faults.py):

    openai_api.faults.add(Fault(path="/v1/embeddings", status=500, times=3))
    openai_api.faults.add(Fault(status=429, headers={"Retry-After": "2"}, probability=0.1))
    openai_api.faults.add(Fault(kind=FaultKind.WRONG_COUNT, skip=1, times=1))
    task_api.faults.add(Fault(method="PATCH", kind=FaultKind.LOSE, times=1))    # stored, acknowledgement lost
    task_api.faults.add(Fault(kind=FaultKind.DROP, for_seconds=60))             # accepts and closes for a minute
    task_api.down_for(60)                                                       # connection refused for a minute

As a process of their own, for tests that fork, kill or measure CPU: `aitp.demo.world.WorldProcess`. A test that
forks must use that one: a child would inherit the listening sockets of servers in threads.

A fault that strikes `times` in a test with the right answer afterwards is `faults.times_struck(fault)`.
"""

from __future__ import annotations

import itertools
from typing import Any

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.openai_api import OpenAIApi
from aitp.demo.task_api import TaskApi

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


def environment(task_api: TaskApi, authorization: AuthorizationServer, openai_api: OpenAIApi) -> dict[str, str]:
    """The settings that point aitp at these servers."""
    return {
        "API_BASE_URL": task_api.url,
        "OAUTH2_TOKEN_URL": authorization.token_url,
        "OAUTH2_CLIENT_ID": authorization.client_id,
        "OAUTH2_CLIENT_SECRET": authorization.client_secret,
        "OPENAI_BASE_URL": openai_api.base_url,
        "OPENAI_API_KEY": openai_api.key,
    }
