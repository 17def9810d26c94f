"""Asking the servers, each once or twice, for what costs nothing: a token, a list, the time of day.

What they answer are facts, a refusal or silence as well; `answers` judges. The service's own code asks wherever it can,
so that what works here works there. Each question is bounded as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import orjson
from requests.structures import CaseInsensitiveDict

from aitp.commands.clock import ahead_of
from aitp.errors import AitpError, CredentialsRefused, ServiceFault
from aitp.http import USER_AGENT, NoAnswer, Wire, finish, whole_body
from aitp.providers.inventory import ask_for_models
from aitp.taskapi.client import TaskApi
from aitp.taskapi.token import REFUSED_AGAIN, Grant, ask_for_token
from aitp.tasks import Service

if TYPE_CHECKING:
    from aitp.settings import Settings

MOST_SECONDS = 10.0
MARGIN_SECONDS = 1.0  # for what trickles; one that is silent ends with the time-out of its read
LISTED_AT_MOST = 20  # documents of a list that may be half a gigabyte long
BODY_BYTES = 4 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered:
    """A plain answer: its status, its JSON (None if it is none), and what a refusal said of itself in `error.code`."""

    status: int
    document: object = None


class OneToken:
    """In the place of the relays' `Tokens`: one token, and no other in its place."""

    def __init__(self, value: str) -> None:
        self._value = value

    def current(self) -> str:
        return self._value

    def replace(self, refused: str) -> str:
        raise CredentialsRefused(Service.API.value, REFUSED_AGAIN)

    def forget(self) -> None: ...


class Asking:
    """The questions, with these settings. `seconds`: the bound on each of them."""

    def __init__(self, settings: Settings) -> None:
        self.seconds = min(settings.request_timeout, MOST_SECONDS)
        self._settings = settings.model_copy(update={"request_timeout": self.seconds})

    def token(self) -> Grant | AitpError:
        """A token for the task API. It is used for `pending` and then forgotten: the relays keep theirs."""
        return self._bounded(partial(ask_for_token, self._settings))

    def pending(self, grant: Grant) -> int | AitpError:
        """How many tasks are listed, up to LISTED_AT_MOST; the rest is not read."""
        api = TaskApi(self._settings, OneToken(grant.value), lambda endpoint, method, code, seconds: None)

        def ask() -> int:
            page = api.pending(1)
            try:
                return sum(1 for _ in islice(page, LISTED_AT_MOST))
            finally:
                page.close()

        try:
            return self._bounded(ask)
        finally:
            api.close()

    def openai_models(self) -> Answered | AitpError:
        """OpenAI's list of models, with our key (OpenAI API reference, models: no charge)."""
        try:
            return self._bounded(lambda: Answered(*ask_for_models(self._settings, self.seconds)))
        except NoAnswer as failure:
            return ServiceFault(Service.OPENAI.value, str(failure))

    def missing_models(self) -> list[str] | AitpError:
        """Those of SUPPORTED_MODELS that the Ollama server lacks."""
        from aitp.providers.ollama_models import OllamaModels

        given = self._settings
        models = OllamaModels(
            given.ollama_base_url, stall_seconds=self.seconds, trust=given.trust, api_key=given.ollama_api_key
        )
        try:
            return self._bounded(lambda: models.missing(self._settings.supported_models))
        finally:
            models.close()

    def wikidata(self) -> Answered | AitpError:
        """Wikidata's description of itself."""
        base = self._settings.wikidata_base_url.rstrip("/")
        contact = self._settings.wikidata_contact or "its operator has set no contact"
        url = f"{base}/w/api.php?action=query&meta=siteinfo&siprop=general&format=json"
        return self._get(Service.WIKIDATA, url, {"User-Agent": f"{USER_AGENT} ({contact})"})

    def ahead(self, url: str) -> float | None:
        """Seconds that our clock is ahead of the server's at `url`; None if it tells no time. Without credentials."""
        wire = Wire(url, self.seconds, self._settings.trust)

        def ask() -> float | None:
            sent_at = time.time()
            answer = wire.send("GET", url, CaseInsensitiveDict({"User-Agent": USER_AGENT, "Connection": "close"}))
            received_at = time.time()
            finish(answer)
            return ahead_of(answer.headers.get("Date"), sent_at, received_at)

        try:
            found = self._bounded(ask)
        except NoAnswer:
            return None
        finally:
            wire.close()
        return None if isinstance(found, AitpError) else found

    def _get(self, service: Service, url: str, headers: dict[str, str]) -> Answered | AitpError:
        wire = Wire(url, self.seconds, self._settings.trust)

        def ask() -> Answered:
            sent = {"User-Agent": USER_AGENT, "Accept": "application/json", "Connection": "close", **headers}
            answer = wire.send("GET", url, CaseInsensitiveDict(sent))
            return Answered(answer.status_code, _json(whole_body(answer, BODY_BYTES, self.seconds)))

        try:
            return self._bounded(ask)
        except NoAnswer as failure:
            return ServiceFault(service.value, str(failure))
        finally:
            wire.close()

    def _bounded(self, ask: Callable[[], T]) -> T | AitpError:
        """Its answer, or the failure that it ended with."""
        try:
            return ask()
        except AitpError as error:
            return error


def _json(body: bytes) -> object:
    try:
        document: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document
