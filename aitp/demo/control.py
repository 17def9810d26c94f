"""Orders for a world in another process, over HTTP on loopback: look at its records, order faults, add tasks.

    GET    /control/summary                                   one `Summary`: parses every result, not for a tight loop
    GET    /control/states                                    how many tasks are in each state: cheap
    GET    /control/log?server=NAME&part=PART&since=N         a server's record from entry N on
    GET    /control/tasks                                     the state of each task, by id
    GET    /control/wrong                                     ids of tasks whose result is not their text's
    POST   /control/faults   {"server": NAME, …fields of Fault}      DELETE: take them all back
    POST   /control/tasks    {"count": 10} or {"documents": […]}     → the new ids
    DELETE /control/tasks    {"id": ID}                              unknown to the task API from now on
    POST   /control/set      {"server": NAME, "latency_seconds": 2}  any switch of that server
    POST   /control/down     {"server": NAME, "seconds": 60}         connection refused for so long
    POST   /control/forget   {"seconds": 60}                         what ended so long ago → tasks forgotten
    POST   /control/revoke   {}                                      all tokens handed out so far

`Summary` is what a run is judged by; the demo command prints it, the tests assert on it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.http import HttpServer
from aitp.demo.ollama_api import with_tag
from aitp.demo.openai_api import Purchase
from aitp.demo.sentences import text_of
from aitp.demo.truth import contradiction
from aitp.demo.wire import Request, Response, json_response
from aitp.demo.world import World

PARTS = {
    "task_api": {"exchanges", "deliveries"},
    "authorization": {"exchanges", "issues", "refusals"},
    "openai_api": {"exchanges", "purchases"},
    "ollama_api": {"exchanges", "purchases", "pulls"},
    "wikidata_api": {"exchanges", "calls"},
}
DEFAULT_MODEL = "text-embedding-3-small"
ASIDE = {"/api/tags", "/api/show", "/api/pull", "/api/version", "/v1/models"}  # no text in them


@dataclass(frozen=True, slots=True)
class Summary:
    """How things stand in the world, counted on the far side of the wires."""

    states: dict[str, int]  # task state: tasks
    deliveries: int  # PATCHes answered with 200
    delivered_again: int  # of them, those after the first of their task
    texts_bought: int  # different texts paid for
    bought_again: int  # payments for a text after the first
    bought_after_answer: (
        int  # of them, sent after an answer for that text got through: none, unless clients were killed
    )
    bought_after_delivery: int  # of them, sent after the result of that text was delivered: always a fault
    wrong_results: int  # stored results that are not what a provider gave for their task
    calls: int  # requests to the providers, for texts, that are over
    calls_in_flight: int  # and those that are not
    most_calls_at_once: int  # to both providers together
    tokens_issued: int
    faults_struck: int


def summary(world: World) -> Summary:
    """Count everything. Takes milliseconds for each thousand of tasks: not for a tight loop."""
    api, providers = world.task_api, (world.openai_api, world.ollama_api)
    accepted = [delivery for delivery in list(api.deliveries) if delivery.status == 200]
    bought = world.openai_api.times_bought() + world.ollama_api.times_bought()
    return Summary(
        states=dict(api.states()),
        deliveries=len(accepted),
        delivered_again=len(accepted) - len({delivery.task_id for delivery in accepted}),
        texts_bought=len(bought),
        bought_again=bought.total() - len(bought),
        bought_after_answer=_bought_after(world, _first_answers(world)),
        bought_after_delivery=_bought_after(world, _first_deliveries(world)),
        wrong_results=len(wrong_results(world)),
        calls=sum(exchange.path not in ASIDE for provider in providers for exchange in list(provider.exchanges)),
        calls_in_flight=len(world.calls),
        most_calls_at_once=world.calls.most,
        tokens_issued=world.authorization.issued,
        faults_struck=sum(server.faults.struck for server in world.servers.values()),
    )


def wrong_results(world: World) -> list[str]:
    """Ids of tasks whose stored result is none that a provider's answer amounts to. Vectors compare as float32."""
    wrong = []
    for task_id in world.task_api.ids():
        result = world.task_api.result(task_id)
        document = world.task_api.document(task_id)
        if result is None:
            continue
        if document.get("type") != "text_embedding":
            wrong += [task_id] if contradiction(document, result) else []
        elif array("f", result) not in [array("f", vector) for vector in _expected(world, document, len(result))]:
            wrong.append(task_id)
    return wrong


