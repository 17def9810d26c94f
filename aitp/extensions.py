"""What other installed packages add to aitp: task types (`aitp.processors`), providers (`aitp.providers`), settings.

Settings (`aitp.settings`) are names of environment variables, with `secret` or `plain` behind the colon; these entry
points are read, and never loaded: whoever reads settings need not import others' packages.

Entry points (Python packaging, "entry points specification") are loaded when somebody first asks for them. A package
that cannot be loaded is a ConfigurationError that names it: a service without a task type that it is thought to have
would leave those tasks pending for ever, without a word. Called by the two registries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from aitp.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

PROCESSORS_GROUP = "aitp.processors"
PROVIDERS_GROUP = "aitp.providers"
SETTINGS_GROUP = "aitp.settings"


class Extension(NamedTuple):
    """One entry point, loaded: `value` is the object that it names. `package`: its name and version, for messages."""

    name: str
    package: str
    value: object


@cache
def foreign_settings() -> Mapping[str, bool]:
    """The names of other packages' settings, and whether each is a secret."""
    return {point.name: point.attr == "secret" for point in _entry_points(SETTINGS_GROUP)}


def extensions(group: str) -> list[Extension]:
    """All of a group, by name. Raises ConfigurationError with a line for each that cannot be loaded."""
    loaded, problems = [], []
    for point in sorted(_entry_points(group), key=lambda point: (point.name, point.value)):
        try:
            loaded.append(Extension(point.name, _package(point), point.load()))
        except Exception as error:  # noqa: BLE001 (somebody else's code: whatever it raises, the operator is told whose)
            problems.append(f"{complaint(group, point.name, _package(point))}: {type(error).__name__}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return loaded


def complaint(group: str, name: str, package: str) -> str:
    """How a message about an extension begins."""
    return f"the package {package} cannot be used for {group} {name} (mend or uninstall it)"


def _entry_points(group: str) -> EntryPoints:
    from importlib.metadata import entry_points  # a tenth of what `aitp status` may cost

    return entry_points(group=group)


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
