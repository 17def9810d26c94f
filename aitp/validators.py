"""From a setting's text to its value, and to the words of what is wrong with it.

First whom to believe on the wire (`Trust`), which whoever speaks TLS is given; then the types of settings, each with
the words of what it allows (`Allowed`), which messages and SETTINGS.md quote; then addresses, what settings tell only
together, and how a wrong one is told. Pure, but for files that settings name, and `addresses` and `trouble_at`, which
ask the resolver and this machine. Called by the settings; about addresses, by whoever listens.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from decimal import Decimal
from ipaddress import IPv6Address, ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

from annotated_types import Ge, GroupedMetadata, Le
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, StringConstraints, ValidationError
from pydantic.fields import FieldInfo

from aitp.errors import printable
from aitp.policy.costs import Price, Prices, nano
from aitp.sources import absolute, reason

SHOWN_CHARACTERS = 120
LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
NUMBER = re.compile(r"\d+|0[xX][0-9a-fA-F]*")


@dataclass(frozen=True)
class Allowed(GroupedMetadata):
    """In a type's metadata: what may be set, to follow "must be"; of a text also how it has to look, as a whole."""

    words: str
    pattern: str = ""
    most: int | None = None

    def __iter__(self) -> Iterator[object]:
        if self.pattern:
            yield StringConstraints(pattern=f"^{self.pattern}$", max_length=self.most)


# ── whom to believe on the wire ───────────────────────────────────────────────────────────────────────────────────────

AUTHORITIES_BYTES = 4_194_304
# Of requests, curl and OpenSSL.
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Authorities:
    """What TLS_CA_FILE held when it was read: `certificates` are PEM, at least one, and nothing else (no key)."""

    path: Path
    certificates: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trust:
    """The public authorities, and nobody without a certificate: there is no way to switch the check off.

    `from_environment`: proxies and certificate bundles may come from there. `certificates`: PEM, trusted as well, as
    the file held them when the settings were read: a reload changes them, and never one that is half written.
    """

    from_environment: bool = False
    certificates: str = field(default="", repr=False)


def read_authorities(path: Path) -> Authorities:
    """The certificates in a PEM file. Raises ValueError that says what is wrong with it."""
    import ssl  # two megabytes, for those who have such a file

    try:
        with path.open("rb") as file:
            text = file.read(AUTHORITIES_BYTES).decode(errors="replace")
    except OSError as error:
        raise ValueError(f"{error.strerror}; it must be a readable file of PEM certificates") from None
    certificates = "\n".join(CERTIFICATE.findall(text))
    if not certificates:
        raise ValueError("there is no PEM certificate in it (-----BEGIN CERTIFICATE-----)")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        raise ValueError("a certificate in it cannot be read; it must be a file of PEM certificates") from None
    return Authorities(path, certificates)


