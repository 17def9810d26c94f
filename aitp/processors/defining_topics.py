"""defining_topics: what a text is about. Result: a non-empty array of `{name, wikidataId | null, language}`.

The task API refuses an empty array, so a text without topics is a failed task that says so. An id is null where
Wikidata knows nothing of that very name, or is switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from aitp.errors import UselessAnswer
from aitp.knowledge import first_of_each, link, linked
from aitp.processors import Content, Context, Processor, Result, processor
from aitp.processors.structured import Inquiry, Output, ask
from aitp.providers import Provider

MOST_TOPICS = 10


class Topic(Output):
    """One topic."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)] = Field(
        description="A noun or a short noun phrase, as the title of an encyclopedia's article."
    )


class Topics(Output):
    """All of them, the most important first."""

    topics: list[Topic] = Field(max_length=50, description="The most important one first.")


@processor("defining_topics")
class DefiningTopicsProcessor(Processor[Content]):
    """One call for the names, then their ids."""

    looks_up = True
    content = Content
    prompt = Path(__file__).parent / "prompts" / "defining_topics.md"

    def run(self, contents: Sequence[Content], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        inquiry = Inquiry("defining_topics", context.prompt(self.task_type), {"text": content.text}, Topics)
        found = ask(provider, content.model, inquiry, context)
        names = first_of_each([topic.name for topic in found.value.topics], str)[:MOST_TOPICS]
        if not names:
            raise UselessAnswer("no topic found: the model names none for this text")
        with found.kept(context.memory):
            entities = linked(names, context.knowledge, context.language)
        return found.answer([{"name": name, **link(entity, context.language)} for name, entity in entities.items()])
