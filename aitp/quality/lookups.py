"""Wikidata for an evaluation: as in service, over a ledger that lives as long as the run does.

The service's own ledger is left alone: what is asked here is kept apart, and Wikidata's troubles here are not its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from aitp.knowledge import Knowledge
from aitp.knowledge.wikidata import Wikidata
from aitp.ledger import BreakerChange, Ledger, LedgerConfig, prepare
from aitp.logs import get_logger

if TYPE_CHECKING:
    from aitp.settings import Settings

NO_SLOT = 0  # nobody else has this ledger open

_log = get_logger(__name__)


@contextmanager
def wikidata_of(settings: Settings) -> Iterator[Knowledge]:
    """Wikidata while the block lasts. Single reads are bounded by REQUEST_TIMEOUT, calls as a whole by nobody."""
    with TemporaryDirectory(prefix="aitp-eval-") as directory:
        path = Path(directory) / "lookups.db"
        prepare(path, strategy="rolling", timezone="UTC", limits={})
        ledger = Ledger.open(path, LedgerConfig.of(settings))
        try:
            wikidata = Wikidata(settings, ledger, NO_SLOT, _unbounded, _tell)
            yield wikidata
            wikidata.close()
        finally:
            ledger.close()


def _unbounded(seconds: float) -> AbstractContextManager[None]:
    return nullcontext()


def _tell(change: BreakerChange) -> None:
    _log.warning(f"Circuit breaker is {change.state}", service=change.service, reason=change.reason)
