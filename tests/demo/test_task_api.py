"""The task API behaves as CONTRACT section 1 says."""

from __future__ import annotations

import time
from typing import Any

import pytest

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.task_api import TaskApi
from tests.demo.talking import patch, pending, session
from tests.services import a_task
from tests.waiting import wait_until

UNKNOWN = "f" * 24


@pytest.fixture
def token(authorization: AuthorizationServer) -> str:
    """A token that the task API takes."""
    return authorization.issue()


def test_limit_is_ignored_unless_told_otherwise(task_api: TaskApi, token: str) -> None:
    ids = task_api.add([a_task() for _ in range(30)])

    assert [task["_id"] for task in pending(task_api, token, limit=5).json()] == ids
    task_api.honour_limit = True
    assert [task["_id"] for task in pending(task_api, token, limit=5).json()] == ids[:5]


def test_a_page_may_be_capped_at_any_number_without_a_word(task_api: TaskApi, token: str) -> None:
    ids = task_api.add([a_task() for _ in range(30)])
    task_api.page_cap = 7

    assert [task["_id"] for task in pending(task_api, token, limit=100).json()] == ids[:7]


def test_documents_are_listed_as_they_were_added_whatever_they_hold(task_api: TaskApi, token: str) -> None:
    odd = {"_id": UNKNOWN, "kind": "no type", "content": None}
    task_api.add([odd, a_task(type="defining_weather", extra=[1, 2])])
    listed = pending(task_api, token).json()

    assert listed[0].items() >= odd.items()
    assert listed[1]["extra"] == [1, 2]


def test_a_success_with_numbers_is_stored_and_leaves_the_list(task_api: TaskApi, token: str) -> None:
    [task_id] = task_api.add([a_task()])
    answer = patch(task_api, token, task_id, "succeeded", [0.5, -1, 0])

    assert answer.status_code == 200
    assert answer.json()["_id"] == task_id
    assert answer.json()["state"] == "succeeded"
    assert task_api.result(task_id) == [0.5, -1, 0]
    assert pending(task_api, token).json() == []


@pytest.mark.parametrize("result", [None, [], {}, "text", 3, ["1"], [[0.5]], [True], [None]])
def test_a_refused_result_is_400_with_the_state_already_stored(task_api: TaskApi, token: str, result: Any) -> None:
    [task_id] = task_api.add([a_task()])
    answer = patch(task_api, token, task_id, "succeeded", result)

    assert answer.status_code == 400
    assert set(answer.json()) == {"requestId", "statusCode", "timestamp", "path", "message"}
    assert task_api.state(task_id) == "succeeded"
    assert task_api.result(task_id) is None


def test_a_failure_needs_no_result(task_api: TaskApi, token: str) -> None:
    [task_id] = task_api.add([a_task()])

    assert patch(task_api, token, task_id, "failed").status_code == 200
    assert task_api.states() == {"failed": 1}


def test_any_state_may_follow_any_and_pending_is_listed_again(task_api: TaskApi, token: str) -> None:
    [task_id] = task_api.add([a_task()])
    for state in ("in_progress", "failed", "pending"):
        assert patch(task_api, token, task_id, state).status_code == 200

    assert [task["_id"] for task in pending(task_api, token).json()] == [task_id]


@pytest.mark.parametrize(
    ("task_id", "state", "status"), [("not-an-id", "failed", 400), (UNKNOWN, "done", 400), (UNKNOWN, "failed", 404)]
)
def test_malformed_is_400_and_unknown_404(task_api: TaskApi, token: str, task_id: str, state: str, status: int) -> None:
    answer = patch(task_api, token, task_id, state)

    assert answer.status_code == status
    assert answer.json()["statusCode"] == status
    assert answer.json()["path"] == f"/api/ai-tasks/{task_id}"


def test_an_old_version_redirects_for_an_unknown_id(task_api: TaskApi, token: str) -> None:
    task_api.redirect_unknown = True
    answer = patch(task_api, token, UNKNOWN, "failed")

    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(task_api.url)


