"""docs/METRICS.md, SETTINGS.md and status.schema.json, from the declarations themselves, and the list of OpenAI's
models, from its package. `bin/docs` runs it.

Nobody edits these files by hand, and a test compares them with what this module would write. What a label may be,
and what form a text setting has, stands here, because no declaration says it in words: an unknown label or a missing
description is an error, not an empty cell.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from openai.types import ChatModel, EmbeddingModel
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from aitp import metrics
from aitp.ledger.stats import Snapshot
from aitp.metrics import FAMILIES, Family, Source
from aitp.policy.routing import Why
from aitp.process.dispatch import OPENAI_MODELS
from aitp.settings import PROJECT_ROOT, described
from aitp.sources import SECRETS
from aitp.tasks import Ending, Period, Service, TaskStatus, TaskType
from aitp.validators import allowed
from aitp.web.health import Phase, Problem

NOTE = "<!-- Written by `bin/docs`: change the source that it names, then run `bin/docs` again. -->"


@functools.cache
def documents() -> Mapping[Path, str]:
    """The generated documents: where each belongs, and what it should say."""
    return {
        PROJECT_ROOT / "docs/METRICS.md": metrics_document(),
        PROJECT_ROOT / "docs/SETTINGS.md": settings_document(described(), sections()),
        PROJECT_ROOT / "docs/status.schema.json": status_schema(),
        OPENAI_MODELS: models_of_openai(),
    }


@dataclass
class ProcessView:
    """One process of the service. Instants in UTC seconds; `deadline`: when its present step must be over."""

    slot: int
    role: str
    pid: int
    state: str
    started: float
    since: float
    deadline: float | None
    done: int
    task_id: str


@dataclass
class StatusView:
    """What `aitp status --json` prints (docs/status.schema.json). All instants are UTC seconds.

    `running`: whether a master makes its rounds, None where this user may not see it; `problem`: why there is no
    `ledger`.
    """

    at: float
    phase: Phase
    running: bool | None
    version: str
    revision: str
    mode: str
    mock: bool
    problems: list[Problem]
    processes: list[ProcessView]
    ledger: Snapshot | None
    problem: str | None


def status_schema() -> str:
    """What `aitp status --json` prints, as JSON Schema 2020-12."""
    schema = TypeAdapter(StatusView).json_schema(mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def models_of_openai() -> str:
    """The models that OpenAI's package knows by name, and those that it once did, one a line."""
    known = {*OPENAI_MODELS.read_text().split(), *get_args(ChatModel), *get_args(EmbeddingModel)}
    return "\n".join([*sorted(known), ""])


def main() -> None:
    """Write them all."""
    for path, text in documents().items():
        path.write_text(text)


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _words(*names: object) -> str:
    return ", ".join(f"`{getattr(name, 'value', name)}`" for name in names)


_MODELS = "a model of the settings or one of the usual ones, else `other`"

# What each label tells, and its values: all of them, because a label without bounds would be the end of Prometheus.
LABELS: Mapping[str, tuple[str, str]] = {
    "cause": ("how a child ended that nobody had asked to", _words(*metrics.EXIT_CAUSES)),
    "currency": ("of the file of prices", "three capital letters, like `USD`"),
    "ending": ("how an attempt ended", _words(*Ending)),
    "endpoint": (
        "which call of the task API",
        _words(metrics.PENDING_ENDPOINT, metrics.TASK_ENDPOINT, metrics.OTHER),
    ),
    "from": ("the provider of first choice", "`ollama`"),
    "host": ("a host of a fleet", "the `HOST_NAME` of each"),
    "kind": ("which number of bytes", "`completed`, `total`"),
    "le": (
        "upper bound of a histogram's bucket, in seconds",
        _words(*(f"{bound:g}" for bound in metrics.BUCKETS[:-1]), "+Inf"),
    ),
    "method": ("HTTP method", "`GET`, `PATCH`, `other`"),
    "model": ("which model", _MODELS),
    "number": ("which a host has in the ledger", "from 0"),
    "outcome": ("what became of an attempt to deliver", _words(*metrics.DELIVERY_OUTCOMES)),
    "period": ("which rate limit or budget", _words(*Period) + "; those that are switched off have no gauges"),
    "provider": ("whose model was called", "`openai`, `ollama`, and those of other packages"),
    "python": ("version of Python", "like `3.11.2`"),
    "reason": ("why a call went to the second choice", _words(*Why)),
    "role": ("what a child is for", _words(*metrics.ROLES)),
    "service": ("which service a breaker or a cooldown is about", _words(*Service)),
    "state": (
        "of a task that waits: claimable now or later; of a child: what it is doing; of a host of a fleet",
        "`ready`, `waiting`; `starting`, `waiting`, `idle`, `busy`, `recording`, `leaving`; `here`, `away`",
    ),
    "status": (
        "how it ended",
        f"a task: {_words(*TaskStatus)}; a call to a provider: {_words(*metrics.CallStatus)}; "
        "a request for a token: `success`, `failure`",
    ),
    "status_code": ("HTTP status", "a number, or `none`: no answer"),
    "task_type": ("type of task", _words(*TaskType) + ", and those of other packages"),
    "to": ("the provider that was asked instead", "`openai`"),
    "type": ("which tokens", _words(*metrics.TOKEN_TYPES, metrics.OTHER)),
    "version": ("version of aitp", "like `1.0.0`"),
    "revision": ("the commit that it was built from", "12 digits; empty where it is not known"),
}


