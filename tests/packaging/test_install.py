"""bin/install and bin/uninstall: what they refuse, what they make, repeat, upgrade, leave, and take away."""

from __future__ import annotations

import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT
from tests.packaging.chroot import MEMORY, Chroot, reason_against

LINKS = (
    "/usr/local/bin/aitp",
    "/usr/local/share/man/man1/aitp.1",
    "/usr/local/share/bash-completion/completions/aitp",
    "/usr/local/share/zsh/site-functions/_aitp",
    "/etc/fish/completions/aitp.fish",
)


def install(*options: str) -> subprocess.CompletedProcess[str]:
    """On this machine, where it must not do anything."""
    return subprocess.run([PROJECT_ROOT / "bin/install", *options], capture_output=True, text=True, timeout=30)


# What is refused


@pytest.mark.parametrize("option", ["--fly", "--prefix", "here"])
def test_wrong_usage_exits_2_and_shows_the_right_one(option: str) -> None:
    run = install(option)

    assert run.returncode == 2
    assert "Usage: sudo bin/install" in run.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--prefix", "opt/aitp"), "must be an absolute path"),
        (("--prefix", "/opt/my programs"), "use letters, digits"),
        (("--prefix", "/opt/../etc/aitp"), "use letters, digits"),
        (("--prefix", "/usr/local"), "a directory of its own"),
        (("--prefix=/home/ana/aitp",), "ProtectHome="),
        (("--prefix", "/tmp/aitp"), "PrivateTmp="),
        (("--user", "root"), "needs no privilege"),
        (("--user", "Ana Maria"), "use small letters"),
        (("--user=",), "use small letters"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(options: tuple[str, ...], complaint: str) -> None:
    run = install("--dry-run", *options)

    assert (run.returncode, run.stdout) == (1, "")
    assert complaint in run.stderr


@pytest.fixture
def chroot() -> Iterator[Chroot]:
    if reason := reason_against():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="aitp-install-", dir=MEMORY) as place:
        yield Chroot(Path(place))


def test_whoever_is_not_root_is_told_how_to_be(chroot: Chroot) -> None:
    run = chroot.run("setpriv", "--reuid=65534", "--clear-groups", "/srv/aitp/bin/install")

    assert run.returncode == 1
    assert "sudo bin/install" in run.stderr


def test_without_a_running_systemd_it_says_so(chroot: Chroot) -> None:
    run = chroot.run("/srv/aitp/bin/install")

    assert (run.returncode, run.stdout) == (1, "")
    assert "systemd does not run here" in run.stderr


@pytest.mark.parametrize(
    ("lack", "complaint"), [({"TOO_OLD": "1"}, "needs Python 3.11"), ({"NO_VENV": "1"}, "apt install python3-venv")]
)
def test_a_python_that_will_not_do_is_named(chroot: Chroot, lack: dict[str, str], complaint: str) -> None:
    for name in ("python3.13", "python3.12", "python3.11"):
        (chroot.files / "usr/local/sbin" / name).symlink_to("python3")

    run = chroot.install(**lack)

    assert (run.returncode, run.stdout) == (1, "")
    assert complaint in run.stderr


# What is made


def test_a_dry_run_tells_every_step_and_writes_nothing(chroot: Chroot) -> None:
    before = {path for path in chroot.files.rglob("*") if "srv" not in path.parts}
    told = chroot.install("--dry-run")
    assert {path for path in chroot.files.rglob("*") if "srv" not in path.parts} - before <= {chroot.files / "calls"}

    done = chroot.install()

    assert (told.returncode, done.returncode) == (0, 0), told.stderr + done.stderr
    steps = [line.removeprefix("would ") for line in told.stdout.splitlines()]
    assert len(steps) > 8
    assert done.stdout.splitlines()[: len(steps)] == steps


