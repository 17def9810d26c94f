"""What a running service has in force, as its master has published it in RUNTIME_DIR: the one truth of whoever watches.

`publish` is called at a start and at each reload. `in_force` gives the page and /metrics the settings whole, judged
anew. `published` gives `aitp status` what it needs of them as the master has judged it: without pydantic, which with
all settings costs more CPU than the rest of a look.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aitp.errors import ConfigurationError
from aitp.hardening import is_alive, replace_file
from aitp.policy.routing import Mode, Routing, Rules

if TYPE_CHECKING:
    from aitp.settings import Settings

FILE_NAME = "settings.json"


class InForce(NamedTuple):
    """What tells how a service is, by the names that the settings have for it, and how models are routed."""

    runtime_dir: Path
    ledger: Path
    processing_mode: str
    mock: bool
    mocks: Sequence[str]
    has_openai_key: bool
    hybrid_fallback: bool
    supported_models: Sequence[str]
    concurrency_limit: int
    relay_processes: int
    circuit_breaker_recovery_seconds: float
    routing: Routing


def publish(settings: Settings, routing: Routing, pid: int) -> None:
    """Say to whoever watches the service that these are in force while `pid` lives. Raises OSError."""
    env_file = None if settings.env_file is None else str(settings.env_file)
    told = {"pid": pid, "given": dict(settings.given), "origins": dict(settings.origins), "env_file": env_file}
    if isinstance(settings.ledger, Path):  # else its address is a secret, which whoever looks has to know himself
        judged = {name: getattr(settings, name) for name in InForce._fields if name != "routing"}
        told["judged"] = {**judged, "routing": asdict(routing)}
    replace_file(settings.runtime_dir / FILE_NAME, json.dumps(told, default=str).encode())


def _told(runtime_dir: Path) -> Any:
    """What was published there, as it was written; None if nobody is alive who says so. Raises what reading it may."""
    told = json.loads((runtime_dir / FILE_NAME).read_bytes())
    return told if is_alive(told["pid"]) else None


def published(runtime_dir: Path) -> InForce | None:
    """What the service of this RUNTIME_DIR has published; None if none runs, or its ledger is a database, or what it
    said cannot be read, as by another user or another release.
    """
    try:
        if (told := _told(runtime_dir)) is None:
            return None
        judged, routing = told["judged"], told["judged"]["routing"]
        rules = {name: Rules(**{**each, "waits": tuple(each["waits"])}) for name, each in routing["rules"].items()}
        places = {"runtime_dir": runtime_dir, "ledger": Path(judged["ledger"])}
        routing = Routing(**{**routing, "mode": Mode(routing["mode"]), "rules": rules})
        return InForce(**{**judged, **places, "routing": routing})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def in_force(settings: Settings) -> Settings:
    """The settings that the service of this RUNTIME_DIR has taken over, without secrets. `settings` themselves if none
    runs, or what it said cannot be read (any more: a file that one of them names may be gone). What concerns whoever
    watches alone, where to listen and whom to answer, is of `settings` as well.
    """
    from aitp.settings import load_settings

    try:
        if (told := _told(settings.runtime_dir)) is None:
            return settings
        about = {"env_file": told["env_file"] and Path(told["env_file"]), "origins": told["origins"]}
        found = load_settings({**told["given"], "AITP_ENV_FILE": ""})
    except (OSError, ValueError, LookupError, TypeError, ConfigurationError):
        return settings
    own = ("aitp_env_file", "ledger_url", "metrics_host", "metrics_port", "metrics_token")
    return found.model_copy(update={**about, **{name: getattr(settings, name) for name in own}})
