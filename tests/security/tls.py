"""A certificate authority of the tests' own, and real TLS in front of a plain server on loopback."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

OPENSSL = shutil.which("openssl")
KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


@dataclass(frozen=True)
class Authority:
    """Made by `openssl`; `certificate` is what an operator would name in TLS_CA_FILE."""

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self._openssl(f"req -x509 {KEY} -days 2 -subj /CN=Tests -keyout ca.key -out ca.pem")

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    def issue(self, *names: str) -> ssl.SSLContext:
        """A server's context with a certificate for these names (`DNS:localhost`, `IP:127.0.0.1`)."""
        file = names[0].replace(":", "-")
        self._openssl(f"req {KEY} -subj /CN=server -keyout {file}.key -out {file}.csr")
        (self.directory / f"{file}.ext").write_text(
            f"subjectAltName={','.join(names)}\nbasicConstraints=CA:FALSE\n"
            "keyUsage=digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        self._openssl(
            f"x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {file}.ext "
            f"-out {file}.pem"
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{file}.pem", self.directory / f"{file}.key")
        return context

    def _openssl(self, command: str) -> None:
        subprocess.run([OPENSSL or "openssl", *command.split()], cwd=self.directory, check=True, capture_output=True)


class TlsFront:
    """Listens on loopback, speaks TLS, and passes on what it hears to the plain server at `url`.

    `refused` counts clients that did not like its certificate, `served` those that went on.
    """

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self._behind = urlsplit(url)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.served = self.refused = 0
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}{self._behind.path}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (self._listener, *self._open):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *self._open):
            end.close()

    def _spawn(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            secured = self._context.wrap_socket(client, server_side=True)
        except OSError:
            self.refused += 1
            client.close()
            return
        self._open.append(secured)
        try:
            # With TLS 1.3 the client's refusal comes after our side of the handshake: serve none before it speaks.
            first = secured.recv(65_536)
        except OSError:
            first = b""
        if not first:
            self.refused += 1
            return
        self.served += 1
        server = socket.create_connection((str(self._behind.hostname), self._behind.port or 80))
        self._open.append(server)
        server.sendall(first)
        self._spawn(_pass_on, server, secured)
        _pass_on(secured, server)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
