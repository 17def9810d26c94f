"""identifying_data: who a text is about. Result: `{"personalities": [{name, mentioned_as, confidence, context, …}]}`.

Grounded twice: each mention occurs in the text (without regard to case and accents), and each personality is an entity
of Wikidata that is an instance of one of PERSONALITY_CLASSES. Who has no such entity is dropped, but only when
Wikidata answered; where it is switched off, all are kept with `wikidata: null`. A text about nobody has an empty list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from aitp.knowledge import Entity, first_of_each, linked, occurs
from aitp.processors import Content, Context, Processor, Result, processor
from aitp.processors.structured import Inquiry, Output, ask
from aitp.providers import Provider

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]


class Personality(Output):
    """Somebody whom the text mentions."""

    name: Words = Field(description="The full name by which encyclopedias know this personality.")
    mentioned_as: Words = Field(description="The words that the text uses, copied from it letter by letter.")
    confidence: float = Field(ge=0, le=1, description="From 0 to 1: how sure it is who is meant.")
    context: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2_000)] = Field(
        description="One sentence: what the text says of this personality."
    )


class Personalities(Output):
    """All of them."""

    personalities: list[Personality] = Field(max_length=100)


@processor("identifying_data")
class IdentifyingDataProcessor(Processor[Content]):
    """One call for the people, then what Wikidata knows of them."""

    looks_up = True
    content = Content
    prompt = Path(__file__).parent / "prompts" / "identifying_data.md"

    def run(self, contents: Sequence[Content], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        inquiry = _inquiry(content.text, context.prompt(self.task_type))
        found = ask(provider, content.model, inquiry, context)
        people = first_of_each(found.value.personalities, lambda person: person.name)
        if not context.knowledge.available:
            return found.answer({"personalities": [_shown(person, None) for person in people]})
        with found.kept(context.memory):
            names, classes = [person.name for person in people], context.personality_classes
            entities = linked(names, context.knowledge, context.language, classes)
        known = [(person, entity) for person in people if (entity := entities[person.name])]
        once = first_of_each(known, lambda pair: pair[1].id)
        return found.answer({"personalities": [_shown(*pair) for pair in once]})


def _inquiry(text: str, prompt: str) -> Inquiry[Personalities]:
    def check(found: Personalities) -> list[str]:
        return [
            f"personalities.{number}.mentioned_as: does not occur in the text"
            for number, person in enumerate(found.personalities)
            if not occurs(person.mentioned_as, text)
        ]

    def salvage(found: Personalities) -> Personalities | None:
        grounded = [person for person in found.personalities if occurs(person.mentioned_as, text)]
        return Personalities(personalities=grounded) if grounded else None

    return Inquiry("identifying_data", prompt, {"text": text}, Personalities, check=check, salvage=salvage)


def _shown(person: Personality, entity: Entity | None) -> dict[str, Any]:
    told = ("id", "url", "label", "description", "aliases")
    wikidata = entity and {name: getattr(entity, name) for name in told}
    return {**person.model_dump(), "wikidata": wikidata}
