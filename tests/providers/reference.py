"""docs/PROVIDERS.md, written from the code's own tables: `python -m tests.providers.reference` prints it anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aitp.errors import (
    AitpError,
    AnswerCut,
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    GraceOver,
    InputRefused,
    InputTooLong,
    ModelGone,
    ModelMissing,
    ModelRefused,
    NonRetryableError,
    NoRoom,
    RequestRefused,
    RetryableError,
    ServiceFault,
    SettingRefused,
    UselessAnswer,
)
from aitp.providers import failures, ollama_failures
from aitp.providers.refusals import Refusal
from aitp.tasks import Culprit

NOBODY = "none"

# The first class that fits: whose fault it is presumed to be, and what follows.
EFFECTS: Sequence[tuple[type[AitpError], str, str]] = (
    (
        CredentialsRefused,
        Culprit.ACCOUNT,
        "tasks wait; the breaker opens at once if the service itself names the key, else after a few different tasks; one "
        "text that something in between does not let through is found by halving",
    ),
    (ModelMissing, Culprit.MODEL, "the model is pulled; its tasks wait, in mode hybrid until a pull has failed"),
    (CooldownRequired, NOBODY, "a pause of that model, or of the account for want of credit; tasks wait, no try is used"),
    (ServiceFault, Culprit.SERVICE, "tried again after back-off, in mode hybrid at the next provider; what fails together "
     "is halved; different tasks in a row open the breaker"),
    (DeadlineExceeded, Culprit.SERVICE, "as a service fault; the client is thrown away"),
    (ModelGone, Culprit.MODEL, "tasks of that model wait, loudly; log, page and /ready name the model"),
    (SettingRefused, Culprit.REQUEST, "such tasks wait, loudly; log, page and /ready name the setting"),
    (InputTooLong, Culprit.INPUT, "a batch is halved; alone the text is cut and sent once more, or failed "
     "(EMBEDDING_OVERFLOW)"),
    (InputRefused, Culprit.INPUT, "a batch is halved; alone the task is failed, once another one has succeeded"),
    (RequestRefused, Culprit.INPUT, "a parameter that is named is left out from then on; else a batch is halved, and alone "
     "the text is to blame only if others succeed; refusals of different tasks in a row leave out a parameter"),
    (ModelRefused, Culprit.ANSWER, "tried MAX_RETRIES times more, then the task is failed"),
    (AnswerCut, Culprit.ANSWER, "tried MAX_RETRIES times more, then the task is failed; if every task's is, they wait"),
    (UselessAnswer, Culprit.ANSWER, "tried MAX_RETRIES times more, then the task is failed; if every task's is, they wait"),
    (NoRoom, NOBODY, "the task goes back, and waits for room"),
    (RetryableError, Culprit.SERVICE, "tried again after back-off"),
    (NonRetryableError, Culprit.INPUT, "the task is failed at once, with that reason"),
    (GraceOver, NOBODY, "the tasks go back, no try is used; they may be bought again"),
)  # fmt: skip

HEAD = """# What each failure of a provider means

Written from the tables of `aitp/providers/failures.py` and `aitp/providers/ollama_failures.py`, first match first; a
test holds this page to them. Reasons never repeat a text, a key or the server's own words.

Whose fault a failure is, the server may say by status, code or words, in a body of any shape, and is then believed at
once. Where it uses words that no row knows, the same is found out from what befalls other tasks: it only takes a few
sends more.
"""

LEFT_OUT = """## What is left out

Parameters that a server refuses are left out of requests for that model from then on, in this order. A server that
names one (by `param`, or in words) is believed at once.

| parameter | of | when it is left out |
| --- | --- | --- |
| `encoding_format` | OpenAI, vectors | vectors come as numbers in place of base64 |
| `dimensions` | OpenAI, vectors | the model's own length has to be that of EMBEDDING_DIMENSIONS, else tasks wait |
| `temperature` | OpenAI, chats | the model's own; never sent to models that reason |
| `reasoning_effort` | OpenAI, chats | the model's own; sent if OPENAI_REASONING_EFFORT is set |
| `service_tier` | OpenAI, chats | the standard tier; also while the tier of OPENAI_SERVICE_TIER has no room |
| `schema_bounds` | chats | the schema goes without lengths and ranges |
| `json_schema` | OpenAI, chats | `json_object`, and the schema is told in words |
| `json_object` | OpenAI, chats | the schema is told in words alone |
| `think` | Ollama, chats | the model's own; sent if OLLAMA_THINK is set |
| `format` | Ollama, chats | the schema is told in words |
"""

CALLS = (
    ("no connection, a connection that breaks, no answer in time, an answer that is none", ServiceFault),
    ("the whole call takes longer than its time-out and 5 s", DeadlineExceeded),
    ("a vector is missing, doubled, not finite or all zeros", UselessAnswer),
    ("all vectors are of another length than EMBEDDING_DIMENSIONS", SettingRefused),
    ("an answer cut at its greatest length", AnswerCut),
    ("a refusal, or a content filter", ModelRefused),
    ("an empty message, or thoughts and no answer", UselessAnswer),
    ("no JSON of the schema after one repair, names that the text does not hold, none of the options", UselessAnswer),
    ("a second request of one task, for which the limits have no room", NoRoom),
    ("the service stops before the answer comes", GraceOver),
)


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Both\n", _table(CALLS)]
    for title, service, table in (
        ("OpenAI", failures.OPENAI, failures.ROWS),
        ("Ollama", ollama_failures.OLLAMA, ollama_failures.ROWS),
    ):
        parts += [f"## {title}\n", _table(_answers(service, table))]
    return "\n".join([*parts, LEFT_OUT])


def _answers(service: str, table: Sequence[tuple[str, Any, Any]]) -> Iterator[tuple[str, type[AitpError]]]:
    for name, _, verdict in table:
        status = re.search(r"\d{3}", name)
        yield name, type(verdict(Refusal(service, int(status.group()) if status else 400, "a-model")))


def _table(rows: Iterable[tuple[str, type[AitpError]]]) -> str:
    lines = ["| answer | becomes | whose fault | what aitp does |", "| --- | --- | --- | --- |"]
    for name, kind in rows:
        culprit, effect = next((culprit, effect) for known, culprit, effect in EFFECTS if issubclass(kind, known))
        lines.append(f"| {name} | `{kind.__name__}` | {culprit} | {effect} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
