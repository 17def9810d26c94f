"""No task text, result, token or secret in any log at any level, in a shared file, on a page or on a command line.

The servers are made to give away what they were sent: their error bodies repeat the request, its Authorization header
included, as real ones do. Everything that can be seen of a service that meets all of it is then searched.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.openai_api import BAD_MARKER, OpenAIApi
from aitp.demo.task_api import TaskApi
from aitp.demo.vectors import vector
from aitp.demo.wire import Request, Response, json_response
from aitp.demo.world import environment
from aitp.process.scoreboard import Role
from tests.end_to_end.running import Service
from tests.services import a_task

CLIENT_SECRET = "plantedclientsecret+/%&?=:ü"
API_KEY = "sk-plantedapikey-0123456789"
TOKEN_PREFIX = "ory_at_"
MARK = "plantedtext"


def told_all(request: Request) -> dict[str, Any]:
    """What a talkative server says of a request: all of it."""
    return {"headers": request.headers, "body": request.body.decode(errors="replace"), "path": request.path}


class TalkativeTaskApi(TaskApi):
    def error(self, status: int, request: Request) -> Response:
        return json_response(status, {"statusCode": status, "message": json.dumps(told_all(request))})


class TalkativeProvider(OpenAIApi):
    def error(self, status: int, request: Request) -> Response:
        details = json.dumps(told_all(request))
        return json_response(
            status, {"error": {"message": details, "type": details, "code": details, "param": details}}
        )


class TalkativeAuthorization(AuthorizationServer):
    def error(self, status: int, request: Request) -> Response:
        details = json.dumps(told_all(request))
        return json_response(status, {"error": details, "error_description": details})


Servers = tuple[TalkativeTaskApi, TalkativeAuthorization, TalkativeProvider]


@pytest.fixture
def servers() -> Iterator[Servers]:
    tasks = [a_task(f"{MARK} number {number} of many") for number in range(60)]
    tasks += [a_task(f"{MARK} bad {BAD_MARKER}"), a_task(f"{MARK} " * 2000), a_task(content={"text": [MARK]})]
    tasks += [a_task(content={"text": MARK, "model": [MARK]}), a_task(type=f"{MARK} for a type")]
    tasks += [{**a_task(), "content": MARK, "_id": f"{MARK} / id"}]
    with (
        TalkativeAuthorization(client_secret=CLIENT_SECRET, lifetime_seconds=4) as authorization,
        TalkativeTaskApi(authorization=authorization, tasks=tasks) as task_api,
        TalkativeProvider(key=API_KEY, latency_seconds=0.2) as provider,
    ):
        yield task_api, authorization, provider


def order_faults(task_api: TaskApi, authorization: AuthorizationServer, provider: OpenAIApi) -> None:
    for status in (400, 401, 403, 404, 408, 409, 413, 422, 425, 429, 500, 503):
        task_api.faults.add(Fault(method="PATCH", status=status, headers={"Retry-After": "0"}, times=1))
    for kind in (FaultKind.GARBAGE, FaultKind.CUT):
        provider.faults.add(Fault(kind=kind, times=1))
    for status in (401, 403, 409, 422, 429, 500):
        provider.faults.add(Fault(status=status, headers={"Retry-After": "0"}, times=1))
    for kind in (FaultKind.WRONG_COUNT, FaultKind.NOT_A_NUMBER):
        provider.faults.add(Fault(kind=kind, times=1))
    # Fewer of those that cost a poll: the next one comes a second later.
    for kind in (FaultKind.GARBAGE, FaultKind.CUT):
        task_api.faults.add(Fault(method="GET", kind=kind, times=1))
    authorization.faults.add(Fault(kind=FaultKind.GARBAGE, times=1))
    for status in (401, 500):
        authorization.faults.add(Fault(status=status, times=1))


def traces(servers: Servers) -> dict[str, str]:
    """What must be nowhere, by name."""
    numbers = vector(f"{MARK} number 7 of many", "text-embedding-3-small", 1024)
    return {
        "client secret": "plantedclientsecret",
        "basic credentials": base64.b64encode(b"aitp-demo:planted")[:-4].decode(),
        "api key": "plantedapikey",
        "token": TOKEN_PREFIX,
        "bearer": "Bearer ",
        "text": MARK,
        "result": repr(abs(numbers[0]))[:8],
        "result in base64": base64.b64encode(array("f", numbers[:6]).tobytes()).decode(),
    }


@pytest.mark.usefixtures("own_interpreter")
def test_nothing_gives_a_secret_or_a_text_away(service: Service, servers: Servers) -> None:
    task_api, _, provider = servers
    order_faults(*servers)
    service.configure(**environment(*servers))
    service.start(
        LOG_LEVEL="DEBUG",
        EMBEDDING_BATCH_SIZE=4,
        CONCURRENCY_LIMIT=3,
        RETRY_BACKOFF_FACTOR=1,
        CIRCUIT_BREAKER_RECOVERY_SECONDS=0.2,
        MAX_RETRIES=10,
        POLLING_INTERVAL_SECONDS=1,
    )
    service.start_metrics()
    seen: dict[str, str] = {}
    service.wait(lambda: task_api.states()["succeeded"] > 5, what="nothing succeeded")
    task_api.add(a_task(f"{MARK} of a second load, number {number}") for number in range(40))
    service.kill([service.busy(Role.WORKER).pid])
    seen["command lines"] = command_lines(service)
    service.wait(
        lambda: (
            task_api.states()["pending"] <= 2 + 5  # those that cannot be read, or were refused
            and [server.faults.struck for server in servers] == [12 + 2, 1 + 2, 2 + 6 + 2]
            and service.snapshot().held == 0
        ),
        60,
        "not all is done",
    )
    provider.faults.add(Fault(kind=FaultKind.QUOTA))  # last, because they wait for long then
    task_api.add([a_task(f"{MARK} that nobody pays for")])
    service.wait(lambda: service.snapshot().cooldowns, what="no cooldown")
    for path in ("/", "/ready", "/health", "/metrics"):
        seen[path] = (service.get(path) or (0, ""))[1]
    code, seen["dead list"] = service.ask("dead", "list")
    assert (code, service.snapshot().dead > 3) == (0, True)
    _, seen["status"] = service.ask("status", "--json")
    assert service.stop() == 0
    seen["log"] = service.log()
    for file in [service.runtime_dir / "scoreboard", *(service.runtime_dir / "metrics").iterdir()]:
        seen[file.name] = file.read_bytes().decode(errors="replace")

    assert len(seen["log"].splitlines()) > 300
    assert "Result refused, kept as a dead letter" in seen["log"]
    assert "Circuit breaker is open" in seen["log"]
    for where, content in seen.items():
        for what, trace in traces(servers).items():
            assert trace not in content, f"{what} in {where}: {around(content, trace)}"


def command_lines(service: Service) -> str:
    lines = []
    for pid in service.pids():
        try:
            lines.append(Path(f"/proc/{pid}/cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    assert any("aitp" in line for line in lines)
    return "\n".join(lines)


def around(content: str, trace: str) -> str:
    at = content.index(trace)
    return content[max(0, at - 300) : at + 200]


def test_files_with_secrets_or_texts_are_for_their_owner_only(service: Service) -> None:
    service.open_world(5)
    service.start()
    service.await_states(succeeded=5)

    for folder in (service.runtime_dir, service.ledger_path.parent):
        for path in [folder, *folder.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, f"{path}: {path.stat().st_mode:o}"