def metrics_document() -> str:
    """docs/METRICS.md."""
    return "\n".join(_metrics_lines())


def _metrics_lines() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield NOTE
    yield ""
    yield (
        "What `/metrics` answers, in Prometheus' text format, from `aitp/metrics.py`. Counters and histograms outlive "
        "restarts of the processes that count them; gauges are read at each scrape and kept nowhere. Every series "
        "whose labels can be known is there from the start, with 0. A gauge whose source cannot be read is left out "
        "of the scrape: no value is better than one of yesterday."
    )
    yield ""
    yield (
        "Alerts over these are in `docker/alerts.yml`, what to do about each in [OPERATING.md](OPERATING.md#alerts); "
        "the dashboard is `docker/grafana/dashboards/aitp.json`."
    )
    for source in Source:
        families = [family for family in FAMILIES.values() if family.source is source]
        if not families:
            continue
        yield ""
        yield f"## From {source.value.split(',')[0]}" if source is not Source.COUNTED else "## Counted"
        yield ""
        yield f"Read from: {source.value}." if source is not Source.COUNTED else f"Values are {source.value}."
        yield ""
        yield "| metric | type | labels | meaning |"
        yield "| --- | --- | --- | --- |"
        yield from map(_metric_row, families)
    yield ""
    yield "## Labels"
    yield ""
    yield "| label | what it tells | values |"
    yield "| --- | --- | --- |"
    used = {label for family in FAMILIES.values() for label in family.labels} | {"le"}
    for label in sorted(used):
        tells, found = _label(label)
        yield f"| `{label}` | {tells} | {found} |"
    yield ""


def _metric_row(family: Family) -> str:
    labels = _words(*family.labels) if family.labels else ""
    return f"| `{family.name}` | {family.type} | {labels} | {_cell(family.help)} |"


def _label(label: str) -> tuple[str, str]:
    try:
        return LABELS[label]
    except KeyError:
        raise ValueError(f"say in LABELS what the label {label} tells, and its values") from None


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def sections(example: Path = PROJECT_ROOT / ".env.example") -> dict[str, list[str]]:
    """The settings by section, in the order in which .env.example shows them."""
    found: dict[str, list[str]] = {}
    for line in example.read_text().splitlines():
        if title := re.fullmatch(r"# ---- (.+) ----", line):
            found[title[1]] = []
        elif name := re.match(r"(?:# )?([A-Z][A-Z0-9_]+)=", line):
            found[next(reversed(found))].append(name[1])
    return found


def settings_document(fields: Mapping[str, FieldInfo], sections: Mapping[str, list[str]]) -> str:
    """docs/SETTINGS.md."""
    return "\n".join(_settings_lines(fields, sections))


def _settings_lines(fields: Mapping[str, FieldInfo], sections: Mapping[str, list[str]]) -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield NOTE
    yield ""
    yield (
        "Every variable of the environment, or of the file that `AITP_ENV_FILE` names (else `.env` in the current "
        "directory), from `aitp/settings.py`. A variable that is set but empty counts as unset. `aitp check` says what "
        "is wrong with yours and what to do; a running service reads the file again on HUP, and if something in it is "
        "wrong, nothing changes."
    )
    yield ""
    files = " and ".join(f"`{name}_FILE`" for name in SECRETS)
    yield f"A secret may stand in a file of its own, named by {files}: one or the other, not both."
    for title, names in sections.items():
        yield ""
        yield f"## {title}"
        yield ""
        yield "| setting | default | allowed | meaning |"
        yield "| --- | --- | --- | --- |"
        for name in names:
            field = fields[name]
            assert field.description
            may_be = _cell(allowed(field).removeprefix("one of "))
            yield f"| `{name}` | {_default(field)} | {may_be} | {_cell(field.description)} |"
    missing = sorted(set(fields) - {name for names in sections.values() for name in names})
    if missing:
        raise ValueError(f".env.example does not show {', '.join(missing)}: add it there first")
    yield ""


def _default(field: FieldInfo) -> str:
    """As it would be written in a file of settings."""
    if field.is_required():
        return "*required*"
    default: Any = field.default
    if default is None or default == "":
        return ""
    if isinstance(default, bool | tuple | list | dict):
        return f"`{json.dumps(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
