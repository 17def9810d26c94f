"""Models that their server shuts down: known in time, told with the setting that helps, and never by asking in vain."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aitp import logs
from aitp.demo.openai_api import OpenAIApi
from aitp.ledger.inbox import Poll, PollOptions
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.queue import LedgerConfig
from aitp.process.models import asked_of_openai, look_after_models, retiring
from aitp.providers.inventory import Inventory, Retirement, read_inventory, shutdowns_in, write_inventory
from aitp.settings import CHAT_MODEL, EMBEDDING_MODEL, Settings
from aitp.tasks import NewTask, QueueKey
from tests.process.house import House
from tests.providers.embeddings import settings
from tests.waiting import wait_until

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def settings_at(directory: Path, server: OpenAIApi, **values: str) -> Settings:
    given = {
        "openai_base_url": server.base_url,
        "openai_api_key": server.key,
        "runtime_dir": str(directory),
        "rate_limit_storage_path": str(directory / "ledger.db"),
    }
    return settings(**{**given, **values})


@pytest.mark.parametrize(
    ("told", "day"),
    [
        ({"shutdown_date": "2026-12-11"}, "2026-12-11"),
        ({"shutdown_date": "2026-12-11T00:00:00Z"}, "2026-12-11"),
        ({"shutdown_date": None}, None),
        ({}, None),
        ({"shutdown_date": "soon"}, None),
        ({"shutdown_date": True}, None),
        ({"shutdown_date": 1e400}, None),
        ({"shutdown_date": -1}, None),
        ({"shutdown_date": ["2026-12-11"]}, None),
    ],
)
def test_a_day_of_shutdown(told: dict[str, Any], day: str | None) -> None:
    found = shutdowns_in({"data": [{"id": "m", **told}, {"id": "other"}]})

    assert found == ({} if day is None else {"m": datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()})


@pytest.mark.parametrize("document", [None, [], "x", {}, {"data": {}}, {"data": [1, None, {"id": 3}, {}]}])
def test_what_is_no_list_of_models_tells_nothing(document: object) -> None:
    assert shutdowns_in(document) == {}


def test_each_model_that_is_asked_for_comes_with_the_setting_that_names_it() -> None:
    aliases = settings(model_aliases='{"old": "new"}', default_chat_model="mine")
    assert asked_of_openai(aliases, [QueueKey("defining_topics", "o3")]) == {
        EMBEDDING_MODEL: "DEFAULT_EMBEDDING_MODEL",
        "mine": "DEFAULT_CHAT_MODEL",
        "new": "MODEL_ALIASES",
        "o3": "MODEL_ALIASES",
    }
    hybrid = settings(processing_mode="hybrid", fallback_models='{"*": "instead"}')
    assert asked_of_openai(hybrid, [QueueKey("text_embedding", "Nomic-Embed-Text:latest")]) == {
        EMBEDDING_MODEL: "DEFAULT_EMBEDDING_MODEL",
        CHAT_MODEL: "DEFAULT_CHAT_MODEL",
        "instead": "FALLBACK_MODELS",
    }
    assert asked_of_openai(settings(processing_mode="ollama"), [QueueKey("text_embedding", "x")]) == {}
    replaced = settings(model_aliases=json.dumps({"o3": "gpt-6.1-sol"}))
    assert "o3" not in asked_of_openai(replaced, [QueueKey("defining_topics", "o3")])


def test_what_is_over_is_told_while_tasks_or_settings_name_it() -> None:
    at = {"gone": NOON - DAY, "ends": NOON + 12 * DAY, CHAT_MODEL: NOON - 2 * DAY, "unused": NOON}
    queues = dict.fromkeys((QueueKey("defining_topics", name) for name in ("gone", "ends")), False)

    found = retiring(settings(), at, queues, NOON)
    assert found == [
        Retirement(CHAT_MODEL, NOON - 2 * DAY, "DEFAULT_CHAT_MODEL"),
        Retirement("ends", NOON + 12 * DAY, "MODEL_ALIASES"),
    ]
    waiting = {QueueKey("defining_topics", "gone"): True}
    assert Retirement("gone", NOON - DAY, "MODEL_ALIASES") in retiring(settings(), at, waiting, NOON)
    assert found[1].told(NOON) == "OpenAI shuts the model ends down on 11 December 2026"
    assert found[1].advice == 'Choose another one, and name it: MODEL_ALIASES={"ends": "…"}'


def test_the_dates_are_asked_for_once_a_day_and_told_of(
    openai_api: OpenAIApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    openai_api.shutdowns[CHAT_MODEL] = "2020-01-01"
    told = settings_at(tmp_path, openai_api)
    for _ in range(3):
        assert look_after_models(told) is True
    assert len(openai_api.exchanges) == 1
    stock = read_inventory(tmp_path)
    assert stock is not None
    assert [each.model for each in stock.retirements] == [CHAT_MODEL]
    (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (line["level"], line["model"]) == ("error", CHAT_MODEL)
    assert line["event"] == f"OpenAI has shut the model {CHAT_MODEL} down on 1 January 2020"

    write_inventory(tmp_path, stock._replace(shutdowns_at=stock.shutdowns_at - DAY))
    openai_api.shutdowns.clear()
    look_after_models(told)
    stock = read_inventory(tmp_path)
    assert stock is not None
    assert stock.retirements == ()
    look_after_models(told, anew=True)
    assert len(openai_api.exchanges) == 3


def test_a_model_that_tasks_begin_to_name_is_known_at_the_next_look(openai_api: OpenAIApi, tmp_path: Path) -> None:
    openai_api.shutdowns["o3"] = "2100-12-11"
    told = settings_at(tmp_path, openai_api)
    prepare(told.rate_limit_storage_path, strategy="rolling", timezone="UTC", limits={})
    ledger = Ledger.open(told.rate_limit_storage_path, LedgerConfig.of(told))
    look_after_models(told)
    poll = ledger.inbox.begin_poll(1, PollOptions(interval=30, concurrency=1, batch_size=1), asked=True)
    assert isinstance(poll, Poll)
    ledger.inbox.admit(poll, [NewTask("x", QueueKey("defining_topics", "o3"), b"{}")])
    ledger.close()
    look_after_models(told)

    stock = read_inventory(tmp_path)
    assert stock is not None
    assert [(each.model, each.setting) for each in stock.retirements] == [("o3", "MODEL_ALIASES")]
    assert len(openai_api.exchanges) == 1


def test_a_server_that_lists_nothing_keeps_what_was_known(openai_api: OpenAIApi, tmp_path: Path) -> None:
    told = settings_at(tmp_path, openai_api)
    write_inventory(tmp_path, Inventory({}, shutdowns={"x": NOON}))
    look_after_models(settings_at(tmp_path, openai_api, openai_api_key="sk-wrong"))
    openai_api.stop()
    look_after_models(told)

    stock = read_inventory(tmp_path)
    assert stock is not None
    assert stock.shutdowns == {"x": NOON}


def test_a_master_has_the_dates_asked_for_beside_what_ollama_has(
    house: House, openai_api: OpenAIApi, ollama_api: Any
) -> None:
    openai_api.shutdowns[CHAT_MODEL] = "2026-12-11"
    house.settings(
        CONCURRENCY_LIMIT=2,
        RELAY_PROCESSES=1,
        PROCESSING_MODE="hybrid",
        OPENAI_API_KEY=openai_api.key,
        OPENAI_BASE_URL=openai_api.base_url,
        OLLAMA_BASE_URL=ollama_api.url,
    )
    house.start()

    def known() -> bool:
        stock = read_inventory(house.directory / "run")
        return stock is not None and CHAT_MODEL in stock.shutdowns and "nomic-embed-text" in stock.models

    wait_until(known)
    assert openai_api.key not in (house.directory / "run" / "models.json").read_text()
