"""defining_impact_area: the field of life that a text matters for.

Result: `{name, description, wikidataId | null, language}`.

With `options` in its content the answer is one of them, word for word: they bind the schema, and the answer is checked
against them again, because not every server keeps to a schema. Only the name counts then: its description may be empty,
and its id is left out while Wikidata is not well. Without options the task waits for Wikidata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from aitp.errors import RetryableError
from aitp.knowledge import Entity, folded, link, linked
from aitp.processors import Content, Context, Processor, Result, processor
from aitp.processors.structured import Inquiry, Output, ask, narrowed, schema_of
from aitp.providers import Provider

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def _names(options: object) -> object:
    """null is no list; `{name, …}` in place of a name is what the API's other lists hold."""
    if not isinstance(options, list):
        return () if options is None else options
    return tuple(option.get("name") if isinstance(option, dict) else option for option in options)


class ImpactAreaContent(Content):
    """`options`: the closed list to choose from; empty if any name will do."""

    options: Annotated[tuple[Name, ...], BeforeValidator(_names), Field(max_length=1_000)] = ()


class ImpactArea(Output):
    """The area."""

    name: Name = Field(description="The area's name; if there are options, one of them, word for word.")
    description: Annotated[str, StringConstraints(strip_whitespace=True, max_length=1_000)] = Field(
        description="One sentence that says what the area is."
    )


@processor("defining_impact_area")
class DefiningImpactAreaProcessor(Processor[ImpactAreaContent]):
    """One call for the area, then its id, which an option can do without: no `looks_up` holds all tasks of the type."""

    content = ImpactAreaContent
    prompt = Path(__file__).parent / "prompts" / "defining_impact_area.md"

    def run(self, contents: Sequence[ImpactAreaContent], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        if not content.options:
            context.knowledge.ready()  # before anything is bought that could not be used
        found = ask(provider, content.model, _inquiry(content, context.prompt(self.task_type)), context)
        name = _option(found.value.name, content.options) or found.value.name
        with found.kept(context.memory):
            entity = _linked(name, content, context)
        described = {"name": name, "description": found.value.description}
        return found.answer({**described, **link(entity, context.language)})


def _linked(name: str, content: ImpactAreaContent, context: Context) -> Entity | None:
    """The area's entity. Of an option it is looked up only while that delays nothing: the name is all that counts."""
    if content.options and not context.knowledge.is_well():
        return None
    try:
        return linked([name], context.knowledge, context.language)[name]
    except RetryableError:
        if not content.options:
            raise
        return None


def _inquiry(content: ImpactAreaContent, prompt: str) -> Inquiry[ImpactArea]:
    options = content.options
    data: Mapping[str, Any] = {"text": content.text, **({"options": options} if options else {})}

    def check(found: ImpactArea) -> list[str]:
        if not options:
            return [] if found.description else ["description: is empty"]
        return [] if _option(found.name, options) is not None else [f"name: is none of the {len(options)} options"]

    schema = narrowed(schema_of(ImpactArea), "name", options)
    return Inquiry("defining_impact_area", prompt, data, ImpactArea, schema, check)


def _option(name: str, options: Sequence[str]) -> str | None:
    """The option that `name` is, without regard to case and accents; the letters are the option's."""
    return next((option for option in options if folded(option) == folded(name)), None)
