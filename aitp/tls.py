"""Whom to believe on the wire: the public authorities, the operator's own (TLS_CA_FILE), nobody without a certificate.

What HTTP_TRUST_ENV takes from the environment is looked at before anything is trusted to it: `unusable`.

There is no way to switch the check off. The file is read once, with the settings: what is in force changes at a reload,
with everything else, and never because a file was half written. Called by the settings; used by both HTTP stacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILE_BYTES = 4_194_304
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
    """`from_environment`: proxies and certificate bundles may come from there. `certificates`: PEM, trusted as well."""

    from_environment: bool = False
    certificates: str = field(default="", repr=False)


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
        if environ.get(name) and (reason := _unreadable(name, environ[name])):
            problems.append(
                f"{name}={environ[name]}: {reason}, and HTTP_TRUST_ENV=true takes the authorities to trust from there; "
                "correct it, or unset it"
            )
    return list(dict.fromkeys(problems))


def _unreadable(name: str, place: str) -> str:
    """Why no certificates can be had from what this variable names."""
    import ssl

    if name == "SSL_CERT_DIR":
        return "" if any(map(os.path.isdir, place.split(os.pathsep))) else "no such directory"
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
