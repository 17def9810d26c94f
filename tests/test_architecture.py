"""The structure holds: imports point one way, and each thing is done in its one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    {"policy"},
    {"logs"},
    {"settings"},
    {"sources"},
    {"validators", "http", "extensions"},
    {"tls", "hardening", "prices"},
    {"tasks", "errors", "aitp"},
)
# Beside each other, but these only read what the processes have written.
EXCEPTIONS = {
    ("web", "process.scoreboard"),
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


def test_the_library_of_the_ledger_s_engine_is_named_in_one_module() -> None:
    assert not lines_with(r"\bapsw\b", outside="ledger/sqlite.py")


def test_the_environment_is_read_by_the_settings_alone() -> None:
    readers = {
        str(path.relative_to(ROOT / "aitp"))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    assert readers == {"settings.py", "process/listener.py"}  # the latter for supervisord's protocol


def test_the_service_has_no_threads_no_event_loop_and_no_second_sqlite() -> None:
    assert not lines_with(
        r"^\s*(import|from) (asyncio|threading|httpx|sqlite3)\b", outside="demo/|providers/ollama_models"
    )


def test_nobody_sleeps_where_something_could_wake_him() -> None:
    assert not lines_with(r"time\.sleep\(", outside="nothing")


def test_no_module_is_longer_than_seven_hundred_lines() -> None:
    assert not [path.name for path in SOURCES if len(path.read_text().splitlines()) > 720]
