"""Kinds: what tasks are grouped by, one row each. Everything runs inside a transaction of the caller's."""

from __future__ import annotations

import apsw

from aitp.tasks import Kind

MOST_KINDS = 200


def kind_id(connection: apsw.Connection, kind: Kind) -> int:
    """The row of a kind, made if need be."""
    facts = (kind.type, kind.model, kind.failed_at)
    found = connection.execute("SELECT id FROM kinds WHERE type = ? AND model = ? AND failed_at = ?", facts).get
    if found is None:
        found = connection.execute(
            "INSERT INTO kinds (type, model, failed_at) VALUES (?, ?, ?) RETURNING id", facts
        ).get
    return int(found)


def prune_kinds(connection: apsw.Connection) -> None:
    """Forget kinds without tasks: models are named by the API's users, and each misspelt one is a kind."""
    if int(connection.execute("SELECT COUNT(*) FROM kinds").get) > MOST_KINDS:
        connection.execute("DELETE FROM kinds WHERE id NOT IN (SELECT kind FROM tasks)")
