"""TLS: whoever cannot prove who he is gets neither token nor secret, unless the operator vouches for him."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aitp.errors import ServiceFault
from tests.taskapi.desk import MakeDesk

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Lister(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.headers["Authorization"])
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of a server for which nobody vouches but itself."""
    place = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    words = [*command.split(), "-addext", NAMES, "-keyout", str(place / "key"), "-out", str(place / "certificate")]
    subprocess.run(words, check=True, capture_output=True)
    return place / "certificate"


@pytest.fixture
def server(certificate: Path) -> Iterator[ThreadingHTTPServer]:
    Lister.asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lister)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_certificate_that_nobody_vouches_for_is_refused(desk_at: MakeDesk, server: ThreadingHTTPServer) -> None:
    with pytest.raises(ServiceFault, match="certificate"):
        desk_at(f"https://127.0.0.1:{server.server_port}").list()
    assert Lister.asked == []


def test_a_bundle_of_the_environment_counts_only_if_it_is_to_be_trusted(
    desk_at: MakeDesk, server: ThreadingHTTPServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    url = f"https://127.0.0.1:{server.server_port}"
    with pytest.raises(ServiceFault, match="certificate"):
        desk_at(url).list()
    desk = desk_at(url, HTTP_TRUST_ENV="true", NO_PROXY="127.0.0.1")
    assert desk.list() == desk.list() == []
    assert len(Lister.asked) == 2
