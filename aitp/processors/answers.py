"""The objects that a model's words hold. Tolerant of what models put around JSON, never of what is wrong inside it.

Understood: the bare object, a code fence around it, prose before and after, a block of thoughts. Not understood, and
left to the repair round: trailing commas, comments, single quotes, NaN, a cut end. Guessing there could turn a wrong
answer into a valid one.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_BEGUN = re.compile(r'\{\s*"')
# A text full of braces costs no more than a long one.
MOST_OPENINGS = 200


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refused)


def objects_in(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in `text`, from the last to the first: models end with what they mean.

    What precedes an object that is broken is not what was meant, and what stands within it is not the whole of it.
    """
    found: list[dict[str, Any]] = []
    text = _THOUGHTS.sub("", text)
    position = text.find("{")
    for _ in range(MOST_OPENINGS):
        if position < 0:
            break
        try:
            value, end = _DECODER.raw_decode(text, position)
            found.append(value)
        except json.JSONDecodeError as error:
            end = max(error.pos, position + 1)
            if _BEGUN.match(text, position):
                found.clear()
        except (ValueError, RecursionError):
            return []
        position = text.find("{", end)
    return found[::-1]
