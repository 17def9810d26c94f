"""Jev as a provider of aitp: one verb, `decide`, which is one request. It embeds nothing and answers no open question.

No retries and no redirects; the ledger's rules say what becomes of a failure (`aitp_jev.settings.rules`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import orjson

from aitp.errors import CredentialsRefused, ModelGone, NonRetryableError, NotConnected, RetryableError, ServiceFault
from aitp.http import USER_AGENT, NoAnswer, Wire, json_object, whole_body
from aitp.logs import get_logger
from aitp.metrics import Metrics, declare
from aitp.policy.routing import USED_UP, Route
from aitp.providers import Question as OpenQuestion
from aitp.providers import Usage
from aitp.settings import Settings
from aitp.tasks import Ending, Outcome, TaskType
from aitp_jev.answers import Answer, Choice, Decision, Question, Score, decision_of, failure
from aitp_jev.settings import NAME, questions, settings_of

if TYPE_CHECKING:
    from aitp.web.health import Problem

BODY_BYTES = 2**20
MOCK_MODEL = "jev-mock"
LASTING = (CredentialsRefused, ModelGone)  # no retry helps
TYPES = (TaskType.DEFINING_IMPACT_AREA, TaskType.DEFINING_SEVERITY)
STATUSES = ("success", "retry", "retries_exhausted", "error", "mock")
ANSWERED_BY = (NAME, "openai_fallback", "fallback_limit_reached", "jev_error")

REQUESTS = declare(
    "counter",
    "jev_requests_total",
    "Calls to Jev.",
    ("model", "status"),
    lambda models: [(model, status) for model in models for status in STATUSES],
)
TOKENS = declare(
    "counter",
    "jev_tokens_used_total",
    "Tokens that Jev counted.",
    ("model", "type"),
    lambda models: [(model, kind) for model in models for kind in ("input_tokens", "output_tokens")],
)
DURATION = declare(
    "histogram",
    "jev_request_duration_seconds",
    "Duration of calls to Jev.",
    ("model",),
    lambda models: [(model,) for model in models],
)
TRIAGE = declare(
    "counter",
    "triage_provider_total",
    "Impact areas and severities by who answered, or why Jev did not.",
    ("task_type", "provider"),
    lambda models: [(kind.value, who) for kind in TYPES for who in ANSWERED_BY],
)

log = get_logger(__name__)


class JevProvider:
    """A worker's hold of Jev. The connection is made at each call: one that went idle might send a request twice."""

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self.own = settings_of(settings)
        self.questions = questions(settings.prompts_dir)
        self._trust = settings.trust
        self._metrics = Metrics()
        self._pending: str | None = None  # the model of a call that failed and may be tried again

    def decide(self, state: Mapping[str, str], questions: Mapping[str, Question], model: str) -> Decision:
        """The answers to `questions` about `state`.

        Raises ServiceFault and CooldownRequired (it fails, it is busy), CredentialsRefused (it refuses the key, or all
        our requests), ModelGone, NonRetryableError (it does not take this text or these options), UselessAnswer.
        """
        label, started = self._metrics.known(model), time.monotonic()
        self._pending = None
        try:
            decision = self._mocked(state, questions, model) if self.own.mock else self._asked(state, questions, model)
        except Exception as error:
            if isinstance(error, RetryableError) and not isinstance(error, LASTING):
                self._pending = label
            else:
                self._metrics.count(REQUESTS, label, "error")
            raise
        finally:
            self._metrics.observe(DURATION, time.monotonic() - started, label)
        self._metrics.count(REQUESTS, label, "mock" if decision.mock else "success")
        self._metrics.count(TOKENS, label, "input_tokens", amount=decision.usage.prompt_tokens)
        self._metrics.count(TOKENS, label, "output_tokens", amount=decision.usage.completion_tokens)
        return decision

    def _asked(self, state: Mapping[str, str], questions: Mapping[str, Question], model: str) -> Decision:
        own = self.own
        key = own.typesafe_api_key.get_secret_value() if own.typesafe_api_key else ""
        url = f"{own.jev_base_url.rstrip('/')}/v1/systemone"
        asked = {name: question.to_json() for name, question in questions.items()}
        body = orjson.dumps({"state": state, "model": model, "questions": asked})
        headers = {
            "Content-Length": str(len(body)),
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
            "Connection": "close",
        }
        wire = Wire(url, own.jev_timeout, self._trust)
        try:
            answer = wire.send("POST", url, headers, body)
            document = json_object(whole_body(answer, BODY_BYTES, own.jev_timeout))
        except NoAnswer as error:
            said = str(error).replace("REQUEST_TIMEOUT", "JEV_TIMEOUT")
            fault = NotConnected if "could not be" in said else ServiceFault
            raise fault(NAME, f"{NAME} {said}") from None
        finally:
            wire.close()
        facts = {"status": answer.status, "request_id": answer.headers.get("x-typesafe-request-id", "")[:100]}
        log.info("Jev answered", model=model, **facts)
        if answer.status != 200:
            raise failure(answer.status, answer.headers, document, model, time.time())
        return decision_of(document, questions, model)

    def _mocked(self, state: Mapping[str, str], questions: Mapping[str, Question], model: str) -> Decision:
        """Invented: the same for the same model, question and state."""
        answers = {
            name: _invented(f"{model}\0{name}\0{question}\0{state}", question) for name, question in questions.items()
        }
        return Decision(answers, Usage.estimate(list(state.values())), MOCK_MODEL, mock=True)

    def ask(self, question: OpenQuestion, model: str, leave_out: Collection[str] = ()) -> NoReturn:
        """NonRetryableError: a task of another type names a model of Jev's."""
        raise _closed(model)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> NoReturn:
        """NonRetryableError, as `ask`."""
        raise _closed(model)

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        return ()

    def meter(self, metrics: Metrics) -> None:
        """aitp says what to count with."""
        self._metrics = metrics

    def ended(self, route: Route, outcome: Outcome) -> None:
        """aitp says what became of a task that came here, or went to OpenAI in our stead."""
        kind, ending = outcome.task.queue.type, outcome.ending
        if route.provider != NAME:
            if ending is Ending.SUCCEEDED:
                self._metrics.count(TRIAGE, kind, "openai_fallback")
            return
        if self._pending is not None:
            exhausted = ending in (Ending.FALLBACK, Ending.FAILED)
            self._metrics.count(REQUESTS, self._pending, "retries_exhausted" if exhausted else "retry")
            self._pending = None
        if route.reason == USED_UP:
            self._metrics.count(TRIAGE, kind, "fallback_limit_reached")
        if ending is Ending.SUCCEEDED:
            self._metrics.count(TRIAGE, kind, NAME)
        elif ending in (Ending.FAILED, Ending.BUG):
            self._metrics.count(TRIAGE, kind, "jev_error")

    def close(self) -> None:
        """Nothing is kept open."""


