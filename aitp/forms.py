"""The forms that several settings have: addresses, places, spans of time, numbers, money, and files that are read.

Types only: each turns a variable's text into a value, or raises ValueError with what is allowed. The settings' own.
"""

from __future__ import annotations

import os
import stat
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from aitp import trust
from aitp.prices import Prices, read_prices
from aitp.urls import listening_host, service_url

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def absolute(path: Path) -> Path:
    """Relative paths count from the project's root, so that no command depends on where it was started."""
    try:
        return Path(os.path.normpath(PROJECT_ROOT / path.expanduser()))
    except RuntimeError:
        raise ValueError("must be a path; nobody here has that home directory") from None


def _directory(path: Path) -> Path:
    path = absolute(path)
    try:
        there = stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return path  # of another user's, who may look: the service itself reads it, and says so if it cannot
    except OSError as error:
        raise ValueError(f"must be a directory ({error.strerror})") from None
    if not there:
        raise ValueError("must be a directory")
    return path


def _file_itself(path: Path) -> Path:
    # A ledger's log and its locks stand beside the file: beside a link to it, nobody would find or heed them.
    return Path(os.path.realpath(absolute(path)))


def _authorities(value: object) -> object:
    return trust.read_authorities(absolute(Path(value))) if isinstance(value, str) else value


def _prices(value: object) -> object:
    return read_prices(absolute(Path(value))) if isinstance(value, str) else value


Url = Annotated[str, AfterValidator(service_url)]
Host = Annotated[str, AfterValidator(listening_host)]
Place = Annotated[Path, AfterValidator(absolute)]
Directory = Annotated[Path, AfterValidator(_directory)]
LedgerFile = Annotated[Path, AfterValidator(_file_itself)]
Seconds = Annotated[float, Field(ge=0.001, le=86_400, allow_inf_nan=False)]
Limit = Annotated[int, Field(ge=0, le=1_000_000_000)]
Money = Annotated[Decimal, Field(ge=0, le=1_000_000_000, allow_inf_nan=False)]
Authorities = Annotated[trust.Authorities, BeforeValidator(_authorities)]
PriceList = Annotated[Prices, BeforeValidator(_prices)]
