"""The task API side: its client and its token. Only relays use it."""

from aitp.taskapi.client import TaskApi
from aitp.taskapi.pages import PendingPage
from aitp.taskapi.token import Tokens

__all__ = ["PendingPage", "TaskApi", "Tokens"]
