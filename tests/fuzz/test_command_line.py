"""What may be typed: every command ends with an exit code of its own and no traceback, and its JSON is JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.commands.cli import main
from aitp.ledger.outbox import DeliveryOutcome
from aitp.tasks import QueueKey
from tests.fuzz.cases import cases, texts
from tests.ledger.world import World, make_template
from tests.settings.complete import COMPLETE

ODD_KIND = QueueKey("defining_topics", "model \x1b[31m\u202e💥 [red]")
ODD_REASON = 'the API said "no"\r\n\x1b]0;x\x07 [bold]\\[/] \ud7ff{}%s'
ID = "65f0c0ffee65f0c0ffee65f0"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A ledger without a service, with ready tasks, a dead letter and reasons that try to move the cursor."""
    folder = tmp_path / "data"
    folder.mkdir()
    world = World.create(folder, make_template(folder))
    world.admit("a", "b", ID, queue=ODD_KIND)
    world.run()
    for delivery in world.take():
        world.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, ODD_REASON)
    world.fail_until_open()
    world.close()
    os.mkfifo(folder / "pipe")
    return world.path


def typed(place: Path, words: list[str]) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `aitp WORDS`, in this process."""
    environ = {**COMPLETE, "AITP_ENV_FILE": "", "RATE_LIMIT_STORAGE_PATH": str(place), "COLUMNS": "80"}
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, kept | environ, clear=True),
        mock.patch.object(sys, "argv", ["aitp", *words]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        contextlib.chdir(place.parent),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


# Those that come to an end by themselves, whatever they are told.
COMMANDS = (
    ("check", "--offline"), ("status",), ("tasks",), ("limits",), ("pause",), ("resume",), ("poll",), ("dead",),
    ("dead", "list"),
    ("dead", "show"), ("dead", "retry"), ("dead", "drop"), ("ledger",), ("ledger", "check"), ("ledger", "backup"),
    ("ledger", "recover"), ("ledger", "move", "--to", "fleet"),
    ("models",), ("completion",), ("man",), ("eval", "--types", "x"), ("demo", "--types", "x"),
)  # fmt: skip
OPTIONS = ("--json", "--help", "-h", "--yes", "--all", "--quick", "--force", "--state", "--limit", "--",
           "--version", "--type", "--since", "--id", "--loud", "-x", "--watch=x")  # fmt: skip
words = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from((ID, "a", "ready", "dead", "0", "-1", "9" * 30, "pipe", "/nowhere/x", "data.db", ".")),
    # No paths: a backup is written wherever it is told to.
    texts.map(lambda text: text.replace("\0", "").replace("/", "")),
)


@cases(5_000)
@given(command=st.sampled_from(COMMANDS), rest=st.lists(words, max_size=4))
def test_whatever_is_typed_ends_with_a_code_and_without_a_traceback(
    place: Path, command: tuple[str, ...], rest: list[str]
) -> None:
    code, out, err = typed(place, [*command, *rest])

    assert code in (0, 1, 2, 78)
    assert "Traceback" not in out + err
    if code == 0 and "--json" in rest and not {"--help", "-h", "--", "--version"} & set(rest) and command:
        json.loads(out)


READERS = [
    ("status",),
    ("tasks",),
    ("limits",),
    ("dead", "list"),
    ("dead", "show", ID),
    ("ledger", "check"),
    ("check",),
]


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_what_came_from_elsewhere_reaches_a_terminal_escaped_and_programs_whole(
    place: Path, command: tuple[str, ...]
) -> None:
    _, shown, _ = typed(place, [*command])
    _, told, _ = typed(place, [*command, "--json"])

    assert all(line.isprintable() for line in shown.replace("\t", " ").splitlines())
    json.loads(told)
