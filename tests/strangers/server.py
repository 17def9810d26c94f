"""A server of OpenAI's protocol that nobody has met before: it answers well, or refuses in a manner of its own.

What it refuses, and what its refusals look like, is a `Nature`: values, so that hypothesis can draw them and a failure
can be read. One listener serves as many natures as a test likes, one after the other (`become`). Time is `clock`'s: the
harness moves it by hand, whole services leave it to the wall. Every request is on record in `seen`, with its texts,
its parameters and its time; `took` is how long the last one is to have taken by that clock.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from aitp.demo.faults import Fault
from aitp.demo.http import HttpServer
from aitp.demo.openai_chat import CHAT_PATH, asked_text
from aitp.demo.vectors import encoded_vector, vector
from aitp.demo.wire import Connection, Request, Response, json_response

EMBEDDINGS_PATH = "/v1/embeddings"
OLLAMA_PATH = "/api/embed"  # of a server that speaks Ollama's protocol as well
LENGTH = 8  # numbers in a vector: enough to tell texts apart
CHAT_ANSWERS = {  # what fits each type, by a word that only its prompt's schema or content has
    "severity": {"severity": "low_1"},
    "topics": {"topics": [{"name": "Rivers"}]},
}


class Rude(Enum):
    """What is no answer at all."""

    RESET = "reset"
    DROP = "drop"
    HANG = "hang"


class Useless(Enum):
    """Answers with status 200 that nobody can use; of embeddings the first five, of chats the others."""

    ZEROS = "zeros"
    NO_VECTOR = "no vector"
    NOT_A_NUMBER = "NaN"
    EMPTY_VECTOR = "empty vector"
    NONSENSE_VECTOR = "a vector of words"
    CUT = "cut"
    EMPTY = "empty"
    PROSE = "prose"
    OTHER_JSON = "other JSON"


class Dialect(Enum):
    """What answers look like that say the same as OpenAI's in another way."""

    PARTS = "content is a list of parts"
    NO_INDEX = "no vector has an index"
    FIRST_WITHOUT_INDEX = "an index of 0 is left out"
    ALWAYS_FIRST = "every index is 0"


OF_EMBEDDINGS = tuple(Useless)[:5]
OF_CHATS = tuple(Useless)[5:]


@dataclass(frozen=True, slots=True)
class Manner:
    """How one refusal looks on the wire. `seconds`: how long it takes."""

    status: int = 400
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    rude: Rude | None = None
    seconds: float = 0.1

    def __str__(self) -> str:
        what = self.rude.value if self.rude else f"{self.status} {self.content_type} {self.body[:160]!r}"
        return f"{what} within {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Poison:
    """Texts that this server does not take: refused in one manner alone and in one within a batch, or badly answered.

    `alone` None: in the same manner as within a batch.
    """

    texts: frozenset[str]
    within: Manner | Useless
    alone: Manner | None = None


@dataclass(frozen=True, slots=True)
class Refusing:
    """What is refused from `start` on, until `until`, by this server's clock."""

    manner: Manner
    start: float = 0.0
    until: float = float("inf")

    def holds(self, now: float) -> bool:
        return self.start <= now < self.until


