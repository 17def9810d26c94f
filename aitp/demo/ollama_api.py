"""The other provider: Ollama's /api/embed, /api/chat, /api/tags, /api/show, /api/pull, /api/version.

Its words and statuses are those of a real 0.17.4, which `tests/providers/test_real_ollama.py` asks the same things.
Every text that a call brings for a model which is there is written down in `purchases`, as OpenAI's server does. Its
switches may be changed at any time, between calls or in the middle of a pull:

    present          names of the models that are there, with their tags; a pull adds to them
    honours_truncate False: from 0.13.5 on, an input that is too long is a 400 whatever was asked for
    cold_seconds     what the first call for a model takes longer, until it is loaded
    queue_limit      so many calls at once; more are 503
    runner_deaths    for how many calls the model's process dies: 400 on /api/embed, 500 elsewhere
    pull_seconds     what a whole pull takes; pull_breaks: how often one hangs up half-way;
    pull_stalls      how often one makes no progress from half-way on; pull_error: the error inside the 200 stream,
                     half-way, or before anything has come if it is one of the manifest
    answers          scripted answers to chats, used up from the first on; then they are those of `aitp.demo.scripts`
    done_reason      how chats end: stop, length
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any

import orjson

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.http import Exchange, HttpServer
from aitp.demo.openai_api import BAD_MARKER, Purchase
from aitp.demo.openai_chat import spoilt
from aitp.demo.scripts import answer_to
from aitp.demo.vectors import vector
from aitp.demo.wire import Piece, Request, Response, json_response
from aitp.providers import Message, Question
from aitp.providers.mock import text_of

VERSION = "0.13.5"
TOO_LONG = "the input length exceeds the context length"
CALLS = frozenset({"/api/embed", "/api/chat"})
MANIFEST = "pull model manifest"  # how an error of a registry begins that gives nothing at all
STEPS = 50  # lines of progress of a pull


@dataclass(frozen=True, slots=True)
class Model:
    """One of the registry's. `dimensions` 0: it gives no vectors, but answers chats."""

    dimensions: int = 0
    context: int = 8192
    size_bytes: int = 1_000_000_000


