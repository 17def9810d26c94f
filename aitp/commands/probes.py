"""Asking the servers, each once or twice, for what costs nothing, and what their answers mean.

The questions (`Asking`): a token, a list, the time of day. The service's own code asks wherever it can, so that what
works here works there. The judgements are pure, one function a server, from an answer or a failure to a `Problem`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from requests import Response
from requests.structures import CaseInsensitiveDict

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused
from aitp.http import BY_TLS, USER_AGENT, NoAnswer, Wire, finish, json_object, whole_body
from aitp.process.models import asked_of_openai, known_queues, retiring
from aitp.providers.base import plugin_builders
from aitp.providers.inventory import (
    OPENAI_URL,
    ask_for_models,
    models_of_ollama,
    shutdowns_in,
    uses_models,
    uses_openai,
)
from aitp.settings import Settings
from aitp.taskapi.client import TaskApi
from aitp.taskapi.token import REFUSED_AGAIN, Grant, ask_for_token
from aitp.tasks import Service
from aitp.web.health import Problem, Severity, of_retirements, providers_of

MOST_SECONDS = 10.0
LISTED_AT_MOST = 20  # documents of a list that may be half a gigabyte long
BODY_BYTES = 4 * 2**20
ROUNDING_SECONDS = 1.0  # a Date header has whole seconds
TOLERATED_SECONDS = 30.0  # by which a clock may be wrong

PROXY = "; through a proxy it needs HTTP_TRUST_ENV=true"
NO_TLS = (
    "See that it has a valid certificate, of a public authority or one in TLS_CA_FILE; if it speaks plain HTTP, its "
    "address begins with http://"
)
PAUSE = "Wait a minute: it asks for a pause, and the service takes it"

T = TypeVar("T")


class Answered(NamedTuple):
    """A plain answer: its status, its JSON (None if it is none), and what a refusal said of itself in `error.code`."""

    status: int
    document: object = None


def of_servers(settings: Settings, told: Callable[[str], None]) -> Iterator[Problem]:
    """Everybody whom the service talks to, and the clocks; `told` hears who is asked next."""
    asking = Asking(settings)
    ahead: dict[str, float] = {}

    def compare(server: str, url: str, answer: object) -> None:
        if not isinstance(answer, AitpError) and (seconds := asking.ahead(url)) is not None:
            ahead[server] = seconds

    told("the authorization server")
    grant = asking.token()
    yield of_token(grant, settings, asking.seconds)
    compare("authorization server", settings.token_url, grant)
    if isinstance(grant, Grant):
        told("the task API")
        pending = asking.pending(grant)
        yield of_task_api(pending, settings, asking.seconds)
        compare("task API", settings.api_base_url, pending)
    if uses_openai(settings):
        told("OpenAI")
        offered = asking.openai_models()
        yield of_openai(offered, asked_of_openai(settings), settings.openai_base_url, asking.seconds)
        if isinstance(offered, Answered) and offered.status == 200:
            now = time.time()
            shutdowns = shutdowns_in(offered.document)
            yield from of_retirements(retiring(settings, shutdowns, known_queues(settings), now), now)
        compare("OpenAI server", settings.openai_base_url or OPENAI_URL, offered)
    if uses_models(settings):
        told("Ollama")
        replaceable = len(providers_of(settings)) > 1
        yield of_ollama(asking.missing_models(), settings, replaceable=replaceable, seconds=asking.seconds)
    for name, builder in plugin_builders().items():
        look: Callable[[Settings, float], Problem] | None = getattr(builder, "look", None)
        if look is not None:
            told(name)
            yield look(settings, asking.seconds)
    if settings.wikidata_enabled:
        told("Wikidata")
        about = asking.wikidata()
        yield of_wikidata(about, settings.wikidata_base_url, asking.seconds)
        compare("Wikidata server", settings.wikidata_base_url, about)
    yield from of_clocks(ahead)


class OneToken:
    """In the place of the relays' `Tokens`: one token, and no other in its place."""

    def __init__(self, value: str) -> None:
        self._value = value

    def current(self) -> str:
        return self._value

    def replace(self, refused: str) -> str:
        raise CredentialsRefused(Service.API.value, REFUSED_AGAIN)


