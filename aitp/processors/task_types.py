"""The task types of this release: of each its content, what is asked, how the answer is checked, and its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from aitp.errors import InputTooLong, RetryableError, UselessAnswer
from aitp.knowledge import MOST_LINKS, Entity, Knowledge, Standing, first_of_each, folded, link, linked, occurs
from aitp.policy.batching import shortened
from aitp.processors import Content, Context, Processor, Result, processor, tell_of_cut
from aitp.processors.structured import Inquiry, Output, ask, narrowed, schema_of
from aitp.providers import Provider

PROMPTS = Path(__file__).parent / "prompts"


# ── text_embedding ────────────────────────────────────────────────────────────────────────────────────────────────────
# A text becomes a vector. The result is just the embedding, a JSON array of numbers.
#
# The vectors of a whole batch come from one call (`Provider.embed`), and each is JSON already when it arrives here:
# this module passes bytes on and never looks at a number. A text that is alone and longer than its model reads is cut
# and sent once more, if EMBEDDING_OVERFLOW says so; which of several it is, is found out by smaller batches.


@processor("text_embedding")
class TextEmbeddingProcessor(Processor[Content]):
    """Batched: an embedding call takes many texts of one model."""

    batched = True
    content = Content

    def run(self, contents: Sequence[Content], provider: Provider, context: Context) -> Sequence[Result]:
        model, texts = contents[0].model, [content.text for content in contents]
        whole = texts
        while True:
            try:
                found = provider.embed(texts, model, context.dimensions)
                break
            except InputTooLong as error:
                shorter = shortened(texts[0], error.tokens) if context.truncate and len(texts) == 1 else None
                if shorter is None:
                    raise
                texts = [shorter]
        if texts is not whole:
            tell_of_cut(model, whole[0], texts[0], kept_tokens=found.usage.prompt_tokens)
        return found.vectors


# ── identifying_data ──────────────────────────────────────────────────────────────────────────────────────────────────
# Who a text is about. Result: `{"personalities": [{name, mentioned_as, confidence, context, …}]}`.
#
# Grounded twice: each mention occurs in the text (without regard to case and accents), and each personality is an
# entity of Wikidata that is an instance of one of PERSONALITY_CLASSES. Who has no such entity is dropped, but only when
# Wikidata answered; where it is switched off, all are kept with `wikidata: null`. A text about nobody has an empty
# list.

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
    prompt = PROMPTS / "identifying_data.md"

    def run(self, contents: Sequence[Content], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        inquiry = _about_people(content.text, context.prompt(self.task_type))
        found = ask(provider, content.model, inquiry, context)
        people = first_of_each(found.value.personalities, lambda person: person.name)
        if not context.knowledge.available:
            return found.answer({"personalities": [_as_told(person, None) for person in people]})
        with found.kept(context.memory):
            names, classes = [person.name for person in people], context.personality_classes
            entities = linked(names, context.knowledge, context.language, classes)
        known = [(person, entity) for person in people if (entity := entities[person.name])]
        once = first_of_each(known, lambda pair: pair[1].id)
        return found.answer({"personalities": [_as_told(*pair) for pair in once]})


def _about_people(text: str, prompt: str) -> Inquiry[Personalities]:
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


def _as_told(person: Personality, entity: Entity | None) -> dict[str, Any]:
    told = ("id", "url", "label", "description", "aliases")
    wikidata = entity and {name: getattr(entity, name) for name in told}
    return {**person.model_dump(), "wikidata": wikidata}


# ── defining_topics ───────────────────────────────────────────────────────────────────────────────────────────────────
# What a text is about. Result: a non-empty array of `{name, wikidataId | null, language}`.
#
# The task API refuses an empty array, so a text without topics is a failed task that says so. An id is null where
# Wikidata knows nothing of that very name, or is switched off.

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
    prompt = PROMPTS / "defining_topics.md"

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


# ── defining_impact_area ──────────────────────────────────────────────────────────────────────────────────────────────
# The field of life that a text matters for. Result: `{name, description, wikidataId | null, language}`.
#
# With `options` in its content the answer is one of them, word for word: they bind the schema, and the answer is
# checked against them again, because not every server keeps to a schema. Only the name counts then: its description may
# be empty, and its id is left out while Wikidata is not well. Without options the task waits for Wikidata.

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
    prompt = PROMPTS / "defining_impact_area.md"

    def run(self, contents: Sequence[ImpactAreaContent], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        if not content.options:
            context.knowledge.ready()  # before anything is bought that could not be used
        found = ask(provider, content.model, _about_area(content, context.prompt(self.task_type)), context)
        name = _option(found.value.name, content.options) or found.value.name
        with found.kept(context.memory):
            entity = _area_of(name, content, context)
        described = {"name": name, "description": found.value.description}
        return found.answer({**described, **link(entity, context.language)})


def _area_of(name: str, content: ImpactAreaContent, context: Context) -> Entity | None:
    """The area's entity. Of an option it is looked up only while that delays nothing: the name is all that counts."""
    if content.options and not context.knowledge.is_well():
        return None
    try:
        return linked([name], context.knowledge, context.language)[name]
    except RetryableError:
        if not content.options:
            raise
        return None


