"""What the work of a relay or a worker needs of the process it is done in.

`Child` is one under a master; `aitp once` brings its own, which has nobody to wake and no master to hear from.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol


class Hands(Protocol):
    """See `aitp.process.child.Child` for what each promises."""

    @property
    def slot(self) -> int: ...

    def idle(self) -> None: ...

    def recording(self) -> None: ...

    def call(self, task_id: str, seconds: float) -> AbstractContextManager[Any]: ...

    def wake_workers(self, count: int = 1) -> None: ...

    def wake_relays(self, count: int = 1) -> None: ...

    def count_done(self, count: int = 1) -> None: ...