class Asking:
    """The questions, with these settings. `seconds`: the bound on each of them."""

    def __init__(self, settings: Settings) -> None:
        self.seconds = min(settings.request_timeout, MOST_SECONDS)
        self._settings = settings.model_copy(update={"request_timeout": self.seconds})

    def token(self) -> Grant | AitpError:
        """A token for the task API. It is used for `pending` and then forgotten: the relays keep theirs."""
        return _answer(partial(ask_for_token, self._settings))

    def pending(self, grant: Grant) -> int | AitpError:
        """How many tasks are listed, up to LISTED_AT_MOST; the rest is not read."""
        api = TaskApi(self._settings, OneToken(grant.value), lambda endpoint, method, code, seconds: None)

        def ask() -> int:
            with closing(api.pending(1)) as page:
                return sum(1 for _ in islice(page, LISTED_AT_MOST))

        with closing(api):
            return _answer(ask)

    def openai_models(self) -> Answered | AitpError:
        """OpenAI's list of models, with our key (OpenAI API reference, models: no charge)."""
        return _answer(lambda: Answered(*ask_for_models(self._settings, self.seconds)))

    def missing_models(self) -> list[str] | AitpError:
        """Those of SUPPORTED_MODELS that the Ollama server lacks."""
        from aitp.providers.ollama_models import OllamaModels

        given = self._settings
        models = OllamaModels(
            given.ollama_base_url, stall_seconds=self.seconds, trust=given.trust, api_key=given.ollama_api_key
        )
        with closing(models):
            return _answer(lambda: models.missing(models_of_ollama(given)))

    def wikidata(self) -> Answered | AitpError:
        """Wikidata's description of itself."""
        base = self._settings.wikidata_base_url.rstrip("/")
        contact = self._settings.wikidata_contact or "its operator has set no contact"
        url = f"{base}/w/api.php?action=query&meta=siteinfo&siprop=general&format=json"

        def read(answer: Response) -> Answered:
            return Answered(answer.status_code, json_object(whole_body(answer, BODY_BYTES, self.seconds)))

        headers = {"Accept": "application/json", "User-Agent": f"{USER_AGENT} ({contact})"}
        if self._settings.wikidata_token is not None:
            headers["Authorization"] = f"Bearer {self._settings.wikidata_token.get_secret_value()}"
        return self._get(url, headers, read)

    def ahead(self, url: str) -> float | None:
        """Seconds that our clock is ahead of the server's at `url`; None if it tells no time. Without credentials."""
        sent_at = time.time()

        def read(answer: Response) -> float | None:
            received_at = time.time()
            finish(answer)
            return ahead_of(answer.headers.get("Date"), sent_at, received_at)

        found = self._get(url, {"User-Agent": USER_AGENT}, read)
        return None if isinstance(found, AitpError) else found

    def _get(self, url: str, headers: dict[str, str], read: Callable[[Response], T]) -> T | AitpError:
        def ask() -> T:
            with closing(Wire(url, self.seconds, self._settings.trust)) as wire:
                return read(wire.send("GET", url, CaseInsensitiveDict({**headers, "Connection": "close"})))

        return _answer(ask)


def _answer(ask: Callable[[], T]) -> T | AitpError:
    """What a question came to: an answer, or the failure that it ended with."""
    try:
        return ask()
    except AitpError as error:
        return error
    except NoAnswer as failure:
        return AitpError(str(failure))


# ── what the answers mean ────────────────────────────────────────────────────────────────────────────────────────────
def of_token(answer: Grant | AitpError, settings: Settings, seconds: float) -> Problem:
    """The authorization server's answer to a request for a token."""
    if isinstance(answer, Grant):
        said = f"{settings.token_url} gave one that lives for {answer.lifetime_seconds:,.0f} s"
        return Problem("token", Severity.OK, said)
    said = _said(answer, seconds)
    if isinstance(answer, CooldownRequired):
        return Problem("token", Severity.WARNING, said, PAUSE)
    if isinstance(answer, CredentialsRefused):
        if answer.error == "invalid_scope":
            do = f"Allow the client the scope {settings.oauth2_scope!r} there, or correct OAUTH2_SCOPE (none: no scope)"
        elif answer.error in ("invalid_target", "access_denied"):
            do = f"Allow the client the audience {settings.oauth2_audience!r} there, or correct OAUTH2_AUDIENCE"
        else:
            do = (
                f"Compare OAUTH2_CLIENT_ID={settings.oauth2_client_id} and its secret with the client at the "
                "authorization server, and see that it may use client_credentials and is to show its secret by "
                f"client_secret_{settings.oauth2_client_auth} (OAUTH2_CLIENT_AUTH). It does not say what is wrong"
            )
            if not answer.error:  # an authorization server names it
                do += f"; if {settings.token_url} is another server altogether, correct that"
    elif BY_TLS in said:
        do = NO_TLS
    elif settings.oauth2_token_url:
        do = f"See that it answers; OAUTH2_TOKEN_URL={settings.oauth2_token_url} must be its whole address"
        if not settings.oauth2_token_url.endswith("/oauth2/token"):
            do += ": Ory Hydra's ends in /oauth2/token"
    else:
        do = f"ORY_PROJECT_SLUG={settings.ory_project_slug} must be the project's slug, not its id or its address"
    return Problem("token", Severity.FAULT, said, do)


