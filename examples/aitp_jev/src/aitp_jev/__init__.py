"""Impact areas and severities from Jev (TypeSafe), which answers closed questions with probabilities.

`build` is the entry point: a provider for all models whose names begin with jev, whatever PROCESSING_MODE is, and two
processors that take over their types' tasks which go there.
"""

from __future__ import annotations

from aitp.settings import Settings
from aitp_jev import processors  # enter themselves
from aitp_jev.provider import JevProvider, look
from aitp_jev.settings import rules as _rules

__all__ = ["build"]


def build(settings: Settings) -> JevProvider:
    """The provider. No connection is made before the first call."""
    return JevProvider(settings)


build.models = ("jev*",)  # type: ignore[attr-defined]
build.rules = _rules  # type: ignore[attr-defined]
build.look = look  # type: ignore[attr-defined]

del processors