def _expected(world: World, document: Mapping[str, Any], length: int) -> Iterator[list[float]]:
    """What Ollama gives for its models, or OpenAI in its place; what OpenAI gives for all others."""
    content, text = document.get("content"), text_of(document)
    model = (content.get("model") if isinstance(content, dict) else None) or DEFAULT_MODEL
    if with_tag(model) in world.ollama_api.library:
        yield world.ollama_api.expected(text, model)
        model = DEFAULT_MODEL
    yield world.openai_api.expected(text, model, length)


def _purchases(world: World) -> list[Purchase]:
    """What was paid for or worked on, at either provider."""
    return [p for p in (*list(world.openai_api.purchases), *list(world.ollama_api.purchases)) if p.status == 200]


def _bought_after(world: World, moments: Mapping[str, float]) -> int:
    return sum(p.received_monotonic > moments.get(p.text, math.inf) for p in _purchases(world))


def _first_answers(world: World) -> dict[str, float]:
    moments: dict[str, float] = {}
    for purchase in sorted(_purchases(world), key=lambda purchase: purchase.ended_monotonic):
        if purchase.answered:
            moments.setdefault(purchase.text, purchase.ended_monotonic)
    return moments


def _first_deliveries(world: World) -> dict[str, float]:
    moments: dict[str, float] = {}
    known = set(world.task_api.ids())  # without those that were removed
    for delivery in list(world.task_api.deliveries):
        if delivery.status == 200 and delivery.task_id in known:
            moments.setdefault(text_of(world.task_api.document(delivery.task_id)), delivery.answered_monotonic)
    return moments


class Control(HttpServer):
    """The fourth port. An order that cannot be read is answered with 400 and the reason."""

    def __init__(self, world: World, port: int = 0) -> None:
        super().__init__(port)
        self._world = world
        self._orders: dict[tuple[str, str], Callable[[dict[str, Any]], object]] = {
            ("GET", "/control/summary"): lambda order: summary(world),
            ("GET", "/control/states"): lambda order: dict(world.task_api.states()),
            ("GET", "/control/tasks"): lambda order: {id: world.task_api.state(id) for id in world.task_api.ids()},
            ("GET", "/control/wrong"): lambda order: wrong_results(world),
            ("GET", "/control/log"): self._log,
            ("POST", "/control/faults"): self._add_fault,
            ("DELETE", "/control/faults"): self._clear_faults,
            ("POST", "/control/tasks"): self._add_tasks,
            ("DELETE", "/control/tasks"): self._remove_task,
            ("POST", "/control/set"): self._set,
            ("POST", "/control/down"): self._down,
            ("POST", "/control/forget"): lambda order: world.forget_ended(float(order["seconds"])),
            ("POST", "/control/revoke"): lambda order: world.authorization.revoke_all(),
        }

    def answer(self, request: Request, fault: Fault | None) -> Response:
        """Obey."""
        order = self._orders.get((request.method, request.path))
        if order is None:
            return self.error(404, request)
        try:
            details = {**request.query, **(orjson.loads(request.body) if request.body else {})}
            return json_response(200, order(details))
        except (KeyError, TypeError, ValueError) as error:
            return json_response(400, {"error": f"{type(error).__name__}: {error}"})

    def error(self, status: int, request: Request) -> Response:
        """Plain."""
        return json_response(status, {"error": f"no such order: {request.method} {request.path}"})

    def _log(self, order: dict[str, Any]) -> object:
        name, part = order["server"], order["part"]
        if part not in PARTS[name]:
            raise ValueError(f"{name} keeps {sorted(PARTS[name])}, not {part}")
        return getattr(self._world.servers[name], part)[int(order.get("since", 0)) :]

    def _add_fault(self, order: dict[str, Any]) -> object:
        server = self._world.servers[order.pop("server")]
        server.faults.add(Fault(**{**order, "kind": FaultKind(order.get("kind", "status"))}))
        return None

    def _clear_faults(self, order: dict[str, Any]) -> object:
        for server in self._world.servers.values():
            server.faults.clear()
        return None

    def _add_tasks(self, order: dict[str, Any]) -> object:
        if "documents" in order:
            return self._world.task_api.add(order["documents"])
        return self._world.task_api.add(self._world.make_tasks(int(order["count"])))

    def _remove_task(self, order: dict[str, Any]) -> object:
        self._world.task_api.remove(order["id"])
        return None

    def _set(self, order: dict[str, Any]) -> object:
        server = self._world.servers[order.pop("server")]
        for name, value in order.items():
            if name.startswith("_") or callable(getattr(server, name, len)):
                raise ValueError(f"{name} is no switch of this server")
            before = getattr(server, name)
            setattr(server, name, type(before)(value) if isinstance(before, set) else value)
        return None

    def _down(self, order: dict[str, Any]) -> object:
        self._world.servers[order["server"]].down_for(float(order["seconds"]))
        return None
