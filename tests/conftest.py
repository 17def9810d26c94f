"""Fixtures that every room uses: the servers on the other side of the wires (see tests/services)."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest

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


forkserver.install()


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay until the end: no collection of garbage is to look through them again."""
    gc.collect()
    gc.freeze()


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
