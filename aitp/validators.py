"""From a setting's text to its value, and to the words of what is wrong with it.

Types and functions that take one value, return the one to keep, and raise ValueError with what is allowed: the words
that the operator reads. Then what settings tell only together. Pure, but for `addresses`, which asks the resolver and
this machine. Called by the settings; by whoever listens or reaches out, about addresses.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from ipaddress import IPv6Address, ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from annotated_types import Ge, Le
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo

from aitp.prices import Prices, read_prices
from aitp.tls import Authorities, read_authorities


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


LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
NUMBER = re.compile(r"\d+|0[xX][0-9a-fA-F]*")


def service_url(text: str) -> str:
    """`text` without trailing slashes; raises ValueError unless it is http(s)://host[:port][/path] and nothing else."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("must be an address like https://host:port/path") from None
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError("must be an address without spaces or control characters")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("must start with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user name or password")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must not have a query (?) or a fragment (#)")
    if not is_host(parts.hostname):
        raise ValueError(f"must name a host; {parts.hostname!r} is not a host name")
    return text.rstrip("/")


def listening_host(text: str) -> str:
    """What may be listened on: a host, in brackets or not, or `*`. Where a name leads is asked by whoever listens."""
    if text != "*" and not is_host(text.removeprefix("[").removesuffix("]")):
        raise ValueError("must be an address of this machine, a name that leads to one, or * for all of them; no port")
    return text


def refuse_open_secrets(url: str) -> None:
    """Raise ValueError if secrets sent to `url` could be read on the way: plain http to a public-looking host."""
    if urlsplit(url).scheme == "http" and not is_near(url):
        raise ValueError(
            "plain http would send secrets in the open; use https:// (http:// is for loopback, private addresses and "
            "names of a single label), or accept it with ALLOW_INSECURE_HTTP=true"
        )


def without_credentials(url: str) -> str:
    """`url` as it may be shown: whatever stands between :// and @ is masked."""
    return re.sub(r"(://)[^/]*@", r"\1***@", url)


def is_host(text: str) -> bool:
    """Whether `text` has the form of an address or of a name."""
    return _is_address(text) or all(map(LABEL.fullmatch, text.rstrip(".").split(".")))


def is_near(url: str) -> bool:
    """Whether `url` names this machine, a private address or a name of a single label: nothing out on the internet."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if not _is_address(host):
        # 134744072 and 0x08080808 are addresses too, to those who resolve them: 8.8.8.8.
        return ("." not in host and not NUMBER.fullmatch(host)) or host.endswith(".localhost")
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # is_private alone would also take documentation and benchmarking ranges, and 0.0.0.0/8: harmless, none is routed.
    return address.is_private or address.is_loopback or address.is_link_local


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


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
    return read_authorities(absolute(Path(value))) if isinstance(value, str) else value


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
AuthorityList = Annotated[Authorities, BeforeValidator(_authorities)]
PriceList = Annotated[Prices, BeforeValidator(_prices)]


Address = tuple[socket.AddressFamily, socket.SocketKind, int, tuple[Any, ...]]

# All else says that nobody could be asked just now, and nothing about the name (getaddrinfo(3)).
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY})


def addresses(host: str, port: int) -> list[Address]:
    """(family, kind, protocol, address) of each, for `bind`. `*` stands for all addresses of this machine.

    An address needs no resolver, so none can fail it. Raises ValueError if no such name exists, and gaierror, an
    OSError, if whoever knows names does not answer: that passes.
    """
    name = None if host == "*" else host.removeprefix("[").removesuffix("]")
    try:
        found = _look_up(name, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        try:
            found = _look_up(name, port, 0)
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_NAME:
                raise ValueError(f"{host} leads to no address") from None
            raise
    # Some resolvers say the same twice, and it can be bound once.
    return list({address: (family, kind, protocol, address) for family, kind, protocol, _, address in found}.values())


def trouble_at(found: Iterable[Address]) -> int:
    """The errno of the first that cannot be listened on, 0 if all can be: each is bound, as waitress binds it, and let
    go of at once.
    """
    for family, kind, protocol, address in found:
        try:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    # Beside whoever has the port of IPv4: `::` would stand for that as well.
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(address)
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0


def _look_up(name: str | None, port: int, flags: int) -> Any:
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | flags)


EXAMPLES = {
    "ory_project_slug": "your-project-slug",
    "oauth2_client_id": "your-client-id",
    "oauth2_client_secret": "your-client-secret",
}


def missing_together(values: Mapping[str, str], placeholder_key: str) -> list[str]:
    """Judged on the raw values by lower-case name, so that it is listed with all the rest."""
    problems = []
    if "ory_project_slug" not in values and "oauth2_token_url" not in values:
        problems.append(
            "ORY_PROJECT_SLUG, OAUTH2_TOKEN_URL: neither is set; set ORY_PROJECT_SLUG to your Ory project's slug, or "
            "OAUTH2_TOKEN_URL to the address of the token endpoint"
        )
    if values.get("processing_mode", "").lower() == "openai" and "openai_api_key" not in values:
        problems.append(
            "OPENAI_API_KEY: not set; PROCESSING_MODE=openai needs a key, or the placeholder "
            f"{placeholder_key} for mock mode (invented results, no calls)"
        )
    for name in ("budget_per_day", "budget_per_month"):
        if "prices" not in values and values.get(name, "").strip("0."):
            problems.append(
                f"{name.upper()}={values[name]}: PRICES is not set, and without prices nothing can be kept within a "
                "budget; set PRICES to a file of prices (etc/prices.example.toml is one to copy)"
            )
    return problems


def left_as_in_the_example(values: Mapping[str, str]) -> list[str]:
    """Values that .env.example has where everyone needs one of his own."""
    return [
        f"{name.upper()} still has the example's value {value}; set your own"
        for name, value in EXAMPLES.items()
        if values.get(name) == value
    ]


def quoted(values: Mapping[str, str]) -> list[str]:
    """docker's --env-file keeps the quotes that a shell, or our own reading of a file, takes off."""
    return [
        f"{name.upper()} begins and ends with a quote, part of its value; take the quotes off unless that is meant"
        for name, value in values.items()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    ]


def unreachable_limits(limits: Mapping[str, int]) -> list[str]:
    """Limits by period, shortest first, that a longer period's limit keeps from ever being reached."""
    return [
        f"RATE_LIMIT_PER_{longer.upper()}={more} is below RATE_LIMIT_PER_{shorter.upper()}={less}: "
        f"the {shorter} limit can never be reached; raise one or set it to 0"
        for (shorter, less), (longer, more) in pairwise(limits.items())
        if more < less
    ]


def unreachable_budget(per_day: Decimal, per_month: Decimal) -> list[str]:
    """A month's budget that is below a day's."""
    if not 0 < per_month < per_day:
        return []
    return [
        f"BUDGET_PER_MONTH={per_month} is below BUDGET_PER_DAY={per_day}: the day's budget can never be reached; "
        "raise one or set it to 0"
    ]


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
