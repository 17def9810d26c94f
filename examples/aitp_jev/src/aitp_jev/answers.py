"""Jev's wire, both ways: what is asked, what an answer has to be, what a refusal means. Pure.

POST {base}/v1/systemone {"state", "model", "questions": {NAME: {"type": "choice" | "score" | "noul", …}}}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aitp import errors
from aitp.policy.retry import SECONDS, parse_retry_after
from aitp.providers import Usage
from aitp_jev.settings import NAME

PAUSE_SECONDS = 5.0  # after a 429 that says nothing
LONGEST_PAUSE_SECONDS = 3_600.0
TRANSIENT = frozenset({408})  # and whatever is 500 or more
AREA = "area"  # the one question whose criteria are a task's own

_LENGTH = re.compile(r"too (long|large|big)|length|exceed|maximum|at most \d+ (characters|tokens)", re.IGNORECASE)
_NO_MODEL = re.compile(r"\bmodels?\b.{0,60}\b(not|unknown|unsupported|no such|invalid|exist|retired)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these options."""

    instructions: str
    options: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return {"type": "choice", "instructions": self.instructions, "criteria": dict.fromkeys(self.options)}


@dataclass(frozen=True, slots=True)
class Score:
    """One of these levels, the least first."""

    instructions: str
    levels: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return {"type": "score", "instructions": self.instructions, "criteria": list(self.levels)}


@dataclass(frozen=True, slots=True)
class Noul:
    """Yes or no."""

    instructions: str

    def to_json(self) -> dict[str, Any]:
        return {"type": "noul", "instructions": self.instructions}


Question = Choice | Score | Noul


@dataclass(frozen=True, slots=True)
class Answer:
    """`choice` of a Choice; `shares` of a Score, a probability for each level; `yes`, how likely, of a Noul."""

    choice: str = ""
    shares: tuple[float, ...] = ()
    yes: float = 0.0
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answers by the questions' names. `model`: the one that answered. `mock`: nothing was bought."""

    answers: Mapping[str, Answer]
    usage: Usage
    model: str
    mock: bool = False


def decision_of(document: Mapping[str, Any] | None, questions: Mapping[str, Question], asked: str) -> Decision:
    """What Jev's 200 says. UselessAnswer: it is not what was asked for. Further answers and fields are ignored."""
    if document is None:
        raise errors.UselessAnswer(f"{NAME} answered something that is no JSON object")
    given = document.get("answers")
    if not isinstance(given, dict):
        raise errors.UselessAnswer(f"{NAME} answered without answers")
    answers = {name: _answer(name, question, given.get(name)) for name, question in questions.items()}
    used, model = document.get("usage"), document.get("model")
    return Decision(answers, _usage(used if isinstance(used, dict) else {}), model if isinstance(model, str) else asked)


def _usage(used: Mapping[str, Any]) -> Usage:
    read, written = (
        count if isinstance(count := used.get(name), int) and count >= 0 else None
        for name in ("input_tokens", "output_tokens")
    )
    known = read is not None and written is not None
    return Usage(read or 0, written or 0, (read or 0) + (written or 0), estimated=not known)


def _answer(name: str, question: Question, given: Any) -> Answer:
    kind = question.to_json()["type"]
    if not isinstance(given, dict) or given.get("type") != kind:
        raise errors.UselessAnswer(f"{NAME} did not answer the question {name} as a {kind}")
    sure: Any = given.get("confidence")
    confidence = float(sure) if _is_share(sure) else None
    if isinstance(question, Noul):
        return Answer(yes=_share(name, given.get("noul")), confidence=confidence)
    shares = given.get("probabilities")
    if isinstance(question, Choice):
        choice: Any = given.get("choice")
        if choice not in question.options:
            raise errors.UselessAnswer(f"{NAME} chose none of the {len(question.options)} options")
        for share in shares.values() if isinstance(shares, dict) else ():
            _share(name, share)
        return Answer(choice=choice, confidence=confidence)
    if not isinstance(shares, dict):
        raise errors.UselessAnswer(f"{NAME} gave no probabilities for {name}")
    levels = tuple(_share(name, shares.get(str(level))) for level in range(len(question.levels)))
    if not sum(levels):
        raise errors.UselessAnswer(f"{NAME} takes no level of {name} for possible")
    return Answer(shares=levels, confidence=confidence)


def _is_share(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given) and 0 <= given <= 1


def _share(name: str, given: Any) -> float:
    if not _is_share(given):
        raise errors.UselessAnswer(f"{NAME} gave no probability for {name}")
    return float(given)


# Refusals


def failure(
    status: int, headers: Mapping[str, str], body: Mapping[str, Any] | None, model: str, now: float
) -> Exception:
    """What an answer that is none means, by its status, its headers and what it says of itself; never its words, which
    may quote the text."""
    said = f"{NAME} answered {status}"
    wait = _wait(headers, now)
    if status == 429:
        seconds = min(PAUSE_SECONDS if wait is None else wait, LONGEST_PAUSE_SECONDS)
        return errors.CooldownRequired(
            NAME, f"{said}: it asks for a pause", seconds=seconds, model=None, told=wait is not None
        )
    if status in TRANSIENT or status >= 500:
        fault = errors.ServiceFault(NAME, said)
        fault.wait = wait or 0.0
        return fault
    if status in (401, 403):
        return errors.CredentialsRefused(NAME, f"{said}: it refuses TYPESAFE_API_KEY")
    words, places = _said(body or {})
    if status == 404 or (status in (400, 422) and _names_model(words, places, model)):
        return errors.ModelGone(NAME, f"{said}: it has no model {model}", model=model)
    if status in (400, 422) and (all(map(_is_tasks_own, places)) if places else _LENGTH.search(words)):
        return errors.NonRetryableError(f"{said}: it does not take this text or these options")
    # Whoever sends it: the next task's request would be refused as well.
    where = ", ".join(sorted({_place(place) for place in places}))
    return errors.CredentialsRefused(NAME, f"{said}: it refuses our requests" + (f" ({where})" if where else ""))


def _wait(headers: Mapping[str, str], now: float) -> float | None:
    milliseconds = (headers.get("retry-after-ms") or "").strip()
    if SECONDS.fullmatch(milliseconds):
        return float(milliseconds) / 1_000
    return parse_retry_after(headers.get("retry-after"), now)


def _said(body: Mapping[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Its words, to look at, and the places in our request that it names."""
    words, places = list[str](), list[tuple[str, ...]]()
    for part in (body.get("error"), body.get("message"), body.get("detail")):
        for fault in part if isinstance(part, list) else [part]:
            if isinstance(fault, str):
                words.append(fault)
            elif isinstance(fault, dict):
                words += [fault[name] for name in ("message", "msg") if isinstance(fault.get(name), str)]
                if isinstance(fault.get("loc"), list):
                    places.append(tuple(map(str, fault["loc"])))
    return " ".join(words), places


def _names_model(words: str, places: Sequence[tuple[str, ...]], model: str) -> bool:
    return any(place[-1:] == ("model",) for place in places) or bool(
        not places and (model.lower() in words.lower() or _NO_MODEL.search(words))
    )


def _is_tasks_own(place: tuple[str, ...]) -> bool:
    inside = place[1:] if place[:1] == ("body",) else place
    return inside[:1] == ("state",) or inside[:3] == ("questions", AREA, "criteria")


def _place(place: tuple[str, ...]) -> str:
    """As it may be logged: what lies below a question's criteria may be a task's own words."""
    return ".".join(place[:4]) if all(re.fullmatch(r"[A-Za-z0-9_]{1,40}", part) for part in place[:4]) else "unnamed"
