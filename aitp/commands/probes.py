"""Asking the servers, each once or twice, for what costs nothing, and what their answers mean.

The questions: a token, a list, the time of day. The service's own code asks wherever it can, so that what works here
works there. The judgements are pure, one function a server, from an answer or a failure to a `Problem`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from aitp import http, providers, tasks
from aitp.errors import AitpError, CooldownRequired, CredentialsRefused
from aitp.knowledge import wikidata
from aitp.process import models
from aitp.providers import inventory
from aitp.settings import Settings
from aitp.taskapi import client, token
from aitp.web.health import Problem, Severity, of_retirements, providers_of

MOST_SECONDS = 10.0
LISTED_AT_MOST = 20  # documents of a list that may be half a gigabyte long
TOLERATED_SECONDS = 30.0  # by which a clock may be wrong: more than an answer takes

PROXY = "; through a proxy it needs HTTP_TRUST_ENV=true"
NO_TLS = (
    "See that it has a valid certificate, of a public authority or one in TLS_CA_FILE; if it speaks plain HTTP, its "
    "address begins with http://"
)
PAUSE = "Wait a minute: it asks for a pause, and the service takes it"

Answered = tuple[int, object]
"""A plain answer: its status, and its JSON (None if it is none)."""

T = TypeVar("T")


def of_servers(settings: Settings, told: Callable[[str], None]) -> Iterator[Problem]:
    """Everybody whom the service talks to, and the clocks; `told` hears who is asked next."""
    seconds = min(settings.request_timeout, MOST_SECONDS)
    for found in _of_servers(settings.model_copy(update={"request_timeout": seconds}), told):
        yield replace(found, sentence=found.sentence.replace("within REQUEST_TIMEOUT", f"within {seconds:g} s"))


def _of_servers(settings: Settings, told: Callable[[str], None]) -> Iterator[Problem]:
    """`request_timeout` of the settings bounds each question."""
    ahead: dict[str, float] = {}

    def asked(server: str, url: str, ask: Callable[[], T]) -> T | AitpError:
        """The answer, or the failure that it ended with; of who answers, the clock as well."""
        told(server)
        try:
            answer = ask()
        except AitpError as error:
            return error
        except http.NoAnswer as failure:
            return AitpError(f"{server} {failure}")
        if (seconds := _ahead(url, settings)) is not None:
            ahead[server] = seconds
        return answer

    grant = asked("the authorization server", settings.token_url, partial(token.ask_for_token, settings))
    yield of_token(grant, settings)
    if isinstance(grant, token.Grant):
        listed = asked("the task API", settings.api_base_url, partial(_listed, settings, grant.value))
        yield of_task_api(listed, settings)
    if providers.uses_openai(settings):
        url = settings.openai_base_url or inventory.OPENAI_URL
        ask = partial(inventory.ask_for_models, settings, settings.request_timeout)
        offered = asked(settings.openai_base_url or "OpenAI", url, ask)
        yield of_openai(offered, models.asked_of_openai(settings), settings.openai_base_url)
        if not isinstance(offered, AitpError):
            now, shutdowns = time.time(), inventory.shutdowns_in(offered[1])
            yield from of_retirements(models.retiring(settings, shutdowns, models.known_queues(settings), now), now)
    if providers.uses_models(settings):
        from aitp.providers import ollama_models

        wanted, url = providers.models_of_ollama(settings), settings.ollama_base_url
        missing = asked("Ollama", url, partial(ollama_models.missing, settings, wanted, settings.request_timeout))
        yield of_ollama(missing, settings, replaceable=len(providers_of(settings)) > 1)
    for name, builder in providers.plugin_builders().items():
        look: Callable[[Settings, float], Problem] | None = getattr(builder, "look", None)
        if look is not None:
            told(name)
            yield look(settings, settings.request_timeout)
    if settings.wikidata_enabled:
        url = settings.wikidata_base_url
        yield of_wikidata(asked(url, url, partial(_wikidata, settings)), url)
    yield from of_clocks(ahead)


class OneToken:
    """In the place of the relays' `Tokens`, who keep theirs: one token, and no other in its place."""

    def __init__(self, value: str) -> None:
        self._value = value

    def current(self) -> str:
        return self._value

    def replace(self, refused: str) -> str:
        raise CredentialsRefused(tasks.Service.API.value, token.REFUSED_AGAIN)


