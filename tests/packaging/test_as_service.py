"""bin/as-service: whose aitp it is, what it finds, and what is left of the secrets afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

USER = "daemon"
HOME = pwd.getpwnam(USER).pw_dir
TELLS = """#!/bin/sh
id -un
echo "$@"
echo "$AITP_ENV_FILE $RUNTIME_DIR $HOME $OTHER"
[ -z "${CREDENTIALS_DIRECTORY:-}" ] || (cd "$CREDENTIALS_DIRECTORY" && stat -c '%a %U %n' . * && cat *)
[ -z "${UNTIL_KILLED:-}" ] || { echo "$CREDENTIALS_DIRECTORY" >"$UNTIL_KILLED"; exec sleep 60; }
exit 7
"""
UNIT = f"""
[Service]
User=somebody
Environment=AITP_ENV_FILE=/etc/aitp/aitp.env
Environment=RUNTIME_DIR=/run/aitp "OTHER=two words"
LoadCredential=aitp:SECRETS
# A drop-in, as `systemctl cat` shows it
[Service]
User={USER}
"""


class Place:
    """A copy of it, beside an aitp that tells what it sees."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self.directory = directory
        self.secrets = directory / "credentials"
        self.secrets.mkdir(mode=0o700)
        (directory / "aitp.service").write_text(UNIT.replace("SECRETS", str(self.secrets)))
        (directory / "aitp").write_text(TELLS)
        (directory / "aitp").chmod(0o755)
        shutil.copy(PROJECT_ROOT / "bin/as-service", directory)

    def start(self, *arguments: str, wrapper: tuple[str, ...] = (), **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*wrapper, self.directory / "as-service", "--unit", self.directory / "aitp.service", *arguments],
            env={"PATH": os.environ["PATH"], **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.directory,
            text=True,
        )

    def tell(self, *arguments: str, wrapper: tuple[str, ...] = ()) -> list[str]:
        process = self.start(*arguments, wrapper=wrapper)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 7
        return output.splitlines()


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as directory:  # another user is to see it, as he would not pytest's
        yield Place(Path(directory))


def test_root_gets_it_as_the_service_s_user_with_its_places(place: Place) -> None:
    assert place.tell("dead", "show", "a b") == [
        USER,
        "dead show a b",
        f"/etc/aitp/aitp.env /run/aitp {HOME} two words",
    ]


def test_secrets_are_lent_for_as_long_as_it_runs(place: Place, tmp_path: Path) -> None:
    (place.secrets / "OPENAI_API_KEY").write_text("sk-secret\n")
    (place.secrets / "OPENAI_API_KEY").chmod(0o600)

    *_, directory, file, secret = place.tell("check")

    assert (directory, file, secret) == (f"500 {USER} .", f"400 {USER} aitp_OPENAI_API_KEY", "sk-secret")
    assert list(Path("/run").glob("aitp-credentials-*")) == []


def test_a_signal_reaches_the_command_and_takes_the_secrets_away(place: Place) -> None:
    (place.secrets / "OPENAI_API_KEY").write_text("sk-secret\n")
    note = place.directory / "note"
    note.touch()
    shutil.chown(note, USER)
    process = place.start("status", "--watch", UNTIL_KILLED=str(note))
    lent = Path(wait_until(lambda: note.read_text().strip()))
    assert lent.is_dir()

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 128 + signal.SIGTERM
    assert not lent.exists()


def test_the_runtime_directory_is_there_as_when_the_service_runs(place: Place) -> None:
    unit = place.directory / "aitp.service"
    name = place.directory.name  # of nobody else's
    unit.write_text(unit.read_text() + f"RuntimeDirectory={name}\n")
    try:
        place.tell("check")
        made = (Path("/run") / name).stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid) == (0o700, pwd.getpwnam(USER).pw_uid)
    finally:
        shutil.rmtree(Path("/run") / name, ignore_errors=True)


def test_anybody_else_gets_a_plain_aitp(place: Place) -> None:
    (place.secrets / "OPENAI_API_KEY").write_text("sk-secret\n")
    nobody = ("setpriv", "--reuid=nobody", "--clear-groups", "env", "HOME=/mine")

    assert place.tell("--help", wrapper=nobody) == ["nobody", "--help", "  /mine "]
    assert place.tell("status", "--help", wrapper=nobody)[:2] == ["nobody", "status --help"]
    assert place.tell("status", wrapper=(*nobody, "AITP_ENV_FILE=mine"))[:2] == ["nobody", "status"]


def test_who_may_not_see_the_service_is_told_whose_it_is_and_how_to_ask(place: Place) -> None:
    asked = place.start("status", "--json", wrapper=("setpriv", "--reuid=nobody", "--clear-groups"))
    output, errors = asked.communicate(timeout=20)

    assert (asked.returncode, output) == (1, "")
    assert errors == (
        f"aitp: the service on this machine is the user {USER}'s, and so are its settings: sudo aitp status --json\n"
    )