LIBRARY: Mapping[str, Model] = {
    "nomic-embed-text:latest": Model(768, 2048, 274_302_450),
    "mxbai-embed-large:latest": Model(1024, 512, 669_615_493),
    "dengcao/Qwen3-Embedding-0.6B:Q8_0": Model(1024, 8192, 639_150_000),
    "llama3.2:latest": Model(0, 8192, 2_019_393_189),
    "qwen3:0.6b": Model(0, 8192, 522_653_767),
}


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class OllamaApi(HttpServer):
    """The server. `models` adds to the registry's: their dimensions by name with tag."""

    def __init__(
        self,
        port: int = 0,
        *,
        present: Iterable[str] | None = None,
        models: Mapping[str, int] | None = None,
        bad_marker: str = BAD_MARKER,
        latency_seconds: float = 0.0,
        fault_seed: int = 0,
        **switches: Any,
    ) -> None:
        super().__init__(port, latency_seconds=latency_seconds, fault_seed=fault_seed)
        self.library = {**LIBRARY, **{name: Model(dimensions) for name, dimensions in (models or {}).items()}}
        self.present = set(self.library if present is None else map(with_tag, present))
        self.bad_marker = bad_marker
        self.honours_truncate = True
        self.cold_seconds = 0.0
        self.queue_limit = 512
        self.runner_deaths = 0
        self.pull_seconds = 0.0
        self.pull_breaks = 0
        self.pull_stalls = 0
        self.pull_error = ""
        self.answers: list[str] = []
        self.done_reason = "stop"
        self._purchases: list[Purchase] = []
        self.pulls: list[str] = []
        self.loaded: set[str] = set()
        self._fetched: dict[str, int] = {}  # bytes of models that are there in part
        for name, value in switches.items():
            if name.startswith("_") or not hasattr(self, name):
                raise TypeError(f"{name} is no switch of this server")
            setattr(self, name, value)

    @property
    def purchases(self) -> list[Purchase]:
        """Every text of every call, in the order in which the calls ended."""
        return self.settled(self._purchases)

    def times_bought(self) -> Counter[str]:
        """How often each text was worked on (answered with 200, whether or not the answer got through)."""
        return Counter(purchase.text for purchase in list(self.purchases) if purchase.status == 200)

    def times_answered(self) -> Counter[str]:
        """How often each text's answer reached the client."""
        return Counter(p.text for p in list(self.purchases) if p.status == 200 and p.answered)

    def records(self) -> list[list[Any]]:
        return [*super().records(), self._purchases]

    def expected(self, text: str, model: str = "nomic-embed-text") -> list[float]:
        """The vector that this text gets: of unit length."""
        return vector(text, with_tag(model), self.library[with_tag(model)].dimensions)

    def answer(self, request: Request, fault: Fault | None) -> Response:
        """One call."""
        routes = {
            ("POST", "/api/embed"): self._embed,
            ("POST", "/api/chat"): self._chat,
            ("POST", "/api/pull"): self._pull,
            ("POST", "/api/show"): self._show,
            ("GET", "/api/tags"): self._tags,
            ("GET", "/api/version"): self._version,
        }
        route = routes.get((request.method, request.path))
        if route is None:
            return Response(404, b"404 page not found", content_type="text/plain")
        if request.method == "POST" and request.path != "/api/pull" and self.in_flight > self.queue_limit:
            return _error(503, "server busy, please try again.  maximum pending requests exceeded")
        try:
            return route(_document(request), fault)
        except _Refusal as refusal:
            return _error(refusal.status, str(refusal))

    def error(self, status: int, request: Request) -> Response:
        """Ollama's body for a fault."""
        return _error(status, "llama runner process has terminated" if status >= 500 else "refused")

    def latency_of(self, request: Request) -> float:
        """A model that is not loaded takes its time."""
        model = self._stored(str(_document(request).get("model") or ""))
        is_run = self.is_call(request) and model in self.present
        cold = self.cold_seconds if is_run and model not in self.loaded else 0.0
        if is_run:
            self.loaded.add(model)
        return self.latency_seconds + cold

    def is_call(self, request: Request) -> bool:
        """Not if it is about models."""
        return request.path in CALLS

    def ended(self, request: Request, exchange: Exchange) -> None:
        """Write down what was worked on."""
        document = _document(request)
        for text in _texts(request.path, document):
            self._purchases.append(
                Purchase(
                    text,
                    blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(),
                    str(document.get("model")),
                    request.number,
                    exchange.status,
                    exchange.whole,
                    exchange.at_once,
                    request.received_wall,
                    request.received_monotonic,
                    exchange.ended_monotonic,
                )
            )

    # Vectors

    def _embed(self, document: dict[str, Any], fault: Fault | None) -> Response:
        name, model = self._model(document, "embeddings")
        if self._runner_dies():
            raise _Refusal(400, 'do embedding request: Post "http://127.0.0.1:40213/embedding": EOF')
        given = document.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _Refusal(400, "invalid input type")
        cuts = self.honours_truncate and document.get("truncate", True)
        vectors, tokens = [], 0
        for text in texts:
            counted = self._counted(text, model, cut=cuts)
            tokens += counted
            vectors.append(vector(text, name, model.dimensions))
        body: dict[str, Any] = {"model": name, "embeddings": _spoilt(texts, vectors, fault)}
        body |= {"total_duration": 14_143_917, "load_duration": 1_019_500, "prompt_eval_count": tokens}
        return json_response(200, body)

    def _counted(self, text: str, model: Model, *, cut: bool) -> int:
        """Tokens that this text has, or that are left of it."""
        if self.bad_marker in text:
            raise _Refusal(400, "embedding contains NaN or Inf values")
        tokens = tokens_of(text)
        if tokens > model.context and not cut:
            raise _Refusal(400, TOO_LONG)
        return min(tokens, model.context)

    def _model(self, document: dict[str, Any], capability: str) -> tuple[str, Model]:
        name = self._stored(str(document.get("model") or ""))
        if name not in self.present:
            said = "model '{}' not found" if capability == "chat" else 'model "{}" not found, try pulling it first'
            raise _Refusal(404, said.format(document.get("model")))
        if type((document.get("options") or {}).get("num_ctx", 0)) is not int:
            raise _Refusal(500, 'option "num_ctx" must be of type integer')
        model = self.library[name]
        if capability == "embeddings" and not model.dimensions:
            raise _Refusal(501, "this model does not support embeddings")
        if capability == "chat" and model.dimensions:
            raise _Refusal(400, f'"{document.get("model")}" does not support chat')
        return name, model

    def _stored(self, name: str) -> str:
        """The name that it has a model by: it tells capitals apart nowhere, and its own registry needs no naming."""
        short = with_tag(re.sub(r"(?i)^(registry\.ollama\.ai/)?(library/)?", "", name))
        return next((known for known in self.library if known.lower() == short.lower()), short)

    def _runner_dies(self) -> bool:
        dies = self.runner_deaths > 0
        self.runner_deaths -= dies
        return dies

    # Chats

    def _chat(self, document: dict[str, Any], fault: Fault | None) -> Response:
        name, model = self._model(document, "chat")
        if self._runner_dies():
            raise _Refusal(500, "an error was encountered while running the model: unexpected EOF")
        question = _question(document)
        prompt = sum(tokens_of(message.content) for message in question.messages)
        context = min((document.get("options") or {}).get("num_ctx", 4_096), model.context)
        if prompt > context and document.get("truncate", True) is False:
            raise _Refusal(400, TOO_LONG)
        prompt = min(prompt, context)
        text = self.answers.pop(0) if self.answers else answer_to(question, name)
        cut = FaultKind.CUT_ANSWER if self.done_reason == "length" else None
        text, reason = spoilt(text, fault.kind if fault else cut)
        return json_response(
            200,
            {
                "model": name,
                "created_at": "2026-01-01T00:00:00Z",
                "message": {"role": "assistant", "content": text},
                "done": True,
                "done_reason": reason,
                "total_duration": 5_191_566_416,
                "prompt_eval_count": prompt,
                "eval_count": tokens_of(text),
            },
        )

    # Models

    def _tags(self, document: dict[str, Any], fault: Fault | None) -> Response:
        models = [
            {
                "name": name,
                "model": name,
                "modified_at": "2026-01-01T00:00:00Z",
                "size": self.library[name].size_bytes,
                "digest": sha256(name.encode()).hexdigest(),
                "details": {"format": "gguf", "family": "bert"},
            }
            for name in sorted(self.present)
        ]
        return json_response(200, {"models": models})

    def _show(self, document: dict[str, Any], fault: Fault | None) -> Response:
        name = self._stored(str(document.get("model") or ""))
        if name not in self.present:
            raise _Refusal(404, f"model '{name}' not found")
        model = self.library[name]
        info = {"general.architecture": "demo", "demo.context_length": model.context}
        return json_response(
            200, {"model_info": info, "capabilities": ["embedding" if model.dimensions else "completion"]}
        )

    def _version(self, document: dict[str, Any], fault: Fault | None) -> Response:
        return json_response(200, {"version": VERSION})

    def _pull(self, document: dict[str, Any], fault: Fault | None) -> Response:
        name = self._stored(str(document.get("model") or ""))
        if not re.fullmatch(r"([\w.-]+(:\d+)?/)?([\w.-]+/)?[\w.-]+:[\w.-]+", name):
            raise _Refusal(400, "invalid model name")
        self.pulls.append(name)
        lines = self._progress(name)
        return Response(200, stream=lines, content_type="application/x-ndjson")

    def _progress(self, name: str) -> Iterator[Piece]:
        """Ollama's lines. What was fetched stays, whoever hangs up: the next pull goes on from there."""
        yield _line({"status": "pulling manifest"})
        if self.pull_error.startswith(MANIFEST):
            yield _line({"error": self.pull_error})
            return
        if name not in self.library:
            yield _line({"error": "pull model manifest: file does not exist"})
            return
        total = self.library[name].size_bytes
        digest = f"sha256:{sha256(name.encode()).hexdigest()}"
        yield _line({"status": f"pulling {digest[7:19]}", "digest": digest, "total": total})
        while (completed := self._fetched.get(name, 0)) < total:
            if 2 * completed >= total and (ending := self._trouble()):
                yield ending
                return
            self._fetched[name] = completed = min(completed + total // STEPS + 1, total)
            line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total, "completed": completed}
            yield _line(line, self.pull_seconds / STEPS)
        yield _line({"status": "verifying sha256 digest"})
        yield _line({"status": "writing manifest"})
        self.present.add(name)
        yield _line({"status": "success"})

    def _trouble(self) -> Piece | None:
        if self.pull_error:
            return _line({"error": self.pull_error})
        if self.pull_breaks > 0:
            self.pull_breaks -= 1
            return Piece(None)
        if self.pull_stalls > 0:
            self.pull_stalls -= 1
            return Piece(None, after_seconds=86_400.0)
        return None


