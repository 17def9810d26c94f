"""What a line looks like: its facts, its length, what is escaped, cut and masked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from aitp import logs
from aitp.errors import ServiceFault
from aitp.logs import LINE_BYTES, as_json, as_text, fitted
from aitp.process.service import keep_out_of_logs
from aitp.settings import load_settings
from aitp.sources import SECRETS
from tests.logs.conftest import Piped
from tests.settings.complete import COMPLETE

SECRET = "s3cr3t:+/%&"
log = logs.get_logger("aitp.test")


def test_a_line_has_time_level_event_slot_and_the_facts(piped: Piped) -> None:
    piped.configure(slot=101)

    log.info("Task processing completed", task_id="65f0c0ffee", seconds=0.25)

    (facts,) = piped.facts()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", facts.pop("timestamp"))
    assert facts == {
        "level": "info",
        "event": "Task processing completed",
        "logger": "aitp.test",
        "slot": 101,
        "task_id": "65f0c0ffee",
        "seconds": 0.25,
    }


def test_the_console_shows_the_same_for_people(piped: Piped) -> None:
    piped.configure(format="console")

    log.warning("Rate limit exceeded", period="minute", note="two words", count=3)

    (line,) = piped.lines()
    assert line.decode().partition(" ")[2] == (
        'WARNING  Rate limit exceeded  logger=aitp.test  period=minute  note="two words"  count=3\n'
    )


def test_auto_means_json_where_nobody_watches(piped: Piped) -> None:
    piped.configure(format="auto")
    log.info("hello")
    assert piped.facts()[0]["event"] == "hello"


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize(
    "forged", ["a\nb", "a\r\nb", "\x1b[31mred", "\x9b31m", "\u202egnp.exe", "a\x00b", "\u2028", "\ud800"]
)
def test_control_characters_are_escaped(piped: Piped, format: str, forged: str) -> None:
    piped.configure(format=format)

    log.info(f"event {forged}", **{"task_id": forged, f"name {forged}": [{forged: forged}]})

    (line,) = piped.lines()
    assert line.decode().removesuffix("\n").isprintable()


def test_a_long_value_is_cut_and_the_line_says_so(piped: Piped) -> None:
    piped.configure()

    log.info("long", reason="x" * 100_000, task_id="65f0")

    (line,) = piped.lines()
    facts = json.loads(line)
    assert len(line) <= LINE_BYTES
    assert facts["truncated"] is True
    assert facts["task_id"] == "65f0"
    assert len(facts["reason"]) > 1_000


def test_a_line_that_fits_is_not_called_truncated(piped: Piped) -> None:
    piped.configure()
    log.info("short", reason="x" * 3_000)
    assert "truncated" not in piped.facts()[0]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text() | st.integers(), inside),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), anything, max_size=5), st.sampled_from([1, 500, 5_000]))
def test_whatever_is_logged_is_one_short_valid_printable_line(facts: dict[str, Any], times: int) -> None:
    facts = {**facts, "timestamp": "2025-01-01T00:00:00.000Z", "level": "info", "event": "long " * times}

    for render in (as_json, as_text):
        line = fitted(facts, render)

        assert len(line) <= LINE_BYTES
        assert line.endswith(b"\n")
        assert line[:-1].decode().isprintable()
        if render is as_json:
            assert json.loads(line)["level"] == "info"


def test_many_facts_that_cannot_be_cut_still_make_a_line(piped: Piped) -> None:
    piped.configure(slot=7)

    log.info("many", **{f"{number} {'x' * 70}": "y" * 70 for number in range(1_000)})

    facts = piped.facts()[0]
    assert facts.pop("timestamp")
    assert facts == {"level": "info", "event": "many", "slot": 7, "truncated": True}


class Document(BaseModel):
    text: str


@pytest.mark.parametrize("value", [Document(text="a private text"), b"a private text", object()])
def test_objects_show_as_their_types_and_never_as_what_they_hold(piped: Piped, value: object) -> None:
    piped.configure()
    log.info("odd", value=value)
    assert piped.facts()[0]["value"] == f"<{type(value).__name__}>"


def test_registered_secrets_are_masked_wherever_they_turn_up(piped: Piped) -> None:
    piped.configure()
    logs.conceal(SECRET, SecretStr("sk-other"), None)

    log.info(f"with {SECRET}", **{SECRET: 1}, nested=[{"a": f"Bearer {SECRET}"}], form="s3cr3t%3A%2B%2F%25%26")
    log.info("second", key=SecretStr("unregistered"), path=Path("/x/sk-other"), error=ServiceFault("api", SECRET))

    first, second = piped.lines()
    assert b"s3cr3t" not in first + second
    assert b"sk-other" not in second
    assert b"unregistered" not in second
    assert first.count(b"***") == 4


def test_a_secret_that_begins_like_another_is_masked_whole(piped: Piped) -> None:
    piped.configure()
    logs.conceal("sk-1234", "sk-1234-5678")
    log.info("x", key="sk-1234-5678")
    assert piped.facts()[0]["key"] == "***"


def test_too_short_a_secret_masks_nothing(piped: Piped) -> None:
    piped.configure()
    logs.conceal("", "a")
    log.info("a banana")
    assert piped.facts()[0]["event"] == "a banana"


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_of_the_settings_is_kept_out_of_the_service_s_log(piped: Piped, name: str) -> None:
    piped.configure()
    secret = {"LEDGER_URL": "postgresql://aitp:a-secret-of-ours@db/aitp"}.get(name, "a-secret-of-ours")
    keep_out_of_logs(load_settings({**COMPLETE, "OLLAMA_BASE_URL": "https://models.example", name: secret}))

    log.info("A server repeats it", reason="no such key: a-secret-of-ours")

    assert b"a-secret-of-ours" not in piped.lines()[0]
