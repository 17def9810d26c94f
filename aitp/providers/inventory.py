"""What is known of models: which of the supported ones the Ollama server has, and when OpenAI shuts down which of its.

One small file, written by whoever looks after models (`aitp.process.models`). Readiness, metrics and the page read it;
they never ask a server. It is replaced as a whole, so that a reader sees all or nothing of it. Whatever cannot be read
counts as not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson

from aitp.hardening import replace_file
from aitp.policy.routing import Availability

if TYPE_CHECKING:
    from aitp.settings import Settings

FILE_NAME = "models.json"
DAY_SECONDS = 86_400.0
WARNED_DAYS = 60  # before a model is shut down
OPENAI_URL = "https://api.openai.com/v1"
MOST_MODELS = 10_000


class Stage(StrEnum):
    """What is known of a model."""

    PRESENT = "present"
    MISSING = "missing"  # and its turn to be pulled has not come yet
    PULLING = "pulling"
    FAILED = "failed"  # `reason` says why; it is tried again later


class ModelState(NamedTuple):
    """One model. `completed` of `total` bytes have come.

    `failures`: pulls that have failed since it was last there, or since one last brought something. `pull_at`: it is
    not pulled again before (UTC seconds).
    """

    stage: Stage
    completed: int = 0
    total: int = 0
    reason: str = ""
    failures: int = 0
    pull_at: float = 0.0

    @property
    def percent(self) -> int:
        return 100 * self.completed // self.total if self.total else 0

    @property
    def arrival(self) -> Availability:
        """Whether it is worth waiting for. A first pull is; after a failure others may stand in until it is there."""
        if self.stage is Stage.PRESENT:
            return Availability.UNKNOWN
        return Availability.GIVEN_UP if self.failures or self.stage is Stage.FAILED else Availability.COMING


class Retirement(NamedTuple):
    """A `model` that is asked for, when its server shuts it down (UTC seconds), and the `setting` that replaces it."""

    model: str
    at: float
    setting: str

    def is_near(self, now: float) -> bool:
        return self.at - now < WARNED_DAYS * DAY_SECONDS

    def is_over(self, now: float) -> bool:
        return self.at <= now

    def told(self, now: float) -> str:
        day = f"{datetime.fromtimestamp(self.at, UTC):%-d %B %Y}"
        return f"OpenAI {'has shut' if self.is_over(now) else 'shuts'} the model {self.model} down on {day}"

    @property
    def advice(self) -> str:
        """What to do, in the setting's own words."""
        if self.setting == "MODEL_ALIASES":
            return f'Choose another one, and name it: MODEL_ALIASES={{"{self.model}": "…"}}'
        return f"Choose another one, and name it in {self.setting}"


class Inventory(NamedTuple):
    """All supported models by name. `problem`: why the server could not be asked, then the models are of before.

    `shutdowns`: when OpenAI shuts down which of its models (UTC seconds), as of `shutdowns_at`; `retirements`: those of
    them that are asked for.
    """

    models: Mapping[str, ModelState]
    problem: str = ""
    shutdowns: Mapping[str, float] = {}
    shutdowns_at: float = 0.0
    retirements: tuple[Retirement, ...] = ()


_Read = TypeVar("_Read", ModelState, Retirement, Inventory)


def write_inventory(runtime_dir: Path, stock: Inventory) -> None:
    """Replace what is known. Raises OSError."""
    replace_file(runtime_dir / FILE_NAME, orjson.dumps(stock._asdict(), default=lambda part: part._asdict()))


def read_inventory(runtime_dir: Path) -> Inventory | None:
    """What is known; None if nothing is."""
    try:
        told = orjson.loads((runtime_dir / FILE_NAME).read_bytes())
        states = {name: {**state, "stage": Stage(state["stage"])} for name, state in told["models"].items()}
        models = {name: _like(ModelState(Stage.MISSING), state) for name, state in states.items()}
        retirements = tuple(_like(Retirement("", 0.0, ""), each) for each in told["retirements"])
        return _like(Inventory({}), {**told, "models": models, "retirements": retirements})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _like(sample: _Read, told: Mapping[str, Any]) -> _Read:
    """Raises TypeError for what others must have written. Not by pydantic: `aitp status` does without."""
    read = type(sample)(**told)
    if list(map(type, read)) != list(map(type, sample)):
        raise TypeError(told)
    return read


def ask_for_models(settings: Settings, seconds: float) -> tuple[int, object]:
    """The answer's status, and its JSON (None if it is no object). Raises NoAnswer; `seconds` bound each read.

    OpenAI tells of each model on which day it is shut down (`shutdown_date`, OpenAI API reference, models). Servers
    that only speak its protocol list less, more, or nothing at all: what is not understood is not known.
    """
    from aitp.http import ask, json_object  # not above: who only reads the file asks nobody

    assert settings.openai_api_key is not None
    url = f"{(settings.openai_base_url or OPENAI_URL).rstrip('/')}/models"
    key = f"Bearer {settings.openai_api_key.get_secret_value()}"
    answer = ask(url, seconds, settings.trust, {"Accept": "application/json", "Authorization": key})
    return answer.status, json_object(answer.body)


def shutdowns_in(document: object) -> dict[str, float]:
    """When each model of a list of models is shut down (UTC seconds), of those of which the list tells."""
    listed = document.get("data") if isinstance(document, dict) else None
    found: dict[str, float] = {}
    for model in listed[:MOST_MODELS] if isinstance(listed, list) else ():
        try:
            day = datetime.fromisoformat(model["shutdown_date"])
            found[str(model["id"])] = (day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()
        except (ValueError, LookupError, TypeError, OverflowError):
            continue  # most have none
    return found
