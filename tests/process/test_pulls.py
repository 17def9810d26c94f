"""Models are looked after by one process, beside all others: at start, on request, and again while one is missing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aitp import logs
from aitp.demo.ollama_api import LIBRARY, OllamaApi
from aitp.policy.routing import Availability, Route
from aitp.process.dispatch import ModelAvailability
from aitp.process.models import look_after_models
from aitp.process.scoreboard import State
from aitp.providers.inventory import FILE_NAME, Inventory, ModelState, Stage, read_inventory, write_inventory
from aitp.settings import Settings, load_settings
from tests.process.house import House
from tests.waiting import wait_until

NOMIC, CHAT = "nomic-embed-text", "llama3.2"
SIZE = LIBRARY[f"{NOMIC}:latest"].size_bytes


def environment(directory: Path, server: OllamaApi, **values: object) -> dict[str, str]:
    (directory / "run").mkdir(exist_ok=True)
    given = {
        "API_BASE_URL": "http://127.0.0.1:9",
        "OAUTH2_TOKEN_URL": "http://127.0.0.1:9/token",
        "OAUTH2_CLIENT_ID": "aitp",
        "OAUTH2_CLIENT_SECRET": "secret",
        "PROCESSING_MODE": "ollama",
        "OLLAMA_BASE_URL": server.url,
        "SUPPORTED_MODELS": NOMIC,
        "RUNTIME_DIR": directory / "run",
        "RATE_LIMIT_STORAGE_PATH": directory / "data" / "ledger.db",
        "AITP_ENV_FILE": "",
        **values,
    }
    return {name: str(value) for name, value in given.items()}


def settings_at(directory: Path, server: OllamaApi, **values: object) -> Settings:
    return load_settings(environment(directory, server, **values))


def state_of(settings: Settings, model: str = NOMIC) -> ModelState:
    stock = read_inventory(settings.runtime_dir)
    assert stock is not None
    return stock.models[model]


def test_what_is_missing_is_pulled_and_known_to_be_there(ollama_api: OllamaApi, tmp_path: Path) -> None:
    ollama_api.present = {f"{CHAT}:latest"}
    settings = settings_at(tmp_path, ollama_api, SUPPORTED_MODELS=f"{NOMIC},{CHAT}")
    told: list[tuple[str, ModelState]] = []

    assert look_after_models(settings, told=lambda *state: told.append(state)) is True
    assert ollama_api.pulls == [f"{NOMIC}:latest"]
    assert state_of(settings) == ModelState(Stage.PRESENT, SIZE, SIZE)
    assert state_of(settings, CHAT) == ModelState(Stage.PRESENT)
    assert [state.stage for name, state in told if name == NOMIC][:2] == [Stage.MISSING, Stage.PULLING]
    assert look_after_models(settings) is True
    assert len(ollama_api.pulls) == 1


def test_the_log_tells_every_tenth(ollama_api: OllamaApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")
    ollama_api.present = set()
    look_after_models(settings_at(tmp_path, ollama_api))
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    percents = [line["percent"] for line in lines if "percent" in line]
    assert len(percents) == 10
    assert percents[-1] == 100
    assert all(line["model"] == NOMIC for line in lines)


def test_a_pull_that_breaks_off_never_seems_to_begin_from_nothing(ollama_api: OllamaApi, tmp_path: Path) -> None:
    ollama_api.present, ollama_api.pull_breaks = set(), 1
    told: list[int] = []
    look_after_models(settings_at(tmp_path, ollama_api), told=lambda name, state: told.append(state.percent))

    assert len(ollama_api.pulls) == 2
    assert told == sorted(told)


def test_other_modes_ask_nobody(ollama_api: OllamaApi, tmp_path: Path) -> None:
    for values in ({"PROCESSING_MODE": "openai"}, {"PROCESSING_MODE": "hybrid"}):
        given = {**values, "OPENAI_API_KEY": "your_openai_api_key_here"}
        assert look_after_models(settings_at(tmp_path, ollama_api, **given)) is True

    assert not ollama_api.exchanges


def test_only_one_process_is_at_it(ollama_api: OllamaApi, tmp_path: Path) -> None:
    settings = settings_at(tmp_path, ollama_api)
    with (settings.runtime_dir / "models.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # even so
        assert look_after_models(settings) is None

    assert look_after_models(settings) is True


def test_a_pull_is_bounded_in_all_and_goes_on_at_the_next_look(ollama_api: OllamaApi, tmp_path: Path) -> None:
    ollama_api.present, ollama_api.pull_seconds = set(), 5.0
    settings = settings_at(
        tmp_path, ollama_api, OLLAMA_MODEL_DOWNLOAD_TIMEOUT="1.5", SUPPORTED_MODELS=f"{NOMIC},{CHAT}"
    )
    assert look_after_models(settings) is False
    first = state_of(settings)
    assert (first.stage, first.failures, first.arrival) == (Stage.FAILED, 1, Availability.GIVEN_UP)
    assert "longer than 1.5 s in all" in first.reason
    assert 0 < first.completed < first.total
    assert len(ollama_api.pulls) == 2  # the other model had its turn

    ollama_api.pull_seconds = 0.0
    seen: list[ModelState] = []
    assert look_after_models(settings, told=lambda name, state: seen.append(state)) is True
    assert next(state for state in seen if state.completed).completed >= first.completed
    assert {state.arrival for state in seen if state.stage is Stage.PULLING} == {Availability.GIVEN_UP}
    assert (state_of(settings).failures, state_of(settings).arrival) == (0, Availability.UNKNOWN)


def test_a_pull_that_is_interrupted_is_not_waited_for(ollama_api: OllamaApi, tmp_path: Path) -> None:
    ollama_api.present = set()
    settings = settings_at(tmp_path, ollama_api)

    def told(name: str, state: ModelState) -> None:
        if state.stage is Stage.PULLING and state.percent > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_after_models(settings, told=told)
    assert (state_of(settings).reason, state_of(settings).arrival) == ("it was interrupted", Availability.GIVEN_UP)


def test_a_model_that_cannot_be_had_costs_the_others_nothing(ollama_api: OllamaApi, tmp_path: Path) -> None:
    ollama_api.present = set()
    settings = settings_at(tmp_path, ollama_api, SUPPORTED_MODELS=f"no-such,{NOMIC}")

    assert look_after_models(settings) is False
    assert "file does not exist" in state_of(settings, "no-such").reason
    assert state_of(settings).stage is Stage.PRESENT


def test_a_model_that_cannot_be_had_is_pulled_ever_more_seldom(ollama_api: OllamaApi, tmp_path: Path) -> None:
    clock = [1_000_000.0]
    settings = settings_at(tmp_path, ollama_api, SUPPORTED_MODELS=f"no-such,{NOMIC}")
    pulled: list[float] = []
    for _ in range(2 * 60):  # somebody looks each half minute for an hour, then each hour
        look_after_models(settings, clock=lambda: clock[0])
        pulled += [clock[0] - 1_000_000.0] * (len(ollama_api.pulls) - len(pulled))
        clock[0] += 30.0
    assert len([at for at in pulled if at <= 600]) <= 5
    assert 5 <= len(pulled) <= 8

    state = state_of(settings, "no-such")
    assert (state.stage, state.arrival) == (Stage.FAILED, Availability.GIVEN_UP)
    assert "file does not exist" in state.reason
    for _ in range(12):
        clock[0] += 3_700.0
        look_after_models(settings, clock=lambda: clock[0])
    assert len(ollama_api.pulls) == len(pulled) + 12
    look_after_models(settings, clock=lambda: 5.0)
    assert len(ollama_api.pulls) == len(pulled) + 13, "a clock that was set back puts nothing off"


def test_a_model_that_somebody_else_pulls_is_seen_at_the_next_look(ollama_api: OllamaApi, tmp_path: Path) -> None:
    ollama_api.present, ollama_api.pull_error = set(), "pull model manifest: 503"
    settings = settings_at(tmp_path, ollama_api)
    look_after_models(settings)
    look_after_models(settings)
    assert len(ollama_api.pulls) == 1
    ollama_api.present = {f"{NOMIC}:latest"}
    assert look_after_models(settings) is True
    assert state_of(settings) == ModelState(Stage.PRESENT)


def test_models_are_known_by_any_of_their_names(ollama_api: OllamaApi, tmp_path: Path) -> None:
    names = f"Nomic-Embed-Text,registry.ollama.ai/library/{CHAT}"
    settings = settings_at(tmp_path, ollama_api, SUPPORTED_MODELS=names)

    assert look_after_models(settings) is True
    assert ollama_api.pulls == []
    assert ModelAvailability(settings)(Route("ollama", NOMIC)) is Availability.UNKNOWN
    ollama_api.present, ollama_api.pull_error = set(), "pull model manifest: no"
    look_after_models(settings)
    assert ModelAvailability(settings)(Route("ollama", f"{NOMIC}:latest")) is Availability.GIVEN_UP


def test_a_server_that_is_down_leaves_what_was_known_and_the_reason(ollama_api: OllamaApi, tmp_path: Path) -> None:
    settings = settings_at(tmp_path, ollama_api)
    look_after_models(settings)
    ollama_api.stop()

    assert look_after_models(settings) is False
    stock = read_inventory(settings.runtime_dir)
    assert stock is not None
    assert "could not be connected to" in stock.problem
    assert stock.models[NOMIC].stage is Stage.PRESENT


def test_a_model_that_vanishes_is_pulled_again(ollama_api: OllamaApi, tmp_path: Path) -> None:
    settings = settings_at(tmp_path, ollama_api)
    for _ in range(2):
        assert look_after_models(settings) is True
        ollama_api.present = set()

    assert look_after_models(settings) is True
    assert len(ollama_api.pulls) == 2


def test_a_garbled_file_is_no_knowledge(tmp_path: Path) -> None:
    assert read_inventory(tmp_path) is None
    stock = Inventory({NOMIC: ModelState(Stage.PULLING, 1, 3, "", 2, 7.0)}, "problem")
    write_inventory(tmp_path, stock)
    assert read_inventory(tmp_path) == stock
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    good = (tmp_path / FILE_NAME).read_bytes()
    for bad in (
        b"",
        good[:-2],
        b"[]",
        b'{"models": []}',
        good.replace(b"pulling", b"flying"),
        good.replace(b"1,", b'"x",'),
    ):
        (tmp_path / FILE_NAME).write_bytes(bad)
        assert read_inventory(tmp_path) is None, bad


# Under a real master


def use_ollama(house: House, server: OllamaApi, **more: object) -> None:
    house.settings(CONCURRENCY_LIMIT=2, RELAY_PROCESSES=1, PROCESSING_MODE="ollama", OLLAMA_BASE_URL=server.url, **more)


def stage_in(house: House) -> Stage | None:
    stock = read_inventory(house.directory / "run")
    return stock.models[NOMIC].stage if stock and not stock.problem else None


def test_a_master_has_models_pulled_while_its_children_are_at_work(house: House, ollama_api: OllamaApi) -> None:
    ollama_api.present, ollama_api.pull_seconds = set(), 60.0
    use_ollama(house, ollama_api)
    master = house.start()
    wait_until(lambda: stage_in(house) is Stage.PULLING)
    assert house.crew_is(State.IDLE)
    master.terminate()
    assert master.wait(5) == 0, "a pull must not hold a stop up"
    wait_until(lambda: not ollama_api.in_flight)


def test_a_worker_that_misses_a_model_has_it_pulled_again(house: House, ollama_api: OllamaApi) -> None:
    use_ollama(house, ollama_api)
    master = house.start(look_again_seconds=0.2)
    wait_until(lambda: stage_in(house) is Stage.PRESENT)
    ollama_api.present = set()
    house.order("miss model")
    master.send_signal(signal.SIGUSR1)
    wait_until(lambda: ollama_api.present == {f"{NOMIC}:latest"} and stage_in(house) is Stage.PRESENT)


def test_workers_that_miss_a_model_again_and_again_have_it_pulled_no_more_often(
    house: House, ollama_api: OllamaApi
) -> None:
    ollama_api.present, ollama_api.pull_error = set(), "pull model manifest: 503"
    use_ollama(house, ollama_api)
    master = house.start(look_again_seconds=0.05)
    wait_until(lambda: stage_in(house) is Stage.FAILED)

    def looks() -> int:
        return sum(exchange.path == "/api/tags" for exchange in ollama_api.exchanges)

    for _ in range(3):
        before = looks()
        house.order("miss model")
        master.send_signal(signal.SIGUSR1)
        wait_until(lambda before=before: looks() > before)  # type: ignore[misc]
    assert len(ollama_api.pulls) == 1


def test_a_master_looks_again_until_the_server_is_up(house: House, ollama_api: OllamaApi) -> None:
    ollama_api.present = set()
    ollama_api.stop()
    use_ollama(house, ollama_api)
    house.start(look_again_seconds=0.2)
    wait_until(lambda: "cannot be asked for its models" in house.log())
    ollama_api.start()
    wait_until(lambda: stage_in(house) is Stage.PRESENT)


def test_a_reload_ends_a_pull_that_nobody_wants_any_more(house: House, ollama_api: OllamaApi) -> None:
    ollama_api.present, ollama_api.pull_seconds = {f"{CHAT}:latest"}, 60.0
    use_ollama(house, ollama_api)
    master = house.start()
    wait_until(lambda: stage_in(house) is Stage.PULLING)
    use_ollama(house, ollama_api, SUPPORTED_MODELS=CHAT)
    master.send_signal(signal.SIGHUP)

    def only_the_other() -> bool:
        stock = read_inventory(house.directory / "run")
        return stock is not None and stock.models == {CHAT: ModelState(Stage.PRESENT)}

    wait_until(only_the_other)
    wait_until(lambda: not ollama_api.in_flight)


# On the command line


def pull(directory: Path, server: OllamaApi, *words: str, **values: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aitp", "models", "pull", *words],
        env={"PATH": os.environ["PATH"], **environment(directory, server, **values)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_pulls_what_is_missing(ollama_api: OllamaApi, tmp_path: Path) -> None:
    ollama_api.present = set()
    run = pull(tmp_path, ollama_api)

    assert (run.returncode, run.stderr) == (0, "")
    assert NOMIC in run.stdout
    assert "present" in run.stdout
    assert ollama_api.present == {f"{NOMIC}:latest"}


def test_the_command_tells_programs_what_is_missing(ollama_api: OllamaApi, tmp_path: Path) -> None:
    run = pull(tmp_path, ollama_api, "--json", SUPPORTED_MODELS=f"no-such,{NOMIC}")
    report: dict[str, Any] = json.loads(run.stdout)

    assert run.returncode == 1
    assert report["models"][NOMIC]["stage"] == "present"
    assert "file does not exist" in report["models"]["no-such"]["reason"]


def test_the_command_leaves_a_running_pull_alone(ollama_api: OllamaApi, tmp_path: Path) -> None:
    environment(tmp_path, ollama_api)
    with (tmp_path / "run" / "models.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        run = pull(tmp_path, ollama_api)

    assert run.returncode == 1
    assert "pulling models already" in run.stderr


def test_the_command_says_that_ollama_is_not_used(ollama_api: OllamaApi, tmp_path: Path) -> None:
    run = pull(tmp_path, ollama_api, PROCESSING_MODE="openai", OPENAI_API_KEY="sk-real")

    assert run.returncode == 1
    assert "PROCESSING_MODE" in run.stderr
