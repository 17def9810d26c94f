"""What the servers' answers mean: one pure function a service, from an answer or a failure to a finding."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from aitp.commands.asking import LISTED_AT_MOST, Answered
from aitp.commands.findings import Finding, Severity, fine
from aitp.errors import AitpError, CooldownRequired, CredentialsRefused
from aitp.http import BY_TLS
from aitp.providers.inventory import Retirement
from aitp.settings import Settings
from aitp.taskapi.token import Grant

PROXY = "; through a proxy it needs HTTP_TRUST_ENV=true"
NO_TLS = (
    "See that it has a valid certificate, of a public authority or one in TLS_CA_FILE; if it speaks plain HTTP, its "
    "address begins with http://"
)
NOTHING_MOVES = "Without a token nothing is polled and nothing delivered"


def of_token(answer: Grant | AitpError, settings: Settings, seconds: float) -> Finding:
    """The authorization server's answer to a request for a token."""
    if isinstance(answer, Grant):
        return fine("token", f"{settings.token_url} gave one that lives for {answer.lifetime_seconds:,.0f} s")
    said = _said(answer, seconds)
    if isinstance(answer, CooldownRequired):
        return Finding(Severity.WARNING, "token", said, "It asks for a pause; the service takes it", "Wait a minute")
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
        return Finding(Severity.FAULT, "token", said, NOTHING_MOVES, do)
    if BY_TLS in said:
        do = NO_TLS
    elif settings.oauth2_token_url:
        do = f"See that it answers; OAUTH2_TOKEN_URL={settings.oauth2_token_url} must be its whole address"
        if not settings.oauth2_token_url.endswith("/oauth2/token"):
            do += ": Ory Hydra's ends in /oauth2/token"
    else:
        do = f"ORY_PROJECT_SLUG={settings.ory_project_slug} must be the project's slug, not its id or its address"
    return Finding(Severity.FAULT, "token", said, NOTHING_MOVES, do)


def of_task_api(answer: int | AitpError, settings: Settings, seconds: float) -> Finding:
    """The task API's answer to a request for what is pending, with a fresh token."""
    base = settings.api_base_url
    if not isinstance(answer, AitpError):
        count = f"{answer} or more" if answer >= LISTED_AT_MOST else str(answer)
        return fine("task API", f"{base} lists {count} pending tasks")
    said, why = _said(answer, seconds), "No task can be read and no result delivered"
    if isinstance(answer, CooldownRequired):
        return Finding(Severity.WARNING, "task API", said, "It asks for a pause; the service takes it", "Wait")
    if isinstance(answer, CredentialsRefused):
        do = (
            "See that the API introspects tokens at this authorization server, and that the client "
            f"{settings.oauth2_client_id} with the scope {settings.oauth2_scope!r} may do this there"
        )
        return Finding(Severity.FAULT, "task API", said, why, do)
    do = f"See that the API runs; API_BASE_URL is what comes before /api/ai-tasks/pending, and is {base} now"
    if BY_TLS in said:
        do = NO_TLS
    elif base.rstrip("/").endswith("/api"):
        do = f"Take /api off the end of API_BASE_URL={base}: it is added to it"
    return Finding(Severity.FAULT, "task API", said, why, do)


def of_openai(answer: Answered | AitpError, wanted: Mapping[str, str], base_url: str | None, seconds: float) -> Finding:
    """OpenAI's answer to a request for its models. `wanted`: those that settings have it asked for, and by which."""
    server = base_url or "OpenAI"
    do = f"See that this machine may reach it{PROXY}"
    if base_url:
        do = f"See that it runs, and that OPENAI_BASE_URL={base_url} is right: most end in /v1"
    why = "Nothing is bought from it: its tasks wait"
    if isinstance(answer, AitpError):
        return Finding(Severity.FAULT, "openai", f"{server} {_said(answer, seconds)}", why, do)
    match answer.status:
        case 200:
            return _of_models(answer.document, wanted, server)
        case 401:
            do = "Set OPENAI_API_KEY (or OPENAI_API_KEY_FILE) to a key that is valid there"
            return Finding(Severity.FAULT, "openai", f"{server} refuses the key (401)", why, do)
        case 403:
            said = f"{server} lets this key list no models (403)"
            why = "A restricted key may buy all the same; but so may a key, or a country, be refused everything"
            return Finding(Severity.WARNING, "openai", said, why, "Allow it to read models, or watch the first tasks")
        case 429 if _code(answer.document) == "insufficient_quota":
            do = "See to billing and limits of the OpenAI project"
            return Finding(Severity.FAULT, "openai", f"the quota at {server} is used up (429)", why, do)
        case 429:
            return fine("openai", f"{server} takes the key, and asks for fewer calls at the moment (429)")
        case 404 | 405:
            said = f"{server} keeps no list of models ({answer.status})"
            why = "Servers that only speak OpenAI's protocol need not; whether they have the models was not checked"
            return Finding(Severity.NOTE, "openai", said, why, do if base_url else "")
        case status:
            return Finding(Severity.FAULT, "openai", f"{server} answered {status}", why, do)