def test_everything_is_where_it_belongs_with_the_rights_that_it_needs(chroot: Chroot) -> None:
    assert chroot.install().returncode == 0

    passwd = (chroot.files / "etc/passwd").read_text()
    assert re.search(r"^aitp:x:\d+:\d+::/var/lib/aitp:/usr/sbin/nologin$", passwd, re.MULTILINE)
    rights = "stat -c '%a %U:%G %n' /etc/aitp /etc/aitp/aitp.env /etc/aitp/credentials /var/lib/aitp /opt/aitp/bin/aitp"
    assert chroot.run("sh", "-c", f"{rights} | sort -k 3").stdout.splitlines() == [
        "750 root:aitp /etc/aitp",
        "640 root:aitp /etc/aitp/aitp.env",
        "700 root:root /etc/aitp/credentials",
        "755 root:root /opt/aitp/bin/aitp",
        "700 aitp:aitp /var/lib/aitp",
    ]
    writable = [path for path in (chroot.files / "opt/aitp").rglob("*") if path.lstat().st_mode & 0o022]
    assert [path for path in writable if not path.is_symlink()] == []
    assert (chroot.files / "etc/systemd/system/multi-user.target.wants/aitp.service").is_symlink()
    for link in LINKS:
        assert chroot.run("test", "-f", link).returncode == 0, link


def test_prefix_and_user_reach_the_unit_and_are_remembered(chroot: Chroot) -> None:
    assert chroot.install("--prefix", "/srv/tasks", "--user", "tasks").returncode == 0

    unit = (chroot.files / "etc/systemd/system/aitp.service").read_text()
    assert "ExecStart=/srv/tasks/bin/aitp run\n" in unit
    assert "User=tasks\nGroup=tasks\n" in unit
    assert "/opt/aitp" not in unit
    again = chroot.install()
    assert again.returncode == 0
    assert not (chroot.files / "opt/aitp").exists()
    assert "(the user tasks is there)" in again.stdout


# Again, and newer


def test_a_second_time_changes_nothing(chroot: Chroot) -> None:
    chroot.install()
    release, settings = chroot.release(), chroot.files / "etc/aitp/aitp.env"
    settings.write_text("API_BASE_URL=http://mine\n")
    (chroot.files / "calls").unlink()

    again = chroot.install()

    assert again.returncode == 0
    assert chroot.release() == release
    assert settings.read_text() == "API_BASE_URL=http://mine\n"
    assert "-m pip" not in (chroot.files / "calls").read_text()
    assert [line for line in again.stdout.splitlines() if line and line[0] not in "( "] == [
        "make /etc/aitp (root:aitp, 0750), /etc/aitp/credentials (root, 0700) and /var/lib/aitp (aitp, 0700)"
    ]


def test_a_newer_version_takes_its_place_and_the_former_one_stays_for_a_way_back(chroot: Chroot) -> None:
    releases = []
    for number in range(3):
        (chroot.source / "aitp/news.py").write_text(f"NUMBER = {number}\n")
        with (chroot.source / ".env.example").open("a") as example:
            example.write(f"# A_NEW_SETTING_{number}=\n")
        run = chroot.install()
        assert run.returncode == 0, run.stderr
        releases.append(chroot.release().removeprefix("releases/"))

    assert len(set(releases)) == 3
    kept = {path.name for path in (chroot.files / "opt/aitp/releases").iterdir() if path.is_dir()}
    assert kept == set(releases[1:])
    assert [line for line in run.stdout.splitlines() if "is a new setting" in line] == [
        "  A_NEW_SETTING_2 is a new setting: see /opt/aitp/current/.env.example"
    ]


def test_an_upgrade_that_fails_leaves_the_version_in_use_and_says_so(chroot: Chroot) -> None:
    chroot.install()
    before = chroot.release()
    (chroot.source / "aitp/news.py").write_text("NEWS = True\n")

    failed = chroot.install(NO_NETWORK="1")

    assert failed.returncode == 1
    assert f"the version in {before} is still the one in use" in failed.stderr
    assert chroot.release() == before
    assert chroot.install().returncode == 0  # what was half made is no hindrance
    assert chroot.release() != before


# Packages of others