def unusable(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that HTTP_TRUST_ENV=true would have us heed, and that we cannot: it would be gone past
    without a word, or fail every call. Values stay out of it: a proxy's address may hold a password.
    """
    # Where a name is there in both spellings, the lower-case one counts (urllib.request.getproxies_environment).
    spelt = {name.lower(): name for name in sorted(environ)}
    problems = []
    for scheme in ("http", "https"):
        names = [spelt[name] for name in (f"{scheme}_proxy", "all_proxy") if environ.get(spelt.get(name, ""))]
        if names and environ[names[0]].lower().startswith("socks"):
            problems.append(
                f"{names[0]}: a SOCKS proxy cannot be used, and HTTP_TRUST_ENV=true takes proxies from there; name an "
                "HTTP proxy in it, or unset it"
            )
    for name in BUNDLES:
        if (place := environ.get(name)) and (reason := _unreadable(name, place)):
            problems.append(
                f"{name}={place}: {reason}, and HTTP_TRUST_ENV=true takes the authorities to trust from there; correct "
                "it, or unset it"
            )
    return list(dict.fromkeys(problems))


def _unreadable(name: str, place: str) -> str:
    """Why no certificates can be had from what this variable names: what OpenSSL takes can be."""
    import ssl

    if name == "SSL_CERT_DIR":
        return "" if any(map(os.path.isdir, place.split(os.pathsep))) else "there is no such directory"
    if name != "SSL_CERT_FILE" and os.path.isdir(place):
        return ""
    try:
        with open(place, "rb"):  # in the words of the system, not of OpenSSL
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(place)
    except ssl.SSLError:
        return "there is no certificate in it that can be read"
    except OSError as error:
        return error.strerror or str(error)
    return ""


# ── the types of settings ────────────────────────────────────────────────────────────────────────────────────────────


def from_json(value: object) -> object:
    """What a text holds as JSON; itself where it holds none, which then is no value of its type."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def listed(value: object) -> object:
    """What a JSON array holds, or a text between its commas."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return from_json(value)
    return [part.strip() for part in value.split(",")]


def once_each(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def zone_name(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError, RecursionError):
        raise ValueError("must be the name of a time zone like UTC or America/Sao_Paulo") from None
    return name


def scopes(text: str) -> str:
    return "" if text.strip().lower() == "none" else " ".join(text.split())


def one_word(pattern: str, must: str) -> AfterValidator:
    """Of a secret, which no message may quote."""

    def checked(secret: SecretStr) -> SecretStr:
        if not re.fullmatch(pattern, secret.get_secret_value()):
            raise ValueError(must)
        return secret

    return AfterValidator(checked)


def directory(path: Path) -> Path:
    path = absolute(path)
    try:
        there = path.is_dir()
    except PermissionError:
        return path  # another user looks: the service itself reads it, and says so if it cannot
    except OSError:  # of a name that is too long
        there = False
    if not there:
        raise ValueError("must be a directory, and one that is there")
    return path


def file_itself(path: Path) -> Path:
    # A ledger's log and its locks stand beside the file: beside a link to it, nobody would find or heed them.
    return Path(os.path.realpath(absolute(path)))


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


def postgresql_url(secret: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(secret.get_secret_value())
    except ValueError:
        raise ValueError("must be an address like postgresql://user@host/database") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("must start with postgresql://")
    if not parts.path.strip("/") and "dbname=" not in parts.query:
        raise ValueError("must name the database, as in postgresql://user@host/database")
    return secret


def server_in(url: str) -> str:
    """Which server and database an address of PostgreSQL names, without anything that is secret."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")
    return printable(f"postgresql://{hosts}{parts.path}")


def password_in(url: str) -> str:
    """The password that an address of PostgreSQL holds; empty if none."""
    parts = urlsplit(url)
    return unquote(parts.password) if parts.password else dict(parse_qsl(parts.query)).get("password", "")


def listening_host(text: str) -> str:
    """What may be listened on: a host, in brackets or not, or `*`. Where a name leads is asked by whoever listens."""
    if text != "*" and not is_host(text.removeprefix("[").removesuffix("]")):
        raise ValueError("must be an address of this machine, a name that leads to one, or * for all of them; no port")
    return text


LOWER = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
UPPER = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
OR_NONE = BeforeValidator(lambda value: None if value == "" else value)
PRINTABLE = r"[^\p{C}\p{Z}]"