@pytest.mark.parametrize("bad", ["", "never issued", "expired", "revoked", "introspection down"])
def test_a_token_that_is_not_active_is_403(task_api: TaskApi, authorization: AuthorizationServer, bad: str) -> None:
    authorization.lifetime_seconds = 0.0 if bad == "expired" else 60.0
    token = authorization.issue() if bad not in ("", "never issued") else bad
    if bad == "revoked":
        authorization.revoke_all()
    task_api.introspection_down = bad == "introspection down"
    [task_id] = task_api.add([a_task()])

    for answer in (pending(task_api, token), patch(task_api, token, task_id, "failed")):
        assert answer.status_code == 403
        assert answer.json()["message"] == "Forbidden resource"
    assert task_api.state(task_id) == "pending"


def test_a_broken_target_is_500_on_every_try_with_the_state_stored(task_api: TaskApi, token: str) -> None:
    [task_id] = task_api.add([a_task()])
    task_api.broken_targets.add(task_id)

    assert [patch(task_api, token, task_id, "succeeded", [0.5]).status_code for _ in range(2)] == [500, 500]
    assert task_api.state(task_id) == "succeeded"


def test_the_list_lags_behind_patches_and_behind_new_tasks(task_api: TaskApi, token: str) -> None:
    [first] = task_api.add([a_task()])
    task_api.lag_seconds = 0.3
    wait_until(lambda: pending(task_api, token).json(), timeout=2)
    patched = time.monotonic()
    patch(task_api, token, first, "failed")
    [second] = task_api.add([a_task()])

    assert [task["_id"] for task in pending(task_api, token).json()] == [first]
    wait_until(lambda: [task["_id"] for task in pending(task_api, token).json()] == [second], timeout=2)
    assert time.monotonic() - patched > 0.3


def test_a_body_above_the_limit_is_413_and_changes_nothing(task_api: TaskApi, token: str) -> None:
    [task_id] = task_api.add([a_task()])
    task_api.body_limit_bytes = 100

    assert patch(task_api, token, task_id, "succeeded", [0.123456789] * 50).status_code == 413
    assert task_api.state(task_id) == "pending"
    task_api.body_limit_bytes = 10_000
    assert patch(task_api, token, task_id, "succeeded", [0.123456789] * 50).status_code == 200


def test_the_throttler_answers_429_with_retry_after_route_by_route(task_api: TaskApi, token: str) -> None:
    task_api.throttle = 2
    answers = [pending(task_api, token) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    assert patch(task_api, token, UNKNOWN, "failed").status_code == 404


def test_follow_up_tasks_are_listed_the_moment_the_patch_is_answered(task_api: TaskApi, token: str) -> None:
    task_api.follow_up = lambda document: (
        [a_task("after it", content="after it")] if "text" in document["content"] else []
    )
    [task_id] = task_api.add([a_task()])
    patch(task_api, token, task_id, "succeeded", [0.5])

    assert [task["content"] for task in pending(task_api, token).json()] == ["after it"]


def test_every_patch_is_kept_with_a_digest_that_tells_results_apart(task_api: TaskApi, token: str) -> None:
    [task_id] = task_api.add([a_task()])
    for number in (0.5, 0.5, 0.25):
        patch(task_api, token, task_id, "succeeded", [number])
    wait_until(lambda: len(task_api.deliveries) == 3)
    first, second, third = task_api.deliveries_of(task_id)

    assert first.digest == second.digest != third.digest
    assert (first.state, first.status, first.whole) == ("succeeded", 200, True)
    assert first.body_bytes > 30
    assert first.received_monotonic <= first.answered_monotonic < third.received_monotonic


def test_a_lost_acknowledgement_is_stored_all_the_same(task_api: TaskApi, token: str) -> None:
    [task_id] = task_api.add([a_task()])
    task_api.faults.add(Fault(method="PATCH", kind=FaultKind.LOSE, times=1))
    talker = session(token)
    with pytest.raises(Exception, match=r"(?i)connection"):
        talker.patch(f"{task_api.url}/api/ai-tasks/{task_id}", json={"state": "succeeded", "result": [0.5]})

    assert task_api.state(task_id) == "succeeded"
    wait_until(lambda: task_api.deliveries)
    assert not task_api.deliveries[0].whole
