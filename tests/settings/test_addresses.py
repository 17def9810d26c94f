"""METRICS_HOST: an address needs no resolver, a name that is none is told from one that cannot be looked up now."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from aitp.validators import addresses, trouble_at


def resolver_fails(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As glibc does: it asks nobody for an address."""
    ask = socket.getaddrinfo

    def fails(host: str | None, port: int, *, type: int, flags: int) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return ask(host, port, type=type, flags=flags)
        raise socket.gaierror(code, "the resolver's words")

    monkeypatch.setattr(socket, "getaddrinfo", fails)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", [("127.0.0.1", 8001)]),
        ("0.0.0.0", [("0.0.0.0", 8001)]),
        ("::1", [("::1", 8001, 0, 0)]),
        ("[::1]", [("::1", 8001, 0, 0)]),
        ("*", [("0.0.0.0", 8001), ("::", 8001, 0, 0)]),
    ],
)
def test_an_address_needs_no_resolver(monkeypatch: pytest.MonkeyPatch, host: str, expected: list[Any]) -> None:
    resolver_fails(monkeypatch, socket.EAI_AGAIN)

    assert [address for *_, address in addresses(host, 8001)] == expected


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_FAIL, socket.EAI_MEMORY])
def test_a_resolver_that_does_not_answer_says_nothing_about_the_name(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    resolver_fails(monkeypatch, code)

    with pytest.raises(socket.gaierror):
        addresses("metrics.example", 8001)


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_NODATA])
def test_a_name_that_leads_nowhere_is_a_wrong_one(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    resolver_fails(monkeypatch, code)

    with pytest.raises(ValueError, match=r"metrics\.example leads to no address"):
        addresses("metrics.example", 8001)


def test_what_can_be_no_name_is_a_wrong_one() -> None:
    with pytest.raises(ValueError, match="label too long"):
        addresses("x" * 70, 8001)


def test_what_a_resolver_says_twice_is_bound_once(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 8001))] * 2
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: twice)

    assert len(addresses("localhost", 8001)) == 1


def test_a_port_that_another_process_has_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert trouble_at(addresses("127.0.0.1", server.getsockname()[1])) == errno.EADDRINUSE


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_whoever_has_the_port_of_ipv4_does_not_have_that_of_ipv6() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert trouble_at(addresses("::", server.getsockname()[1])) == 0
