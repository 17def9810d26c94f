"""What the task API gets to see, and what its answers mean."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.task_api import TaskApi
from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, DeliveryRefused, ServiceFault
from aitp.tasks import TaskStatus
from tests.providers.scripted import Answer, raw, reply, scripted
from tests.services import a_task, same_vector
from tests.taskapi.desk import TASK_ID, Desk, MakeDesk, own, page
from tests.waiting import wait_until

LATER = (408, 425, 500, 502, 503, 504, 599)
NEVER = (400, 404, 409, 413, 422, 501)
OF_NO_USE = (204, 301, 304, 307, 308, 400, 402, 404, 405, 410, 418, 422)


def test_a_result_arrives_as_it_is(desk: Desk, task_api: TaskApi) -> None:
    [task_id] = task_api.add([a_task()])
    desk.deliver(task_id, [0.1, -2.5e-08])
    assert task_api.state(task_id) == "succeeded"
    assert same_vector(task_api.result(task_id), [0.1, -2.5e-08])


def test_a_failure_sends_null(desk: Desk, task_api: TaskApi) -> None:
    [task_id] = task_api.add([a_task()])
    desk.api.deliver(task_id, TaskStatus.FAILED, None)
    assert task_api.state(task_id) == "failed"
    assert task_api.result(task_id) is None


def test_the_list_brings_every_pending_task_whole(desk: Desk, task_api: TaskApi) -> None:
    tasks = [a_task(f'Text {number} with "quotes", \\ and ção') for number in range(50)]
    task_api.add(tasks)
    assert desk.list(limit=10) == tasks  # today's server ignores the limit


def test_the_limit_is_asked_for(desk: Desk, task_api: TaskApi) -> None:
    task_api.honour_limit = True
    task_api.add(a_task() for _ in range(9))
    assert len(desk.list(limit=4)) == 4


def test_an_empty_list_is_no_failure(desk: Desk) -> None:
    assert desk.list() == []


def test_all_calls_share_one_connection(desk: Desk, task_api: TaskApi) -> None:
    ids = task_api.add(a_task() for _ in range(3))
    desk.list()
    for task_id in ids:
        desk.deliver(task_id)
    with pytest.raises(DeliveryRefused):
        desk.deliver("65f0000000000000000000ff")
    desk.list()
    assert len({exchange.connection for exchange in task_api.exchanges}) == 1


def test_each_request_is_counted_under_a_template(desk: Desk, task_api: TaskApi) -> None:
    [task_id] = task_api.add([a_task()])
    desk.list()
    desk.deliver(task_id)
    assert desk.requests == [("/api/ai-tasks/pending", "GET", 200), ("/api/ai-tasks/:id", "PATCH", 200)]


def test_an_id_stays_one_part_of_the_path(desk_at: MakeDesk) -> None:
    with scripted(reply(204)) as server:
        desk_at(f"http://127.0.0.1:{server.port}").deliver("a/../b?c#d")
        assert server.requests[0].line == "PATCH /api/ai-tasks/a%2F..%2Fb%3Fc%23d HTTP/1.1"


@pytest.mark.parametrize("status", NEVER)
def test_a_result_that_is_refused_for_good_is_said_to_be_so(desk_at: MakeDesk, status: int) -> None:
    with (
        scripted(own(status, "Embedding must be an array")) as server,
        pytest.raises(DeliveryRefused, match=f"{status} .*Embedding must be an array") as caught,
    ):
        desk_at(f"http://127.0.0.1:{server.port}").deliver()
    assert caught.value.status == status


@pytest.mark.parametrize("status", LATER)
def test_what_may_succeed_later_is_the_services_fault(desk_at: MakeDesk, status: int) -> None:
    for answer in (own(status), reply(status), page(status)):
        with scripted(answer) as server:
            desk = desk_at(f"http://127.0.0.1:{server.port}")
            for call in (desk.deliver, desk.list):
                with pytest.raises(ServiceFault, match=str(status)) as caught:
                    call()
                assert type(caught.value) is ServiceFault
                assert caught.value.service == "api"
            assert len(server.requests) == 2  # no layer below tries again


@pytest.mark.parametrize("status", OF_NO_USE)
def test_a_list_in_any_other_way_is_the_services_fault(desk_at: MakeDesk, status: int) -> None:
    with scripted(reply(status)) as server, pytest.raises(ServiceFault, match=str(status)):
        desk_at(f"http://127.0.0.1:{server.port}").list()


@pytest.mark.parametrize("status", [301, 307, 308, 405, 410])
def test_an_answer_that_says_nothing_of_the_result_buries_nothing(desk_at: MakeDesk, status: int) -> None:
    with scripted(reply(status, Location="https://elsewhere.example/")) as server, pytest.raises(ServiceFault):
        desk_at(f"http://127.0.0.1:{server.port}").deliver()


def test_a_404_of_the_route_is_not_one_of_the_task(desk_at: MakeDesk, task_api: TaskApi) -> None:
    with pytest.raises(ServiceFault, match="API_BASE_URL"):
        desk_at(task_api.url + "/wrong").deliver()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [({"Retry-After": "17"}, 17.0), ({"Retry-After": "0"}, 1.0), ({"Retry-After": "86400"}, 3600.0), ({}, 5.0)],
)
def test_429_asks_for_a_pause(desk: Desk, task_api: TaskApi, header: dict[str, str], seconds: float) -> None:
    task_api.faults.add(Fault(status=429, headers=header))
    for call in (desk.deliver, desk.list):
        with pytest.raises(CooldownRequired) as caught:
            call()
        assert (caught.value.service, caught.value.seconds, caught.value.model) == ("api", seconds, None)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_replaced_and_the_call_made_again(desk: Desk, task_api: TaskApi, status: int) -> None:
    [task_id] = task_api.add([a_task()])
    task_api.faults.add(Fault(status=status, times=1))
    desk.deliver(task_id)
    assert task_api.state(task_id) == "succeeded"
    assert desk.requests == [("/api/ai-tasks/:id", "PATCH", status), ("/api/ai-tasks/:id", "PATCH", 200)]
    assert desk.token_requests == [True, True]


def test_a_revoked_token_costs_the_list_nothing_but_time(
    desk: Desk, task_api: TaskApi, authorization: AuthorizationServer
) -> None:
    task_api.add([a_task()])
    desk.list()
    authorization.revoke_all()
    assert len(desk.list()) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_fresh_token_refused_as_well_is_never_the_results_fault(desk: Desk, task_api: TaskApi, status: int) -> None:
    task_api.faults.add(Fault(status=status))
    for call in (desk.deliver, desk.list, desk.deliver):
        with pytest.raises(CredentialsRefused, match="OAUTH2_SCOPE") as caught:
            call()
        assert caught.value.service == "api"
    assert len(desk.token_requests) == 2  # one replacement within the minute


def test_an_old_server_s_redirect_for_an_unknown_id_is_as_good_as_a_gateway_s(desk: Desk, task_api: TaskApi) -> None:
    task_api.redirect_unknown = True
    with pytest.raises(ServiceFault, match=r"302.*redirects are never followed"):
        desk.deliver("65f0000000000000000000ff")
    wait_until(lambda: task_api.exchanges)
    assert [exchange.path for exchange in task_api.exchanges] == ["/api/ai-tasks/65f0000000000000000000ff"]


# Whose word it is

UUID = "0B1f6f0e-54c1-4f0e-9d5e-6b1d1a2c3d4e"
ACKNOWLEDGED = {
    "document": reply(200, {"_id": TASK_ID, "state": "succeeded", "content": {"text": "é" * 10_000}}),
    "created": reply(201, {"id": TASK_ID}),
    "no id": reply(200, {"state": "succeeded"}),
    "success": reply(200, {"success": True, "status": 0}),
    "an error of its own": reply(200, {"_id": TASK_ID, "error": None, "statusCode": 1}),
    "empty": reply(200),
    "no content": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "packed": reply(200, gzip.compress(b'{"_id": "%s"}' % TASK_ID.encode()), Content_Encoding="gzip"),
    "longer than is read": reply(200, b'{"_id": "%s", "text": "%s"}' % (TASK_ID.encode(), b"x" * 2_000_000)),
    "cut after the id": raw(b'HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"_id":"%s","sta' % TASK_ID.encode()),
}
NOT_ACKNOWLEDGED = {
    "page": page(200),
    "another task": reply(200, {"_id": "65f0000000000000000000ff"}),
    "no text": reply(200, {"_id": 7}),
    "list": reply(200, [{"_id": TASK_ID}]),
    "text": reply(200, "OK"),
    "no JSON": reply(200, b"OK"),
    "null": reply(200, None),
    "nothing in it": reply(200, {}),
    "error": reply(200, {"error": "sign in"}),
    "error form": reply(200, {"statusCode": 401, "message": "sign in"}),
    "no success": reply(200, {"success": False, "message": "sign in"}),
    "a failure": reply(200, {"status": "error", "data": None}),
    "cut before the id": raw(b'HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"_id":"65f'),
    "cut before a byte": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n"),
}
SOMEBODY_ELSE_S = {
    "page": page,
    "nothing": reply,
    "a message": lambda status: reply(status, {"message": "no Route matched with those values"}),
    "a list": lambda status: reply(status, [{"statusCode": status, "message": "x"}]),
    "another status": lambda status: reply(status, {"statusCode": 500, "message": "x"}),
    "text": lambda status: reply(status, {"statusCode": str(status), "message": "x"}),
    "no message": lambda status: reply(status, {"statusCode": status}),
}


@pytest.mark.parametrize("answer", ACKNOWLEDGED.values(), ids=ACKNOWLEDGED)
def test_the_task_s_document_acknowledges_and_so_does_no_body_at_all(desk_at: MakeDesk, answer: Answer) -> None:
    with scripted(answer) as server:
        desk_at(f"http://127.0.0.1:{server.port}").deliver()


@pytest.mark.parametrize("answer", NOT_ACKNOWLEDGED.values(), ids=NOT_ACKNOWLEDGED)
def test_nothing_else_acknowledges_whatever_its_status(desk_at: MakeDesk, answer: Answer) -> None:
    with scripted(answer) as server:
        desk = desk_at(f"http://127.0.0.1:{server.port}")
        with pytest.raises(ServiceFault, match="200") as caught:
            desk.deliver()
        assert type(caught.value) is ServiceFault
        assert len(server.requests) == 1


@pytest.mark.parametrize("form", SOMEBODY_ELSE_S.values(), ids=SOMEBODY_ELSE_S)
@pytest.mark.parametrize("status", [*NEVER, 301, 302, 401, 403, 405, 410, 451])
def test_what_is_not_in_the_api_s_form_refuses_nothing(
    desk_at: MakeDesk, status: int, form: Callable[[int], Answer]
) -> None:
    with scripted(form(status)) as server:
        desk = desk_at(f"http://127.0.0.1:{server.port}")
        with pytest.raises(ServiceFault, match=str(status)) as caught:
            desk.deliver()
        assert type(caught.value) is ServiceFault
        assert "API_BASE_URL" in str(caught.value)
        assert len(server.requests) == 1 + (status in (401, 403))  # a fresh token may be all that is wanted


@pytest.mark.parametrize("task_id", [UUID, "a" * 64, "A-b_c.d:e"])
def test_an_id_of_any_safe_form_is_delivered_to(desk: Desk, task_api: TaskApi, task_id: str) -> None:
    task_api.add([a_task(_id=task_id)])
    assert [document["_id"] for document in desk.list()] == [task_id]
    desk.deliver(task_id)
    assert task_api.state(task_id) == "succeeded"


def test_a_lost_acknowledgement_is_a_fault_and_the_next_try_succeeds(desk: Desk, task_api: TaskApi) -> None:
    [task_id] = task_api.add([a_task()])
    task_api.faults.add(Fault(method="PATCH", kind=FaultKind.LOSE, times=1))
    with pytest.raises(ServiceFault):
        desk.deliver(task_id)
    desk.deliver(task_id)
    wait_until(lambda: len(task_api.deliveries_of(task_id)) == 2)


def test_every_error_is_one_of_ours_and_of_the_right_service(desk_at: MakeDesk) -> None:
    answers = (form(status) for status in range(300, 600) for form in (reply, own))
    with scripted(*answers) as server:
        desk = desk_at(f"http://127.0.0.1:{server.port}")
        while len(server.script) > 1:
            with pytest.raises(AitpError) as caught:
                desk.deliver()
            assert isinstance(caught.value, DeliveryRefused) or getattr(caught.value, "service", "") == "api"
