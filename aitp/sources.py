"""Where the values of settings come from: the environment, the env file, and files that hold one secret each.

`read_sources` merges them (the real environment wins over the file), says where each value is from, and what is wrong
with the files themselves; `misspelt` finds variables that look like ours and are not. `runtime_dir` alone knows what a
value means, and looks at the process's own environment if no other is given: it is how who judges no settings finds a
service. All else of both is the settings' business.

Not pydantic-settings: it reads an env file with ${NAME} filled in, which changes a secret that holds a dollar sign, and
passes over a line that it cannot read; it knows no <SECRET>_FILE; and it costs 4 MB and 0.1 s of CPU in each of four
programs. The env file is read by python-dotenv's parser, because `dotenv_values` tells of such a line in a log of its
own alone, and a secret whose quote is missing would be one that is not set; `tests/settings/test_sources.py` notices
when a new version moves it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from aitp.errors import ConfigurationError, printable

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SECRET_FILE_BYTES = 65_536
UNREAD = "stands-where-a-secret-could-not-be-read"  # a problem is listed already: it is not missing or wrong as well

# Names under which nobody else keeps settings: whatever starts so was meant for us.
OUR_NAMES = (
    "(AITP|BUDGET|CIRCUIT_BREAKER|CONCURRENCY|EMBEDDING|FALLBACK|HYBRID|INBOX|OAUTH2|OLLAMA|OPENAI|ORY|POLLING"
    "|PROCESSING|RATE_LIMIT|RELAY|RETRY|SUPPORTED|WIKIDATA)_"
)

# Read by Ollama's server and by OpenAI's other tools; often set beside ours.
NAMES_OF_OTHERS = frozenset(
    {
        *("OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NUM_PARALLEL", "OLLAMA_KEEP_ALIVE", "OLLAMA_ORIGINS", "OLLAMA_DEBUG"),
        *("OLLAMA_MAX_QUEUE", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE"),
        *("OLLAMA_LOAD_TIMEOUT", "OLLAMA_NOPRUNE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_API_KEY", "OPENAI_ORG_ID"),
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
    path = _env_file(environ, fallback)
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
            values[secret] = _read_secret(name, Path(place).absolute(), problems) or UNREAD
            origins[secret] = place if name in values else name
    return Sources(values, origins, path, problems, warnings)


def absolute(path: Path) -> Path:
    """Relative paths count from the project's root, so that no command depends on where it was started."""
    try:
        return Path(os.path.normpath(PROJECT_ROOT / path.expanduser()))
    except RuntimeError:
        raise ValueError("must be a path; nobody here has that home directory") from None


def runtime_dir(environ: Mapping[str, str] | None = None) -> Path:
    """RUNTIME_DIR of `environ` (None: of this process's) and of the file of settings that it names, or of .env; none of
    the other settings is judged, and what cannot be read is passed over.

    For `bin/supervisorctl`: who has spoilt a setting must still be able to reload, stop or restart what runs. For
    `aitp status`, which looks there for what is in force. And for saying that a start failed.
    """
    values = os.environ if environ is None else environ
    if not values.get("RUNTIME_DIR", "").strip():
        with suppress(ConfigurationError):
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
        cutoff = 0.6 if ours else ALIKE - 0.1
        nearest = difflib.get_close_matches(name.upper(), longer or known, n=1, cutoff=cutoff)
        if nearest and (ours or difflib.SequenceMatcher(None, name.upper(), nearest[0]).ratio() >= ALIKE):
            lines.append(f"{name} is not a setting and is ignored; did you mean {nearest[0]}?")
        elif ours:
            lines.append(f"{name} is not a setting and is ignored")
    return lines


def _env_file(environ: Mapping[str, str], fallback: Path | None) -> Path | None:
    named = environ.get("AITP_ENV_FILE")
    if named:
        return Path(named).absolute()
    if named is None and fallback is not None and fallback.exists():
        return fallback.absolute()
    return None


def _read_env_file(path: Path, problems: list[str], warnings: list[str]) -> dict[str, str]:
    from dotenv.parser import parse_stream

    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        said = f"AITP_ENV_FILE={path}: {_reason(error)}; it must be a readable text file of NAME=value lines"
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


def _read_secret(name: str, path: Path, problems: list[str]) -> str:
    """The secret in `path` without its line end; "" with a problem added if there is none to be had."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
            secret = stream.read(SECRET_FILE_BYTES + 1).decode().strip() if regular else ""
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name}={path}: {_reason(error)}; it must be a readable file that holds the secret")
        return ""
    if not regular:
        # Every process, and every reload, reads it again: a pipe has nothing left by then.
        problems.append(f"{name}={path}: must be a regular file")
    elif not secret:
        problems.append(f"{name}={path}: the file is empty; it must hold the secret")
    elif len(secret) > SECRET_FILE_BYTES:
        problems.append(f"{name}={path}: the file is too big to be a secret (more than {SECRET_FILE_BYTES:,} bytes)")
    else:
        return secret
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else type(error).__name__
