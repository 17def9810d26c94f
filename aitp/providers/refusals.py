"""What a server says when it refuses: an error answer of any shape, reduced to facts that the tables of failures judge.

Servers that speak a protocol differ in where they put what: an object, a list, a string, a page; `code` as a word or a
number; the parameter under any of several names. So everything that is said anywhere counts as words, in lower case,
but for what repeats the request. Words are hints that make a verdict quick, no more, and are never passed on: they may
quote the key or the text. No effects.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from aitp.policy.retry import delay_in_words, parse_duration, parse_retry_after

MAX_PAUSE_SECONDS = 3_600.0
MIN_PAUSE_SECONDS = 0.1
RATE_PAUSE_SECONDS = 5.0  # where the server does not say
LONG_PAUSE_SECONDS = 600.0  # for what only a person can mend
# A gateway that says so may have handed the request on: it may have been answered, and be billed.
MAYBE_BOUGHT = (408, 502, 504, 524)
MOST_WORDS = 4_000
LEAST_QUOTED = 12  # characters of a text of ours that says something when it is quoted
MOST_VALUES = 500
MOST_DEPTH = 8

_CODES = ("code", "status", "reason")
_PARAMETERS = ("param", "parameter", "field", "loc", "location", "pointer")
_REPEATED = ("input", "inputs", "prompt", "messages", "request", "body", "content", "text", "ctx")
_DELAY = re.compile(r"retry_?(?:after|delay|in)_?(ms|milliseconds)?(?:_?s|_?seconds)?")

# What a parameter of ours is called in refusals of it, by its name in `Provider.optional`.
PARAMETERS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "encoding_format": r"encoding[ _-]?format|base64",
        "dimensions": r"\bdimensions?\b|matryoshka|\boutput[ _-]?(?:size|dim)",
        "temperature": r"\btemperature\b",
        "reasoning_effort": r"\breasoning[ _.-]?effort|\beffort\b",
        "service_tier": r"\bservice[ _-]?tier|\bflex\b",
        "json_schema": r"\bjson[ _-]?schema|structured[ _-]?outputs?|response[ _-]?format|\bgrammar\b",
        "json_object": r"\bjson[ _-]?(?:object|mode)|response[ _-]?format",
        "think": r"\bthink(?:ing)?\b",
        "format": r"^format$|\b(?:invalid|unsupported|unknown) format\b|['\"`]format['\"`]|\bjson[ _-]?schema"
        r"|structured[ _-]?outputs?|\bgrammar\b",
    }.items()
}
_BOUNDS = re.compile(r"\b(?:min|max)(?:length|items)\b|['\"`](?:minimum|maximum|pattern)['\"`]|\brepetitions?\b")
_SCHEMA = re.compile(r"schema|format|grammar")

_KEY = re.compile(
    r"api[ _-]?key|credential|unauthenticated|authenticat|access[ _]token|\bbearer\b|unauthori[sz]ed|missing scopes?"
    r"|insufficient permissions?"
)
_CREDIT = re.compile(
    r"insufficient[ _](?:quota|funds|balance|credits?)|exceeded your current quota|billing|payment required"
    r"|(?:spend(?:ing)?|hard)[ _]limit|credit balance|\b(?:no|out of|used|exhaust\w*|deplet\w*)\b.{0,40}\bcredits?"
)
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size|limit)|max(?:imum)? (?:input |sequence |prompt |model )?(?:length|tokens)"
    r"|\b(?:input|prompt|text|sequence|element)\b.{0,60}\btoo (?:long|large|many tokens)|too long for"
    r"|reduce the (?:length|size)|longer than .{0,60}(?:tokens|allowed|maximum|context)"
    r"|(?:exceed\w*|more than|at most|up to|limit of|maximum of)\b.{0,60}\btokens"
    r"|\btokens?\b.{0,60}\b(?:exceed|at most)"
)
_ANOTHER_LIMIT = re.compile(
    r"per[ _](?:min|minute|hour|day|request|second)|\brate[ _]limit|max_(?:completion_)?tokens\b"
)
_POLICY = re.compile(
    r"content[ _-]?(?:policy|filter|management|safety)|moderation|flagged|safety (?:system|policy|filter)|inappropriate"
    r"|responsible ?ai|data ?inspection|invalid[ _]prompt|prohibited[ _]content"
)
_GONE = (
    r"not[ _]found|does ?n[o']t exist|does not exist|no such|unknown|retired|deprecat|decommission|no longer"
    r"|not (?:\w+ )?(?:supported|available|allowed|served|loaded|deployed|enabled)|unsupported|unavailable"
    r"|invalid|(?:not have|no) access|shut ?down|sunset|discontinued|end[ -]of[ -]life|been removed"
)
_OTHER_KIND = re.compile(
    r"/v1/(?:responses|completions)|\bresponses api|not a chat model|from this model"
    r"|(?:not|n't|only) support\w*\b.{0,40}\b(?:chat|embed\w*|completions?|responses|generat\w*)"
)
_PARAMETER_WORDS = re.compile(r"\b(?:parameter|argument|option|field|property)s?\b")
_INPUT_WORDS = re.compile(r"\b(?:input|text|language|content|prompt|character|message|word)s?\b")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer. `message`: all that it says, in lower case; nothing of a `page` (HTML): that is somebody else's.

    `delay`: seconds that it asks to wait. `batch`: the request could be a smaller one. `sent`: which parameters of
    `Provider.optional` it held, and `tier`: the value of the one that has prices and room of its own.
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
    batch: bool = False
    sent: tuple[str, ...] = ()
    tier: str = ""

    def __str__(self) -> str:
        names = ", ".join(name for name in (self.code, self.type) if re.fullmatch(r"[A-Za-z_]{1,50}", name))
        said = f"{self.service} answered {self.status}" + (f" ({names})" if names else "")
        return f"{said}, with an HTML page: something in front of the provider refuses it" if self.page else said

    @property
    def pause_seconds(self) -> float:
        """How long a 429 asks to wait, within bounds."""
        return min(max(RATE_PAUSE_SECONDS if self.delay is None else self.delay, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)

    def says(self, *words: str) -> bool:
        """Whether any of `words` stands in it."""
        return any(word in self.message for word in words)

    @property
    def parameter(self) -> str:
        """Which of the parameters that were sent it names, by `param` or in its words; empty if none."""
        if (
            "schema_bounds" in self.sent
            and _BOUNDS.search(self.message)
            and _SCHEMA.search(f"{self.param} {self.message}")
        ):
            return "schema_bounds"
        for said in (self.param.lower(), self.message):
            for name in self.sent:
                if name in PARAMETERS and PARAMETERS[name].search(said):
                    return name
        return ""

    @property
    def names_the_key(self) -> bool:
        return bool(_KEY.search(self.message))

    @property
    def names_the_credit(self) -> bool:
        """An account without money; where a pause is told, it is a rate in the same words."""
        return self.delay is None and bool(_CREDIT.search(self.message))

    @property
    def is_too_long(self) -> bool:
        """It says that the text has more tokens than the model reads; not one of its other limits."""
        return bool(_TOO_LONG.search(self.message)) and not _ANOTHER_LIMIT.search(self.message)

    @property
    def names_the_input(self) -> bool:
        """A policy on contents, or `param` is the text itself."""
        return bool(_POLICY.search(self.message)) or bool(re.match(r"\W*(?:input|messages|prompt)\b", self.param))

    @property
    def names_the_model(self) -> bool:
        """By a code or `param`, or as what it does not have, does not allow, or cannot use for this."""
        if re.search("model|deployment", self.code.lower()) or re.fullmatch(r"(?:.*\.)?model", self.param):
            return True
        said = self.message.replace(self.model.lower(), "model") if self.model else self.message
        named = r"\b(?:models?|deployment)\b"
        if self.status in (404, 410) and (self.type.lower() == "notfounderror" or re.search(named, said)):
            return True
        if _PARAMETER_WORDS.search(said):
            return False
        near = rf"(?:{named}.{{0,80}}(?:{_GONE})|(?:{_GONE}).{{0,40}}{named})"
        return bool(_OTHER_KIND.search(said) or (re.search(near, said) and not _INPUT_WORDS.search(said)))

    @property
    def tokens(self) -> tuple[int, int] | None:
        """How many tokens the request had and how many the model reads, if it says two numbers and no more."""
        said = re.sub(r"(?<=\d),(?=\d{3})", "", self.message.replace(self.model.lower(), ""))
        found = {int(number) for number in re.findall(r"(?<![\w.\[-])\d{2,9}(?![\w\]-])", said)}
        return (max(found), min(found)) if len(found) == 2 else None


def refusal_of(
    service: str,
    response: httpx2.Response,
    model: str,
    *,
    texts: Sequence[str] = (),
    batch: bool = False,
    sent: Sequence[str] = (),
    tier: str = "",
) -> Refusal:
    """The facts of an error answer to a request with `texts`, a `batch` or a question, and the parameters `sent`."""
    content = response.content
    try:
        body: Any = orjson.loads(content)
        is_json = isinstance(body, dict | list)
    except orjson.JSONDecodeError:
        body, is_json = content.decode("utf-8", "replace"), False
    page = not is_json and ("html" in response.headers.get("content-type", "") or content.lstrip()[:1] == b"<")
    said: dict[str, list[str]] = {}
    delays: list[float] = []
    for key, value in _values("" if page else body):
        if delay := _delay(key, value):
            delays.append(delay)
        elif isinstance(value, str):
            said.setdefault(key, []).append(value)
        elif key in _CODES:
            said.setdefault(key, []).append(str(value))
    words = " ".join(each for found in said.values() for each in found)[: MOST_WORDS + sum(map(len, texts))]
    for text in texts:
        if len(text) >= LEAST_QUOTED:
            words = words.replace(text, " ")
    message = " ".join(words.lower().split())[:MOST_WORDS]
    codes = [each for key in _CODES for each in said.get(key, ())]
    kind = next(iter(said.get("type", ())), "")
    return Refusal(
        service,
        response.status_code,
        model,
        code=next((code for code in codes if not code.isdecimal()), ""),
        type=kind,
        param=next((each for key in _PARAMETERS for each in said.get(key, ()) if each), ""),
        message=message,
        page=page,
        is_json=is_json,
        delay=_told_delay(response.headers, kind, delays, message),
        batch=batch,
        sent=tuple(sent),
        tier=tier,
    )


def _values(body: Any) -> Iterator[tuple[str, Any]]:
    """All that a body holds, by the innermost key; without what repeats the request."""
    waiting: list[tuple[str, Any, int]] = [("", body, 0)]
    for _ in range(MOST_VALUES):
        if not waiting:
            return
        key, value, depth = waiting.pop(0)
        if isinstance(value, dict) and depth < MOST_DEPTH:
            waiting += [(str(name).lower(), each, depth + 1) for name, each in value.items() if name not in _REPEATED]
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
    return seconds / 1_000 if seconds is not None and name[1] else seconds


def _told_delay(headers: Mapping[str, str], kind: str, delays: Sequence[float], message: str) -> float | None:
    """The headers' own word first, then when the exhausted limit is whole again, then what the body says."""
    milliseconds = parse_duration(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1_000
    if (seconds := parse_retry_after(headers.get("retry-after"), time.time())) is not None:
        return seconds
    resets = {name: parse_duration(headers.get(f"x-ratelimit-reset-{name}")) for name in ("requests", "tokens")}
    known = [value for value in resets.values() if value is not None]
    if (named := resets.get(kind)) is not None:  # OpenAI's `type` says which limit it was
        return named
    if known or delays:
        return max(known or delays)
    return delay_in_words(message)
