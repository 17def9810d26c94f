"""The ledger: all shared state in one SQLite file, and the only place that speaks SQL.

`Ledger.open` gives a process its connection, after fork; its parts are the life of a task: `inbox` (poll, admit),
`claims` (claim, finish, release), `outbox` (take, settle), `dead` letters, and the `limits` in force;
beside them `services` gate what else a task calls, and `cache` keeps what it learns there. `prepare` is what
a short-lived process does before anyone else opens it. `views.snapshot` reads all that there is to show.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aitp.ledger.ledger import *  # noqa: F403
    from aitp.ledger.ledger import __all__ as __all__


def __getattr__(name: str) -> Any:
    """What is named in `ledger.ledger`: whoever imports one module of these, to look, does not load all of them."""
    if name.islower() and name != "prepare":  # a module's
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("aitp.ledger.ledger"), name)
