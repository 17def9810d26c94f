"""How exceptions show: what happened, where, what it came from, and nothing of the data they happened on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import requests

from aitp import logs
from aitp.errors import ServiceFault
from tests.logs.conftest import Piped

TEXT = "O texto privado de alguém"
log = logs.get_logger("aitp.test")


def parse(text: str) -> int:
    return int(text)


def test_an_unexpected_exception_shows_its_type_and_its_places(piped: Piped) -> None:
    piped.configure()
    try:
        parse(TEXT)
    except ValueError:
        log.exception("Unexpected exception")

    (line,) = piped.lines()
    assert TEXT.encode() not in line
    assert b'"level":"error"' in line
    assert b'"exception":"ValueError at ' in line
    assert b" parse < " in line


def test_our_own_errors_show_their_messages_and_their_cause(piped: Piped) -> None:
    piped.configure()
    try:
        try:
            parse(TEXT)
        except ValueError as error:
            raise ServiceFault("openai", "OpenAI answered 503") from error
    except ServiceFault as error:
        log.error("Failed", exc_info=error)

    exception = piped.facts()[0]["exception"]
    assert exception.startswith("ServiceFault: OpenAI answered 503 at ")
    assert "; from ValueError at " in exception
    assert TEXT not in exception


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (AttributeError("'Task' object has no attribute 'colour'"), "AttributeError: 'Task' object has no attribute"),
        (FileNotFoundError(2, "No such file or directory", "/home/x"), "FileNotFoundError: No such file or directory"),
        (requests.ConnectionError(f"https://api/?text={TEXT}"), "requests.exceptions.ConnectionError"),
        (UnicodeEncodeError("ascii", TEXT, 0, 1, TEXT), "UnicodeEncodeError"),
        (KeyError(TEXT), "KeyError"),
    ],
)
def test_messages_that_may_hold_data_are_left_out(piped: Piped, error: Exception, shown: str) -> None:
    piped.configure()

    log.error("Failed", exc_info=error, error=error)

    facts = piped.facts()[0]
    assert facts["exception"].startswith(shown)
    assert facts["error"].startswith(shown)
    assert TEXT not in str(facts)


def test_an_endless_chain_is_cut(piped: Piped) -> None:
    piped.configure()
    first, second = ServiceFault("api", "first"), ServiceFault("api", "second")
    first.__cause__, second.__cause__ = second, first

    log.error("Failed", exc_info=first)

    assert piped.facts()[0]["exception"].count("; from ") == 3


def test_secrets_in_our_own_messages_are_masked(piped: Piped) -> None:
    piped.configure()
    logs.conceal("hunter22")
    log.error("Failed", exc_info=ServiceFault("api", "refused hunter22"))
    assert piped.facts()[0]["exception"] == "ServiceFault: refused ***"


def test_a_process_that_has_configured_nothing_shows_no_local_variable_either() -> None:
    program = (
        "from aitp.logs import get_logger\n"
        "local = 'planted' + 'secret'\n"
        "try:\n    local.nothing\n"
        "except AttributeError:\n    get_logger('x').exception('Lost')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "Lost" in run.stderr
    assert "AttributeError" in run.stderr
    assert "plantedsecret" not in run.stdout + run.stderr