def of_task_api(answer: int | AitpError, settings: Settings, seconds: float) -> Problem:
    """The task API's answer to a request for what is pending, with a fresh token."""
    base = settings.api_base_url
    if not isinstance(answer, AitpError):
        count = f"{answer} or more" if answer >= LISTED_AT_MOST else str(answer)
        return Problem("task API", Severity.OK, f"{base} lists {count} pending tasks")
    said = _said(answer, seconds)
    if isinstance(answer, CooldownRequired):
        return Problem("task API", Severity.WARNING, said, PAUSE)
    if isinstance(answer, CredentialsRefused):
        do = (
            "See that the API introspects tokens at this authorization server, and that the client "
            f"{settings.oauth2_client_id} with the scope {settings.oauth2_scope!r} may do this there"
        )
    elif BY_TLS in said:
        do = NO_TLS
    elif base.rstrip("/").endswith("/api"):
        do = f"Take /api off the end of API_BASE_URL={base}: it is added to it"
    else:
        do = f"See that the API runs; API_BASE_URL is what comes before /api/ai-tasks/pending, and is {base} now"
    return Problem("task API", Severity.FAULT, said, do)


def of_openai(answer: Answered | AitpError, wanted: Mapping[str, str], base_url: str | None, seconds: float) -> Problem:
    """OpenAI's answer to a request for its models. `wanted`: those that settings have it asked for, and by which."""
    server = base_url or "OpenAI"
    do = f"See that this machine may reach it{PROXY}"
    if base_url:
        do = f"See that it runs, and that OPENAI_BASE_URL={base_url} is right: most end in /v1"
    if isinstance(answer, AitpError):
        return Problem("openai", Severity.FAULT, f"{server} {_said(answer, seconds)}", do)
    match answer.status:
        case 200:
            return _of_models(answer.document, wanted, server)
        case 401:
            do = "Set OPENAI_API_KEY (or OPENAI_API_KEY_FILE) to a key that is valid there"
            return Problem("openai", Severity.FAULT, f"{server} refuses the key (401)", do)
        case 403:
            said = f"{server} lets this key list no models (403): it may buy all the same, or be refused everything"
            return Problem("openai", Severity.WARNING, said, "Allow it to read models, or watch the first tasks")
        case 429 if _code(answer.document) == "insufficient_quota":
            do = "See to billing and limits of the OpenAI project"
            return Problem("openai", Severity.FAULT, f"the quota at {server} is used up (429)", do)
        case 429:
            return Problem(
                "openai", Severity.OK, f"{server} takes the key, and asks for fewer calls at the moment (429)"
            )
        case 404 | 405:
            said = f"{server} keeps no list of models ({answer.status}): whether it has them was not checked"
            return Problem("openai", Severity.NOTE, said, do if base_url else "")
        case status:
            return Problem("openai", Severity.FAULT, f"{server} answered {status}", do)


def _of_models(document: Any, wanted: Mapping[str, str], server: str) -> Problem:
    try:
        there = {str(model["id"]) for model in document["data"]}
    except (TypeError, LookupError):
        said = f"{server} answered a request for its models with something else: it may not speak OpenAI's protocol"
        return Problem("openai", Severity.WARNING, said, "Look at OPENAI_BASE_URL")
    if lacking := sorted(set(wanted) - there):
        said = f"{server} takes the key, but does not offer it {', '.join(lacking)}: tasks that need one of them wait"
        names = _and({wanted[model] for model in lacking})
        return Problem(
            "openai", Severity.WARNING, said, f"Allow the key's project these models, or name others in {names}"
        )
    return Problem("openai", Severity.OK, f"{server} takes the key, and has {', '.join(sorted(wanted)) or 'models'}")


