"""Whether a stored result of a chat is what the servers' answers amount to: judged by the task, not by its form alone.

The callbacks (`aitp.demo.callbacks`) see one result at a time, as the production ones do. This looks further: closed
lists, words that the text must hold, and for a text of the script the very answer that the script has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain
from typing import Any

from aitp.demo.callbacks import complaint
from aitp.demo.scripts import Script, script_of
from aitp.demo.sentences import text_of
from aitp.demo.wikidata_things import COMPANY, HUMAN, NEWSPAPER, things
from aitp.knowledge import folded, occurs


def contradiction(document: Mapping[str, Any], result: Any) -> str | None:
    """What is wrong with `result` for the task in `document`; None: nothing, or its type is not known here."""
    type_, content, text = document.get("type"), document.get("content"), text_of(document)
    if said := complaint(type_, content, result):
        return said
    if type_ == "identifying_data":
        strangers = [person for person in result["personalities"] if not occurs(person["mentioned_as"], text)]
        if strangers:
            return f"{len(strangers)} personalities are not mentioned in the text"
    script = script_of(text)
    differs = _DIFFERS.get(str(type_))
    if script is None or differs is None or not differs(script, content, result):
        return None
    return "it is not what the script answers"


def _people(script: Script, content: Any, result: Any) -> bool:
    """Nobody else than the script has, and of those all whom Wikidata knows: whom it does not know is dropped."""
    found = {person["name"]: person["mentioned_as"] for person in result["personalities"]}
    known = {name for name in script.people if folded(name) in _known()}
    return not (found.items() <= script.people.items() and known <= set(found))


@cache
def _known() -> frozenset[str]:
    """What people, companies and newspapers are called in the demo's Wikidata."""
    kinds = {HUMAN, COMPANY, NEWSPAPER}
    those = [thing for thing in things() if kinds.intersection(thing.classes)]
    names = (name for thing in those for name in (*thing.labels.values(), *chain(*thing.aliases.values())))
    return frozenset(map(folded, names))


def _topics(script: Script, content: Any, result: Any) -> bool:
    return list(script.topics) != [topic["name"] for topic in result]


def _area(script: Script, content: Any, result: Any) -> bool:
    options = content.get("options") if isinstance(content, dict) else None
    return bool(result["name"] != script.area and script.area in (options or [script.area]))


def _severity(script: Script, content: Any, result: Any) -> bool:
    return bool(result["severity"] != script.severity)


_DIFFERS: dict[str, Callable[[Script, Any, Any], bool]] = {
    "identifying_data": _people,
    "defining_topics": _topics,
    "defining_impact_area": _area,
    "defining_severity": _severity,
}