Seconds = Annotated[float, Field(ge=0.001, le=86_400, allow_inf_nan=False)]
Limit = Annotated[int, Field(ge=0, le=1_000_000_000)]
Money = Annotated[Decimal, Field(ge=0, le=1_000_000_000, allow_inf_nan=False)]
# Anything else would fail each single call, with an exception that quotes the key.
Key = Annotated[SecretStr, one_word(r"[!-~]+", "must be one word of printable ASCII characters")]
# Nobody is shut out after so many guesses: it must be one that cannot be guessed.
Password = Annotated[
    SecretStr,
    one_word(r"[!-~]{16,}", "must be one word of at least 16 printable ASCII characters, as of `openssl rand -hex 32`"),
]
Place = Annotated[Path, AfterValidator(absolute)]
Directory = Annotated[Path, AfterValidator(directory)]
LedgerFile = Annotated[Path, AfterValidator(file_itself)]
AuthoritiesFile = Annotated[
    Authorities,
    BeforeValidator(lambda value: read_authorities(absolute(Path(value))) if isinstance(value, str) else value),
    Allowed("a path of a file of PEM certificates"),
]
PriceList = Annotated[
    Prices,
    BeforeValidator(lambda value: read_prices(absolute(Path(value))) if isinstance(value, str) else value),
    Allowed("a path of a TOML file of prices"),
]
Url = Annotated[str, AfterValidator(service_url), Allowed("an address, `http://` or `https://`")]
Host = Annotated[str, AfterValidator(listening_host), Allowed("an address of this machine, or `*`")]
PostgreSQLUrl = Annotated[
    SecretStr, AfterValidator(postgresql_url), Allowed("an address, `postgresql://`, with what it takes to get in")
]
SchemaName = Annotated[str, Allowed("lower-case letters, digits and _, 63 at most", "[a-z_][a-z0-9_]{0,62}")]
HostName = Annotated[str, Allowed("letters, digits, dots, - and _, 100 at most", "[A-Za-z0-9._-]{0,100}")]
Zone = Annotated[str, AfterValidator(zone_name), Allowed("a name of the time zone database, like `America/Sao_Paulo`")]
Scopes = Annotated[str, AfterValidator(scopes), Allowed("words")]
Slug = Annotated[
    str,
    Allowed("the project's slug alone: lower-case letters, digits and hyphens", "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),
]
Language = Annotated[str, Allowed("a language code like pt, en or pt-BR", "[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")]
Word = Annotated[str, LOWER, Allowed("one word of letters, digits, _ and -", "[a-z0-9_-]{0,40}")]
# They become a part of prompts.
Words = Annotated[str, Allowed("words of printable characters, 100 at most", f"({PRINTABLE}| )*", 100)]
# It stands between parentheses in a User-Agent.
Contact = Annotated[str, Allowed("printable ASCII characters without parentheses, 200 at most", "[ -'*-~]{0,200}")]
Model = Annotated[
    str, Allowed("a model's name: printable characters without spaces, 100 at most", f"{PRINTABLE}*", 100)
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Models = Annotated[
    tuple[Name, ...],
    BeforeValidator(listed),
    AfterValidator(once_each),
    Allowed('a JSON array of model names like ["nomic-embed-text"], or names separated by commas'),
]
ItemIds = Annotated[
    tuple[Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^Q[1-9][0-9]{0,9}$")], ...],
    BeforeValidator(listed),
    AfterValidator(once_each),
    Allowed('a JSON array of Wikidata\'s ids like ["Q5", "Q7188"], or ids separated by commas'),
]
ModelMap = Annotated[
    Mapping[str, Name],
    BeforeValidator(from_json),
    Allowed('a JSON object from model to model like {"nomic-embed-text": "text-embedding-3-small"}'),
]
# Whatever the model server takes.
Options = Annotated[Mapping[str, Any], BeforeValidator(from_json), Allowed('a JSON object like {"num_ctx": 8192}')]
# A number, or a duration as Go writes it: Ollama takes seconds as a number only.
KeepAlive = Annotated[
    Annotated[int, Field(ge=-(10**9), le=10**9)]
    | Annotated[str, StringConstraints(pattern=r"^-?(\d{1,9}(\.\d+)?(ms|s|m|h))+$")],
    Allowed("a duration like 5m or 1h30m, or seconds; -1 for ever, 0 to unload at once"),
]
Tier = Annotated[Literal["auto", "default", "flex", "priority"] | None, LOWER, OR_NONE]
Thinking = Annotated[Literal["low", "medium", "high"] | bool, LOWER, Allowed("true, false, low, medium or high")]


# ── a file of prices ─────────────────────────────────────────────────────────────────────────────────────────────────

PRICES_BYTES = 1_048_576
HIGHEST_PRICE = 1_000_000  # of a million tokens


def read_prices(path: Path) -> Prices:
    """The prices in a TOML file. Raises ValueError that says all that is wrong with it, entry by entry."""
    try:
        with path.open("rb") as file:
            document = tomllib.loads(file.read(PRICES_BYTES).decode(), parse_float=Decimal)
    except (OSError, ValueError, RecursionError, ArithmeticError) as error:
        raise ValueError(f"{reason(error)}; it must be a TOML file of prices, as etc/prices.example.toml is") from None
    try:
        found = _PriceFile.model_validate(document)
    except ValidationError as error:
        faults = map(_fault_in_prices, error.errors(include_url=False, include_input=False))
        raise ValueError("; ".join(faults)) from None
    entries = found.model_extra or {}
    models = {(provider, model): entry.price() for provider in entries for model, entry in entries[provider].items()}
    if not models:
        raise ValueError(
            'it has no price; a model has one like this: [openai."gpt-6.1-terra"] input = 1.00, output = 5.00'
        )
    return Prices(path, found.currency, models)


class _Terms(BaseModel, extra="forbid"):
    input: Annotated[Decimal, Field(ge=0, le=HIGHEST_PRICE, allow_inf_nan=False)]
    output: Annotated[Decimal, Field(ge=0, le=HIGHEST_PRICE, allow_inf_nan=False)]

    def price(self) -> Price:
        return Price(nano(self.input), nano(self.output))


class _PricedModel(_Terms):
    flex: _Terms | None = None
    priority: _Terms | None = None

    def price(self) -> Price:
        tiers = {"flex": self.flex, "priority": self.priority}
        return replace(super().price(), tiers={name: terms.price() for name, terms in tiers.items() if terms})


class _PriceFile(BaseModel, extra="allow"):
    """The rest of it is a table of models for each provider."""

    __pydantic_extra__: dict[str, dict[str, _PricedModel]]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]


def _fault_in_prices(details: Mapping[str, Any]) -> str:
    """One of pydantic's errors: `[provider.model] what: what is wrong`."""
    provider, model, *rest = (str(part)[:60] for part in (*details["loc"], ""))
    where = f"[{provider}.{model}] {'.'.join(filter(None, rest))}" if model else provider
    return f"{where.rstrip()}: {details['msg']}"


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────

Address = tuple[socket.AddressFamily, tuple[Any, ...]]

# All else says that nobody could be asked just now, and nothing about the name (getaddrinfo(3)).
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY})


