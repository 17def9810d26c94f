"""What claims know of models that are being pulled."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.policy.routing import Availability, Route
from aitp.process.dispatch import ModelAvailability
from aitp.providers.inventory import FILE_NAME, Inventory, ModelState, Stage, write_inventory
from aitp.settings import Settings
from tests.providers.embeddings import settings

NOMIC = "nomic-embed-text"
AT_OLLAMA = Route("ollama", NOMIC)


def settings_in(directory: Path, mode: str = "hybrid") -> Settings:
    return settings(processing_mode=mode, supported_models=NOMIC, runtime_dir=str(directory))


def stock(state: ModelState, problem: str = "") -> Inventory:
    return Inventory({NOMIC: state}, problem)


TABLE = [
    ("before its pull", stock(ModelState(Stage.MISSING)), Availability.COMING),
    ("while it is pulled", stock(ModelState(Stage.PULLING)), Availability.COMING),
    ("when it is there", stock(ModelState(Stage.PRESENT)), Availability.UNKNOWN),
    ("when a pull has failed", stock(ModelState(Stage.FAILED, failures=1)), Availability.GIVEN_UP),
    ("when it is pulled once more", stock(ModelState(Stage.PULLING, failures=1)), Availability.GIVEN_UP),
    ("of a server that is away", stock(ModelState(Stage.PULLING), "connection refused"), Availability.UNKNOWN),
]


@pytest.mark.parametrize(("found", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_known_of_a_model(found: Inventory, expected: Availability, tmp_path: Path) -> None:
    write_inventory(tmp_path, found)

    assert ModelAvailability(settings_in(tmp_path))(AT_OLLAMA) is expected


def test_news_are_seen_and_a_file_that_is_gone_is_no_knowledge(tmp_path: Path) -> None:
    arrivals = ModelAvailability(settings_in(tmp_path))
    seen = [arrivals(AT_OLLAMA)]
    for stage in (Stage.PULLING, Stage.PRESENT, Stage.MISSING):
        write_inventory(tmp_path, stock(ModelState(stage)))
        seen.append(arrivals(AT_OLLAMA))
    (tmp_path / FILE_NAME).unlink()
    seen.append(arrivals(AT_OLLAMA))

    assert seen == [
        Availability.UNKNOWN,
        Availability.COMING,
        Availability.UNKNOWN,
        Availability.COMING,
        Availability.UNKNOWN,
    ]


def test_a_tag_that_is_the_default_is_the_same_model_and_others_are_not_known(tmp_path: Path) -> None:
    write_inventory(tmp_path, stock(ModelState(Stage.PULLING)))
    arrivals = ModelAvailability(settings_in(tmp_path))

    assert arrivals(Route("ollama", f"{NOMIC}:latest")) is Availability.COMING
    assert arrivals(Route("ollama", f"{NOMIC}:v1.5")) is Availability.UNKNOWN
    assert arrivals(Route("openai", NOMIC)) is Availability.UNKNOWN
    assert ModelAvailability(settings_in(tmp_path, "openai"))(AT_OLLAMA) is Availability.UNKNOWN