def with_tag(name: str) -> str:
    """As the server stores it."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def tokens_of(text: str) -> int:
    """About what a tokenizer counts: four letters make one, everything else that is no space is one of its own."""
    return sum(-(-len(run) // 4) if run[0].isalnum() else 1 for run in re.findall(r"[^\W_]+|[^\w\s]|_", text))


def _texts(path: str, document: dict[str, Any]) -> list[str]:
    if path == "/api/embed":
        given = document.get("input")
        return [text for text in ([given] if isinstance(given, str) else given or []) if isinstance(text, str)]
    return [text_of(_question(document))] if path == "/api/chat" else []


def _question(document: dict[str, Any]) -> Question:
    messages = [Message(message["role"], message["content"]) for message in document.get("messages") or []]
    schema = document.get("format")
    return Question("ollama", schema if isinstance(schema, dict) else {}, messages)


def _spoilt(texts: list[str], vectors: list[list[float]], fault: Fault | None) -> list[list[Any]]:
    match fault.kind if fault is not None else None:
        case FaultKind.WRONG_COUNT:
            return vectors[:-1] or [[]]
        case FaultKind.WRONG_LENGTH:
            return [each[: len(each) // 2] for each in vectors]
        case FaultKind.NOT_A_NUMBER:
            return [[None, *each[1:]] for each in vectors]
        case FaultKind.ZEROS if fault is not None:
            held = [fault.text in text for text in texts]
            return [[0.0] * len(each) if zeros else each for zeros, each in zip(held, vectors, strict=True)]
    return list(vectors)


def _document(request: Request) -> dict[str, Any]:
    try:
        document = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _line(document: dict[str, Any], after_seconds: float = 0.0) -> Piece:
    return Piece(orjson.dumps(document) + b"\n", after_seconds)


def _error(status: int, message: str) -> Response:
    return json_response(status, {"error": message})
