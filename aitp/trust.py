"""Whom to believe on the wire: the public authorities, the operator's own (TLS_CA_FILE), nobody without a certificate.

There is no way to switch the check off. The file is read once, with the settings: what is in force changes at a reload,
with everything else, and never because a file was half written. Called by the settings; used by both HTTP stacks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

FILE_BYTES = 4_194_304
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Authorities:
    """What TLS_CA_FILE held when it was read: `certificates` are PEM, at least one, and nothing else (no key)."""

    path: Path
    certificates: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trust:
    """`from_environment`: proxies and certificate bundles may come from there. `certificates`: PEM, trusted as well."""

    from_environment: bool = False
    certificates: str = field(default="", repr=False)


def read_authorities(path: Path) -> Authorities:
    """The certificates in a PEM file. Raises ValueError that says what is wrong with it."""
    import ssl

    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES).decode(errors="replace")
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
