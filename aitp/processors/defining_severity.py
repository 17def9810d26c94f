"""defining_severity: how much harm a claim could do. Result: `{"severity": LEVEL}`, one of ten levels.

The standing of all that the claim touches comes from Wikidata in one question, before the model is asked. What is
unknown is said to be unknown, never zero, and what is counted up to a bound to be that or more. The same content and
the same standing make the same question, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from aitp.knowledge import MOST_LINKS, Knowledge, Standing
from aitp.processors import Content, Context, Processor, Result, processor
from aitp.processors.structured import Inquiry, Output, ask
from aitp.providers import Provider

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
    prompt = Path(__file__).parent / "prompts" / "defining_severity.md"

    def run(self, contents: Sequence[SeverityContent], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        data = _data(content, context.knowledge)
        inquiry = Inquiry("defining_severity", context.prompt(self.task_type), data, Severity)
        found = ask(provider, content.model, inquiry, context)
        return found.answer({"severity": found.value.severity})


def _data(content: SeverityContent, knowledge: Knowledge) -> dict[str, Any]:
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
