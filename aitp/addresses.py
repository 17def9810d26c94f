"""Where METRICS_HOST and METRICS_PORT lead to: the addresses to listen on, and whether that can be.

For the metrics process, for `aitp run` before it starts one, and for `aitp check`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Any

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
