"""Where the values of settings come from: the environment, the env file, and files that hold one secret each.

`read_sources` merges them (the real environment wins over the file), says where each value is from, and what is wrong
with the files themselves; `misspelt` finds variables that look like ours and are not. `runtime_dir` alone knows what a
value means, and looks at the process's own environment if no other is given: it is how who judges no settings finds a
service. All else of both is the settings' business.

What a service has taken over, its master publishes in RUNTIME_DIR at a start and at each reload, which is the one truth
of whoever watches. `published` gives it to `aitp status` as the master has judged it: without pydantic, which with all
settings costs more CPU than the rest of a look. Page and /metrics have the settings whole (`aitp.settings.in_force`).

Not pydantic-settings: it reads an env file with ${NAME} filled in, which changes a secret that holds a dollar sign, and
passes over a line that it cannot read; it knows no <SECRET>_FILE; and it costs 4 MB and 0.1 s of CPU in each of four
programs. The env file is read by python-dotenv's parser, because `dotenv_values` tells of such a line in a log of its
own alone, and a secret whose quote is missing would be one that is not set; `tests/settings/test_sources.py` notices
when a new version moves it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from aitp.errors import ConfigurationError, printable
from aitp.extensions import foreign_settings
from aitp.hardening import is_alive
from aitp.policy.routing import Mode, Routing, Rules

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SECRET_FILE_BYTES = 65_536
PUBLISHED = "settings.json"
PROVIDERS_SECRETS = ("OPENAI_API_KEY", "OLLAMA_API_KEY", "WIKIDATA_TOKEN")
SECRETS = ("LEDGER_URL", "OAUTH2_CLIENT_SECRET", *PROVIDERS_SECRETS, "METRICS_TOKEN")
UNREAD = "stands-where-a-secret-could-not-be-read"  # a problem is listed already: it is not missing or wrong as well

# Names under which nobody else keeps settings: whatever starts so was meant for us.
OUR_NAMES = (
    "(AITP|BUDGET|CIRCUIT_BREAKER|CONCURRENCY|EMBEDDING|FALLBACK|HYBRID|INBOX|OAUTH2|OLLAMA|OPENAI|ORY|POLLING"
    "|PROCESSING|RATE_LIMIT|RELAY|RETRY|SUPPORTED|WIKIDATA)_"
)

# Read by Ollama's server and by OpenAI's other tools; often set beside ours.
NAMES_OF_OTHERS = frozenset(
    {
        *("OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NUM_PARALLEL", "OLLAMA_ORIGINS", "OLLAMA_DEBUG"),
        *("OLLAMA_MAX_QUEUE", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE"),
        *("OLLAMA_LOAD_TIMEOUT", "OLLAMA_NOPRUNE", "OLLAMA_CONTEXT_LENGTH", "OPENAI_ORG_ID"),
        *("OPENAI_ORGANIZATION", "OPENAI_PROJECT", "OPENAI_PROJECT_ID", "OPENAI_LOG", "OPENAI_API_BASE"),
        *("OPENAI_API_VERSION", "OPENAI_API_TYPE", "OPENAI_WEBHOOK_SECRET", "OPENAI_ADMIN_KEY", "AITP_VENV"),
        "HOSTNAME",  # the shell's, not HOST_NAME
    }
)

# How alike a name without one of our prefixes must be to be worth a warning (POLING_INTERVAL_SECONDS: 0.98).
ALIKE = 0.87


class Sources(NamedTuple):
    """Values and their origins, by name; the env file; what makes them unusable, and what is odd."""

    values: Mapping[str, str]
    origins: Mapping[str, str]
    env_file: Path | None
    problems: list[str]
    warnings: list[str]


def read_sources(environ: Mapping[str, str], fallback: Path | None, secrets: Collection[str]) -> Sources:
    """The file that AITP_ENV_FILE names (`fallback` if it is unset and exists; none if it is empty) merged with
    `environ`, and the contents of the files named by <secret>_FILE, and of systemd's credentials.

    Raises ConfigurationError if that file cannot be read: what it would say of the rest nobody knows.
    """
    problems: list[str] = []
    warnings: list[str] = []
    named = environ.get("AITP_ENV_FILE", fallback if fallback is not None and fallback.exists() else "")
    path = Path(named).absolute() if named else None
    in_file = _read_env_file(path, problems, warnings) if path is not None else {}
    values = {**in_file, **environ}
    origins = {**dict.fromkeys(in_file, str(path)), **dict.fromkeys(environ, "environment")}
    for secret in secrets:
        places = {f"{secret}_FILE": values.get(f"{secret}_FILE"), **_credential(environ, secret)}
        given = {name: place for name, place in places.items() if place}
        names = [secret, *given] if values.get(secret) else list(given)
        if len(names) > 1:
            problems.append(f"{', '.join(names)}: both are set; keep one of them")
        elif given:
            [(name, place)] = given.items()
            origins[secret] = place if name in values else name
            try:
                values[secret] = _read_secret(Path(place))
            except ValueError as error:
                problems.append(f"{name}={Path(place).absolute()}: {error}")
                values[secret] = UNREAD
    return Sources(values, origins, path, problems, warnings)


def absolute(path: Path) -> Path:
    """Relative paths count from the project's root, so that no command depends on where it was started."""
    try:
        return Path(os.path.normpath(PROJECT_ROOT / path.expanduser()))
    except RuntimeError:
        raise ValueError("must be a path; nobody here has that home directory") from None


def secret_names() -> tuple[str, ...]:
    """Our own secrets, and those of other packages."""
    return (*SECRETS, *(name for name, is_secret in foreign_settings().items() if is_secret))


