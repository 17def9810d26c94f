"""The two task types whose questions are closed, where their tasks go to Jev: the content is aitp's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import orjson

from aitp.errors import NonRetryableError, RetryableError
from aitp.knowledge import linked
from aitp.logs import get_logger
from aitp.processors import Context, Processor, Result, processor, tell_of_cut
from aitp.processors.task_types import ImpactAreaContent, SeverityContent
from aitp.providers import Provider
from aitp_jev.answers import AREA, Choice, Noul, Question, Score
from aitp_jev.provider import JevProvider
from aitp_jev.rubric import reach_of, severity
from aitp_jev.settings import NAME

MOST_CHARACTERS = 6_000
MOST_OPTIONS = 255

log = get_logger(__name__)


@processor("defining_impact_area", provider=NAME)
class JevImpactAreaProcessor(Processor[ImpactAreaContent]):
    """One question, or none if there is nothing to choose. The name is all that counts: Wikidata is not waited for."""

    content = ImpactAreaContent

    def run(self, contents: Sequence[ImpactAreaContent], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        jev, options = cast(JevProvider, provider), tuple(dict.fromkeys(content.options))
        if not options:
            raise NonRetryableError(f"content: {content.model} needs options")
        if len(options) > MOST_OPTIONS:
            raise NonRetryableError(
                f"content.options: {content.model} takes {MOST_OPTIONS} at most, and not {len(options)}"
            )
        name, mock = options[0], {}
        if len(options) > 1:
            state, facts = _state(content.text, content.model)
            decision = jev.decide(state, {AREA: Choice(jev.questions.area, options)}, model=content.model)
            found = decision.answers[AREA]
            name, mock = found.choice, {"mock": True} if decision.mock else {}
            log.info(
                "Jev chose an impact area",
                answered_by=decision.model,
                confidence=found.confidence,
                options=len(options),
                **_asked(jev),
                **facts,
                **mock,
            )
        result = {"name": name, "description": "", "wikidataId": _id_of(name, context), "language": context.language}
        return [orjson.dumps(result)]


def _id_of(name: str, context: Context) -> str | None:
    if not context.knowledge.is_well():
        return None
    try:
        entity = linked([name], context.knowledge, context.language)[name]
    except RetryableError:
        return None
    return None if entity is None else entity.id


@processor("defining_severity", provider=NAME)
class JevSeverityProcessor(Processor[SeverityContent]):
    """Three questions in one request. With thresholds, how far those concerned reach is looked up before."""

    content = SeverityContent

    def run(self, contents: Sequence[SeverityContent], provider: Provider, context: Context) -> Sequence[Result]:
        (content,) = contents
        jev = cast(JevProvider, provider)
        asked, thresholds = jev.questions, jev.own.jev_reach_thresholds
        reach = reach_of(_followers(content, context), thresholds) if thresholds else 0
        state, facts = _state(content.text, content.model)
        questions: dict[str, Question] = {
            "harm": Score(asked.harm.instructions, asked.harm.levels),
            "contestable": Noul(asked.contestable),
            "checkable": Noul(asked.checkable),
        }
        decision = jev.decide(state, questions, model=content.model)
        harm, contestable, checkable = (decision.answers[name] for name in questions)
        found = severity(harm.shares, checkable.yes, contestable.yes, reach)
        log.info(
            "Jev judged a severity",
            answered_by=decision.model,
            p=harm.shares,
            contestable=contestable.yes,
            checkable=checkable.yes,
            harm=found.harm,
            matrix=found.matrix,
            reach=found.reach,
            band=found.band,
            digit=found.digit,
            confidence=harm.confidence,
            **_asked(jev),
            **facts,
            **({"mock": True} if decision.mock else {}),
        )
        return [orjson.dumps({"severity": found.level})]


def _followers(content: SeverityContent, context: Context) -> list[int | None]:
    """Raises what Wikidata does: the task waits, and nothing is bought meanwhile."""
    ids = list(dict.fromkeys(each.wikidata_id for each in content.personalities or () if each.wikidata_id))
    if not ids:
        return []
    if context.knowledge.available:
        context.knowledge.ready()
    standings = context.knowledge.standing(ids)
    return [standing.followers for standing in standings.values()]


def _state(text: str, model: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What Jev is to read, and whether that was cut, for the log."""
    kept = text[:MOST_CHARACTERS]
    if kept != text:
        tell_of_cut(model, text, kept)
    return {"text": kept}, {"cut": kept != text}


def _asked(jev: JevProvider) -> dict[str, str]:
    return {"questions_version": jev.questions.version, "questions_digest": jev.questions.digest}
