"""Ollama's models as /metrics and /ready tell of them, from the file of whoever looks after them."""

from __future__ import annotations

import json
import time
from pathlib import Path

from aitp.providers.inventory import Inventory, ModelState, Retirement, Stage, write_inventory
from aitp.settings import CHAT_MODEL
from tests.metrics.reading import parse, value
from tests.web.world import World, ask


def test_a_pull_is_seen_in_metrics_and_keeps_the_service_from_being_ready(tmp_path: Path) -> None:
    world = World.create(tmp_path, PROCESSING_MODE="ollama", SUPPORTED_MODELS="a,b:q4")
    write_inventory(
        world.settings.runtime_dir,
        Inventory({"a": ModelState(Stage.PRESENT), "b:q4": ModelState(Stage.PULLING, 40, 100)}),
    )
    series = parse(ask(world.app, "/metrics").body)
    ready = ask(world.app, "/ready")

    assert value(series, "ollama_model_present", model="a") == 1
    assert value(series, "ollama_model_present", model="b:q4") == 0
    assert value(series, "ollama_model_pull_bytes", model="b:q4", kind="completed") == 40
    assert value(series, "ollama_model_pull_bytes", model="b:q4", kind="total") == 100
    assert json.loads(ready.body)["reasons"] == ["the model b:q4 is being pulled: 40 %"]


def test_a_model_that_openai_shuts_down_is_seen_in_metrics_and_on_the_page(tmp_path: Path) -> None:
    world = World.create(tmp_path, PROCESSING_MODE="openai", OPENAI_API_KEY="sk-real")
    at = time.time() + 30 * 86_400
    write_inventory(
        world.settings.runtime_dir, Inventory({}, retirements=(Retirement(CHAT_MODEL, at, "DEFAULT_CHAT_MODEL"),))
    )
    series = parse(ask(world.app, "/metrics").body)

    assert value(series, "aitp_model_shutdown_timestamp_seconds", model=CHAT_MODEL) == at
    assert len([name for name, _ in series if name == "aitp_model_shutdown_timestamp_seconds"]) == 1
    page = ask(world.app, "/").body.decode()
    assert f"OpenAI shuts the model {CHAT_MODEL} down on" in page
    assert "DEFAULT_CHAT_MODEL" in page


def test_what_is_left_of_another_mode_is_not_told(tmp_path: Path) -> None:
    world = World.create(tmp_path)
    write_inventory(world.settings.runtime_dir, Inventory({"a": ModelState(Stage.PULLING)}))

    assert not [name for name, _ in parse(ask(world.app, "/metrics").body) if name.startswith("ollama_model_present")]
    assert json.loads(ask(world.app, "/ready").body)["status"] == "ready"