def _of_models(document: Any, wanted: Mapping[str, str], server: str) -> Finding:
    try:
        there = {str(model["id"]) for model in document["data"]}
    except (TypeError, LookupError):
        said = f"{server} answered a request for its models with something else"
        return Finding(
            Severity.WARNING, "openai", said, "It may not speak OpenAI's protocol", "Look at OPENAI_BASE_URL"
        )
    if lacking := sorted(set(wanted) - there):
        return Finding(
            Severity.WARNING,
            "openai",
            f"{server} takes the key, but does not offer it {', '.join(lacking)}",
            "Tasks that name no model, or fall back on one of these, wait",
            f"Allow the key's project these models, or name others in {_and({wanted[model] for model in lacking})}",
        )
    return fine("openai", f"{server} takes the key, and has {', '.join(sorted(wanted)) or 'models'}")


def of_shutdowns(retirements: Iterable[Retirement], now: float) -> Iterator[Finding]:
    """The models that are asked for, and that OpenAI shuts down before long, or has."""
    for each in retirements:
        if each.is_near(now):
            severity = Severity.FAULT if each.is_over(now) else Severity.WARNING
            why = "Its tasks wait, and none is failed" if each.is_over(now) else "From then on its tasks wait"
            yield Finding(severity, "openai models", each.told(now), why, each.advice)


def of_ollama(answer: list[str] | AitpError, settings: Settings, *, replaceable: bool, seconds: float) -> Finding:
    """The models that Ollama lacks, or why it could not be asked. `replaceable`: OpenAI stands in for it."""
    base = settings.ollama_base_url
    if isinstance(answer, AitpError):
        do = f"See that Ollama runs there (curl {base}/api/tags) and that OLLAMA_BASE_URL is right"
        if replaceable:
            why = "OpenAI stands in for it: its calls cost money, and its vectors are another model's"
            return Finding(Severity.WARNING, "ollama", f"{base}: {_said(answer, seconds)}", why, do)
        return Finding(Severity.FAULT, "ollama", f"{base}: {_said(answer, seconds)}", "Its tasks wait", do)
    if answer:
        why = "The service pulls what is missing when it starts, and is not ready before that"
        do = "`aitp models pull` gets it now; look at SUPPORTED_MODELS if that is not its name"
        return Finding(Severity.WARNING, "ollama", f"{base} lacks {', '.join(answer)}", why, do)
    return fine("ollama", f"{base} has {', '.join(settings.supported_models)}")


def of_wikidata(answer: Answered | AitpError, base_url: str, seconds: float) -> Finding:
    """Wikidata's description of itself, or what else it said."""
    why = "People, topics and areas of impact are looked up there: those tasks wait while it is away"
    do = f"See that this machine may reach it{PROXY}. Or set WIKIDATA_ENABLED=false to do without"
    if isinstance(answer, AitpError):
        return Finding(Severity.FAULT, "wikidata", f"{base_url} {_said(answer, seconds)}", why, do)
    if answer.status == 429:
        return fine("wikidata", f"{base_url} answers, and asks for fewer calls at the moment (429)")
    if answer.status in (401, 403):
        do = "Set WIKIDATA_CONTACT: Wikimedia wants to know whom to ask"
        return Finding(Severity.FAULT, "wikidata", f"{base_url} wants no calls from here ({answer.status})", why, do)
    if answer.status != 200 or not isinstance(answer.document, dict):
        said = f"{base_url} answered {answer.status}, and not as a MediaWiki does"
        return Finding(Severity.FAULT, "wikidata", said, why, "Look at WIKIDATA_BASE_URL")
    return fine("wikidata", f"{base_url} answers")


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
