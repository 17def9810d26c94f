"""Fixtures that every room uses: the servers on the other side of the wires (see tests/services)."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.ollama_api import OllamaApi
from aitp.demo.openai_api import OpenAIApi
from aitp.demo.task_api import TaskApi
from tests import forkserver

# Started in the background or by nohup, all that is started here would ignore them, as Ctrl-C and a closed terminal.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


# How long an example takes says nothing here: five processes test on two cores.
settings.register_profile("shared cores", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared cores")

forkserver.install()
gc.disable()  # until all is collected, all of which stays


# What one process is to test, one after the other: each browser more costs 5 s of CPU to start.
OF_ONE_BROWSER = "tests/web/test_browser.py"
# What waits, for processes and for time to pass: it is begun with, and one of those who test begins with all else.
WAITING = (
    *(f"tests/{room}/" for room in ("chaos", "commands", "demo", "end_to_end", "packaging", "process", "strangers")),
    *(OF_ONE_BROWSER, "tests/docs/test_newcomer.py", "tests/docs/test_extending.py"),
)


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Each test for itself, but for those. (xdist's own loadgroup marks ids in a way that pytest 9.2 does not see.)"""

    def _split_scope(self, nodeid: str) -> str:
        return OF_ONE_BROWSER if nodeid.startswith(OF_ONE_BROWSER) else nodeid

    def _assign_work_unit(self, node: Any) -> None:
        if node.gateway.id == f"gw{self.numnodes - 1}":
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        super().mark_test_complete(node, item_index, duration)
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(self.assigned_work[node][scope].values()):
            del self.assigned_work[node][scope]  # xdist would count it at every test that follows


def pytest_configure(config: pytest.Config) -> None:
    """What is once for all processes that test, in the one that starts them."""
    if config.getoption("numprocesses") and not hasattr(config, "workerinput"):
        from tests.services.postgres import made_once

        shared = ExitStack()
        shared.enter_context(made_once())
        config.add_cleanup(shared.close)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Who tests what."""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait first."""
    items.sort(key=lambda item: not item.nodeid.startswith(WAITING))


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay until the end: no collection of garbage is to look through them again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture
def own_interpreter() -> Iterator[None]:
    """Every process is started from the file, none forked from a Python that has its modules already."""
    with forkserver.switched_off():
        yield


@pytest.fixture
def authorization() -> Iterator[AuthorizationServer]:
    """The authorization server, on a free port."""
    with AuthorizationServer() as server:
        yield server


@pytest.fixture
def task_api(authorization: AuthorizationServer) -> Iterator[TaskApi]:
    """The task API without tasks; it believes tokens of `authorization` only."""
    with TaskApi(authorization=authorization) as server:
        yield server


@pytest.fixture
def openai_api() -> Iterator[OpenAIApi]:
    """The provider."""
    with OpenAIApi() as server:
        yield server


@pytest.fixture
def ollama_api() -> Iterator[OllamaApi]:
    """The other provider, with every model of its registry."""
    with OllamaApi() as server:
        yield server
