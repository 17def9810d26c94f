"""docs/PROVIDERS.md, written from the code's own tables: `python -m tests.providers.reference` prints it anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aitp.errors import (
    AitpError,
    AnswerCut,
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    InputRefused,
    InputTooLong,
    ModelGone,
    ModelMissing,
    ModelRefused,
    NoRoom,
    RequestRefused,
    ServiceFault,
    SettingRefused,
    UselessAnswer,
)
from aitp.providers.failures import OPENAI, ROWS, Refusal
from aitp.tasks import Culprit

Condition = Callable[[Any], Any]
NOBODY = "nobody"
ANYHOW: Condition = lambda error: True  # noqa: E731
USELESS = "tried MAX_RETRIES times more, then the task is failed; if those of all tasks are useless, they wait"

# The first that fits: whose fault it is presumed to be, and what follows.
EFFECTS: Sequence[tuple[type[AitpError], Condition, str, str]] = (
    (CredentialsRefused, lambda e: e.named, Culprit.ACCOUNT, "the breaker opens at once; tasks wait"),
    (CredentialsRefused, ANYHOW, Culprit.ACCOUNT, "a batch is halved: a text that something in between keeps out is "
     "found and failed alone; different tasks in a row open the breaker, and wait"),
    (ModelMissing, ANYHOW, Culprit.MODEL, "it is pulled; its tasks wait, in mode hybrid until a pull has failed"),
    (CooldownRequired, lambda e: e.model is None, Culprit.ACCOUNT, "all wait for a while; no try is used"),
    (CooldownRequired, ANYHOW, NOBODY, "the tasks of that model wait as long as it asks; no try is used"),
    (ServiceFault, ANYHOW, Culprit.SERVICE, "tried again after back-off, in mode hybrid at the next provider; what "
     "fails together is halved; different tasks in a row open the breaker"),
    (ModelGone, ANYHOW, Culprit.MODEL, "tasks of that model wait, loudly; log, page and /ready name the model"),
    (SettingRefused, ANYHOW, Culprit.REQUEST, "such tasks wait, loudly; log, page and /ready name the setting"),
    (InputTooLong, ANYHOW, Culprit.INPUT, "a batch is halved; alone the text is cut and sent once more, or its task is "
     "failed (EMBEDDING_OVERFLOW)"),
    (InputRefused, ANYHOW, Culprit.INPUT, "a batch is halved; alone its task is failed, if another one succeeds"),
    (RequestRefused, lambda e: e.parameter, Culprit.REQUEST, "it is left out from then on, see below"),
    (RequestRefused, ANYHOW, Culprit.INPUT, "a batch is halved; alone its task is failed, if others succeed; if those "
     "of different tasks are refused in a row, a parameter is left out"),
    (UselessAnswer, ANYHOW, Culprit.ANSWER, USELESS),
    (NoRoom, ANYHOW, NOBODY, "the task goes back, and waits for room"),
)  # fmt: skip

HEAD = """# What each failure of a provider means

Written from the table of `aitp/providers/failures.py`, first match first; a test holds this page to it. It is one for
OpenAI, Ollama and whatever speaks like them, or passes on what they say. Reasons never repeat a text, a key or the
server's own words.

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

TRIED = """## What was tried

By `tests/strangers/test_real_servers.py` and `test_gateways.py`, which run wherever these are installed.

| server | version | what was tried | what came out |
| --- | --- | --- | --- |
| llama.cpp's (`llama-cpp-python[server]`) | 0.3.36 | a text above its batch | cut by the server, silently |
| | | `dimensions`, `encoding_format: base64` | ignored; another length: tasks wait for the setting |
| | | a wrong key | 401: the breaker opens, nobody is failed |
| | | a model that it does not have | answered with the one that it has |
| | | chats with `json_schema` | refused, with 500 |
| LiteLLM's proxy (`litellm[proxy]`) in front of it | 1.108.7 | the same texts and parameters | as without it |
| | | a wrong key | 400 `no_db_connection`: tasks wait, OPENAI_API_KEY is named |
| | | a model that it does not have | 400: tasks wait, nobody is failed |
| | | chats with `json_schema` | refused, with 500, in the words of the server behind |
| Ollama's own `/v1` | none | texts, lengths, chats with `json_schema` | not tried yet: no Ollama was at hand |
| nginx in front of the task API | 1.22.1 | 404, 302, 200 with a page, 502 | all delivered later, once, none dead |
| HAProxy in front of the task API | 2.6.12 | 404, 302, 200 with a page, 503 | all delivered later, once, none dead |
| both in front of the provider | | the same | nobody is failed, the breaker opens and closes |
"""

CALLS: Sequence[tuple[str, AitpError]] = (
    (
        "no connection, a connection that breaks, no answer in time, an answer that is none",
        ServiceFault("", ""),
    ),
    ("the whole answer takes longer than its time-out", DeadlineExceeded("", "")),
    ("a vector is missing, doubled, not finite or all zeros", UselessAnswer("")),
    ("all vectors are of another length than EMBEDDING_DIMENSIONS", SettingRefused("", "", setting="")),
    ("an answer cut at its greatest length", AnswerCut("")),
    ("a refusal, or a content filter", ModelRefused("")),
    ("an empty message, or thoughts and no answer", UselessAnswer("")),
    (
        "no JSON of the schema after one repair, names that the text does not hold, none of the options",
        UselessAnswer(""),
    ),
    ("a second request of one task, for which the limits have no room", NoRoom()),
)


def page() -> str:
    """The whole page."""
    refusal = Refusal(OPENAI, 400, "m", message="format", sent=("format",))
    refused = _table((row.name, row.error(refusal)) for row in ROWS)
    return "\n".join([HEAD, "## Calls\n", _table(CALLS), "## Error answers\n", refused, LEFT_OUT, TRIED])


def _table(rows: Iterable[tuple[str, AitpError]]) -> str:
    lines = ["| answer | becomes | whose fault | what aitp does |", "| --- | --- | --- | --- |"]
    for name, error in rows:
        fits = ((culprit, said) for kind, holds, culprit, said in EFFECTS if isinstance(error, kind) and holds(error))
        culprit, effect = next(fits)
        lines.append(f"| {name} | `{type(error).__name__}` | {culprit} | {effect} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
