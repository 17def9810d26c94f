"""From a setting's text to its value, for those that pydantic's own types don't cover.

Each function takes one value, returns the one to keep, and raises ValueError with what is allowed: the words that the
operator reads. Called through the settings' types.
"""

from __future__ import annotations

import json
import re
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import SecretStr


def model_names(value: object) -> object:
    """A JSON array, or names with commas between them."""
    names = _listed(value)
    if isinstance(names, list):
        if not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(
                'must be a JSON array of model names like ["nomic-embed-text"], or names separated by commas'
            )
        return tuple(dict.fromkeys(name.strip() for name in names))
    return names


def item_ids(value: object) -> object:
    """Ids of Wikidata's, as a JSON array or with commas between them."""
    ids = _listed(value)
    if isinstance(ids, list):
        if not all(isinstance(id_, str) and re.fullmatch(r"Q[1-9][0-9]{0,9}", id_.strip()) for id_ in ids):
            raise ValueError('must be a JSON array of Wikidata\'s ids like ["Q5", "Q7188"], or ids separated by commas')
        return tuple(dict.fromkeys(id_.strip() for id_ in ids))
    return ids


def _listed(value: object) -> object:
    """What a JSON array holds, or a text between its commas; anything but a text as it is."""
    if not isinstance(value, str):
        return value
    return _json(value, list) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]


def model_name(name: str) -> str:
    if not (name.isprintable() and " " not in name and len(name) <= 100):
        raise ValueError("must be a model's name: printable characters without spaces, 100 at most")
    return name


def model_map(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = _json(value, dict)
    if not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise ValueError(
            'must be a JSON object from model to model like {"nomic-embed-text": "text-embedding-3-small"}'
        )
    return names


def model_options(value: object) -> object:
    """A JSON object of whatever the model server takes."""
    if not isinstance(value, str):
        return value
    try:
        options = json.loads(value)
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise ValueError('must be a JSON object like {"num_ctx": 8192}')
    return options


def keep_alive(value: object) -> object:
    """Seconds, or a duration as Go writes it; Ollama takes the first as a number only."""
    text = str(value).strip()
    if re.fullmatch(r"-?\d{1,9}", text):
        return int(text)
    if not re.fullmatch(r"-?(\d{1,9}(\.\d+)?(ms|s|m|h))+", text):
        raise ValueError("must be a duration like 5m or 1h30m, or seconds; -1 for ever, 0 to unload at once")
    return text


def thinking(value: object) -> object:
    """Whether, or how much: Ollama takes either."""
    text = str(value).strip().lower()
    if text not in ("true", "false", "low", "medium", "high"):
        raise ValueError("must be true, false, low, medium or high")
    return text == "true" if text in ("true", "false") else text


def _json(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ValueError("must be a JSON array of strings" if kind is list else "must be a JSON object of strings")
    return value


def zone_name(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError, RecursionError):
        raise ValueError("must be the name of a time zone like UTC or America/Sao_Paulo") from None
    return name


def project_slug(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise ValueError("must be the project's slug alone: lower-case letters, digits and hyphens")
    return text


def scopes(text: str) -> str:
    return "" if text.strip().lower() == "none" else " ".join(text.split())


def language_code(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", text):
        raise ValueError("must be a language code like pt, en or pt-BR")
    return text


def plain_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{0,40}", text):
        raise ValueError("must be one word of letters, digits, _ and -")
    return text


def plain_words(text: str) -> str:
    # It becomes a part of prompts.
    if not (text.isprintable() and len(text) <= 100):
        raise ValueError("must be words of printable characters, 100 at most")
    return text


def contact(text: str) -> str:
    # It stands between parentheses in a User-Agent.
    if not re.fullmatch(r"[ -'*-~]{0,200}", text):
        raise ValueError("must be printable ASCII characters without parentheses, 200 at most")
    return text


def header_value(secret: SecretStr) -> SecretStr:
    # Anything else would fail each single call, with an exception that quotes the key.
    if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("must be one word of printable ASCII characters")
    return secret


def bearer_token(secret: SecretStr) -> SecretStr:
    # Nobody is shut out after so many guesses: it must be one that cannot be guessed.
    if not re.fullmatch(r"[!-~]{16,}", secret.get_secret_value()):
        raise ValueError(
            "must be one word of at least 16 printable ASCII characters, like `openssl rand -hex 32` prints"
        )
    return secret


def lower_case(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def upper_case(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value
