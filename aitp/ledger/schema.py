"""The tables: one schema, and the steps that bring a released ledger from each version to the next.

No version before FIRST_VERSION was ever released, and none is read. From here on a released schema is never edited: a
change is an entry of MIGRATIONS, made inside one transaction, and a new ledger takes the same path. Texts and results
live in tables of their own, because SQLite rewrites a whole row at each change of state.

Life of a task: `ready → claimed → finished → (deleted, a tombstone stays a while) | dead`. A row with a slot is owned
by the process that holds that slot's lock: claimed by a worker, or finished and being delivered by a relay.
`due_at` is NULL for "now", so that the rows that can be claimed are exactly one partial index.
All instants are UTC seconds since 1970. When the machine's clock is set they follow it, or stay (see clock.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from aitp.errors import ConfigurationError, LedgerError
from aitp.tasks import Fleet, Place

FIRST_VERSION = 15

SCHEMA = """
CREATE TABLE ledger (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0,
    strategy TEXT NOT NULL DEFAULT 'rolling' CHECK (strategy IN ('rolling', 'fixed')),
    timezone TEXT NOT NULL DEFAULT 'UTC',
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    reuse_scope TEXT NOT NULL DEFAULT '',
    reuse_after INTEGER NOT NULL DEFAULT 0,
    worlds_version INTEGER NOT NULL DEFAULT 0,
    boot TEXT NOT NULL DEFAULT '',
    clock_offset REAL
) STRICT;
INSERT INTO ledger (one, version) VALUES (1, 15);

CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    model TEXT NOT NULL,
    failed_at TEXT NOT NULL DEFAULT '',
    suspects_last INTEGER NOT NULL DEFAULT 0 CHECK (suspects_last IN (0, 1)),
    UNIQUE (type, model, failed_at)
) STRICT;

-- A task with duplicate_of waits for the result of its like: it is ready, but not to be claimed.
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    queue INTEGER NOT NULL REFERENCES queues (id),
    state TEXT NOT NULL CHECK (state IN ('ready', 'claimed', 'finished', 'dead')),
    slot INTEGER,
    due_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    batch_limit INTEGER,
    size INTEGER NOT NULL DEFAULT 0,
    provider TEXT,
    entered_sequence INTEGER NOT NULL,
    entered_at REAL NOT NULL,
    missed INTEGER NOT NULL DEFAULT 0,
    fingerprint BLOB,
    duplicate_of INTEGER CHECK (duplicate_of IS NULL OR state = 'ready'),
    world INTEGER,
    is_suspect INTEGER NOT NULL DEFAULT 0 CHECK (is_suspect IN (0, 1)),
    CHECK ((state = 'claimed') <= (slot IS NOT NULL)),
    CHECK ((state IN ('ready', 'dead')) <= (slot IS NULL))
) STRICT;
CREATE INDEX tasks_ready ON tasks (queue, is_suspect, seq, due_at, batch_limit, duplicate_of, state)
    WHERE state = 'ready' AND due_at IS NULL AND duplicate_of IS NULL;
CREATE INDEX tasks_suspect ON tasks (queue, state, due_at, attempts, seq, batch_limit) WHERE is_suspect = 1;
CREATE INDEX tasks_later ON tasks (state, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_claimed ON tasks (slot, queue, world) WHERE state = 'claimed';
CREATE INDEX tasks_finished ON tasks (slot, seq) WHERE state = 'finished' AND due_at IS NULL;
CREATE INDEX tasks_fingerprint ON tasks (fingerprint) WHERE fingerprint IS NOT NULL;
CREATE INDEX tasks_duplicates ON tasks (duplicate_of, seq) WHERE duplicate_of IS NOT NULL;

CREATE TABLE contents (
    seq INTEGER PRIMARY KEY REFERENCES tasks (seq),
    content BLOB NOT NULL
) STRICT;

-- conflicts: how often the task API said so. unwitnessed: nothing that it did well has followed the first failure.
CREATE TABLE results (
    seq INTEGER PRIMARY KEY REFERENCES tasks (seq),
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'failed')),
    body BLOB,
    reason TEXT NOT NULL DEFAULT '',
    finished_at REAL NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 0,
    refusal TEXT,
    refused_at REAL,
    conflicts INTEGER NOT NULL DEFAULT 0,
    unwitnessed INTEGER NOT NULL DEFAULT 0 CHECK (unwitnessed IN (0, 1)),
    CHECK ((status = 'succeeded') = (body IS NOT NULL))
) STRICT;
CREATE INDEX results_unwitnessed ON results (unwitnessed) WHERE unwitnessed = 1;

