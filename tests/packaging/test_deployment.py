"""The unit, supervisord's configuration and the image agree with each other and with the settings."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from annotated_types import Le

from aitp.settings import FIELDS, PROJECT_ROOT, load_settings

UNIT = PROJECT_ROOT / "systemd/aitp.service"
DOCKERFILE = (PROJECT_ROOT / "Dockerfile").read_text()


def read(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def test_whoever_stops_the_service_waits_longer_than_whom_he_stops() -> None:
    longest_grace = next(bound.le for bound in FIELDS["SHUTDOWN_GRACE_SECONDS"].metadata if isinstance(bound, Le))
    supervisord = float(read(PROJECT_ROOT / "etc/supervisord.conf")["program:aitp-master"]["stopwaitsecs"])
    systemd = float(read(UNIT)["Service"]["TimeoutStopSec"])

    # 5 s between the grace's end and supervisord's kill, for the master to kill, reap and release.
    assert float(str(longest_grace)) + 5 < supervisord < systemd
    assert f"--stop-timeout {systemd:.0f}" in DOCKERFILE


def test_bad_configuration_is_not_tried_again() -> None:
    assert read(UNIT)["Service"]["RestartPreventExitStatus"] == "78"
    assert "78" in read(PROJECT_ROOT / "etc/supervisord.conf")["program:aitp-master"]["exitcodes"].split(",")


def test_the_unit_keeps_its_places_outside_the_program() -> None:
    text = UNIT.read_text()
    given = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
    assert "LoadCredential=aitp:/etc/aitp/credentials" in text
    settings = load_settings({"AITP_ENV_FILE": str(PROJECT_ROOT / ".env.example"), **dict(list(given.items())[1:])})

    assert given["AITP_ENV_FILE"] == "/etc/aitp/aitp.env"
    assert settings.rate_limit_storage_path.parent == Path("/var/lib/aitp")
    assert settings.runtime_dir == Path("/run/aitp")
    assert "EnvironmentFile" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "aitp.service"
    unit.write_text(UNIT.read_text().replace("/opt/aitp/bin/aitp", "/bin/true"))

    run = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)

    assert "aitp.service" not in run.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_the_unit_leaves_the_service_next_to_nothing_to_break() -> None:
    judge = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(UNIT)]
    verdict = subprocess.run(judge, capture_output=True, text=True, check=False)

    # 1.5 of 10. What is left is the network, and children that speak to systemd.
    assert verdict.returncode == 0, verdict.stdout


def test_the_image_gets_what_it_copies_and_nothing_secret() -> None:
    kept = {line[1:] for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in line.split()
    }

    may_be_missing = {"extension[s]"}  # a pattern, which may match nothing
    assert copied - may_be_missing == kept - {"extensions"}
    assert all((PROJECT_ROOT / source).exists() for source in copied - may_be_missing)


def test_the_image_stands_on_one_exact_version_and_can_be_held_to_its_bytes() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)

    assert bases == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}"]
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-bookworm$", DOCKERFILE, re.MULTILINE)
    # Nothing is fetched that a lock does not name, and no secret can be handed to the build.
    assert not re.search(r"^ADD |curl|wget|apt-get|^ARG (?!PYTHON_IMAGE|REVISION)", DOCKERFILE, re.MULTILINE)


def test_the_image_runs_as_a_user_of_its_own() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "\nUSER aitp\n" in last_stage
    assert last_stage.rstrip().endswith('CMD ["aitp", "run"]')


@pytest.mark.parametrize(
    "program",
    [
        "bin/aitp",
        "bin/audit",
        "bin/as-service",
        "bin/install",
        "bin/lock",
        "bin/sbom",
        "bin/supervisorctl",
        "bin/test",
        "bin/uninstall",
        ".ci/run",
    ],
)
def test_programs_are_executable(program: str) -> None:
    assert os.access(PROJECT_ROOT / program, os.X_OK)
