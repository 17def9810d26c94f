from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.task_api import TaskApi
from tests.taskapi.desk import Desk, MakeDesk, settings_for


@pytest.fixture
def desk_at(authorization: AuthorizationServer, tmp_path: Path) -> Iterator[MakeDesk]:
    """Makes desks: `desk_at(api_url, **settings)`. All share one token, as relays do."""
    desks: list[Desk] = []

    def make(api_url: str, token_url: str = "", **more: str) -> Desk:
        desks.append(Desk(settings_for(api_url, token_url or authorization.token_url, tmp_path, **more)))
        return desks[-1]

    yield make
    for desk in desks:
        desk.api.close()


@pytest.fixture
def desk(desk_at: MakeDesk, task_api: TaskApi) -> Desk:
    """One desk at the demo's task API."""
    return desk_at(task_api.url)