def refuse_open_secrets(url: str, said: str = "") -> None:
    """Raise ValueError if secrets sent to `url` could be read on the way: plain http to a public-looking host."""
    if urlsplit(url).scheme == "http" and not is_near(url):
        raise ValueError(
            f"{said}plain http would send secrets in the open; use https:// (http:// is for loopback, private "
            "addresses and names of a single label), or accept it with ALLOW_INSECURE_HTTP=true"
        )


def is_near(url: str) -> bool:
    """Whether `url` names this machine, a private address or a name of a single label: nothing out on the internet.

    Nothing is resolved: a name is judged by its form alone.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    if not _is_address(host):
        # 134744072 and 0x08080808 are addresses too, to those who resolve them: 8.8.8.8.
        return ("." not in host and not NUMBER.fullmatch(host)) or host.endswith(".localhost")
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # is_private alone would also take documentation and benchmarking ranges, and 0.0.0.0/8: harmless, none is routed.
    return address.is_private or address.is_loopback or address.is_link_local


def is_host(text: str) -> bool:
    """Whether `text` has the form of an address or of a name."""
    return _is_address(text) or all(map(LABEL.fullmatch, text.rstrip(".").split(".")))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def addresses(host: str, port: int) -> list[Address]:
    """Family and address of each to listen on. `*` stands for all addresses of this machine.

    An address needs no resolver, so none can fail it. Raises ValueError if no such name exists, and gaierror, an
    OSError, if whoever knows names does not answer: that passes.
    """
    name = None if host == "*" else host.removeprefix("[").removesuffix("]")
    flags = socket.AI_PASSIVE | (socket.AI_NUMERICHOST if name is None or _is_address(name) else 0)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        if error.errno in NO_SUCH_NAME:
            raise ValueError(f"{host} leads to no address") from None
        raise
    # Some resolvers say the same twice, and it can be bound once.
    return list(dict.fromkeys((family, address) for family, *_, address in found))


def bound(found: Iterable[Address]) -> list[socket.socket]:
    """A socket that listens at each, for TCP. Raises OSError if one cannot be had; then there are none.

    One of IPv6 alone stands beside whoever has the port of IPv4: `::` would stand for that as well.
    """
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(address, family=family)) for family, address in found]
        opened.pop_all()
    return sockets


def trouble_at(found: Iterable[Address]) -> int:
    """The errno of what cannot be listened on, 0 if all can be: each is bound, and let go of at once."""
    try:
        for each in bound(found):
            each.close()
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


# ── what settings tell only together ─────────────────────────────────────────────────────────────────────────────────


def odd_values(values: Mapping[str, str]) -> Iterator[str]:
    """What .env.example has where everyone needs his own (your-client-id); quotes that docker's --env-file keeps, and a
    shell, or our own reading of a file, takes off.
    """
    for name, value in values.items():
        if re.fullmatch(r"your(-[a-z]+)+", value):
            yield f"{name.upper()} still has the example's value; set your own"
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            yield f"{name.upper()} begins and ends with a quote, part of its value; take the quotes off unless meant"


def unreachable(name: str, bounds: Mapping[str, int | Decimal]) -> Iterator[str]:
    """Of bounds by period, shortest first, 0 for none: those that a longer period's never lets be reached."""
    for (shorter, less), (longer, more) in pairwise((period, bound) for period, bound in bounds.items() if bound):
        if more < less:
            reached = f"the {shorter} {name.rpartition('_')[2].lower()} can never be reached; raise one or set it to 0"
            yield f"{name}_PER_{longer.upper()}={more} is below {name}_PER_{shorter.upper()}={less}: {reached}"


