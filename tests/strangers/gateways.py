"""Real gateways, where Debian's packages are: nginx and HAProxy, each in front of one server on loopback.

Started by a test on a port that stays its own, with a configuration for what it is to do at the time; to change its
mind it is ended and started again, as an upgrade does.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from enum import Enum
from getpass import getuser
from pathlib import Path

import pytest
import requests

from tests.ports import free_port
from tests.waiting import wait_until

LOGIN_PAGE = "<!doctype html><title>Sign in</title><form method=post><input name=user></form>"


class Mood(Enum):
    """What a gateway does with every request."""

    PASSES = "passes it on"
    NOT_FOUND = "404 with a page"
    REDIRECTS = "302 to a login"
    LOGIN = "200 with a login page"
    BAD_GATEWAY = "502, as nobody is behind it"


class Gateway:
    """One of them, in front of `upstream` (http://host:port). A context manager; skips where it is not installed."""

    program = ""
    leave = signal.SIGTERM

    def __init__(self, folder: Path, upstream: str) -> None:
        found = shutil.which(self.program, path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if found is None:
            pytest.skip(f"needs {self.program} (.ci/packages)")
        self._path = found
        self._folder = folder
        self._upstream = upstream.removeprefix("http://")
        self._nobody = f"127.0.0.1:{free_port()}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Gateway:
        self.become(Mood.PASSES)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def version(self) -> str:
        told = subprocess.run([self._path, "-v"], capture_output=True, text=True, check=True)
        return (told.stdout + told.stderr).splitlines()[0]

    def become(self, mood: Mood) -> None:
        """Do this from now on; it answers when this returns."""
        self._end()
        configuration = self._folder / f"{self.program}.conf"
        configuration.write_text(self.configured(mood))
        with (self._folder / f"{self.program}.log").open("ab") as log:
            command = [self._path, *self.arguments(configuration)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers)

    def arguments(self, configuration: Path) -> list[str]:
        raise NotImplementedError

    def configured(self, mood: Mood) -> str:
        raise NotImplementedError

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / f"{self.program}.log").read_text()
        try:
            requests.get(f"{self.url}/", timeout=2, allow_redirects=False)
        except requests.RequestException:
            return False
        return True

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.leave)  # what is under way is passed on before it ends
            self._process.wait(10)
            self._process = None


class Nginx(Gateway):
    program = "nginx"
    leave = signal.SIGQUIT  # to its master: without one it cuts what is under way

    def arguments(self, configuration: Path) -> list[str]:
        return ["-e", "stderr", "-p", str(self._folder), "-c", str(configuration)]

    def configured(self, mood: Mood) -> str:
        location = {
            Mood.PASSES: f"proxy_pass http://{self._upstream};",
            Mood.NOT_FOUND: "return 404;",
            Mood.REDIRECTS: "return 302 https://login.example/start;",
            Mood.LOGIN: f"default_type text/html; return 200 '{LOGIN_PAGE}';",
            Mood.BAD_GATEWAY: f"proxy_pass http://{self._nobody};",
        }[mood]
        folders = "".join(
            f"{name}_temp_path {self._folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
            daemon off; user {getuser()}; pid {self._folder / "nginx.pid"}; error_log stderr; worker_processes 1;
            events {{ }}
            http {{
                access_log off; {folders} client_max_body_size 10m;
                server {{ listen 127.0.0.1:{self.port}; location / {{ {location} }} }}
            }}
            """


class Haproxy(Gateway):
    program = "haproxy"
    leave = signal.SIGUSR1

    def arguments(self, configuration: Path) -> list[str]:
        return ["-db", "-f", str(configuration)]

    def configured(self, mood: Mood) -> str:
        rule = {
            Mood.NOT_FOUND: "http-request return status 404 default-errorfiles",
            Mood.REDIRECTS: "http-request redirect code 302 location https://login.example/start",
            Mood.LOGIN: f"http-request return status 200 content-type text/html string '{LOGIN_PAGE}'",
        }.get(mood, "")
        server = self._nobody if mood is Mood.BAD_GATEWAY else self._upstream
        return "\n".join(
            (
                "global",
                "  hard-stop-after 1s",
                "defaults",
                "  mode http",
                "  retries 0",
                "  timeout connect 5s",
                "  timeout client 60s",
                "  timeout server 60s",
                "frontend front",
                f"  bind 127.0.0.1:{self.port}",
                f"  {rule}" if rule else "",
                "  default_backend back",
                "backend back",
                f"  server one {server}",
                "",
            )
        )
