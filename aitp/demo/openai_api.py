"""The provider: OpenAI's POST /v1/embeddings and /v1/chat/completions, with its checks, its errors and its bill.

Every text that a request with the right key brings is written down in `purchases`: when, with which call, whether
the answer got through. Answers carry `index` and come in shuffled order, as base64 or as numbers. A text that holds
`bad_marker` is a bad input: 400 for the whole array. `refuses` names parameters that this server does not take, and
refuses in words of its own. Everything else that can go wrong is ordered as a `Fault`.
"""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.http import Exchange, HttpServer
from aitp.demo.openai_chat import CHAT_PATH, asked_text, complete
from aitp.demo.openai_errors import ERRORS, HEADERS, QUOTA, Refusal, error_response
from aitp.demo.vectors import encoded_vector, vector
from aitp.demo.wire import Request, Response, json_response
from aitp.settings import CHAT_MODEL

EMBEDDINGS_PATH = "/v1/embeddings"
MODELS_PATH = "/v1/models"
CHAT_MODELS = (CHAT_MODEL, "o3-mini", "o3")
PATHS = {EMBEDDINGS_PATH, CHAT_PATH}
DEMO_KEY = "sk-demo-0123456789abcdef"
BAD_MARKER = "<|bad input|>"
MAX_INPUTS, MAX_TOKENS, MAX_INPUT_TOKENS = 2048, 300_000, 8192
MODELS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}


@dataclass(frozen=True, slots=True)
class Purchase:
    """One text in one call. It costs money if `status` is 200; `answered` says that the answer got through whole."""

    text: str
    digest: str
    model: str
    call: int
    status: int
    answered: bool
    at_once: int
    received_wall: float
    received_monotonic: float
    ended_monotonic: float


@dataclass(frozen=True, slots=True)
class _Order:
    texts: list[str]
    model: str
    dimensions: int
    base64: bool