@dataclass(frozen=True, slots=True)
class Nature:
    """Everything that this server has against a request, in the order in which it looks."""

    outages: tuple[Refusing, ...] = ()
    flaky: float = 0.0
    flaky_manner: Manner = Manner(500)
    account: Refusing | None = None
    gone: tuple[tuple[str, Refusing], ...] = ()  # models
    refused: tuple[tuple[str, Manner], ...] = ()  # parameters, as `parameters_of` names them
    poison: Poison | None = None
    mute: Useless | None = None  # to every text,
    mute_until: float = float("inf")
    length: int = LENGTH  # of vectors whose length nobody asked for
    longest: tuple[int, Manner] | None = None  # characters that a text may have,
    most: tuple[int, Manner] | None = None  # and texts that a request may have
    dialect: Dialect | None = None
    seconds: float = 0.5  # that an answer takes
    seed: int = 0

    @property
    def settles_at(self) -> float:
        """From when on nothing changes any more."""
        passing = [*self.outages, *([self.account] if self.account else []), *(each for _, each in self.gone)]
        ends = [each.until for each in passing] + ([self.mute_until] if self.mute else [])
        return max([end for end in ends if end != float("inf")], default=0.0)

    @property
    def lasts(self) -> bool:
        """Whether something is wrong for ever with more than single texts."""
        passing = [*self.outages, *([self.account] if self.account else []), *(each for _, each in self.gone)]
        return any(each.until == float("inf") for each in passing) or (
            self.mute is not None and self.mute_until == float("inf")
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as this server saw it. `well`: each text got an answer that can be used."""

    at: float
    texts: tuple[str, ...]
    model: str
    parameters: frozenset[str]
    well: bool
    why: str


class Stranger(HttpServer):
    """The server. `clock` says what time it is."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.clock = clock
        self.nature = Nature()
        self.seen: list[Seen] = []
        self.took = 0.0
        self._began = 0.0
        self._chance = random.Random(0)
        self._rude: dict[int, Rude] = {}

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    def become(self, nature: Nature) -> None:
        """Be another server from now on: its clock begins at 0, and nothing was seen."""
        self.nature = nature
        self.seen = []
        self.took = 0.0
        self._began = self.clock()
        self._chance = random.Random(nature.seed)
        self._rude.clear()

    @property
    def now(self) -> float:
        """Seconds since it became what it is."""
        return self.clock() - self._began

    def sends(self) -> Counter[str]:
        """How often each text was sent."""
        return Counter(text for seen in list(self.seen) for text in seen.texts)

    def refused_sends(self) -> Counter[str]:
        """How often each text was sent without getting an answer that can be used."""
        return Counter(text for seen in list(self.seen) if not seen.well for text in seen.texts)

    # Answering

    def _response(self, request: Request, fault: Fault | None) -> Response | None:
        document = _document(request.body)
        chat = request.path == CHAT_PATH
        if chat:
            texts: tuple[str, ...] = (asked_text(document),)
        else:
            given = document.get("input")
            texts = (given,) if isinstance(given, str) else tuple(given or ())
        if request.method != "POST" or request.path not in (CHAT_PATH, EMBEDDINGS_PATH, OLLAMA_PATH):
            return json_response(404, {})
        parameters = parameters_of(document)
        model = str(document.get("model"))
        why, refusal = self._refusal(texts, model, parameters)
        now = self.now
        if isinstance(refusal, Manner):
            self.took = refusal.seconds
            self.seen.append(Seen(now, texts, model, parameters, False, why))
            if refusal.rude is not None:
                self._rude[request.number] = refusal.rude
                return None
            return Response(refusal.status, refusal.body, refusal.headers, refusal.content_type)
        self.took = self.nature.seconds
        spoilt = {text: how for text in texts if (how := self._spoils(text, now))}
        self.seen.append(Seen(now, texts, model, parameters, not spoilt, "useless" if spoilt else ""))
        if chat:
            return _chat_answer(document, spoilt.get(texts[0]), self.nature.dialect)
        length = document.get("dimensions") or self.nature.length
        items = _vectors(texts, model, length, document.get("encoding_format") == "base64", spoilt)
        for item in items:
            if self.nature.dialect is Dialect.ALWAYS_FIRST:
                item["index"] = 0
            elif self.nature.dialect is Dialect.NO_INDEX or (
                self.nature.dialect is Dialect.FIRST_WITHOUT_INDEX and not item["index"]
            ):
                del item["index"]
        tokens = sum(len(text) // 4 + 1 for text in texts)
        if request.path == OLLAMA_PATH:
            return json_response(
                200, {"embeddings": [item["embedding"] for item in items], "prompt_eval_count": tokens}
            )
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response(200, {"object": "list", "data": items, "model": model, "usage": usage})

    def _refusal(self, texts: tuple[str, ...], model: str, parameters: frozenset[str]) -> tuple[str, Manner | None]:
        nature, now = self.nature, self.now
        for outage in nature.outages:
            if outage.holds(now):
                return "outage", outage.manner
        if nature.flaky and self._chance.random() < nature.flaky:
            return "flaky", nature.flaky_manner
        if nature.account is not None and nature.account.holds(now):
            return "account", nature.account.manner
        for gone, refusing in nature.gone:
            if gone == model and refusing.holds(now):
                return "model", refusing.manner
        for parameter, manner in nature.refused:
            if parameter in parameters:
                return f"parameter {parameter}", manner
        if nature.most is not None and len(texts) > nature.most[0]:
            return "too many", nature.most[1]
        if nature.longest is not None and any(len(text) > nature.longest[0] for text in texts):
            return "too long", nature.longest[1]
        poison = nature.poison
        if poison is not None and isinstance(poison.within, Manner) and not poison.texts.isdisjoint(texts):
            alone = len(texts) == 1 and poison.alone is not None
            return "poison", poison.alone if alone else poison.within
        return "", None

    def _spoils(self, text: str, now: float) -> Useless | None:
        nature = self.nature
        if nature.mute is not None and now < nature.mute_until:
            return nature.mute
        poison = nature.poison
        if poison is not None and isinstance(poison.within, Useless) and text in poison.texts:
            return poison.within
        return None

    # On the wire

    def latency_of(self, request: Request) -> float:
        return 60.0 if self._rude.get(request.number) is Rude.HANG else self.latency_seconds

    def error(self, status: int, request: Request) -> Response:
        return json_response(status, {})

    def _exchange(self, connection: Connection, client_port: int, request: Request, fault: Fault | None) -> bool:
        goes_on = super()._exchange(connection, client_port, request, fault)
        if self._rude.get(request.number) is Rude.RESET:
            connection.close(reset=True)
        return goes_on


def parameters_of(document: dict[str, Any]) -> frozenset[str]:
    """What a request asks for besides texts and model; of `response_format` its type, of `encoding_format` base64."""
    found = {name for name in document if name not in ("model", "input", "messages", "response_format")}
    if document.get("encoding_format") != "base64":
        found.discard("encoding_format")
    format_ = document.get("response_format")
    if isinstance(format_, dict):
        found.add(str(format_.get("type")))
    return frozenset(found)


def expected(text: str, model: str, length: int = LENGTH) -> list[float]:
    """The vector that a text gets."""
    return vector(text, model, length)


def _vectors(
    texts: tuple[str, ...], model: str, length: int, base64: bool, spoilt: dict[str, Useless]
) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        how = spoilt.get(text)
        if how is Useless.NO_VECTOR:
            continue
        value: object = encoded_vector(text, model, length).decode() if base64 else vector(text, model, length)
        match how:
            case Useless.ZEROS:
                value = [0.0] * length
            case Useless.EMPTY_VECTOR:
                value = []
            case Useless.NONSENSE_VECTOR:
                value = ["lorem"] * length
            case Useless.NOT_A_NUMBER:
                value = [None] * length
        items.append({"object": "embedding", "index": index, "embedding": value})
    return items


def _chat_answer(document: dict[str, Any], how: Useless | None, dialect: Dialect | None) -> Response:
    said = orjson.dumps(document.get("messages")).decode()
    answer = orjson.dumps(next(found for word, found in CHAT_ANSWERS.items() if word in said)).decode()
    reason = "stop"
    match how:
        case Useless.CUT:
            answer, reason = answer[: len(answer) // 2], "length"
        case Useless.EMPTY:
            answer = ""
        case Useless.PROSE:
            answer = "There is much to be said about it."
        case Useless.OTHER_JSON:
            answer = '{"mood": "sunny"}'
    content: object = answer
    if dialect is Dialect.PARTS:
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Rivers, then."}]}
        content = [thought, {"type": "text", "text": answer[:5]}, {"type": "text", "text": answer[5:]}]
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}
    usage = {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49}
    return json_response(200, {"object": "chat.completion", "choices": [choice], "usage": usage})


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