def extend(chroot: Chroot, *parts: str) -> None:
    """Have /etc/aitp name a package with these parts, which lies in /srv/mine."""
    source = chroot.files / "srv/mine/module.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text("NEWS = 1\n")
    lines = ["../../srv/mine  # ours", *(f"# parts: {part}" for part in parts)]
    (chroot.files / "etc/aitp/extensions.txt").write_text("\n".join(lines) + "\n")


def test_extensions_are_installed_into_each_release_among_the_packages_that_are_locked(chroot: Chroot) -> None:
    chroot.install()
    extend(chroot, "task type defining_sentiment")
    releases = [chroot.release()]
    for change in (None, "srv/mine/module.py", "srv/aitp/aitp/news.py", "srv/mine/build/module.py"):
        if change:
            (chroot.files / change).parent.mkdir(exist_ok=True)
            (chroot.files / change).write_text("NEWS = 2\n")
        (chroot.files / "calls").unlink()
        run = chroot.install()
        assert run.returncode == 0, run.stderr
        releases.append(chroot.release())

        calls = (chroot.files / "calls").read_text()
        if releases[-1] != releases[-2]:
            assert "install the extensions that /etc/aitp/extensions.txt names" in run.stdout
            assert re.search(r"-m pip .*--no-build-isolation .*/constraints.txt -r extensions.txt", calls)
        else:
            assert "-m pip" not in calls

    assert len(set(releases)) == 4  # what a build leaves behind makes no new one
    locked = (chroot.files / "opt/aitp" / releases[-1] / ".venv/constraints.txt").read_text()
    assert "\npydantic==" in locked
    assert "sha256" not in locked


def test_an_extension_that_cannot_be_installed_leaves_the_version_in_use(chroot: Chroot) -> None:
    chroot.install()
    before = chroot.release()
    extend(chroot, "task type defining_sentiment")

    failed = chroot.install(NO_NETWORK="1")

    assert failed.returncode == 1
    assert f"the version in {before} is still the one in use" in failed.stderr
    assert chroot.release() == before


def test_what_would_disappear_stops_an_upgrade_unless_it_is_named(chroot: Chroot) -> None:
    chroot.install()
    extend(chroot, "provider jev", "task type defining_sentiment", "task type sentiment")
    chroot.install()
    before = chroot.release()
    extend(chroot, "task type sentiment")

    stopped = chroot.install()

    assert stopped.returncode == 1
    assert "    the provider jev\n    the task type defining_sentiment\n" in stopped.stderr
    assert "the task type sentiment" not in stopped.stderr
    assert "in /etc/aitp/extensions.txt, or let it go: bin/install --without NAME" in stopped.stderr
    assert chroot.release() == before
    assert chroot.install("--without", "jev").returncode == 1
    assert chroot.install("--without", "jev", "--without=defining_sentiment").returncode == 0
    assert chroot.release() != before


# Away


def test_uninstalling_leaves_settings_ledger_and_user_unless_told(chroot: Chroot) -> None:
    chroot.install()
    ledger = chroot.files / "var/lib/aitp/rate_limits.db"
    ledger.touch()

    assert chroot.uninstall().returncode == 0

    gone = ("/opt/aitp", "/etc/systemd/system/aitp.service", *LINKS)
    assert [path for path in gone if chroot.is_there(path)] == []
    assert ledger.exists()
    assert chroot.run("id", "aitp").returncode == 0
    assert stat.S_IMODE((chroot.files / "etc/aitp/aitp.env").stat().st_mode) == 0o640
    assert chroot.uninstall().returncode == 1


@pytest.mark.parametrize("before", [False, True], ids=["at once", "after uninstalling"])
def test_purging_leaves_nothing(chroot: Chroot, before: bool) -> None:
    chroot.install()
    if before:
        assert chroot.uninstall().returncode == 0

    assert chroot.uninstall("--purge").returncode == 0

    kept = ("/opt/aitp", "/etc/aitp", "/var/lib/aitp", *LINKS)
    assert [path for path in kept if chroot.is_there(path)] == []
    assert chroot.run("id", "aitp").returncode == 1
