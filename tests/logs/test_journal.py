"""Where systemd's journal collects the output, each line begins with its priority; nowhere else does one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aitp import logs
from tests.logs.conftest import Piped

log = logs.get_logger("aitp.test")


def journal_of(descriptor: int) -> str:
    file = os.fstat(descriptor)
    return f"{file.st_dev}:{file.st_ino}"


def written(*command: str, **environ: str) -> list[str]:
    """What a program writes to either of its streams, which are the journal's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told = {**os.environ, "JOURNAL_STREAM": journal_of(theirs.fileno()), "AITP_ENV_FILE": "", **environ}
        into = theirs.fileno()
        subprocess.run([sys.executable, *command], stdout=into, stderr=into, env=told, check=False, timeout=60)
        theirs.close()
        with ours.makefile() as stream:
            return stream.read().splitlines()


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_line_carries_its_level(format: str, piped: Piped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", journal_of(piped.stream.fileno()))
    piped.configure("DEBUG", format)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("An event")
    try:
        raise KeyError("told")
    except KeyError:
        log.exception("A failure")

    lines = [line.decode() for line in piped.lines()]

    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<3>"]
    if format == "json":
        assert [json.loads(line[3:])["level"] for line in lines[:2]] == ["debug", "info"]


def test_a_long_line_is_no_longer_for_its_priority(piped: Piped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", journal_of(piped.stream.fileno()))
    piped.configure()
    lengths: list[int] = []
    for length in range(970, 1_020):
        log.info("x", **{f"fact{place}": "y" * length for place in range(4)})
        lengths += map(len, piped.lines())
    assert logs.LINE_BYTES - 4 < max(lengths) <= logs.LINE_BYTES


@pytest.mark.parametrize("told", ["", "1:2", "no such thing"])
def test_elsewhere_there_are_no_marks(told: str, piped: Piped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", told)
    piped.configure()
    log.warning("An event")
    [line] = piped.lines()
    assert line.startswith(b"{")


def test_what_the_command_line_refuses_is_an_error_line_by_line(tmp_path: Path) -> None:
    lines = written("-m", "aitp", "master", CONCURRENCY_LIMIT="many", RUNTIME_DIR=str(tmp_path))

    assert len(lines) > 2
    assert all(re.match("<3>aitp: [A-Z]", line) for line in lines), lines


def test_a_traceback_is_an_error_in_each_of_its_lines() -> None:
    lines = written("-c", "from aitp.logs import mark_errors; mark_errors(); print('text'); {}['a\\nb']")

    assert [line for line in lines if not line.startswith("<3>")] == ["text"]
    assert "<3>Traceback (most recent call last):" in lines
