"""What the OpenAI server offers, and until when: GET /v1/models, which costs nothing.

OpenAI tells of each model on which day it is shut down (`shutdown_date`, OpenAI API reference, models). Servers that
only speak its protocol list less, more, or nothing at all: what is not understood is not known. Called once a day by
`aitp.process.retirement`, and by `aitp check`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import orjson
from requests.structures import CaseInsensitiveDict

from aitp.http import USER_AGENT, Wire, whole_body
from aitp.settings import Settings

OPENAI_URL = "https://api.openai.com/v1"
BODY_BYTES = 4 * 2**20
MOST_SHUTDOWNS = 1_000
# OpenAI's; LiteLLM's; OpenRouter's; Azure's, an object with a date each for fine-tuning and for `inference`.
FIELDS = ("shutdown_date", "deprecation_date", "expiration_date", "deprecation")


def ask_for_models(settings: Settings, seconds: float) -> tuple[int, object]:
    """The answer's status, and its JSON (None if it is none). Raises NoAnswer; `seconds` bound each read of it."""
    key = settings.openai_api_key
    assert key is not None
    url = f"{(settings.openai_base_url or OPENAI_URL).rstrip('/')}/models"
    wire = Wire(url, seconds, settings.trust)
    sent = {"User-Agent": USER_AGENT, "Accept": "application/json", "Connection": "close"}
    try:
        authorized = {**sent, "Authorization": f"Bearer {key.get_secret_value()}"}
        answer = wire.send("GET", url, CaseInsensitiveDict(authorized))
        body = whole_body(answer, BODY_BYTES)
    finally:
        wire.close()
    try:
        return answer.status_code, orjson.loads(body)
    except orjson.JSONDecodeError:
        return answer.status_code, None


def shutdowns_in(document: object) -> dict[str, float]:
    """When each model of a list of models is shut down (UTC seconds), of those of which the list tells."""
    listed = document.get("data") if isinstance(document, dict) else None
    found: dict[str, float] = {}
    for model in listed if isinstance(listed, list) else ():
        if isinstance(model, dict) and isinstance(name := model.get("id"), str) and len(found) < MOST_SHUTDOWNS:
            moments = [moment for field in FIELDS if (moment := _moment(model.get(field))) is not None]
            if moments:
                found[name] = moments[0]
    return found


def _moment(told: Any) -> float | None:
    """A day (which begins in UTC), a moment, or seconds of the epoch."""
    if isinstance(told, dict):
        return _moment(told.get("inference"))
    try:
        if isinstance(told, str):
            moment = datetime.fromisoformat(told.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if isinstance(told, int | float) and not isinstance(told, bool) and math.isfinite(told) and told > 0:
            return datetime.fromtimestamp(told, UTC).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    return None
