"""The task API side: its client and its token. Only relays use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aitp.taskapi.client import TaskApi
from aitp.taskapi.pages import PendingPage
from aitp.taskapi.token import Tokens

if TYPE_CHECKING:
    from aitp.metrics import Metrics
    from aitp.settings import Settings

__all__ = ["PendingPage", "TaskApi", "Tokens", "connect"]


def connect(settings: Settings, metrics: Metrics) -> TaskApi:
    """The task API that `settings` name. After fork; no connection is made before the first call."""
    return TaskApi(settings, Tokens(settings, metrics.auth), metrics.api_request)
