"""docs/PROVIDERS.md, written from the code's own tables: `python -m tests.providers.reference` prints it anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    ModelMissing,
    ModelRefused,
    NonRetryableError,
    RetryableError,
    ServiceFault,
)
from aitp.providers import failures, ollama_failures

# The first class that fits, as in `aitp.process.reports`.
EFFECTS: Sequence[tuple[type[AitpError], str]] = (
    (CredentialsRefused, "the breaker opens at once; tasks wait, no attempt is counted"),
    (ModelMissing, "the model is pulled; tasks wait, in mode hybrid until a pull has failed; no attempt is counted"),
    (CooldownRequired, "a pause of that model (of the account, for want of credit); tasks wait, no attempt is counted"),
    (ServiceFault, "the breaker counts it; tried again after back-off, in mode hybrid at the next provider"),
    (DeadlineExceeded, "as a service fault; the client is thrown away"),
    (AnswerCut, "tried again after back-off; the service is well"),
    (RetryableError, "tried again after back-off; the service is well"),
    (InputTooLong, "only that text is cut, and logged; or it is failed alone (EMBEDDING_OVERFLOW); the others go on"),
    (InputRefused, "a batch is halved, until the bad text is alone and failed; the others go on"),
    (ModelRefused, "the task is failed, with that reason"),
    (NonRetryableError, "the task is failed, with that reason"),
    (GraceOver, "the tasks go back, no attempt is counted; they may be bought again"),
)

HEAD = """# What each failure of a provider means

Written from the tables of `aitp/providers/failures.py` and `aitp/providers/ollama_failures.py`, first match first; a
test holds this page to them. Reasons never repeat a text, a key or the server's own words.
"""

CALLS = (
    ("no connection, a connection that breaks, no answer in time, JSON that is none", ServiceFault),
    ("the whole call takes longer than its time-out and 5 s", DeadlineExceeded),
    ("a vector is missing, doubled, not finite or of the wrong length, others are good", RetryableError),
    ("an answer cut at its greatest length", AnswerCut),
    ("a refusal, or a content filter", ModelRefused),
    ("an empty message", RetryableError),
    (
        "no JSON of the schema after one repair, names that the text does not hold, none of the options",
        NonRetryableError,
    ),
    ("the service stops before the answer comes", GraceOver),
)


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Both\n", _table((name, kind) for name, kind in CALLS)]
    for title, table, refusal in (
        ("OpenAI", failures.ROWS, failures.Refusal),
        ("Ollama", ollama_failures.ROWS, ollama_failures.Refusal),
    ):
        parts += [f"## {title}\n", _table(_answers(table, refusal))]
    return "\n".join(parts)


def _answers(table: Sequence[tuple[str, Any, Any]], refusal: Any) -> Iterator[tuple[str, type[AitpError]]]:
    for name, _, verdict in table:
        status = re.search(r"\d{3}", name)
        yield name, type(verdict(refusal(int(status.group()) if status else 400, "a-model")))


def _table(rows: Iterator[tuple[str, type[AitpError]]]) -> str:
    lines = ["| answer | becomes | what aitp does |", "| --- | --- | --- |"]
    for name, kind in rows:
        effect = next(effect for known, effect in EFFECTS if issubclass(kind, known))
        lines.append(f"| {name} | `{kind.__name__}` | {effect} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
