"""The locked requirements: everything that setup.cfg asks for, pinned by hash, from nowhere in particular."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aitp.settings import PROJECT_ROOT

LOCKS = sorted(PROJECT_ROOT.glob("requirements*.txt"))


def asked_for() -> tuple[list[Requirement], list[Requirement]]:
    setup = configparser.ConfigParser()
    setup.read(PROJECT_ROOT / "setup.cfg")
    runtime, test = setup["options"]["install_requires"], setup["options.extras_require"]["test"]
    return [Requirement(line) for line in runtime.split()], [Requirement(line) for line in test.split()]


def pinned(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+) \\$", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_is_pinned_with_its_hashes(lock: Path) -> None:
    text = re.sub(r"^\s*#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if entry.strip()]

    assert len(entries) == len(pinned(lock))
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_index_no_host_and_no_path_of_a_machine_stands_in_them(lock: Path) -> None:
    text = lock.read_text()

    assert not re.search(r"^--?(?!hash)|://|index-url|find-links|trusted-host|\s/\w+", text, re.MULTILINE)


def test_what_setup_cfg_asks_for_is_what_is_pinned() -> None:
    runtime, test = asked_for()
    for lock, requirements in (("requirements.txt", runtime), ("requirements-test.txt", [*runtime, *test])):
        versions = pinned(PROJECT_ROOT / lock)
        for requirement in requirements:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), (lock, requirement)


def test_tests_run_with_the_packages_that_are_shipped() -> None:
    shipped, tested = pinned(PROJECT_ROOT / "requirements.txt"), pinned(PROJECT_ROOT / "requirements-test.txt")

    assert {name: tested[name] for name in shipped} == shipped


@pytest.mark.parametrize(
    ("program", "tool"), [("lock", "pip-tools"), ("audit", "pip-audit"), ("sbom", "cyclonedx-bom")]
)
def test_programs_that_bring_a_tool_bring_the_version_that_is_pinned(program: str, tool: str) -> None:
    text = (PROJECT_ROOT / "bin" / program).read_text()

    assert "bring_tools" in text
    assert "pip install" not in text
    assert tool in pinned(PROJECT_ROOT / "requirements-tools.txt")


@pytest.mark.slow
def test_the_bill_of_materials_names_every_package_with_its_hashes() -> None:
    made = subprocess.run([PROJECT_ROOT / "bin/sbom"], capture_output=True, text=True, timeout=110, check=False)
    if made.returncode != 0 and "No matching distribution" in made.stderr:
        pytest.skip("requirements-tools.txt cannot be fetched here")
    assert made.returncode == 0, made.stderr

    bill = json.loads(made.stdout)

    assert bill["bomFormat"] == "CycloneDX"
    assert {part["name"]: part["version"] for part in bill["components"]} == pinned(PROJECT_ROOT / "requirements.txt")
    for part in bill["components"]:
        assert any(source.get("hashes") for source in part["externalReferences"]), part["name"]
