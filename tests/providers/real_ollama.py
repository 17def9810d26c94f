"""A real Ollama for tests: one that is found on PATH, with a home of its own, or one that runs already.

AITP_TEST_OLLAMA_URL names the latter. Models are made here (`tiny_models`); nothing is fetched from anywhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import requests

from tests.waiting import wait_until

EMBED, CHAT = "aitp-test-embed", "aitp-test-chat"
TEMPLATE = "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant: "
START_SECONDS = 30.0


@dataclass(frozen=True)
class RealOllama:
    """`process`: ours, with all its runners in one group; None if it is somebody else's."""

    url: str
    process: subprocess.Popen[bytes] | None = None

    def create(self, name: str, model: bytes) -> None:
        """Have the server load `model` (GGUF) under that name."""
        digest = f"sha256:{sha256(model).hexdigest()}"
        requests.post(f"{self.url}/api/blobs/{digest}", data=model, timeout=30).raise_for_status()
        request = {"model": name, "files": {"model.gguf": digest}, "template": TEMPLATE, "stream": False}
        requests.post(f"{self.url}/api/create", json=request, timeout=60).raise_for_status()

    def remove(self, name: str) -> None:
        requests.delete(f"{self.url}/api/delete", json={"model": name}, timeout=30)

    def runners(self) -> list[int]:
        """The processes that compute, of a server of our own."""
        assert self.process is not None
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True)
        return [int(line.split()[0]) for line in listed.stdout.decode().splitlines() if " runner " in line]


@contextmanager
def real_ollama(home: Path, authority: Path | None = None) -> Iterator[RealOllama]:
    """One that answers, or the test is skipped. `authority`: a certificate that a server of our own trusts."""
    if url := os.environ.get("AITP_TEST_OLLAMA_URL"):
        yield RealOllama(url.rstrip("/"))
        return
    program = shutil.which("ollama")
    if program is None:
        pytest.skip("needs a real Ollama: `ollama` on PATH, or AITP_TEST_OLLAMA_URL")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(home / "models"),
        "OLLAMA_NO_CLOUD": "1",
        **({"SSL_CERT_FILE": str(authority)} if authority else {}),
    }
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve"], env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    ours = RealOllama(f"http://127.0.0.1:{port}", process)
    try:
        wait_until(lambda: _answers(ours), START_SECONDS, 0.1)
        yield ours
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(server: RealOllama) -> bool:
    assert server.process is not None
    assert server.process.poll() is None, "ollama serve ended at once"
    try:
        return requests.get(f"{server.url}/api/version", timeout=1).ok
    except requests.ConnectionError:
        return False