def _about_area(content: ImpactAreaContent, prompt: str) -> Inquiry[ImpactArea]:
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


# ── defining_severity ─────────────────────────────────────────────────────────────────────────────────────────────────
# How much harm a claim could do. Result: `{"severity": LEVEL}`, one of ten levels.
#
# The standing of all that the claim touches comes from Wikidata in one question, before the model is asked. What is
# unknown is said to be unknown, never zero, and what is counted up to a bound to be that or more. The same content and
# the same standing make the same question, byte for byte.

UNKNOWN = "unknown"
Level = Literal["critical", "high_3", "high_2", "high_1", "medium_3", "medium_2", "medium_1", "low_3", "low_2", "low_1"]


def _id(given: object) -> object:
    """An id that is none is an id that is not known."""
    return given if isinstance(given, str) and given[:1] == "Q" and given[1:].isdecimal() else None


class Touched(BaseModel):
    """Something that the claim touches: its area, a topic, a personality. All but the name may be missing."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True, serialize_by_alias=True)

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
    wikidata_id: Annotated[str | None, BeforeValidator(_id)] = Field(None, alias="wikidataId")


Found = Annotated[tuple[Touched, ...], Field(max_length=200, strict=False)]


class SeverityContent(Content):
    """What earlier tasks found for the same text. None: nobody knows; empty: there is nothing to be found."""

    impact_area: Touched | None = Field(None, alias="impactArea")
    topics: Found | None = None
    personalities: Found | None = None

    def touched(self) -> Iterable[Touched]:
        return (*([self.impact_area] if self.impact_area else ()), *(self.topics or ()), *(self.personalities or ()))


class Severity(Output):
    """The level."""

    severity: Level = Field(description="critical is the most severe, then high_3 down to high_1, …, low_1 the least.")


@processor("defining_severity")
class DefiningSeverityProcessor(Processor[SeverityContent]):
    """One question to Wikidata for everything, then one call."""

    looks_up = True
    content = SeverityContent
    prompt = PROMPTS / "defining_severity.md"

    def run(self, contents: Sequence[SeverityContent], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        data = _facts(content, context.knowledge)
        inquiry = Inquiry("defining_severity", context.prompt(self.task_type), data, Severity)
        found = ask(provider, content.model, inquiry, context)
        return found.answer({"severity": found.value.severity})


def _facts(content: SeverityContent, knowledge: Knowledge) -> dict[str, Any]:
    ids = list(dict.fromkeys(each.wikidata_id for each in content.touched() if each.wikidata_id))
    standings = knowledge.standing(ids) if ids else {}

    def shown(each: Touched) -> dict[str, Any]:
        standing = standings.get(each.wikidata_id or "", Standing())
        return {"name": each.name, **{what: _count(what, count) for what, count in asdict(standing).items()}}

    def listed(found: Sequence[Touched] | None) -> object:
        return UNKNOWN if found is None else [shown(each) for each in found]

    return {
        "text": content.text,
        "impact_area": shown(content.impact_area) if content.impact_area else UNKNOWN,
        "topics": listed(content.topics),
        "personalities": listed(content.personalities),
    }


def _count(what: str, count: int | None) -> int | str:
    if count is None:
        return UNKNOWN
    return f"{MOST_LINKS} or more" if what == "inbound_links" and count >= MOST_LINKS else count
