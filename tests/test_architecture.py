"""The structure holds: imports point one way, and each thing is done in its one place."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.tasks import BreakerState, Culprit, Period, Service, Strategy, TaskState, TaskStatus

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "aitp").rglob("*.py"))

# Each room may import from itself and from those below it.
FLOORS = (
    {"__main__"},
    {"commands"},
    {"process", "web", "demo", "quality"},
    {"processors"},
    {"providers", "taskapi", "knowledge"},
    {"ledger"},
    {"metrics"},
    {"logs"},
    {"settings"},
    {"http"},
    {"validators"},
    {"sources"},
    {"extensions", "hardening", "policy"},
    {"tasks", "errors", "aitp"},
)
# Beside each other, but these only read what the processes have written.
EXCEPTIONS = {
    ("web", "process.scoreboard"),
    ("web", "process.start"),
    ("demo", "process.scoreboard"),
}


def floor_of(room: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise AssertionError(f"{room} is on no floor: say in FLOORS where it belongs")


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "aitp"


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "aitp":
            for alias in node.names:
                # `from aitp import logs` names a module, `from aitp import __version__` a value of the package itself.
                is_module = node.module == "aitp" and (
                    (ROOT / "aitp" / alias.name).is_dir() or (ROOT / "aitp" / f"{alias.name}.py").exists()
                )
                yield f"aitp.{alias.name}" if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "aitp")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT / "aitp").parts[0].removesuffix(".py")
    own = "aitp" if own == "__init__" else own
    for module in imports_of(path):
        room = room_of(module)
        if room == own or (own, module.removeprefix("aitp.")) in EXCEPTIONS:
            continue
        assert floor_of(own) < floor_of(room), f"{path.name} ({own}) imports {module} from above or beside it"


def lines_with(pattern: str, *, outside: str) -> list[str]:
    found = []
    for path in SOURCES:
        name = str(path.relative_to(ROOT / "aitp"))
        if re.match(outside, name):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{name}:{number}: {line.strip()}")
    return found


def test_sql_lives_in_the_ledger_alone() -> None:
    assert not lines_with(r"\b(SELECT .* FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", outside="ledger/")


# What PostgreSQL does not take, or takes for something else, and which modules of the ledger may write it all the same:
# the schema, which was released as SQLite's, and for what has no common form, those that look at SQLite's own file. A
# group `more`: only if there is more than one argument in the brackets; `unnamed`: only if no AS follows them.
UNCOMMON_SQL = {
    r"\bOR (IGNORE|REPLACE|ABORT|FAIL|ROLLBACK)\b": "ON CONFLICT (key) DO …",
    r"\bREPLACE INTO\b": "ON CONFLICT (key) DO UPDATE SET …",
    r"\bON CONFLICT (?!\()": "the key is named: ON CONFLICT (key)",
    r"\bDO UPDATE\b.*(?<![.\w])(\w+) = (CASE WHEN )?\1(?![.\w])": "own columns are qualified: table.column",
    r"\bIIF\(": "CASE",
    r"\b(MAX|MIN)\((?P<more>)": "CASE, where there are two arguments",
    r"\bIS (NOT )?(?!(NOT )?(NULL|TRUE|FALSE|DISTINCT FROM)\b)": "IS [NOT] DISTINCT FROM",
    r"\b(FROM|JOIN) \((?=SELECT\b)(?P<unnamed>)": "(SELECT …) AS name",
    r"\bjson_each\((?P<unnamed>)": "json_each(?) AS name",
    r"(?<!CAST\()(?<!CAST\(COALESCE\()\bSUM\(": "CAST(SUM(…) AS BIGINT)",
    r"\?\d* IS (NOT )?NULL\b": "CAST(? AS type) IS NULL",
    r"\bSELECT ([^()]*, )?\?": "SELECT CAST(? AS type)",
    r"\bLIMIT -1\b": "NOT IN (… LIMIT ?)",
    r"\btemp\.\w": "a temporary table's bare name",
    r"\b(STRICT|WITHOUT ROWID|AUTOINCREMENT)\b": "",
    r"\b(PRAGMA|INDEXED BY|sqlite_schema|sqlite_master|dbstat|pragma_\w+)\b": "",
}
SQLITE_S_OWN = {"schema.py", "sqlite.py", "maintenance.py"}
POSTGRESQL_S_OWN = {"postgresql.py", "session.py"}  # which also names what it substitutes
RELEASED = {"schema.py"}  # its names are compared with the enums in tests/ledger/test_names.py


@functools.cache
def texts_of(path: Path) -> tuple[tuple[int, str], ...]:
    """(line, text) of the strings in a module but its docstrings, white space as one blank, `{}` for what is put in."""
    return tuple(_texts_of(path))


def _texts_of(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text())
    apart = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            apart |= {id(value) for value in node.values}
    for node in ast.walk(tree):
        if id(node) in apart:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values]
            yield node.lineno, " ".join("".join(parts).split())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())


def uncommon(pattern: str, text: str) -> bool:
    """Whether that construct is in a text; where brackets follow, by what is in them or behind them."""
    for match in re.finditer(pattern, text):
        groups = match.groupdict()
        if not groups:
            return True
        depth, arguments, end = 1, 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            arguments += text[end] == "," and depth == 1
            end += 1
        if arguments > 1 if "more" in groups else not text.startswith(" AS ", end):
            return True
    return False


@pytest.mark.parametrize("pattern", UNCOMMON_SQL)
def test_sql_is_what_sqlite_and_postgresql_both_take(pattern: str) -> None:
    excepted = RELEASED if UNCOMMON_SQL[pattern] else SQLITE_S_OWN
    found = [
        f"{path.name}:{line}: {text}"
        for path in sorted((ROOT / "aitp" / "ledger").glob("*.py"))
        if path.name not in excepted | POSTGRESQL_S_OWN
        for line, text in texts_of(path)
        if uncommon(pattern, text)
    ]
    assert not found, f"the common form: {UNCOMMON_SQL[pattern] or 'leave it to ' + ', '.join(sorted(excepted))}"


@pytest.mark.parametrize(
    ("uncommon_sql", "common"),
    [
        ("INSERT OR IGNORE INTO a", "INSERT INTO a VALUES (?) ON CONFLICT (b) DO NOTHING"),
        ("ON CONFLICT DO NOTHING", "ON CONFLICT (a) DO NOTHING"),
        (
            "ON CONFLICT (a) DO UPDATE SET b = b + 1",
            "ON CONFLICT (a) DO UPDATE SET b = t.b + excluded.b, c = excluded.c",
        ),
        ("SELECT MAX(a, (SELECT 1))", "SELECT MAX(CASE WHEN a < f(b, c) THEN b ELSE c END), d"),
        ("a IS ?", "a IS NOT NULL AND b IS NOT DISTINCT FROM ?"),
        ("a IS NOT b", "a IS NULL"),
        ("FROM (SELECT (a) FROM b) WHERE a", "FROM (SELECT (a) FROM b) AS those WHERE a"),
        ("FROM json_each(?)", "FROM json_each(?) AS each"),
        ("SELECT SUM(a)", "SELECT CAST(COALESCE(SUM(a), 0) AS BIGINT)"),
        ("? IS NULL OR a", "CAST(?1 AS TEXT) IS NULL OR a"),
        ("SELECT a, ? FROM b", "SELECT a, CAST(? AS TEXT) FROM b WHERE c = ?"),
    ],
)
def test_what_is_uncommon_in_sql_is_seen(uncommon_sql: str, common: str) -> None:
    assert [any(uncommon(pattern, text) for pattern in UNCOMMON_SQL) for text in (uncommon_sql, common)] == [
        True,
        False,
    ]


def test_sql_names_states_by_their_enums() -> None:
    names = {
        name.value
        for names in (TaskState, TaskStatus, BreakerState, Period, Service, Strategy, Culprit)
        for name in names
    }
    assert not [
        f"{path.name}:{line}: {text}"
        for path in sorted((ROOT / "aitp" / "ledger").glob("*.py"))
        if path.name not in RELEASED
        for line, text in texts_of(path)
        if names & set(re.findall(r"'([\w-]+)'", text))
    ]


def test_the_library_of_each_of_the_ledger_s_engines_is_named_in_its_own_modules() -> None:
    assert not lines_with(r"\bapsw\b", outside="ledger/sqlite.py")
    assert not lines_with(r"\bpsycopg\b", outside="ledger/(postgresql|session).py")


def test_the_environment_is_read_by_the_settings_alone() -> None:
    readers = {
        str(path.relative_to(ROOT / "aitp"))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    # `sources`: of RUNTIME_DIR alone; `journal` for systemd's protocol.
    assert readers == {"settings.py", "sources.py", "logs.py", "__main__.py"}


def test_the_service_has_no_threads_no_event_loop_and_no_second_sqlite() -> None:
    assert not lines_with(
        r"^\s*(import|from) (asyncio|threading|httpx|sqlite3)\b", outside="demo/|providers/ollama_models"
    )


def test_nobody_sleeps_where_something_could_wake_him() -> None:
    assert not lines_with(r"time\.sleep\(", outside="nothing")


def test_no_pattern_is_possessive() -> None:
    # Python 3.11 before 3.11.5, Debian 12's among them, matches those wrongly.
    assert lines_with(r"[)\]][*+?]\+|\(\?>", outside="nowhere") == []


def test_no_module_is_longer_than_seven_hundred_lines() -> None:
    assert not [path.name for path in SOURCES if len(path.read_text().splitlines()) > 720]
