"""How lines get out: whole, once, from many processes; and what happens when they cannot."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from aitp import logs
from tests.logs.conftest import Piped

Fork = Callable[[Callable[[], None]], int]
log = logs.get_logger("aitp.test")


def test_levels_below_the_one_asked_for_are_silent(piped: Piped) -> None:
    piped.configure("WARNING")
    log.info("quiet")
    log.warning("loud")
    assert [facts["event"] for facts in piped.facts()] == ["loud"]


def test_a_logger_made_before_follows_a_later_configuration(piped: Piped) -> None:
    piped.configure("ERROR")
    early = logs.get_logger("early")
    early.info("not yet")

    piped.configure("INFO", slot=3)
    early.info("now")

    assert [(facts["event"], facts["slot"]) for facts in piped.facts()] == [("now", 3)]


def test_lines_of_many_processes_do_not_mix(in_a_child: Fork) -> None:
    reading, writing = os.pipe()

    def chatter() -> None:
        logs.configure("INFO", "json", os.getpid(), os.fdopen(writing, "w"))
        for _ in range(200):
            log.info("long", fill="x" * 10_000)

    children = [in_a_child(chatter) for _ in range(4)]
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        lines = stream.read().splitlines()
    for child in children:
        os.waitpid(child, 0)

    assert len(lines) == 800
    assert all(json.loads(line)["event"] == "long" for line in lines)


def test_nothing_is_left_behind_for_a_fork_to_write_again(piped: Piped, in_a_child: Fork) -> None:
    piped.configure()
    log.info("before the fork")

    os.waitpid(in_a_child(sys.stdout.flush), 0)

    assert len(piped.lines()) == 1


def test_a_broken_pipe_does_not_raise(piped: Piped) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        logs.configure("INFO", "json", stream=stream)
        os.close(reading)
        log.info("into the void")


def test_a_full_disk_does_not_raise(piped: Piped) -> None:
    with open("/dev/full", "w") as stream:
        logs.configure("INFO", "json", stream=stream)
        log.info("no room")


def test_a_closed_stream_does_not_raise(piped: Piped) -> None:
    with open(os.devnull, "w") as stream:
        pass
    logs.configure("INFO", "auto", stream=stream)
    log.info("nobody there")


class Passed(Exception):
    pass


def test_a_deadline_that_passes_while_a_line_waits_for_its_reader_is_not_swallowed(piped: Piped) -> None:
    def passed(*_: object) -> None:
        raise Passed("over")

    piped.configure()
    before = signal.signal(signal.SIGALRM, passed)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Passed):
            log_for_ever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def log_for_ever() -> None:
    while True:
        log.info("x" * 3_000)


def test_warnings_of_libraries_come_along_and_their_chatter_does_not(piped: Piped) -> None:
    piped.configure("DEBUG")
    library = logging.getLogger("some.library")
    library.setLevel(logging.DEBUG)
    try:
        library.debug("Request body: %s", "a private text")
        library.info("Retrying")
        library.warning("Connection pool is %s", "full")
    finally:
        library.setLevel(logging.NOTSET)

    (facts,) = piped.facts()
    assert facts.pop("timestamp")
    assert facts == {"level": "warning", "event": "Connection pool is full", "logger": "some.library"}


def test_a_library_that_formats_its_message_wrongly_does_no_harm(piped: Piped) -> None:
    piped.configure()
    logging.getLogger("some.library").error("%d apples and %s", "three")
    assert piped.facts()[0]["event"] == "%d apples and %s"


def test_by_default_lines_go_to_standard_output() -> None:
    program = "from aitp import logs; logs.configure('INFO'); logs.get_logger('x').info('hello')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(run.stdout)["event"] == "hello"


def test_structlog_brings_neither_rich_nor_asyncio_along_and_whoever_wants_them_has_them() -> None:
    program = (
        "import sys; from aitp import logs; assert not {'rich', 'asyncio'} & {*sys.modules}\n"
        "import asyncio, rich.table, structlog\n"
        "asyncio.run(structlog.stdlib.BoundLogger(structlog.PrintLogger(), [lambda *_: 'hello'], {}).ainfo('x'))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"hello\n"