def _listed(settings: Settings, granted: str) -> int:
    """How many tasks are listed, up to LISTED_AT_MOST; the rest is not read."""
    api = client.TaskApi(settings, OneToken(granted), lambda endpoint, method, code, seconds: None)
    with closing(api), closing(api.pending(1)) as page:
        return sum(1 for _ in islice(page, LISTED_AT_MOST))


def _wikidata(settings: Settings) -> Answered:
    """Wikidata's description of itself."""
    url = f"{settings.wikidata_base_url.rstrip('/')}/w/api.php?action=query&meta=siteinfo&siprop=general&format=json"
    answer = http.ask(url, settings.request_timeout, settings.trust, wikidata.headers_of(settings))
    return answer.status, http.json_object(answer.body)


def _ahead(url: str, settings: Settings) -> float | None:
    """Seconds that our clock is ahead of the server's at `url`; None if it tells no time. Without credentials."""
    try:
        answer = http.ask(url, settings.request_timeout, settings.trust, {})
    except http.NoAnswer:
        return None
    return ahead_of(answer.headers.get("Date"), time.time())


# ── what the answers mean ────────────────────────────────────────────────────────────────────────────────────────────
def of_failure(code: str, error: AitpError, advice: str, severity: Severity = Severity.FAULT) -> Problem:
    """A server that could not be asked; one that wants a pause is well."""
    if isinstance(error, CooldownRequired):
        return Problem(code, Severity.WARNING, str(error), PAUSE)
    return Problem(code, severity, str(error), NO_TLS if http.BY_TLS in str(error) else advice)


def of_token(answer: token.Grant | AitpError, settings: Settings) -> Problem:
    """The authorization server's answer to a request for a token."""
    if isinstance(answer, token.Grant):
        said = f"{settings.token_url} gave one that lives for {answer.lifetime_seconds:,.0f} s"
        return Problem("token", Severity.OK, said)
    if isinstance(answer, CredentialsRefused):
        do = (
            f"See that OAUTH2_CLIENT_ID={settings.oauth2_client_id} and its secret are a client's there, which may use "
            f"client_credentials, shows its secret by client_secret_{settings.oauth2_client_auth} "
            f"(OAUTH2_CLIENT_AUTH), and may have the scope {settings.oauth2_scope!r} (OAUTH2_SCOPE; none: no scope) "
            f"and the audience {settings.oauth2_audience!r} (OAUTH2_AUDIENCE)"
        )
        if not answer.error:  # an authorization server names it
            do += f"; if {settings.token_url} is another server altogether, correct that"
    elif settings.oauth2_token_url:
        do = f"See that it answers; OAUTH2_TOKEN_URL={settings.oauth2_token_url} must be its whole address"
        do += ": Ory Hydra's ends in /oauth2/token"
    else:
        do = f"ORY_PROJECT_SLUG={settings.ory_project_slug} must be the project's slug, not its id or its address"
    return of_failure("token", answer, do)


def of_task_api(answer: int | AitpError, settings: Settings) -> Problem:
    """The task API's answer to a request for what is pending, with a fresh token."""
    base = settings.api_base_url
    if not isinstance(answer, AitpError):
        count = f"{answer} or more" if answer >= LISTED_AT_MOST else str(answer)
        return Problem("task API", Severity.OK, f"{base} lists {count} pending tasks")
    do = f"See that the API runs, and that API_BASE_URL={base} is what comes before /api/ai-tasks/pending"
    if isinstance(answer, CredentialsRefused):
        do = (
            "See that the API introspects tokens at this authorization server, and that the client "
            f"{settings.oauth2_client_id} with the scope {settings.oauth2_scope!r} may do this there"
        )
    return of_failure("task API", answer, do)


def of_openai(answer: Answered | AitpError, wanted: Mapping[str, str], base_url: str | None) -> Problem:
    """OpenAI's answer to a request for its models. `wanted`: those that settings have it asked for, and by which."""
    server = base_url or "OpenAI"
    do = f"See that this machine may reach it{PROXY}"
    if base_url:
        do = f"See that it runs, and that OPENAI_BASE_URL={base_url} is right: most end in /v1"
    if isinstance(answer, AitpError):
        return of_failure("openai", answer, do)
    severity, said = Severity.FAULT, f"answered {answer[0]}"
    match answer:
        case 200, document:
            return _of_models(document, wanted, server)
        case 401, _:
            said, do = "refuses the key", "Set OPENAI_API_KEY (or OPENAI_API_KEY_FILE) to a key that is valid there"
        case 403, _:
            severity, do = Severity.WARNING, "Allow it to read models, or watch the first tasks"
            said = "lets this key list no models: it may buy all the same, or be refused everything"
        case 429, {"error": {"code": "insufficient_quota"}}:
            said, do = "has no quota left for this key", "See to billing and limits of the OpenAI project"
        case 429, _:
            severity, said, do = Severity.OK, "takes the key, and asks for fewer calls at the moment", ""
        case 404 | 405, _:
            severity, said = Severity.NOTE, "keeps no list of models: whether it has them was not checked"
    return Problem("openai", severity, f"{server} {said} ({answer[0]})", do)


