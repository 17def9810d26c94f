"""One token over many processes: twenty relays at once cause one request, and no timer or kill keeps the lock."""

from __future__ import annotations

import fcntl
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.world_process import WorldProcess
from aitp.errors import AitpError, CredentialsRefused
from tests.taskapi.desk import Desk, settings_for
from tests.waiting import wait_until

RELAYS = 20


@pytest.fixture(scope="module")
def servers() -> Iterator[WorldProcess]:
    with WorldProcess() as world:
        yield world


@pytest.fixture
def world(servers: WorldProcess) -> Iterator[WorldProcess]:
    yield servers
    servers.clear_faults()
    servers.set("authorization", latency_seconds=0.0)


def desk_of(world: WorldProcess, directory: Path, **more: str) -> Desk:
    return Desk(
        settings_for(world.environment["API_BASE_URL"], world.environment["OAUTH2_TOKEN_URL"], directory, **more)
    )


def all_at_once(prepare: Callable[[], Desk]) -> Counter[str]:
    """Twenty processes read the list at the same moment; how it ended, how often."""
    results, told = os.pipe()
    gate, opened = os.pipe()
    ready, says_ready = os.pipe()
    children = []
    for _ in range(RELAYS):
        if (pid := os.fork()) == 0:
            os.close(opened)
            desk = prepare()
            os.write(says_ready, b".")
            os.read(gate, 1)
            os.write(told, f"{outcome(desk)}\n".encode())
            os._exit(0)
        children.append(pid)
    for _ in children:
        os.read(ready, 1)
    os.close(opened)
    for pid in children:
        os.waitpid(pid, 0)
    os.close(told)
    with open(results) as lines:
        return Counter(line.strip() for line in lines)


def outcome(desk: Desk) -> str:
    try:
        desk.list()
    except AitpError as error:
        return f"{type(error).__name__} of {getattr(error, 'service', '')}"
    return "listed"


def test_twenty_without_a_token_cause_one_request(world: WorldProcess, tmp_path: Path) -> None:
    before = len(world.issues())
    world.set("authorization", latency_seconds=0.2)
    assert all_at_once(lambda: desk_of(world, tmp_path)) == {"listed": RELAYS}
    assert len(world.issues()) - before == 1


def test_twenty_that_are_refused_at_once_cause_one_request(world: WorldProcess, tmp_path: Path) -> None:
    def with_a_token_of_old() -> Desk:
        desk = desk_of(world, tmp_path)
        desk.tokens.current()
        return desk

    old = with_a_token_of_old().tokens.current()
    world.revoke_tokens()
    before = len(world.issues())
    world.set("authorization", latency_seconds=0.2)
    assert all_at_once(with_a_token_of_old) == {"listed": RELAYS}
    assert len(world.issues()) - before == 1
    assert desk_of(world, tmp_path).tokens.current() != old


def test_twenty_share_a_request_that_fails(world: WorldProcess, tmp_path: Path) -> None:
    before = len(world.exchanges("authorization"))
    world.add_fault("authorization", Fault(status=503))
    world.set("authorization", latency_seconds=1.0)
    assert all_at_once(lambda: desk_of(world, tmp_path)) == {"ServiceFault of oauth": RELAYS}
    assert len(world.exchanges("authorization")) - before == 1


def test_twenty_with_a_token_that_is_always_refused_replace_it_once(world: WorldProcess, tmp_path: Path) -> None:
    desk_of(world, tmp_path).tokens.current()
    before = len(world.issues())
    world.add_fault("task_api", Fault(status=403))
    assert all_at_once(lambda: desk_of(world, tmp_path)) == {"CredentialsRefused of api": RELAYS}
    assert len(world.issues()) - before == 1


def test_a_failure_is_shared_only_with_those_who_waited(world: WorldProcess, tmp_path: Path) -> None:
    world.add_fault("authorization", Fault(status=401, times=1))
    desk = desk_of(world, tmp_path)
    with pytest.raises(CredentialsRefused):
        desk.list()
    assert desk.list() == []


def test_a_process_killed_while_it_asks_leaves_nothing_locked(world: WorldProcess, tmp_path: Path) -> None:
    world.add_fault("authorization", Fault(kind=FaultKind.HANG, times=1))
    struck = world.summary().faults_struck
    if (pid := os.fork()) == 0:
        desk_of(world, tmp_path).list()
        os._exit(1)
    wait_until(lambda: world.summary().faults_struck > struck)
    assert locked(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert desk_of(world, tmp_path).list() == []


def locked(directory: Path) -> bool:
    """Whether any process holds the token's lock."""
    try:
        with (directory / "token.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
