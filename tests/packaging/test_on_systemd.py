"""The service under a real systemd: installed, started, reloaded, killed, hung, upgraded, taken back, removed.

One Debian for all of these, a few minutes long: `pytest -m slow tests/packaging/test_on_systemd.py`.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.demo.world_process import WorldProcess
from aitp.settings import PLACEHOLDER_KEY, PROJECT_ROOT
from tests.packaging.debian import Debian, reason_against
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECRETS = ("OAUTH2_CLIENT_SECRET", "OPENAI_API_KEY")


class Site:
    """A Debian with aitp installed, and the servers that it talks to."""

    def __init__(self, debian: Debian) -> None:
        self.debian = debian
        self.world = WorldProcess({"openai_api": {"latency_seconds": 0.2}})
        environment = dict(self.world.environment)
        self._secrets = {name: environment.pop(name) for name in SECRETS}
        self._settings: dict[str, object] = {
            **environment,
            "PROCESSING_MODE": "openai",
            "CONCURRENCY_LIMIT": 3,
            "EMBEDDING_BATCH_SIZE": 4,
            "POLLING_INTERVAL_SECONDS": 1,
            "RATE_LIMIT_ENABLED": "false",
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": free_port(),
        }

    def configure(self, **settings: object) -> None:
        """As an operator would: settings in one file, each secret in one that only root can read."""
        self._settings |= settings
        etc = self.debian.files / "etc/aitp"
        (etc / "aitp.env").write_text("".join(f"{name}='{value}'\n" for name, value in self._settings.items()))
        for name, secret in self._secrets.items():
            (etc / "credentials" / name).write_text(secret)
            (etc / "credentials" / name).chmod(0o600)

    def keep_in_settings(self, secret: str) -> None:
        """No longer in a file of its own."""
        self.configure(**{secret: self._secrets.pop(secret)})

    def setting(self, name: str) -> object:
        return self._settings[name]

    def systemctl(self, verb: str) -> int:
        return self.debian.run("systemctl", verb, "aitp").returncode

    def install(self) -> None:
        done = self.debian.run("/srv/aitp/bin/install", patience=600)  # it compiles all packages
        assert done.returncode == 0, done.stdout + done.stderr

    def await_facts(self, patience: float = 60, **expected: str) -> dict[str, str]:
        def facts() -> dict[str, str] | None:
            found = self.debian.facts()
            return found if all(re.search(text, found[name]) for name, text in expected.items()) else None

        try:
            return wait_until(facts, patience, every=0.3) or {}
        except AssertionError:
            raise AssertionError(f"{expected} is not so: {self.debian.facts()}\n{self.journal()}") from None

    def journal(self, *options: str) -> str:
        return self.debian.run("journalctl", "-u", "aitp", "-o", "cat", "--no-pager", "-n", "40", *options).stdout

    def await_done(self) -> None:
        """Every task has its result, each bought once."""
        wait_until(lambda: set(self.world.states()) <= {"succeeded"}, 90, every=0.2)
        summary = self.world.summary()
        assert (summary.bought_again, summary.wrong_results) == (0, 0)


@pytest.fixture(scope="module")
def debian() -> Iterator[Debian]:
    if reason := reason_against():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="aitp-debian-", dir="/var/tmp") as place:
        debian = Debian(Path(place))
        try:
            yield debian
        finally:
            debian.close()


@pytest.fixture(scope="module")
def _site(debian: Debian) -> Iterator[Site]:
    site = Site(debian)
    site.install()
    yield site
    site.world.close()


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """Running, with nothing to do."""
    _site.configure(CONCURRENCY_LIMIT=3)
    _site.debian.run("systemctl", "reset-failed", "aitp")
    assert _site.systemctl("start") == 0, _site.journal()
    yield _site
    _site.systemctl("stop")


def test_start_comes_back_when_work_can_be_done_with_secrets_that_only_root_can_read(site: Site) -> None:
    site.world.add_tasks(40)

    site.await_facts(ActiveState="active", StatusText="5 of 5 processes at work")
    site.await_done()
    assert site.debian.run("aitp", "status").returncode == 0
    assert "RUNNING" in site.debian.run("/opt/aitp/bin/supervisorctl", "status", "aitp-metrics").stdout


def test_the_operator_s_aitp_is_the_service_s_and_nobody_else_s(site: Site) -> None:
    assert site.debian.run("aitp", "limits").returncode == 0

    other = site.debian.run("setpriv", "--reuid=65534", "--clear-groups", "aitp", "status")

    assert other.returncode != 0
    assert "Traceback" not in other.stderr


def test_a_reload_under_load_takes_new_settings_over_and_refuses_bad_ones(site: Site) -> None:
    site.world.add_tasks(300)
    site.configure(CONCURRENCY_LIMIT=6)
    assert site.systemctl("reload") == 0
    site.await_facts(ActiveState="active", StatusText="8 of 8 processes at work")

    site.configure(CONCURRENCY_LIMIT="many")
    assert site.systemctl("reload") != 0
    assert "CONCURRENCY_LIMIT=many: must be a whole number" in site.journal("-n", "400")  # results go out meanwhile
    site.debian.run("/opt/aitp/bin/supervisorctl", "signal", "HUP", "aitp-master")
    facts = site.await_facts(StatusText="the new settings are refused")

    assert (facts["ActiveState"], facts["NRestarts"]) == ("active", "0")
    site.await_done()


def test_a_restart_under_load_loses_nothing(site: Site) -> None:
    site.world.add_tasks(300)
    bought = site.world.summary().texts_bought
    wait_until(lambda: site.world.summary().texts_bought > bought + 10, 30)

    assert site.systemctl("restart") == 0

    site.await_done()


def test_a_killed_service_is_started_again(site: Site) -> None:
    before = site.debian.facts()["MainPID"]
    site.debian.run("kill", "-9", before)

    facts = site.await_facts(ActiveState="active", MainPID=f"^(?!{before}$|0$)")

    assert facts["NRestarts"] == "1"
    site.world.add_tasks(20)
    site.await_done()


def test_settings_that_cannot_be_used_are_told_and_not_tried_again(site: Site) -> None:
    site.systemctl("stop")
    site.configure(CONCURRENCY_LIMIT="many")

    assert site.systemctl("start") != 0

    facts = site.debian.facts()
    assert (facts["ActiveState"], facts["ExecMainStatus"], facts["NRestarts"]) == ("failed", "78", "0")
    assert re.search("^aitp: CONCURRENCY_LIMIT=many: must be a whole number", site.journal("-p", "3..3"), re.MULTILINE)
    assert '"level":"info"' not in site.journal("-p", "warning")


def test_a_master_that_hangs_is_noticed_by_the_watchdog(site: Site) -> None:
    quick = site.debian.files / "etc/systemd/system/aitp.service.d/quick.conf"
    quick.parent.mkdir()
    quick.write_text("[Service]\nWatchdogSec=12\n")
    site.debian.run("systemctl", "daemon-reload")
    site.systemctl("restart")
    master = site.debian.run("pgrep", "-f", "-o", "aitp master").stdout.strip()

    site.debian.run("kill", "-STOP", master)

    site.await_facts(Result="watchdog")
    site.await_facts(120, ActiveState="active", StatusText="5 of 5 processes at work")
    shutil.rmtree(quick.parent)
    site.debian.run("systemctl", "daemon-reload")


def test_a_master_that_is_stopped_by_supervisorctl_is_not_missed_by_the_watchdog(site: Site) -> None:
    assert "stopped" in site.debian.run("/opt/aitp/bin/supervisorctl", "stop", "aitp-master").stdout

    facts = site.await_facts(StatusText="The master is stopped")

    assert (facts["ActiveState"], facts["WatchdogUSec"]) == ("active", "0")
    site.debian.run("/opt/aitp/bin/supervisorctl", "start", "aitp-master")
    assert site.await_facts(StatusText="5 of 5 processes at work")["WatchdogUSec"] == "2min"


def test_an_upgrade_under_load_loses_nothing_and_one_that_does_not_start_is_taken_back(site: Site) -> None:
    release = site.debian.files / "opt/aitp/current"
    first = release.readlink()
    site.world.add_tasks(300)
    (site.debian.source / "aitp/news.py").write_text("NEWS = 1\n")
    site.install()
    second = release.readlink()
    assert second != first
    assert site.await_facts(ActiveState="active")["NRestarts"] == "0"
    site.await_done()
    assert (site.debian.files / "var/lib/aitp/before-upgrade.db").stat().st_mode & 0o777 == 0o600

    master = site.debian.source / "aitp/process/master.py"
    working = master.read_text()
    master.write_text(working.replace("def run(self) -> int:", "def run(self) -> int:\n        raise SystemExit(1)\n"))
    broken = site.debian.run("/srv/aitp/bin/install")
    master.write_text(working)

    assert broken.returncode == 1
    assert f"{second} is in use again, and running" in broken.stderr
    assert release.readlink() == second
    site.await_facts(ActiveState="active", StatusText="5 of 5 processes at work")


def test_a_failed_start_an_upgrade_with_an_extension_and_a_reload_into_mock_mode_tell_what_they_came_to(
    site: Site,
) -> None:
    site.systemctl("stop")
    key = site.debian.files / "etc/aitp/credentials/OPENAI_API_KEY"
    key.write_text("")
    assert site.systemctl("start") != 0
    asked = site.debian.run("aitp", "status")
    assert asked.returncode == 78
    for said in (site.debian.facts()["StatusText"], asked.stderr, site.journal("-p", "err")):
        assert re.search("OPENAI_API_KEY.*: the file is empty; it must hold the secret", said), said
    site.configure()
    assert site.systemctl("start") == 0, site.journal()

    site.world.add_tasks(100)
    shutil.copytree(PROJECT_ROOT / "examples/aitp_sentiment", site.debian.files / "srv/aitp_sentiment")
    (site.debian.files / "etc/aitp/extensions.txt").write_text("/srv/aitp_sentiment\n")
    (site.debian.source / "aitp/REVISION").write_text("0123456789ab\n")
    site.install()
    site.await_facts(ActiveState="active", StatusText="5 of 5 processes at work")
    assert "0123456789ab" in site.debian.run("aitp", "--version").stdout
    assert re.search(r"aitp-sentiment \d", site.debian.run("aitp", "check", "--offline").stdout)
    site.await_done()

    # The credentials of a unit are those of its start: what a reload is to see stands in the settings.
    key.unlink()
    site.keep_in_settings("OPENAI_API_KEY")
    assert site.systemctl("restart") == 0, site.journal()
    own = site.setting("OPENAI_API_KEY")
    site.configure(OPENAI_API_KEY=PLACEHOLDER_KEY)
    site.systemctl("reload")
    site.await_facts(ActiveState="active", StatusText="the new settings are refused")
    assert "a reload does not turn mock mode on" in site.journal("-p", "err")
    assert json.loads(site.debian.run("aitp", "status", "--json").stdout)["mock"] is False
    site.world.add_tasks(20)
    site.await_done()
    site.configure(OPENAI_API_KEY=own)
    assert site.systemctl("reload") == 0
    site.await_facts(ActiveState="active", StatusText="5 of 5 processes at work")


def test_uninstalling_leaves_ledger_and_settings(site: Site) -> None:
    assert site.debian.run("/opt/aitp/bin/uninstall").returncode == 0

    assert site.debian.facts()["LoadState"] == "not-found"
    assert not (site.debian.files / "opt/aitp").exists()
    assert (site.debian.files / "var/lib/aitp/rate_limits.db").exists()
    site.install()  # and back: the settings are still there
