"""Addresses as settings give them, of other services and to listen on: what a usable one looks like, and where plain
http may go.

Plain http carries tokens and secrets in the open. It is accepted for this machine, private addresses and names of a
single label (`http://nestjs-api:3000` in a compose file), and refused for anything else unless the operator says
otherwise. Pure: nothing is resolved, so a name is judged by its form alone. Called by the settings.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

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