def look(settings: Settings, seconds: float) -> Problem:
    """Whether Jev takes the key, by its list of models, which costs nothing: for `aitp check`."""
    from aitp.web.health import Problem, Severity  # workers need neither

    own = settings_of(settings)
    if own.typesafe_api_key is None or own.mock:
        return Problem(NAME, Severity.NOTE, f"{NAME} was not asked: there is no real TYPESAFE_API_KEY")
    url = f"{own.jev_base_url.rstrip('/')}/v1/models"
    headers = {"Authorization": f"Bearer {own.typesafe_api_key.get_secret_value()}", "User-Agent": USER_AGENT}
    wire = Wire(url, seconds, settings.trust)
    try:
        answer = wire.send("GET", url, {**headers, "Connection": "close"})
        document = json_object(whole_body(answer, BODY_BYTES, seconds))
    except NoAnswer as error:
        said = str(error).replace("within REQUEST_TIMEOUT", f"within {seconds:g} s")
        return Problem(NAME, Severity.FAULT, f"{own.jev_base_url} {said}", "See that this machine may reach it")
    finally:
        wire.close()
    models = document.get("models") if document is not None else None
    names = [str(each.get("name")) for each in models if isinstance(each, dict)] if isinstance(models, list) else []
    if answer.status in (401, 403):
        do = "Set TYPESAFE_API_KEY (or TYPESAFE_API_KEY_FILE) to a key that is valid there"
        return Problem(NAME, Severity.FAULT, f"{own.jev_base_url} refuses the key ({answer.status})", do)
    if answer.status != 200 or not names:
        said = f"{own.jev_base_url} answered {answer.status} to a request for its models"
        return Problem(NAME, Severity.WARNING, said, "Look at JEV_BASE_URL")
    return Problem(NAME, Severity.OK, f"{own.jev_base_url} takes the key, and has {', '.join(sorted(names))}")


def _closed(model: str) -> NonRetryableError:
    return NonRetryableError(f"{model} answers closed questions only")


def _invented(seed: str, question: Question) -> Answer:
    source = random.Random(seed)
    if isinstance(question, Choice):
        return Answer(choice=source.choice(list(question.options)), confidence=0.5)
    if isinstance(question, Score):
        weights = [source.random() + 0.01 for _ in question.levels]
        return Answer(shares=tuple(weight / sum(weights) for weight in weights), confidence=0.5)
    return Answer(yes=source.random())