def exported(*names: str) -> dict[str, str]:
    """Which of these the environment itself has, and not only the file of settings."""
    return {name: value for name in names if (value := os.environ.get(name, "").strip())}


def runtime_dir(environ: Mapping[str, str] | None = None) -> Path:
    """RUNTIME_DIR of `environ` (None: of this process's) and of the file of settings that it names, or of .env; none of
    the other settings is judged, and what cannot be read is passed over.

    For `bin/supervisorctl`: who has spoilt a setting must still be able to reload, stop or restart what runs. For
    `aitp status`, which looks there for what is in force. And for saying that a start failed.
    """
    values = os.environ if environ is None else environ
    if not values.get("RUNTIME_DIR", "").strip():
        with suppress(ConfigurationError, OSError):
            values = read_sources(values, Path(".env"), ()).values
    named, ledger = (values.get(name, "").strip() for name in ("RUNTIME_DIR", "RATE_LIMIT_STORAGE_PATH"))
    try:
        if named:
            return absolute(Path(named))
        return beside(Path(ledger)) if ledger else PROJECT_ROOT / "run"
    except ValueError:
        return PROJECT_ROOT / "run"


def beside(ledger: Path) -> Path:
    """RUNTIME_DIR, where only the ledger's place is set. Raises ValueError if that is none."""
    return absolute(ledger).parent.parent / "run"


def _credential(environ: Mapping[str, str], secret: str) -> dict[str, str]:
    """The secret's file among systemd's credentials, by what to call it in a message; nothing if there is none.

    `LoadCredential=aitp:DIRECTORY` makes a credential aitp_NAME of each file NAME in that directory (systemd.exec(5)).
    """
    path = os.path.join(environ.get("CREDENTIALS_DIRECTORY") or os.devnull, f"aitp_{secret}")
    return {f"credential aitp_{secret}": path} if os.path.exists(path) else {}


def misspelt(names: Iterable[str], known: Collection[str]) -> list[str]:
    """One line for each name that is not known and looks like one of ours, with the nearest real name."""
    import difflib

    lines = []
    for name in sorted(set(names) - set(known) - NAMES_OF_OTHERS):
        words = set(name.upper().split("_"))
        # OAUTH2_SECRET is OAUTH2_CLIENT_SECRET with a word left out, although OAUTH2_SCOPE looks more like it.
        longer = [real for real in known if words <= set(real.split("_"))]
        ours = re.match(OUR_NAMES, name.upper())
        nearest = difflib.get_close_matches(name.upper(), longer or known, n=1, cutoff=0.6 if ours else ALIKE)
        if nearest or ours:
            meant = f"; did you mean {nearest[0]}?" if nearest else ""
            lines.append(f"{name} is not a setting and is ignored{meant}")
    return lines


def _read_env_file(path: Path, problems: list[str], warnings: list[str]) -> dict[str, str]:
    from dotenv.parser import parse_stream

    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        said = f"AITP_ENV_FILE={path}: {reason(error)}; it must be a readable text file of NAME=value lines"
        # Nothing else is told: that all settings are missing then would hide the one thing to mend.
        raise ConfigurationError([printable(said)]) from error
    values: dict[str, str] = {}
    for binding in bindings:
        if binding.error or (binding.key is not None and binding.value is None):
            # The line itself stays out of the message: it may well be a secret with a missing quote.
            problems.append(f"{path}, line {binding.original.line}: not NAME=value (is a quote missing?)")
        elif binding.key is not None and binding.value is not None:
            if binding.key in values:
                line = f"{path}, line {binding.original.line}"
                warnings.append(f"{line}: {binding.key} is set a second time, and this line counts; leave one out")
            # No ${interpolation}: a secret that happens to hold ${ must arrive as it was written.
            values[binding.key] = binding.value
    return values


def _read_secret(path: Path) -> str:
    """The secret in `path` without its line end. Raises ValueError that says why there is none to be had."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
            secret = stream.read(SECRET_FILE_BYTES + 1).decode().strip() if regular else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{reason(error)}; it must be a readable file that holds the secret") from None
    if not regular:
        # Every process, and every reload, reads it again: a pipe has nothing left by then.
        raise ValueError("must be a regular file")
    if not 0 < len(secret) <= SECRET_FILE_BYTES:
        raise ValueError(f"the file is {'too big' if secret else 'empty'}; it must hold the secret")
    return secret


def reason(error: Exception) -> str:
    """What kept a file from being read, in a few words that quote nothing of it."""
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


# ── what a running service has in force ──────────────────────────────────────────────────────────────────────────────


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


def told(runtime_dir: Path) -> Any:
    """What was published there, as it was written; None if nobody is alive who says so. Raises what reading it may."""
    found = json.loads((runtime_dir / PUBLISHED).read_bytes())
    return found if is_alive(found["pid"]) else None


def published(runtime_dir: Path) -> InForce | None:
    """What the service of this RUNTIME_DIR has published; None if none runs, or its ledger is a database, or what it
    said cannot be read, as by another user or another release.
    """
    try:
        if (found := told(runtime_dir)) is None:
            return None
        judged, routing = found["judged"], found["judged"]["routing"]
        rules = {name: Rules(**{**each, "waits": tuple(each["waits"])}) for name, each in routing["rules"].items()}
        places = {"runtime_dir": runtime_dir, "ledger": Path(judged["ledger"])}
        routing = Routing(**{**routing, "mode": Mode(routing["mode"]), "rules": rules})
        return InForce(**{**judged, **places, "routing": routing})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
