"""A registry of models on loopback: as much of the OCI distribution protocol as Ollama speaks when it pulls.

Plain HTTP; with `tests.security.tls` in front of it a server pulls `127.0.0.1:PORT/library/NAME` from it. Blobs are
elsewhere, as Ollama insists: a redirect leads to `localhost`, which is another host than `127.0.0.1`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
PIECE_BYTES = 2_048


class ModelRegistry:
    """Models by name, all of them GGUF. `piece_seconds`: what each 2 kB of a blob take; `cuts`: blobs that break off.

    `ranges`: where the requests for blobs began to read.
    """

    def __init__(self, models: Mapping[str, bytes]) -> None:
        self.piece_seconds = 0.0
        self.cuts = 0
        self.ranges: list[int] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests = {name: self._manifest(model) for name, model in models.items()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def blob(self, digest: str, start: int) -> bytes:
        """The rest of a blob, or half of that if it is to break off."""
        self.ranges.append(start)
        rest = self.blobs[digest][start:]
        if self.cuts and len(rest) > PIECE_BYTES:
            self.cuts -= 1
            return rest[: len(rest) // 2]
        return rest

    def _manifest(self, model: bytes) -> bytes:
        config = self._stored(
            json.dumps({"model_format": "gguf", "rootfs": {"type": "layers", "diff_ids": []}}).encode(),
            "application/vnd.docker.container.image.v1+json",
        )
        layer = self._stored(model, "application/vnd.ollama.image.model")
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}).encode()

    def _stored(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name, kind, reference = _parts(self.path)
                if kind == "manifests" and reference == "latest" and name in registry.manifests:
                    self._begin(200, len(registry.manifests[name]), ("Content-Type", MANIFEST))
                    self.wfile.write(registry.manifests[name])
                elif kind == "blobs" and reference in registry.blobs:
                    host, _, port = self.headers["Host"].partition(":")
                    if host == "localhost":
                        self._send_blob(reference)
                    else:
                        self._begin(307, 0, ("Location", f"https://localhost:{port}{self.path}"))
                else:
                    missing = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
                    self._begin(404, len(missing))
                    self.wfile.write(missing)

            def do_HEAD(self) -> None:
                reference = _parts(self.path)[2]
                self._begin(200 if reference in registry.blobs else 404, len(registry.blobs.get(reference, b"")))

            def _send_blob(self, digest: str) -> None:
                whole = len(registry.blobs[digest])
                asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(asked[1]) if asked else 0
                extent = ("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
                self._begin(206 if asked else 200, whole - start, extent)
                rest = registry.blob(digest, start)
                self.close_connection = len(rest) < whole - start
                try:
                    for place in range(0, len(rest), PIECE_BYTES):
                        self.wfile.write(rest[place : place + PIECE_BYTES])
                        time.sleep(registry.piece_seconds)  # the wire's own pace, not a wait for anything
                except OSError:  # whoever asked has gone
                    self.close_connection = True

            def _begin(self, status: int, length: int, *headers: tuple[str, str]) -> None:
                self.send_response(status)
                for name, value in (("Content-Length", str(length)), *headers):
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        return Handler


def _parts(path: str) -> tuple[str, str, str]:
    """Name, kind and reference of `/v2/library/NAME/manifests/latest`."""
    found = re.fullmatch(r"/v2/library/([^/]+)/(manifests|blobs)/([^/]+)", path)
    return (found[1], found[2], found[3]) if found else ("", "", "")
