"""What the package is told: settings under the names of the service that calls Jev today, read by aitp from where its
own come from (`aitp.settings` entry points). `rules` says what they come to for aitp.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from aitp import validators
from aitp.errors import ConfigurationError
from aitp.providers import Rules
from aitp.settings import Settings

NAME = "jev"
PLACEHOLDER = "your_typesafe_api_key_here"
QUESTIONS = Path(__file__).parent / "prompts" / "jev.json"


def _json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


Seconds = Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)]
Waits = Annotated[tuple[Seconds, ...], BeforeValidator(_json), Field(min_length=1, max_length=20)]
Thresholds = tuple[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1, le=1)]], ...]


class JevSettings(BaseModel):
    """An attribute has its variable's name in lower case."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    typesafe_api_key: SecretStr | None = None
    """The key. Unset: tasks wait for one. The placeholder: answers are invented."""
    jev_base_url: validators.Url = "https://api.typesafe.ai"
    jev_timeout: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 30.0
    """Seconds that a call may take."""
    jev_backoff_seconds: Waits = (5, 10, 20, 40, 60)
    """Seconds before each further try of a task at which Jev has failed; after all of them OpenAI stands in."""
    jev_fallback_model: str = ""
    """OpenAI's model that stands in. Empty: DEFAULT_CHAT_MODEL."""
    jev_fallback_max_per_day: Annotated[int, Field(ge=0, le=1_000_000)] = 50
    """Calls to it on a UTC day, at most. 0: none, tasks wait for Jev."""
    jev_reach_thresholds: Annotated[Thresholds, BeforeValidator(_json)] = ()
    """[[followers, -1 | 0 | 1], …]: by how much reach moves a severity's band."""

    @property
    def mock(self) -> bool:
        return self.typesafe_api_key is not None and self.typesafe_api_key.get_secret_value() == PLACEHOLDER


def settings_of(settings: Settings) -> JevSettings:
    """Ours. ConfigurationError: all that is wrong with them, a line each."""
    given = {name.lower(): value for name, value in settings.extensions.items()}
    problems: list[str] = []
    try:
        found = JevSettings.model_validate({name: given[name] for name in JevSettings.model_fields if name in given})
    except ValidationError as error:
        raise ConfigurationError(
            dict.fromkeys(_problem(given, details) for details in error.errors(include_url=False))  # type: ignore[arg-type]
        ) from None
    model = found.jev_fallback_model or settings.default_chat_model
    if model.lower().startswith(NAME) and found.jev_fallback_max_per_day:
        problems.append(f"JEV_FALLBACK_MODEL={model}: Jev cannot stand in for itself; name one of OpenAI's models")
    if not settings.allow_insecure_http:
        try:
            validators.refuse_open_secrets(found.jev_base_url)
        except ValueError as error:
            problems.append(f"JEV_BASE_URL={validators.shown(found.jev_base_url)}: {error}")
    questions(settings.prompts_dir)
    if problems:
        raise ConfigurationError(problems)
    return found.model_copy(update={"jev_fallback_model": model})


def _problem(given: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    name = str(details["loc"][0])
    value = "***" if isinstance(given[name], SecretStr) else validators.shown(str(given[name]))
    return f"{name.upper()}={value}: {details['msg']}"


class Questions(BaseModel):
    """What Jev is asked, in our words: one file, like a prompt. `digest` is the file's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class Harm(BaseModel):
        instructions: Annotated[str, Field(min_length=1)]
        levels: Annotated[tuple[str, ...], Field(min_length=4, max_length=4)]

    version: Annotated[str, Field(min_length=1)]
    area: Annotated[str, Field(min_length=1)]
    harm: Harm
    contestable: Annotated[str, Field(min_length=1)]
    checkable: Annotated[str, Field(min_length=1)]
    digest: str = ""


def questions(prompts_dir: Path | None = None) -> Questions:
    """The questions of PROMPTS_DIR, if it has any, or else ours. ConfigurationError: the file cannot be used."""
    own = prompts_dir is not None and (prompts_dir / QUESTIONS.name).exists()
    path = prompts_dir / QUESTIONS.name if own and prompts_dir is not None else QUESTIONS
    try:
        text = path.read_bytes()
        found = Questions.model_validate_json(text, strict=True)
    except (OSError, ValidationError) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError)
            else f"{error.error_count()} faults, as {error.errors()[0]['msg']}"
        )
        raise ConfigurationError([f"PROMPTS_DIR: {path}: cannot be used for Jev's questions ({reason})"]) from None
    return found.model_copy(update={"digest": blake2b(text, digest_size=8).hexdigest()})


def rules(settings: Settings) -> Rules:
    """How aitp is to use Jev under these settings."""
    ours, asked = settings_of(settings), questions(settings.prompts_dir)
    scope = (ours.jev_base_url, ours.mock, ours.jev_reach_thresholds, asked.version, asked.digest)
    return Rules(
        lacks="" if ours.typesafe_api_key else "TYPESAFE_API_KEY is not set",
        scope=repr(scope),
        timeout=ours.jev_timeout,
        waits=ours.jev_backoff_seconds,
        stand_in="" if ours.mock else ours.jev_fallback_model,
        most_per_day=ours.jev_fallback_max_per_day,
    )
