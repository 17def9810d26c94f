"""Where a service is to be reached, whatever else is wrong with its settings.

For `bin/supervisorctl`: who has spoilt a setting must still be able to reload, stop or restart what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aitp.environment import read_sources
from aitp.errors import ConfigurationError
from aitp.forms import PROJECT_ROOT, absolute


def beside(ledger: Path) -> Path:
    """RUNTIME_DIR, where only the ledger's place is set. Raises ValueError if that is none."""
    return absolute(ledger).parent.parent / "run"


def runtime_dir(environ: Mapping[str, str]) -> Path:
    """RUNTIME_DIR of `environ` and of the file of settings that it names, or of .env; none of the other settings is
    judged, and what cannot be read is passed over.
    """
    try:
        values = read_sources(environ, Path(".env"), ()).values
    except ConfigurationError:
        values = environ
    named, ledger = (values.get(name, "").strip() for name in ("RUNTIME_DIR", "RATE_LIMIT_STORAGE_PATH"))
    try:
        if named:
            return absolute(Path(named))
        return beside(Path(ledger)) if ledger else PROJECT_ROOT / "run"
    except ValueError:
        return PROJECT_ROOT / "run"
