"""A real browser: Chromium without a window, driven by chromedriver in the words of the WebDriver standard.

Tests that need one skip where there is none (Debian: apt-get install chromium chromium-driver).
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ports import free_port
from tests.waiting import patience, wait_until

MISSING = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
needs_browser = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' and no '.join(MISSING)} here: apt-get install chromium chromium-driver"
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


class Browser:
    """One window. Everything that it logs (script errors, violated policies, failed loads) is kept in its console."""

    def __init__(self, driver: str, profile: Path) -> None:
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", **capabilities}}}
        self._http = requests.Session()
        self._http.trust_env = False
        started = self._http.post(f"{driver}/session", json=wanted, timeout=patience(60)).json()["value"]
        self._url = f"{driver}/session/{started['sessionId']}"

    def close(self) -> None:
        try:
            self._http.delete(self._url, timeout=patience(30))
        except requests.RequestException:
            pass  # it hangs; its driver is ended next
        self._http.close()

    def open(self, url: str) -> None:
        self._ask("url", url=url)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        """As on a screen, or a phone, of that many CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", **metrics)

    def prefer(self, **features: str) -> None:
        """What the person has asked for: `color_scheme="dark"`, `reduced_motion="reduce"`."""
        told = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self._devtools("Emulation.setEmulatedMedia", features=told)

    def scripts(self, allowed: bool) -> None:
        """Whether pages that are opened from now on may run their scripts."""
        self._devtools("Emulation.setScriptExecutionDisabled", value=not allowed)

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        return self._ask("execute/sync", script=f"return {script}", args=[])

    def press(self, key: str) -> None:
        """A key, where the focus is."""
        for kind in ("keyDown", "keyUp"):
            self._devtools("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def text(self, selector: str) -> str:
        """What can be read of the first element that the selector finds; empty if there is none."""
        return str(self.run(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def console(self) -> list[str]:
        """What was logged since it was last asked for."""
        return [entry["message"] for entry in self._ask("se/log", type="browser")]

    def screenshot(self) -> bytes:
        """A PNG of the whole page, however long."""
        height = self.run("document.documentElement.scrollHeight")
        width = self.run("document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = self._devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(taken["data"])

    def _devtools(self, method: str, **parameters: Any) -> Any:
        return self._ask("goog/cdp/execute", cmd=method, params=parameters)

    def _ask(self, command: str, **body: Any) -> Any:
        answer = self._http.post(f"{self._url}/{command}", json=body, timeout=patience(60))
        value = answer.json()["value"]
        assert answer.ok, value
        return value


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile, gone afterwards with all its processes."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        port = free_port()
        command = ["chromedriver", f"--port={port}", "--allowed-ips=127.0.0.1"]
        nothing = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=nothing, stderr=nothing, start_new_session=True) as driver:
            try:
                wait_until(lambda: _listens(port), timeout=30)
                browser = Browser(f"http://127.0.0.1:{port}", Path(profile))
                try:
                    yield browser
                finally:
                    browser.close()
            finally:
                driver.terminate()
                try:
                    driver.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(driver.pid, signal.SIGKILL)


class Window:
    """One browser for many tests. One that has died or hangs is replaced: it costs the test it failed, and no other."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._browser: Browser | None = None

    def fresh(self, width: int, height: int) -> Browser:
        """As just opened: of that size, by day, with scripts, and with an empty console."""
        try:
            return self._prepared(width, height)
        except (requests.RequestException, AssertionError):
            self.close()
            return self._prepared(width, height)

    def _prepared(self, width: int, height: int) -> Browser:
        self._browser = self._browser or self._stack.enter_context(chromium())
        self._browser.size(width, height)
        self._browser.prefer(color_scheme="light")
        self._browser.scripts(True)
        self._browser.console()
        return self._browser

    def close(self) -> None:
        self._browser = None
        self._stack.close()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