class OpenAIApi(HttpServer):
    """OpenAI on loopback. `key`, `bad_marker` and `latency_seconds` may be changed at any time."""

    def __init__(
        self,
        port: int = 0,
        *,
        key: str = DEMO_KEY,
        bad_marker: str = BAD_MARKER,
        models: dict[str, int] | None = None,
        shuffle_seed: int = 0,
        latency_seconds: float = 0.0,
        fault_seed: int = 0,
        refuses: Iterable[str] = (),
    ) -> None:
        super().__init__(port, latency_seconds=latency_seconds, fault_seed=fault_seed)
        self.key = key
        self.bad_marker = bad_marker
        self.refuses = set(refuses)
        self.hidden: set[str] = set()  # models that its list leaves out
        self.shutdowns: dict[str, str] = {}  # the days on which models are shut down, in its list
        self._purchases: list[Purchase] = []
        self._models = {**MODELS, **(models or {})}
        self._shuffle = random.Random(shuffle_seed)

    @property
    def base_url(self) -> str:
        """What OPENAI_BASE_URL is to be."""
        return self.url + "/v1"

    @property
    def purchases(self) -> list[Purchase]:
        """Every text of every call, in the order in which the calls ended."""
        return self.settled(self._purchases)

    def times_bought(self) -> Counter[str]:
        """How often each text was paid for (answered with 200, whether or not the answer got through)."""
        return Counter(purchase.text for purchase in list(self.purchases) if purchase.status == 200)

    def times_answered(self) -> Counter[str]:
        """How often each text's vector reached the client."""
        return Counter(p.text for p in list(self.purchases) if p.status == 200 and p.answered)

    def expected(self, text: str, model: str = "text-embedding-3-small", dimensions: int = 1024) -> list[float]:
        """The vector that this text gets."""
        return vector(text, model, dimensions)

    def records(self) -> list[list[Any]]:
        return [*super().records(), self._purchases]

    def answer(self, request: Request, fault: Fault | None) -> Response:
        """One call, checked in the order in which OpenAI checks."""
        if fault is not None and fault.kind is FaultKind.QUOTA:
            return error_response(429, *QUOTA, headers=tuple(fault.headers.items()))
        if not self._key_is_right(request):
            return self.error(401, request)
        if request.path == MODELS_PATH and request.method == "GET":
            listed = [
                {"id": name, "object": "model", "shutdown_date": self.shutdowns.get(name)}
                for name in (*self._models, *CHAT_MODELS)
                if name not in self.hidden
            ]
            return json_response(200, {"object": "list", "data": listed})
        if request.path not in PATHS or request.method != "POST":
            return self.error(404, request)
        try:
            document = _document(request.body)
            if self.refuses & _parameters(document):
                return json_response(400, {"oops": {"what": "One of these wishes is not granted here."}})
            if request.path == CHAT_PATH:
                return complete(document, fault, self.bad_marker)
            order = self._order(request.body)
        except Refusal as refusal:
            return refusal.response()
        return self._vectors(order, fault)

    def error(self, status: int, request: Request) -> Response:
        """OpenAI's body for a fault."""
        kind, code, message = ERRORS.get(
            status, ("server_error", None, "The server had an error while processing your request. Sorry about that!")
        )
        return error_response(status, kind, code, message)

    def is_call(self, request: Request) -> bool:
        """Not if it is about models."""
        return request.path in PATHS

    def ended(self, request: Request, exchange: Exchange) -> None:
        """Write down what was bought."""
        if request.path not in PATHS or not self._key_is_right(request):
            return
        document, texts, model = _read(request.body)
        if request.path == CHAT_PATH:
            texts = [asked_text(document)]
        for text in texts:
            self._purchases.append(
                Purchase(
                    text,
                    blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(),
                    model,
                    request.number,
                    exchange.status,
                    exchange.whole,
                    exchange.at_once,
                    request.received_wall,
                    request.received_monotonic,
                    exchange.ended_monotonic,
                )
            )

    def _key_is_right(self, request: Request) -> bool:
        return request.headers.get("authorization", "") == f"Bearer {self.key}"

    def _order(self, body: bytes) -> _Order:
        document, texts, model = _read(body)
        if not document:
            raise Refusal("We could not parse the JSON body of your request.")
        if not model:
            raise Refusal("you must provide a model parameter")
        if model not in self._models:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refusal(message, status=404, code="model_not_found")
        self._check_texts(texts)
        form = document.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise Refusal(f"Invalid value for 'encoding_format': {form!r}.", param="encoding_format")
        return _Order(texts, model, self._dimensions(model, document.get("dimensions")), form == "base64")

    def _check_texts(self, texts: list[str]) -> None:
        if not texts or not all(texts):
            raise Refusal("'$.input' is invalid. Please check the API reference.", param="input")
        if len(texts) > MAX_INPUTS:
            raise Refusal(f"'$.input' is too long: at most {MAX_INPUTS} inputs.", param="input")
        longest, total = max(map(_tokens, texts)), sum(map(_tokens, texts))
        if longest > MAX_INPUT_TOKENS:
            message = f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens, you requested {longest}."
            raise Refusal(message)
        if total > MAX_TOKENS:
            message = f"Requested {total} tokens, max {MAX_TOKENS} tokens per request"
            raise Refusal(message, code="max_tokens_per_request")
        if any(self.bad_marker in text for text in texts):
            raise Refusal("'$.input' is invalid. Please check the API reference.", param="input")

    def _dimensions(self, model: str, asked: Any) -> int:
        full = self._models[model]
        if asked is None:
            return full
        if not model.startswith("text-embedding-3-"):
            raise Refusal("This model does not support specifying dimensions.", param="dimensions")
        if not isinstance(asked, int) or not 1 <= asked <= full:
            raise Refusal(f"Invalid value for 'dimensions': at most {full}.", param="dimensions")
        return asked

    def _vectors(self, order: _Order, fault: Fault | None) -> Response:
        kind = fault.kind if fault is not None else None
        length = order.dimensions // 2 if kind is FaultKind.WRONG_LENGTH else order.dimensions
        items = []
        for index, text in enumerate(order.texts):
            data = encoded_vector(text, order.model, length)
            zeros = kind is FaultKind.ZEROS and fault is not None and fault.text in text
            if kind is FaultKind.NOT_A_NUMBER:
                data = base64.b64encode(b"\x00\x00\xc0\x7f" + base64.b64decode(data)[4:])
            elif zeros:
                data = base64.b64encode(bytes(4 * length))
            if order.base64:
                value = b'"' + data + b'"'
            elif kind is FaultKind.NOT_A_NUMBER:
                value = b"[NaN" + b",0.5" * (length - 1) + b"]"
            else:
                value = orjson.dumps([0.0] * length if zeros else vector(text, order.model, length))
            position = 0 if kind is FaultKind.WRONG_INDEX else index
            items.append(b'{"object":"embedding","index":%d,"embedding":%s}' % (position, value))
        if kind is FaultKind.WRONG_COUNT:
            items.pop()
        if kind is not FaultKind.WRONG_INDEX:
            self._shuffle.shuffle(items)  # otherwise only the order tells which is which
        tokens = sum(map(_tokens, order.texts))
        body = b'{"object":"list","data":[%s],"model":"%s","usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
            b",".join(items),
            order.model.encode(),
            tokens,
            tokens,
        )
        return Response(200, body, HEADERS, "application/json")


def _read(body: bytes) -> tuple[dict[str, Any], list[str], str]:
    """The document of a request, its texts and its model, as far as they can be read."""
    document = _document(body)
    given = document.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        texts = []
    return document, texts, str(document.get("model") or "")


def _parameters(document: dict[str, Any]) -> set[str]:
    """The names in a request, and the kind of format that it asks for."""
    form = document.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    return {*document, kind} if isinstance(kind, str) else set(document)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _tokens(text: str) -> int:
    """About what the tokenizer counts; enough for a bill and for the limits."""
    return max(1, len(text) // 4)