# ── a wrong setting in words ─────────────────────────────────────────────────────────────────────────────────────────


def problem(
    values: Mapping[str, str], fields: Mapping[str, FieldInfo], secrets: Collection[str], details: Mapping[str, Any]
) -> str:
    """One line for one of pydantic's error `details`; `values` are the raw ones by lower-case name."""
    name = str(details["loc"][0]).upper()
    if details["type"] == "missing":
        return f"{name}: required, but not set. {(fields[name].description or '').removeprefix('Required. ')}"
    if name.lower() not in values:
        return f"{name}: {details['ctx']['error']}"
    value = "***" if name in secrets else shown(values[name.lower()])
    if {Path, Authorities, Prices} & {*_parts_of(fields[name].annotation)}:
        value = _with_root(value)
    if details["type"] == "value_error":
        return f"{name}={value}: {details['ctx']['error']}"
    return f"{name}={value}: must be {allowed(fields[name])}"


def _with_root(path: str) -> str:
    """A path as it was written, and where it leads if that is another one: nobody else knows what it counts from."""
    try:
        leads = str(absolute(Path(path)))
    except ValueError:
        return path
    return path if leads == os.path.normpath(path) else f"{path} ({leads})"


def shown(value: str) -> str:
    """A value as it may be printed: credentials masked, long ones cut, control characters escaped."""
    value = re.sub(r"(://)[^/]*@", r"\1***@", value)
    return printable(value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "…")


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words, made from its own type and bounds so that they can't disagree with the check."""
    parts = [*_parts_of(field.annotation), *field.metadata]
    for part in parts:
        if isinstance(part, Allowed):
            return part.words
    for part in parts:
        if get_origin(part) is Literal:
            return "one of " + ", ".join(get_args(part))
    if bool in parts:
        return "true or false"
    bounds = [bound for part in parts for bound in [part, *getattr(part, "metadata", ())]]
    lowest = [bound.ge for bound in bounds if isinstance(bound, Ge)]
    highest = [bound.le for bound in bounds if isinstance(bound, Le)]
    if lowest and highest:
        number = "a whole number" if int in parts else "a number"
        return f"{number} from {lowest[0]:,} to {highest[0]:,}"
    return "a secret" if SecretStr in parts else "a path" if Path in parts else "text"


def _parts_of(annotation: Any) -> Iterator[Any]:
    """`annotation`, and what stands inside it: the members of a union, the type and metadata of an Annotated."""
    yield annotation
    if get_origin(annotation) is Literal:
        return
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _parts_of(part)
