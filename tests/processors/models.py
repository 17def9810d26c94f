"""Chat models that say what a test wants, and knowledge that knows what a test wants. No wire here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson

from aitp.errors import AitpError
from aitp.knowledge import Entity, Knowledge, Standing, folded
from aitp.processors import PROCESSORS, Context, load_prompts
from aitp.providers import Embeddings, Question, Reply, Usage

USAGE = Usage(10, 5, 15)


class ScriptedModel:
    """Says `says`, one after the other (the last for ever): words, a value as JSON, an error to raise, or what makes
    one of these of the question."""

    name = "openai"

    def __init__(self, *says: object) -> None:
        self.says = list(says)
        self.questions: list[Question] = []

    def optional(self, model: str, *, chat: bool) -> tuple[str, ...]:
        return ()

    def ask(self, question: Question, model: str, leave_out: Collection[str] = ()) -> Reply:
        self.questions.append(question)
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if callable(said):
            said = said(question)
        if isinstance(said, AitpError):
            raise said
        return Reply(said if isinstance(said, str) else json.dumps(said), USAGE)

    def embed(
        self, texts: Sequence[str], model: str, dimensions: int | None = None, leave_out: Collection[str] = ()
    ) -> Embeddings:
        raise AssertionError("a chat model was asked for vectors")

    def close(self) -> None: ...


class Encyclopedia(Knowledge):
    """Knows `entities`: found by label and alias, and by what begins with them, in order. `down` is raised if set."""

    available = True

    def __init__(self, *entities: Entity, standings: Mapping[str, Standing] | None = None) -> None:
        self._entities = {entity.id: entity for entity in entities}
        self._standings = standings or {}
        self.down: AitpError | None = None
        self.calls: list[tuple[str, Any]] = []

    def is_well(self) -> bool:
        return self.down is None

    def ready(self) -> None:
        if self.down is not None:
            raise self.down

    def find(self, name: str, language: str) -> Sequence[str]:
        self._called("find", name)
        return [
            entity.id
            for entity in self._entities.values()
            if any(folded(each).startswith(folded(name)) for each in (entity.label, *entity.aliases))
        ]

    def entities(self, ids: Sequence[str], language: str) -> Mapping[str, Entity | None]:
        self._called("entities", list(ids))
        return {id_: self._entities.get(id_) for id_ in ids}

    def standing(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        self._called("standing", list(ids))
        return {id_: self._standings.get(id_, Standing()) for id_ in ids}

    def _called(self, what: str, with_: Any) -> None:
        self.calls.append((what, with_))
        if self.down is not None:
            raise self.down


class Notebook:
    """A memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    def put(self, values: Mapping[str, bytes], seconds: float) -> None:
        self.kept.update(values)


def person(id_: str, label: str, *aliases: str, kind: str = "Q5") -> Entity:
    return Entity(id_, f"https://www.wikidata.org/wiki/{id_}", label, "somebody", aliases, (kind,))


def context(knowledge: Knowledge | None = None, memory: Notebook | None = None, language: str = "pt") -> Context:
    places = {each.task_type: each.prompt for each in PROCESSORS.values() if each.prompt is not None}
    return Context(knowledge or Knowledge(), language, "Brazil", load_prompts(places, None), memory)


def result_of(task_type: str, document: object, model: ScriptedModel, given: Context | None = None) -> Any:
    """The result of one task, as a value. Raises what the processor does."""
    processor = PROCESSORS[task_type]
    (result,) = processor.run([processor.parse(document)], model, given or context())
    assert isinstance(result, bytes)
    return orjson.loads(result)
