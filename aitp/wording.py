"""A wrong setting in words: its name, its value as it may be shown, and what is allowed.

What is allowed is made from the field's own type and bounds, so that the words can't disagree with the check.
Called by the settings with what pydantic found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from aitp.urls import without_credentials

SHOWN_CHARACTERS = 120


def problem(
    values: Mapping[str, str], fields: Mapping[str, FieldInfo], secrets: Collection[str], details: Mapping[str, Any]
) -> str:
    """One line for one of pydantic's error `details`; `values` are the raw ones by lower-case name."""
    name = str(details["loc"][0]).upper()
    about = fields[name].description or ""
    if details["type"] == "missing":
        return f"{name}: required, but not set. {about.removeprefix('Required. ')}"
    value = "***" if name in secrets else shown(values.get(name.lower(), ""))
    if details["type"] == "value_error":
        return f"{name}={value}: {details['ctx']['error']}"
    return f"{name}={value}: must be {allowed(fields[name])}"


def shown(value: str) -> str:
    """A value as it may be printed: credentials masked, long ones cut, control characters escaped."""
    value = without_credentials(value)
    if len(value) > SHOWN_CHARACTERS:
        value = value[:SHOWN_CHARACTERS] + "…"
    return value if value.isprintable() else ascii(value)


def printable(line: str) -> str:
    """A line about settings with its control characters escaped: paths and names may hold any."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words."""
    parts = [*parts_of(field.annotation), *field.metadata]
    for part in parts:
        if get_origin(part) is Literal:
            return "one of " + ", ".join(get_args(part))
    if bool in parts:
        return "true or false"
    bounds = [bound for part in parts for bound in [part, *getattr(part, "metadata", ())]]
    lowest = [bound.ge for bound in bounds if isinstance(bound, Ge)]
    highest = [bound.le for bound in bounds if isinstance(bound, Le)]
    number = "a whole number" if int in parts else "a number"
    if lowest and highest:
        return f"{number} from {lowest[0]:,} to {highest[0]:,}"
    return f"what it is for: {field.description}"


def parts_of(annotation: Any) -> Iterator[Any]:
    """`annotation`, and what stands inside it: the members of a union, the type and metadata of an Annotated."""
    yield annotation
    if get_origin(annotation) is Literal:
        return
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from parts_of(part)
