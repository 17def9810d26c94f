"""What a refused or broken call to a provider means: one table, first match wins.

A row names the culprit by the error that it makes: the service, the account, the model, a parameter or setting of ours,
the text, or nobody yet (`RequestRefused`). Status, code and words are hints that make it quick; what no row knows is
found out by evidence (`aitp.policy.evidence`). Gateways and proxies pass on what others have said, and servers speak
more than one protocol: so a row holds for all, unless it says whose it is.

Servers that speak a protocol differ in where they put what: an object, a list, a string, a page; `code` as a word or a
number; the parameter under any of several names. So everything that is said anywhere counts as words (`Refusal`), in
lower case, but for what repeats the request. Words are never passed on: they may quote the key or the text. No effects.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from aitp import errors, http
from aitp.policy.retry import delay_in_words, parse_duration, parse_retry_after
from aitp.policy.routing import canonical
from aitp.tasks import Service

OPENAI, OLLAMA = Service.OPENAI.value, Service.OLLAMA.value
MAX_PAUSE_SECONDS = 3_600.0
MIN_PAUSE_SECONDS = 0.1
AN_INSTANT = 1e9
RATE_PAUSE_SECONDS = 5.0  # where the server does not say
LONG_PAUSE_SECONDS = 600.0  # for what only a person can mend
MISSING_PAUSE_SECONDS = 10.0  # until it is looked again whether a missing model has been pulled
# A gateway that says so may have handed the request on: it may have been answered, and be billed.
MAYBE_BOUGHT = (408, 502, 504, 524)
# What may have no room while the standard tier has.
OTHER_TIERS = ("flex", "priority")
MOST_WORDS = 4_000
LEAST_QUOTED = 12  # characters of a text of ours that says something when it is quoted
MOST_VALUES = 500
MOST_DEPTH = 8

_CODES = ("code", "status", "reason")
_COUNTS = ("n_prompt_tokens", "n_ctx")  # llama.cpp
_PARAMETERS = ("param", "parameter", "field", "loc", "location", "pointer")
_REPEATED = re.compile("(?:flagged_)?inputs?|prompt|messages|request|body|content|text|ctx|failed_generation")
_DELAY = re.compile(
    r"(?:(?:retry|resets?)_?(?:after|delay|in)|x?ratelimitreset(?:after)?)_?(ms|milliseconds)?(?:_?s|_?seconds)?"
)
_RESETS = ("x-ratelimit-reset", "ratelimit-reset")
_BOUNDS = r"\b(?:min|max)(?:length|items)\b|['\"`](?:minimum|maximum|pattern)['\"`]|\brepetitions?\b"
_SCHEMA = r"schema|format|grammar"

_KEY = (
    r"api[ _-]?key|credential|unauthenticated|authenticat|access[ _]token|\bbearer\b|unauthori[sz]ed|missing scopes?"
    r"|insufficient permissions?|location is not supported"
    r"|\b(?:account|organi[sz]ation|project|consumer)\b.{0,40}"
    r"\b(?:is|was|been) (?:suspended|restricted|deactivated|terminated|banned)\b"
)
_OURS = r"(?:your|account|user|team|wallet|paid|prepa\w+|api|free|available|remaining)"
# All that a server may say of it when it fails.
_NO_MONEY = (
    r"insufficient[ _](?:account[ _])?(?:funds|balance|credits?)\b(?! of)|余额不足|欠费|额度(?:不足|已?用尽|失败)"
)
_CREDIT = (
    rf"{_NO_MONEY}|insufficient[ _](?:{_OURS}[ _])?(?:quota|funds|balance|credits?)\b(?! of)|payment required|arrearage"
    r"|exceeded[ _](?:your )?current[ _]quota(?! of)|spend(?:ing)?[ _]limit|billing[ _](?:hard[ _]limit|disabled)"
    r"|\b(?:check|manage|update|enable|requires?) (?:your )?(?:\w+ and )?billing\b(?! page)"
    r"|\bbudget_exceeded|\bbudget has been exceeded! current|\bexceededbudget|\bcrossed budget|\bkey budget exhausted"
    r"|credit balance|\b(?:add|no|valid|requires?)\b.{0,20}\bcredit card\b(?! number)"
    r"|\boverdue[ _-](?:balance|payment)|accountoverdue|not[ _]enough[ _](?:balance|funds|credits?)\b"
    rf"|(?:\b(?:no|out of|used|exhaust\w*|deplet\w*)|n[o']t have (?:any|enough)) (?:(?:all|up|more|{_OURS}) ){{0,3}}"
    r"(?:credits\b(?! (?:are|have|was|were|will|used|charged)\b)|credit (?:left|remaining|available)\b)"
    rf"|\b{_OURS} (?:balance|budget|quota|credits?)\b.{{0,20}}\b(?:insufficient|exhausted|depleted|used up)"
    r"|\bused (?:up )?your (?:daily |monthly )?free (?:allocation|quota|tier|credits)"
)
_TOKENS = r"\btoken(?:s| limit| count| length)\b"
_TOO_LONG = (
    r"context[ _-]?(?:length|window|size|limit)"
    r"|max(?:imum)?[ _](?:(?:input|seq(?:uence)?|prompt|model)[ _])?(?:length|tokens|context|len\b)"
    r"|\b(?:input|prompt|text|sequence|element)\b.{0,60}\btoo (?:long|large|big)|too many (?:input )?tokens"
    r"|\b(?:input|prompt|text|messages?) length\b.{0,40}\b(?:exceed|(?:should|must) be (?:\[|<|less|at most))"
    r"|unable to fit entire input|too long for|reduce (?:the|your) (?:length|size|prompt|input|text)|n_keep"
    r"|longer than .{0,60}(?:tokens|allowed|maximum|context)|must be <=.{0,20}given|expected maxlength"
    rf"|(?:exceed\w*|(?:more|less|fewer|greater) than|at most|up to|limit of|maximum of)\b.{{0,60}}{_TOKENS}"
    rf"|{_TOKENS}.{{0,60}}\b(?:exceed|at most)|\b(?:inputs?|prompt|text)\b.{{0,20}} have less than \d+ characters"
)
_RATE = (
    r"per[ _](?:min|minute|hour|day|request|second)|\brate[ _](?:limit|quota|of\b)|throttl|\bthis (?:minute|second)"
    r"|slow down|\bconcurren|\b[rt]p[ms]\b|\bburst\b|\bbucket\b|\b[cg]pu\b"
)
_ANOTHER_LIMIT = (
    rf"{_RATE}|please wait|try(?:ing)? again (?:later|in\b)|before (?:re)?trying|\bexpired|\bqueue\b"
    r"|api (?:key|token)|access token|\bbearer\b"
    r"|^(?!.*\bcontext[ _](?:length|window)).*\bmax_(?:completion_)?tokens\b"
)
# Of an account or a key such a refusal speaks in passing.
_OF_A_TEXT = (
    r"\b(?:prompt|input|text|document|article|topic|word)s?\b(?! tokens?\b)"
    r"|\b(?:detected|matched|contains?)\b"
)
_POLICY = (
    r"content[ _-]?(?:policy|filter|management|safety)|moderation|flagged|safety (?:system|policy|filter)|inappropriate"
    r"|responsible ?ai|data ?inspection|invalid[ _]prompt|prohibited[ _]content|sensitive (?:information|content)"
    r"|content exists risk|guardrail|敏感"
)
_MODEL = r"\b(?:models?|deployment)\b"
_GONE = (
    r"n[o']t[ _](?:\w+ ){0,2}(?:exist|found|supported|available|served|loaded(?! yet)|deployed|enabled)"
    r"|n[o']t allowed(?! to (?!access|use))|(?:n[o']t have|no) access|no such|no longer"
    r"|unknown|unrecogni[sz]|unsupported|unavailable|invalid|retired|deprecat|decommission|disabled|shut ?down"
    r"|sunset|discontinued|end[ -]of[ -](?:its )?life|been (?:removed|withdrawn)"
)
# Only behind it: before it they may be said of a key.
_GONE_BEHIND = r"n[o']t[ _](?:\w+ ){0,2}(?:valid|active|offered|permitted|recogni[sz]ed)"
_MODEL_GONE = (
    rf"{_MODEL}.{{0,80}}(?:{_GONE}|{_GONE_BEHIND})|(?:{_GONE})\w*\W+(?:[^\s;]+ ){{0,3}}\W?{_MODEL}"
    rf"|n[o']t (?:an? )?valid {_MODEL}|\bno {_MODEL}.{{0,20}}\bloaded|模型不存在"
    rf"|unable to access .{{0,40}}\bmodel model\b|free tier of the {_MODEL} has been exhausted"
    rf"|n[o']t work with (?:\w+ ){{0,2}}{_MODEL}|access to (?:\w+ ){{0,2}}{_MODEL} is restricted"
    rf"|{_MODEL} is restricted to (?:\w+ )?(?:applications|users|accounts|customers|organi[sz]ations)"
)
# What gateways call a model that they do not have.
_ROUTE = r"\bno endpoints\b(?!.*\bparameters\b)|\bfunction\b.{0,60}\baccount\b|\bwas retired\b"
_KINDS = r"support\w*\b.{0,40}\b(?:chat|embed\w*|completions?|responses|generat\w*)"
_NO_SUCH_MODEL = rf"(?:not|n't) {_KINDS}|invalid model name|unqualified name|disabled for this model"
_NOT_FOUND = rf"{_MODEL}(?: (?:model|['\"`]\S+['\"`]))? (?:was )?(?:not found|does not exist)"
# What a server that fails may miss of a model that it has.
_FOR_NOW = r"\bload|warming|cache|replica|worker|shard|\bfile|retry|fetch|healthy|memory|\byet\b"
_OTHER_KIND = (
    rf"{_NO_SUCH_MODEL}|only {_KINDS}|/v1/(?:responses|completions)|\bresponses api|from this model"
    r"|n[o']t (?:appear to be )?an? (?:chat|embedding) model"
)
_PARAMETER_WORDS = r"\b(?:parameter|argument|option|field|property)s?\b"
_INPUT_WORDS = (
    r"\b(?:input|text|image|document|language|content|prompt|character|message|word|output|json|topic|question|answer"
    r"|response)s?\b"
)
_OPTIONS = r"option \"|invalid option|invalid duration|in duration"
# What a parameter of ours is called in refusals of it, by its name in `Provider.optional`.
PARAMETERS: Mapping[str, str] = {
    "encoding_format": r"encoding[ _-]?format|base64",
    "dimensions": r"\bdimensions?\b|matryoshka|\boutput[ _-]?(?:size|dim)",
    "temperature": r"\btemperature\b",
    "reasoning_effort": r"\breasoning[ _.-]?effort|\beffort\b|\bthinking\b",
    "service_tier": r"\bservice[ _-]?tier|\bflex\b",
    "json_schema": r"\bjson[ _-]?(?:schema|mode|validat)|\bgrammar\b"
    r"|(?:structured|guided)[ _-]?(?:output|decod|generat)|response[ _-]?(?:format|schema)",
    "json_object": r"\bjson[ _-]?(?:object|mode|validat)|response[ _-]?format",
    "think": r"\bthink(?:ing)?\b",
    "format": r"^format$|\b(?:invalid|unsupported|unknown) format\b|['\"`]format['\"`]|\bjson[ _-]?schema"
    r"|structured[ _-]?outputs?|\bgrammar\b|\bfor format\b",
}
# Some check the answer's form themselves, and refuse the request where the model did not keep to it.
_FORM = r"\bschemas?\b|\b(?:generate|valid(?:ate)?) json"
_MODEL_ADVICE = "it has no model {model} for us and this type of task; is its name right, has it been retired?"
# Some texts come out as NaN, with some models: most servers then fail to write their answer, in their encoder's words.
_NOT_A_NUMBER = r"\bnan\b|[+-]inf\b|\bjson compliant\b"
# A server whose model runs in a process of its own; with some versions of Ollama even then 400.
_RUNNER = (
    r"embedding request:|embed response|\brunner\b|running the model|server status|server not responding"
    r"|connection refused|no slots available|failed to acquire|system memory|out of memory"
    r"|\b(?:model|runner|process|worker|function)\b.{0,20}\b(?:crashed|unloaded|degraded)\b|\bdegraded function\b"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer. `message`: all that it says, in lower case, "model" in place of the model's name, which may hold
    any word; nothing of a `page` (HTML): that is somebody else's.

    `delay`: seconds that it asks to wait; `reset`: until a limit is whole again, which some say with every answer: only
    how long a pause is, and never that there is one. `batch`: the request could be a smaller one. `sent`: which
    parameters of `Provider.optional` it held, and `tier`: the value of the one that has prices and room of its own.
    """

    service: str
    status: int
    model: str
    code: str = ""
    type: str = ""
    param: str = ""
    message: str = ""
    page: bool = False
    is_json: bool = False
    delay: float | None = None
    reset: float | None = None
    batch: bool = False
    sent: tuple[str, ...] = ()
    tier: str = ""

    def __str__(self) -> str:
        names = ", ".join(name for name in (self.code, self.type) if re.fullmatch(r"[A-Za-z_]{1,50}", name))
        said = f"{self.service} answered {self.status}" + (f" ({names})" if names else "")
        return f"{said}, with an HTML page: something in front of the provider refuses it" if self.page else said

    def pause(self, unless_told: float) -> Mapping[str, Any]:
        """How long it asks to wait, within bounds."""
        told = self.reset if self.delay is None else self.delay
        seconds = unless_told if told is None else told
        return {"seconds": min(max(seconds, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS), "told": told is not None}

    def says(self, pattern: str) -> bool:
        """Whether it stands in its words."""
        return bool(re.search(pattern, self.message))

    @property
    def parameter(self) -> str:
        """Which of the parameters that were sent it names, by `param` or in its words; empty if none."""
        if "schema_bounds" in self.sent and self.says(_BOUNDS) and re.search(_SCHEMA, f"{self.param} {self.message}"):
            return "schema_bounds"
        known = [name for name in self.sent if name in PARAMETERS]
        said = (self.param.lower(), self.message)
        if named := next((name for words in said for name in known if re.search(PARAMETERS[name], words)), ""):
            return named
        of_a_form = self.status in (400, 422) and self.says(_FORM) and not self.says(_POLICY)
        return next((name for name in known if name in ("json_schema", "json_object") and of_a_form), "")

    @property
    def names_the_input(self) -> bool:
        """A policy on contents, or `param` is the text itself."""
        return self.says(_POLICY) or bool(re.match(r"\W*(?:input|messages|prompt)\b", self.param))

    @property
    def means_a_text(self) -> bool:
        """It names the input, or speaks of a text: what it says of an account or a key is then said in passing."""
        return self.names_the_input or self.says(_OF_A_TEXT)

    @property
    def names_the_model(self) -> bool:
        """By a code or `param`, or as what it does not have, does not allow, or cannot use for this."""
        if re.search("model|deployment", self.code.lower()) or re.fullmatch(r"(?:.*\.)?model", self.param):
            return True
        if re.search("model.*(?:not|denied)|invalid.?model", self.type.lower()):
            return True
        if self.status in (404, 410) and (self.type.lower() == "notfounderror" or self.says(f"{_MODEL}|{_ROUTE}")):
            return True
        if self.status == 401 or self.says(_PARAMETER_WORDS) or self.says(_POLICY):
            return False
        return self.says(_OTHER_KIND) or (self.says(_MODEL_GONE) and not self.says(_INPUT_WORDS))

    @property
    def tokens(self) -> tuple[int, int] | None:
        """How many tokens the request had and how many the model reads, if it says two numbers and no more."""
        said = re.sub(r"(?<=\d),(?=\d{3})", "", self.message)
        found = {int(number) for number in re.findall(r"(?<![\w.\[-])\d{2,9}(?![\w\]-])", said)} - {self.status}
        return (max(found), min(found)) if len(found) == 2 and not self.says(r"exceed\w* by\b") else None


def refusal_of(
    service: str,
    answer: http.Whole,
    model: str,
    texts: Sequence[str] = (),
    sent: Sequence[str] = (),
    *,
    batch: bool = False,
    tier: str = "",
) -> Refusal:
    """The facts of an error answer to a request with `texts`, a `batch` or a question, and the parameters `sent`."""
    content = answer.body
    try:
        body: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = content.decode("utf-8", "replace")
    is_json = isinstance(body, dict | list)
    page = not is_json and ("html" in answer.headers.get("content-type", "") or content.lstrip()[:1] == b"<")
    said: list[tuple[str, str]] = []
    delays: list[float] = []
    resets = [_delay(name, answer.headers.get(name)) or 0.0 for name in _RESETS]
    for key, value in _values("" if page else body):
        if delay := _delay(key, value):
            (resets if "ratelimit" in key else delays).append(delay)
        elif isinstance(value, str) or key in _CODES or key in _COUNTS:
            said.append((key, str(value)))
    # A number of a code's is none of tokens.
    words = " ".join(word for key, word in said if key not in _CODES or not word.isdecimal())[
        : MOST_WORDS + sum(map(len, texts))
    ]
    for text in texts:
        if len(text) >= LEAST_QUOTED:
            words = words.replace(text, " ")
    words = " ".join(words.lower().replace("\u2019", "'").split())
    message = re.sub(rf"(?<!\w){re.escape(model.lower())}(?!\w)", "model", words)[:MOST_WORDS] if model else words

    def first(*keys: str, names: bool = False) -> str:
        found = [word for key in keys for name, word in said if name == key and not (names and word.isdecimal())]
        return next(filter(None, found), "")

    kind = first("type")
    return Refusal(
        service,
        answer.status,
        model,
        code=first(*_CODES, names=True),
        type=kind,
        param=first(*_PARAMETERS),
        message=message,
        page=page,
        is_json=is_json,
        delay=_told_delay(answer.headers, kind, delays, message),
        reset=max(resets) or None,
        batch=batch,
        sent=tuple(sent),
        tier=tier,
    )


def refused_with_200(document: object) -> http.Whole | None:
    """The error answer that came with status 200, with the status that it should have had; None if it is none.

    Some gateways answer 200 before they ask the model, and then have an `error` in place of its answer, whole or in the
    choice, with the status as its `code`.
    """
    if not isinstance(document, dict):
        return None
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    answered = choice or document.get("data") or document.get("embeddings") or isinstance(document.get("message"), dict)
    error = choice.get("error") or (not answered and document.get("error"))
    code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
    return http.Whole(int(code), {}, orjson.dumps({"error": error})) if re.fullmatch("[45][0-9]{2}", code) else None


def _values(body: Any) -> Iterator[tuple[str, Any]]:
    """All that a body holds, by the innermost key; without what repeats the request."""
    waiting: list[tuple[str, Any, int]] = [("", body, 0)]
    for _ in range(MOST_VALUES):
        if not waiting:
            return
        key, value, depth = waiting.pop(0)
        if isinstance(value, dict) and depth < MOST_DEPTH:
            waiting += [
                (str(name).lower(), each, depth + 1) for name, each in value.items() if not _REPEATED.fullmatch(name)
            ]
        elif isinstance(value, list) and key in ("loc", "path"):
            # FastAPI: where in the request the fault is.
            yield "loc", ".".join(str(each) for each in value if each != "body" and isinstance(each, str | int))
        elif isinstance(value, list) and depth < MOST_DEPTH:
            waiting += [(key, each, depth + 1) for each in value]
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            yield key, value


def _delay(key: str, value: object) -> float | None:
    name = _DELAY.fullmatch(re.sub(r"[^a-z_]", "", key))
    if name is None:
        return None
    seconds = parse_duration(str(value))
    if seconds is not None and seconds > AN_INSTANT:  # since 1970, in seconds or milliseconds
        return max(0.0, (seconds if seconds < AN_INSTANT * 100 else seconds / 1_000) - time.time())
    return seconds / 1_000 if seconds is not None and name[1] else seconds


def _told_delay(headers: Mapping[str, str], kind: str, delays: Sequence[float], message: str) -> float | None:
    """The headers' own word first, then when the exhausted limit is whole again, then what the body says."""
    resets = {name: _delay("retry_after", headers.get(f"x-ratelimit-reset-{name}")) for name in ("requests", "tokens")}
    known = [seconds for seconds in resets.values() if seconds is not None]
    told = (
        _delay("retry_after_ms", headers.get("retry-after-ms")),
        parse_retry_after(headers.get("retry-after"), time.time()),
        resets.get(kind),  # OpenAI's `type` says which limit it was
        max(known or delays, default=None),
        delay_in_words(message),
    )
    return next((seconds for seconds in told if seconds is not None), None)


Condition = Callable[[Refusal], Any]
ANYHOW: Condition = lambda refusal: True  # noqa: E731


@dataclass(frozen=True, slots=True)
class Row:
    """An answer with one of `statuses` (any, if there are none) of which `holds` is true: `what` it is, in words.

    It `becomes` the error, with these `facts`, whose message is the status and `advice`.
    """

    statuses: tuple[int, ...]
    what: str
    holds: Condition
    becomes: type[errors.AitpError]
    advice: str = ""
    facts: Callable[[Refusal], Mapping[str, Any]] = lambda refusal: {}

    @property
    def name(self) -> str:
        return ", ".join([*map(str, self.statuses), *([self.what] if self.what else [])])

    def fits(self, refusal: Refusal) -> bool:
        return (not self.statuses or refusal.status in self.statuses) and bool(self.holds(refusal))

    def error(self, refusal: Refusal) -> errors.AitpError:
        service = refusal.service.upper()
        advice = self.advice.format(model=refusal.model, parameter=refusal.parameter, SERVICE=service)
        said = f"{refusal}: {advice}" if advice else f"{refusal}"
        whose = () if issubclass(self.becomes, errors.RequestRefused) else (refusal.service,)
        return self.becomes(*whose, said, **self.facts(refusal))


def _is_out_of_credit(refusal: Refusal) -> bool:
    codes = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
    if codes & {refusal.code, refusal.type} or (refusal.status == 402 and refusal.is_json):
        return True
    # Where a pause is told, it is a rate in the same words.
    if refusal.status not in (400, 401, 402, 403, 412, 422, 429, 500) or refusal.delay is not None:
        return False
    if refusal.status == 500:
        return refusal.says(_NO_MONEY)
    another = {401: r"api[ _-]?key", 429: _RATE}.get(refusal.status, _TOO_LONG)
    return refusal.says(_CREDIT) and not (refusal.says(_TOO_LONG) or refusal.says(another) or refusal.means_a_text)


def _names_the_key(refusal: Refusal) -> bool:
    words = refusal.says(_KEY) and not (refusal.says(_RATE) or refusal.means_a_text)
    return words or (refusal.status == 401 and refusal.is_json)


def _is_above_the_limit(refusal: Refusal) -> bool:
    """More tokens than a minute allows: no pause would ever help, fewer texts do. A day's pause may mean the same."""
    endless = refusal.batch and refusal.delay is not None and refusal.delay > MAX_PAUSE_SECONDS
    return endless or refusal.says("too large|too many tokens in")


def _is_over_the_context(refusal: Refusal) -> bool:
    """It says that the text has more tokens than the model reads; not one of its other limits."""
    codes = {"context_length_exceeded", "exceed_context_size_error"}
    words = refusal.says(_TOO_LONG) and not refusal.says(_ANOTHER_LIMIT)
    if words and refusal.says(r"\bschema") and refusal.tokens is None:
        return False  # a bound in the schema that it does not know
    return bool(codes & {refusal.code, refusal.type}) or words


def _is_no_such_model(refusal: Refusal) -> bool:
    """A gateway that fails where the model is missing; Ollama's own 404 is another matter: there it can be pulled."""
    if refusal.status >= 500 and (refusal.status == 503 or refusal.says(_FOR_NOW)):
        return refusal.code == "model_not_found"
    failed = refusal.status >= 500 and (refusal.code == "model_not_found" or refusal.says(_NOT_FOUND))
    return failed or (refusal.says(_NO_SUCH_MODEL) and (refusal.service == OLLAMA or refusal.says(_MODEL)))


def _is_of_the_cloud(refusal: Refusal) -> bool:
    """A model that Ollama runs elsewhere: by its tag, or by what is said of it."""
    tag = canonical(refusal.model).rsplit(":", 1)[-1]
    words = "subscription|upgrade|sign ?in|usage limit"
    return refusal.service == OLLAMA and (tag.endswith("cloud") or refusal.says(words))


def _is_a_refusal(refusal: Refusal) -> bool:
    return 400 <= refusal.status < 500 and refusal.status not in (407, 408, 409, 424, 425, 498, 499)


ROWS: Sequence[Row] = (
    # Ollama's cloud refuses one by one what runs there (a cap, a subscription, a sign-in), and no local model with it.
    Row((429,), "a model of Ollama's cloud", _is_of_the_cloud, errors.CooldownRequired,
        "the account's cap for {model} is reached; other models go on",
        lambda r: {"model": r.model, **r.pause(LONG_PAUSE_SECONDS)}),
    Row((401, 402, 403), "a model of Ollama's cloud", _is_of_the_cloud, errors.ModelGone,
        "{model} runs in Ollama's cloud, and needs a sign-in (ollama signin, OLLAMA_API_KEY) or a subscription; other "
        "models go on", lambda r: {"model": r.model}),
    Row((), "a refusal that names the account's credit", _is_out_of_credit, errors.CooldownRequired,
        "the account has no credit left; look at its billing and limits",
        lambda r: {"seconds": LONG_PAUSE_SECONDS, "model": None}),
    Row((429, 498), "no room in the tier that was asked for",
        lambda r: r.tier in OTHER_TIERS and r.says(f"unavailable|capacity|tier|{r.tier}") and not r.says("rate limit"),
        errors.RequestRefused,
        "the tier of OPENAI_SERVICE_TIER has no room", lambda r: {"parameter": "service_tier"}),
    Row((429,), "one request above the limit, or a batch that has to wait for hours", _is_above_the_limit,
        errors.RequestRefused, "one request asks for more than the limits of {model} ever allow"),
    # OpenAI counts by model; of Ollama it is a proxy in front that does.
    Row((429,), "too many (all of Ollama's models wait)", ANYHOW, errors.CooldownRequired,
        "the rate limit of {model} is reached, or that of a proxy in front of it",
        lambda r: {"model": r.model if r.service == OPENAI else None, **r.pause(RATE_PAUSE_SECONDS)}),
    Row((400, 413, 422, 500), "longer than the context", _is_over_the_context, errors.InputTooLong,
        "the text is longer than what {model} reads at once", lambda r: {"tokens": r.tokens}),
    # Some servers fail at what they do not know.
    Row((400, 403, 404, 405, 409, 413, 415, 422, 500, 501), "a parameter by its name", lambda r: r.parameter,
        errors.RequestRefused, "{model} takes no {parameter} there", lambda r: {"parameter": r.parameter}),
    Row((400, 500), "the options of Ollama", lambda r: r.service == OLLAMA and r.says(_OPTIONS), errors.SettingRefused,
        "it does not take its options: look at OLLAMA_OPTIONS and OLLAMA_KEEP_ALIVE",
        lambda r: {"setting": "OLLAMA_OPTIONS"}),
    Row((400, 500), "a vector that is none: NaN", lambda r: r.says(_NOT_A_NUMBER), errors.InputRefused,
        "it refuses the input"),
    Row((400, 500), "the process that runs the model is gone", lambda r: r.says(_RUNNER), errors.ServiceFault,
        "the process that runs {model} died, or does not answer; its machine may lack memory"),
    Row((404, 500, 503), "a model of another kind, or a name that is none", _is_no_such_model, errors.ModelGone,
        _MODEL_ADVICE, lambda r: {"model": r.model, "named": r.status < 500}),
    Row((404,), "the model, at Ollama", lambda r: r.service == OLLAMA and r.says(_GONE) and r.names_the_model,
        errors.ModelMissing, "it has no model {model}; its tasks wait until that has been pulled",
        lambda r: {"seconds": MISSING_PAUSE_SECONDS, "model": r.model}),
    Row((400, 401, 403, 404, 410, 422, 501), "the model: gone, not allowed, of another kind",
        lambda r: r.names_the_model, errors.ModelGone, _MODEL_ADVICE,
        lambda r: {"model": r.model, "named": r.status < 500}),
    Row((400, 403, 413, 415, 422, 501), "the input: a policy, or by `param`", lambda r: r.names_the_input,
        errors.InputRefused, "it refuses the input"),
    Row((400, 401, 403, 422), "the key by its name", _names_the_key, errors.CredentialsRefused,
        "look at {SERVICE}_API_KEY and what it may do"),
    Row((401, 402, 403), "a page", lambda r: r.page, errors.CredentialsRefused, facts=lambda r: {"named": False}),
    Row((401, 402, 403), "not a word of the key", ANYHOW, errors.CredentialsRefused,
        "look at {SERVICE}_API_KEY, {SERVICE}_BASE_URL, and at what stands in front of it",
        lambda r: {"named": False}),
    Row((404, 405, 410), "the address", lambda r: not r.says(r"\bno endpoints\b.*\bparameters\b"), errors.ServiceFault,
        "and not because of the model: look at {SERVICE}_BASE_URL"),
    Row((), "400, 413, 415, 422 and other refusals", _is_a_refusal, errors.RequestRefused,
        "it refuses the request, and does not name what of it"),
    Row((), "407, 408, 409, 5xx, redirects, anything else", ANYHOW, errors.ServiceFault),
)  # fmt: skip


def error_of(refusal: Refusal) -> errors.AitpError:
    """Our error for an error answer."""
    failure = next(row for row in ROWS if row.fits(refusal)).error(refusal)
    failure.bought_nothing = refusal.status not in MAYBE_BOUGHT
    return failure


def no_success(service: str, what: str) -> errors.ServiceFault:
    """Our error for an answer with status 200 that is none."""
    return errors.ServiceFault(service, f"{service} answered 200 with {what}")


def no_answer(service: str, failure: http.NoAnswer) -> errors.ServiceFault:
    """Our error for what came in place of an answer."""
    name = service.upper()
    said = f"{service} {failure.within(f'{name}_TIMEOUT')}"
    match failure:
        case http.NotReached():
            return errors.NotConnected(service, f"{said}: look at {name}_BASE_URL")
        case http.TooSlow():
            return errors.DeadlineExceeded(service, said)
    return errors.ServiceFault(service, said)