def of_ollama(answer: list[str] | AitpError, settings: Settings, *, replaceable: bool, seconds: float) -> Problem:
    """The models that Ollama lacks, or why it could not be asked. `replaceable`: OpenAI stands in for it."""
    base = settings.ollama_base_url
    if isinstance(answer, AitpError):
        do = f"See that Ollama runs there (curl {base}/api/tags) and that OLLAMA_BASE_URL is right"
        said = f"{base}: {_said(answer, seconds)}"
        if replaceable:
            said += ": OpenAI stands in, whose calls cost money, and whose vectors are another model's"
        return Problem("ollama", Severity.WARNING if replaceable else Severity.FAULT, said, do)
    if answer:
        said = f"{base} lacks {', '.join(answer)}: the service pulls them when it starts, and is not ready before"
        do = "`aitp models pull` gets them now; look at SUPPORTED_MODELS if those are not their names"
        return Problem("ollama", Severity.WARNING, said, do)
    return Problem("ollama", Severity.OK, f"{base} has {', '.join(models_of_ollama(settings))}")


def of_wikidata(answer: Answered | AitpError, base_url: str, seconds: float) -> Problem:
    """Wikidata's description of itself, or what else it said. Tasks about people and subjects wait while it is away."""
    do = f"See that this machine may reach it{PROXY}. Or set WIKIDATA_ENABLED=false to do without"
    if isinstance(answer, AitpError):
        return Problem("wikidata", Severity.FAULT, f"{base_url} {_said(answer, seconds)}", do)
    if answer.status == 429:
        return Problem("wikidata", Severity.OK, f"{base_url} answers, and asks for fewer calls at the moment (429)")
    if answer.status in (401, 403):
        said = f"{base_url} wants no calls from here ({answer.status})"
        do = "Look at WIKIDATA_TOKEN, and set WIKIDATA_CONTACT: Wikimedia wants to know whom to ask"
        return Problem("wikidata", Severity.FAULT, said, do)
    if answer.status != 200 or not isinstance(answer.document, dict):
        said = f"{base_url} answered {answer.status}, and not as a MediaWiki does"
        return Problem("wikidata", Severity.FAULT, said, "Look at WIKIDATA_BASE_URL")
    return Problem("wikidata", Severity.OK, f"{base_url} answers")


def ahead_of(header: str | None, sent_at: float, received_at: float) -> float | None:
    """Seconds by which our clock is ahead of a server's; negative if behind. None without a readable Date.

    `header`: its Date; `sent_at` and `received_at` by our clock, in between it was written. What lies within that, and
    within the second that it leaves out, is no difference.
    """
    try:
        theirs = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    earliest, latest = theirs.timestamp(), theirs.timestamp() + ROUNDING_SECONDS
    if sent_at > latest:
        return sent_at - latest
    return min(0.0, received_at - earliest)


def of_clocks(ahead: Mapping[str, float]) -> Iterator[Problem]:
    """`ahead`: by server, the seconds that our clock is ahead of it. If all servers agree, it is ours that is wrong."""
    wrong = {server: seconds for server, seconds in ahead.items() if abs(seconds) > TOLERATED_SECONDS}
    if ahead and not wrong:
        yield Problem("clock", Severity.OK, f"agrees with that of {', '.join(ahead)}")
    elif wrong:
        ours = len(wrong) == len(ahead)
        told = " and ".join(f"{_amount(seconds)} that of {server}" for server, seconds in wrong.items())
        advice = "Have it set by NTP: timedatectl set-ntp true" if ours else "Tell those who run that server"
        sentence = (
            f"this machine's clock is {told}: {'calendar limits go by it' if ours else 'the others agree with ours'}"
        )
        yield Problem("clock", Severity.WARNING if ours else Severity.NOTE, sentence, advice)


def _amount(seconds: float) -> str:
    return f"{abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'}"


def _said(error: AitpError, seconds: float) -> str:
    """What happened, with the time-out that is in force here in place of the setting's."""
    return str(error).replace("within REQUEST_TIMEOUT", f"within {seconds:g} s")


def _and(names: Collection[str]) -> str:
    *others, last = sorted(names)
    return f"{', '.join(others)} and {last}" if others else last


def _code(document: Any) -> str:
    try:
        return str(document["error"]["code"])
    except (TypeError, LookupError):
        return ""