CREATE TABLE tombstones (
    id TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    delivered_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_sequence ON tombstones (sequence);

CREATE TABLE malformed (
    id TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    missed INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- longest_page: so far; by it a capped one is known. more_there: whether, and if so one more for each page in a row
-- that was as long as was asked for and brought nothing.
CREATE TABLE polls (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    slot INTEGER,
    began_sequence INTEGER NOT NULL DEFAULT 0,
    began_at REAL,
    regular_at REAL,
    succeeded_at REAL,
    failures INTEGER NOT NULL DEFAULT 0,
    more_there INTEGER NOT NULL DEFAULT 0,
    problem TEXT,
    longest_page INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO polls (one) VALUES (1);

-- Numbered without a gap: limits count by differences of ids. Those of one moment are one entry in the index of times.
CREATE TABLE task_completions (
    id INTEGER PRIMARY KEY,
    completed_at REAL NOT NULL,
    task_type TEXT NOT NULL,
    task_id TEXT NOT NULL,
    is_first INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX task_completions_first ON task_completions (completed_at) WHERE is_first = 1;

CREATE TABLE rate_limits (
    time_period TEXT PRIMARY KEY,
    current_count INTEGER NOT NULL,
    window_start TEXT NOT NULL,
    window_end TEXT NOT NULL,
    last_updated TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE limits (
    period TEXT PRIMARY KEY,
    allowed INTEGER NOT NULL CHECK (allowed > 0),
    warned_until REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- culprit: whose fault it is that it opened.
CREATE TABLE breakers (
    service TEXT PRIMARY KEY,
    state TEXT NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half-open')),
    failures INTEGER NOT NULL DEFAULT 0,
    opened_at REAL,
    probe_slot INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    setup TEXT NOT NULL DEFAULT '',
    culprit TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
INSERT INTO breakers (service) VALUES ('api'), ('oauth'), ('openai'), ('ollama'), ('wikidata');

-- awaited: nobody asked for it, the model is on its way. guessed: the seconds, where nobody said for how long. since:
-- the first of such pauses, with nothing served in between, where a stand-in waits for how long they last.
CREATE TABLE cooldowns (
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    until REAL NOT NULL,
    reason TEXT NOT NULL,
    awaited INTEGER NOT NULL DEFAULT 0 CHECK (awaited IN (0, 1)),
    guessed REAL NOT NULL DEFAULT 0,
    since REAL,
    PRIMARY KEY (provider, model)
) STRICT, WITHOUT ROWID;

-- Calls that another provider made in this one's stead on a day (numbered since 1970, UTC).
CREATE TABLE stand_ins (
    provider TEXT PRIMARY KEY,
    day INTEGER NOT NULL,
    sent INTEGER NOT NULL CHECK (sent >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE processors (
    type TEXT PRIMARY KEY,
    bugs INTEGER NOT NULL DEFAULT 0,
    paused_until REAL
) STRICT, WITHOUT ROWID;

-- What was looked up elsewhere, and what was bought for a text. Rows written last have the highest numbers.
CREATE TABLE cache (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    expires_at REAL NOT NULL
) STRICT;

CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    fingerprint BLOB NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    finished_at REAL NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- What was lately, for people to look at: what came of the tasks of a type in each minute (numbered since 1970; those
-- that are long past are folded into the first of many), how many tasks waited (of no type), and the recent errors.
CREATE TABLE minutes (
    minute INTEGER NOT NULL,
    type TEXT NOT NULL,
    calls INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    returned INTEGER NOT NULL,
    seconds REAL NOT NULL,
    slowest REAL NOT NULL,
    waiting INTEGER,
    PRIMARY KEY (minute, type)
) STRICT, WITHOUT ROWID;

CREATE TABLE recent_errors (
    number INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    type TEXT NOT NULL,
    ending TEXT NOT NULL,
    reason TEXT NOT NULL,
    first_at REAL NOT NULL,
    last_at REAL NOT NULL,
    times INTEGER NOT NULL,
    task_ids TEXT NOT NULL,
    UNIQUE (source, type, ending, reason)
) STRICT;

-- Money, in whole nano-units of a currency: budgets in force (allowed NULL: only counted), what was spent on each day,
-- what calls in hand may cost, how much chats took lately, models that are not called for want of a price.
CREATE TABLE budgets (
    period TEXT PRIMARY KEY CHECK (period IN ('day', 'month')),
    currency TEXT NOT NULL,
    allowed INTEGER CHECK (allowed > 0),
    warned_until REAL NOT NULL DEFAULT 0,
    kept_back_until REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE spending (
    currency TEXT NOT NULL,
    starts INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    nano INTEGER NOT NULL,
    PRIMARY KEY (currency, starts)
) STRICT, WITHOUT ROWID;

CREATE TABLE reservations (
    slot INTEGER PRIMARY KEY,
    currency TEXT NOT NULL,
    nano INTEGER NOT NULL
) STRICT;

CREATE TABLE habits (
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    type TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    PRIMARY KEY (provider, model, type)
) STRICT, WITHOUT ROWID;

CREATE TABLE unpriced (
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    PRIMARY KEY (provider, model)
) STRICT, WITHOUT ROWID;

-- Whose fault is it? (aitp/policy/evidence.py) Worlds with their tallies; what a server does not take of a request; the
-- last failures in a row; of each task that has failed, what its world's tally was then and what it did since.
-- turns: how often it has failed, alone or not, with others served in between.
CREATE TABLE worlds (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    type TEXT NOT NULL,
    setup TEXT NOT NULL,
    left_out TEXT NOT NULL,
    proven INTEGER NOT NULL DEFAULT 0 CHECK (proven IN (0, 1)),
    tried_at REAL NOT NULL DEFAULT 0,
    good INTEGER NOT NULL DEFAULT 0,
    service INTEGER NOT NULL DEFAULT 0,
    account INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL DEFAULT 0,
    answer INTEGER NOT NULL DEFAULT 0,
    culprit TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    pauses INTEGER NOT NULL DEFAULT 0,
    paused_until REAL,
    probe_slot INTEGER,
    UNIQUE (provider, model, type, setup, left_out)
) STRICT;

CREATE TABLE request_profiles (
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    setup TEXT NOT NULL,
    left_out TEXT NOT NULL,
    guessed TEXT NOT NULL,
    kept TEXT NOT NULL,
    tasks TEXT NOT NULL DEFAULT '[]',
    reason TEXT NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY (provider, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE failures (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    provider TEXT NOT NULL,
    world INTEGER NOT NULL,
    culprit TEXT NOT NULL,
    tasks TEXT NOT NULL
) STRICT;

CREATE TABLE evidence (
    seq INTEGER NOT NULL REFERENCES tasks (seq),
    world INTEGER NOT NULL,
    good_before INTEGER NOT NULL,
    service_before INTEGER NOT NULL,
    account_before INTEGER NOT NULL,
    input_before INTEGER NOT NULL,
    answer_before INTEGER NOT NULL,
    service INTEGER NOT NULL DEFAULT 0,
    account INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL DEFAULT 0,
    answer INTEGER NOT NULL DEFAULT 0,
    failed_in_row INTEGER NOT NULL DEFAULT 1 CHECK (failed_in_row IN (0, 1)),
    turns INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (seq, world)
) STRICT, WITHOUT ROWID;
CREATE INDEX evidence_world ON evidence (world, failed_in_row);
"""

# Entry N brings a ledger from FIRST_VERSION + N to the next version.
MIGRATIONS: tuple[str, ...] = (
    # Of a fleet (postgresql.py): its hosts, and since when an owner's lock is found free.
    """
    CREATE TABLE hosts (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        version TEXT NOT NULL,
        seen_at REAL NOT NULL,
        facts TEXT NOT NULL DEFAULT '{}'
    ) STRICT;
    CREATE TABLE absences (
        slot INTEGER PRIMARY KEY,
        since REAL NOT NULL
    ) STRICT;
    -- What has become of each parameter, as JSON, in place of lists of names: found out anew.
    DELETE FROM request_profiles;
    ALTER TABLE request_profiles DROP COLUMN guessed;
    ALTER TABLE request_profiles RENAME COLUMN kept TO parameters;
    """,
)

VERSION = FIRST_VERSION + len(MIGRATIONS)
# Of a fleet's hosts one is upgraded first: those of the release before go on with what they have.
NEXT_VERSION = VERSION + 1


def steps(found: int) -> Iterator[str]:
    """What brings a ledger of that version (0: there is none yet) to this one, in its order."""
    if not found:
        yield SCHEMA
    for number in range(max(found, FIRST_VERSION), VERSION):
        yield f"{MIGRATIONS[number - FIRST_VERSION]}; UPDATE ledger SET version = {number + 1};"


def refuse_unknown(place: Place, found: int) -> None:
    """Raise ConfigurationError for a ledger of no release, or of one that is too new; it is to stay as it is."""
    setting, newest, advice = "LEDGER_URL", NEXT_VERSION, "upgrade this host as well"
    if not isinstance(place, Fleet):
        advice = "install the newer release again, or restore the ledger's backup from before the upgrade"
        setting, newest = "RATE_LIMIT_STORAGE_PATH", VERSION
    if found > newest:
        said = f"this release knows {VERSION}; {advice}"
    elif 0 < found < FIRST_VERSION:
        said = (
            "which was never released, and nothing reads it; move the file away, with its -wal, and start again: "
            "the task API lists once more what is still pending"
        )
    else:
        return
    raise ConfigurationError([f"{setting}={place}: the ledger has version {found}, {said}"])


def refuse_other(place: Place, found: int, *, or_next: bool = False) -> None:
    """Raise LedgerError for a ledger that is not of this release, `or_next` of neither this one nor the next."""
    if not VERSION <= found <= VERSION + or_next:
        advice = "start the service once" if found < VERSION else "upgrade this host first"
        raise LedgerError(f"the ledger {place} has version {found}, not {VERSION}: {advice}")


# As PostgreSQL has it (postgresql.py)

# SQLite's functions that the common SQL calls, and what tells of its numbers.
COMPATIBLE = """
CREATE FUNCTION json_each(document TEXT) RETURNS TABLE (value TEXT) LANGUAGE sql IMMUTABLE AS
    'SELECT json_array_elements_text($1::json)';
CREATE AGGREGATE group_concat(TEXT) (SFUNC = textcat, STYPE = TEXT);
CREATE FUNCTION json_valid(body TEXT) RETURNS BOOLEAN LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    PERFORM convert_from(decode(substr(body, 3), 'hex'), 'UTF8')::json; RETURN TRUE;
EXCEPTION WHEN OTHERS THEN RETURN FALSE; END $$;
CREATE VIEW sqlite_sequence AS SELECT 'tasks' AS name, last_value AS seq FROM tasks_seq_seq WHERE is_called
    UNION ALL SELECT 'failures', last_value FROM failures_number_seq WHERE is_called;
"""
# Rows come and go all the time there: dead ones are to be cleared by their number, and updates to stay on their page.
BUSY_TABLES = ("tasks", "contents", "results", "tombstones", "task_completions", "evidence", "ledger", "rate_limits")
OFTEN_CLEARED = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, fillfactor = 70"

_SUBSTITUTIONS = (
    (r"\) STRICT(, WITHOUT ROWID)?", ")"),
    (r"INTEGER PRIMARY KEY( AUTOINCREMENT)?", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\bREAL\b", "DOUBLE PRECISION"),
    (r"\bBLOB\b", "BYTEA"),
    (r"\bTEXT\b", 'TEXT COLLATE "C"'),
    (r" REFERENCES \w+ \(\w+\)", ""),  # SQLite does not look at them either, unless it is asked to
)


def translated(schema: str) -> str:
    """Our definitions, which are SQLite's, as PostgreSQL has them."""
    for pattern, replacement in _SUBSTITUTIONS:
        schema = re.sub(pattern, replacement, schema)
    return schema


def translated_steps(found: int) -> Iterator[str]:
    """As `steps`, with what PostgreSQL needs besides."""
    yield from map(translated, steps(found))
    if not found:
        yield COMPATIBLE
        yield from (f"ALTER TABLE {table} SET ({OFTEN_CLEARED})" for table in BUSY_TABLES)