def _of_models(document: Any, wanted: Mapping[str, str], server: str) -> Problem:
    try:
        there = {str(model["id"]) for model in document["data"]}
    except (TypeError, LookupError):
        said = f"{server} answered a request for its models with something else: it may not speak OpenAI's protocol"
        return Problem("openai", Severity.WARNING, said, "Look at OPENAI_BASE_URL")
    if lacking := sorted(set(wanted) - there):
        said = f"{server} takes the key, but does not offer it {', '.join(lacking)}: tasks that need one of them wait"
        names = ", ".join(sorted({wanted[model] for model in lacking}))
        do = f"Allow the key's project these models, or name others in {names}"
        return Problem("openai", Severity.WARNING, said, do)
    return Problem("openai", Severity.OK, f"{server} takes the key, and has {', '.join(sorted(wanted)) or 'models'}")


def of_ollama(answer: list[str] | AitpError, settings: Settings, *, replaceable: bool) -> Problem:
    """The models that Ollama lacks, or why it could not be asked. `replaceable`: OpenAI stands in for it."""
    base = settings.ollama_base_url
    if isinstance(answer, AitpError):
        do = f"See that Ollama runs there (curl {base}/api/tags) and that OLLAMA_BASE_URL is right"
        if replaceable:
            do += ": OpenAI stands in meanwhile, whose calls cost money, and whose vectors are another model's"
        return of_failure("ollama", answer, do, Severity.WARNING if replaceable else Severity.FAULT)
    if answer:
        said = f"{base} lacks {', '.join(answer)}: the service pulls them when it starts, and is not ready before"
        do = "`aitp models pull` gets them now; look at SUPPORTED_MODELS if those are not their names"
        return Problem("ollama", Severity.WARNING, said, do)
    return Problem("ollama", Severity.OK, f"{base} has {', '.join(providers.models_of_ollama(settings))}")


def of_wikidata(answer: Answered | AitpError, base_url: str) -> Problem:
    """Wikidata's description of itself, or what else it said. Tasks about people and subjects wait while it is away."""
    if isinstance(answer, AitpError):
        do = f"See that this machine may reach it{PROXY}. Or set WIKIDATA_ENABLED=false to do without"
        return of_failure("wikidata", answer, do)
    match answer:
        case 200, {}:
            return Problem("wikidata", Severity.OK, f"{base_url} answers")
        case 429, _:
            return Problem("wikidata", Severity.OK, f"{base_url} answers, and asks for fewer calls at the moment (429)")
        case (401 | 403) as status, _:
            said = f"{base_url} wants no calls from here ({status})"
            do = "Look at WIKIDATA_TOKEN, and set WIKIDATA_CONTACT: Wikimedia wants to know whom to ask"
            return Problem("wikidata", Severity.FAULT, said, do)
    said = f"{base_url} answered {answer[0]}, and not as a MediaWiki does"
    return Problem("wikidata", Severity.FAULT, said, "Look at WIKIDATA_BASE_URL")


def ahead_of(header: str | None, received_at: float) -> float | None:
    """Seconds by which our clock is ahead of a server's (behind: negative), by the Date of its answer, which took less
    than what is tolerated; None without one that can be read."""
    try:
        theirs = parsedate_to_datetime(header or "")
        return received_at - (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def of_clocks(ahead: Mapping[str, float]) -> Iterator[Problem]:
    """`ahead`: by server, the seconds that our clock is ahead of it. A server that alone says so has a wrong one."""
    if not ahead:
        return
    agree = [server for server, seconds in ahead.items() if abs(seconds) <= TOLERATED_SECONDS]
    if agree:
        yield Problem("clock", Severity.OK, f"agrees with that of {', '.join(agree)}")
    else:
        least = min(ahead.values(), key=abs)
        off = f"{abs(least):,.0f} s {'ahead of' if least > 0 else 'behind'} that of {', '.join(ahead)}"
        sentence = f"this machine's clock is {off}: calendar limits go by it"
        yield Problem("clock", Severity.WARNING, sentence, "Have it set by NTP: timedatectl set-ntp true")
