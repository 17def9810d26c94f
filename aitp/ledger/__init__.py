"""The ledger: all shared state, in one SQLite file or a fleet's PostgreSQL, and the only place that speaks SQL.

`Ledger.open` (`ledger.ledger`) gives a process its connection, after fork; its parts are the life of a task: `inbox`
(poll, admit), `claims` (claim, finish, release), `outbox` (take, settle), `dead` letters, and the `limits` in force;
beside them `services` gate what else a task calls, and `cache` keeps what it learns there. `prepare` is what a
short-lived process does before anyone else opens it. `stats` reads all that there is to show, `maintenance` keeps it.
"""
