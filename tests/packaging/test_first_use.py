"""bin/aitp on a machine that never saw it: what it makes, says, repeats, and leaves behind when it is stopped."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from aitp import __version__
from tests.packaging.machine import Machine
from tests.waiting import wait_until


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine without any Python."""
    return Machine(tmp_path)


@pytest.fixture
def machine(bare: Machine) -> Machine:
    bare.add_python()
    return bare


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_the_first_use_makes_an_environment_and_says_so(machine: Machine) -> None:
    run = machine.run("check", "--json")

    assert run.returncode == 0
    assert run.stdout.endswith("runs -m aitp check --json\n")
    assert "making a virtual environment" in run.stderr
    assert len(run.stderr.splitlines()) == 2
    assert machine.installed() == ["requirements-build.txt", "requirements.txt"]
    assert (machine.venv / "bin/aitp.pth").read_text() == f"{machine.root}\n"


def test_at_a_terminal_it_shows_how_far_it_is(machine: Machine) -> None:
    ours, theirs = pty.openpty()
    environ = {"PATH": str(machine.tools), "CALLS": str(machine.calls_file), "COLLECTED": "one two"}

    subprocess.run(
        [machine.root / "bin/aitp", "check"], env=environ, stderr=theirs, stdout=subprocess.DEVNULL, timeout=60
    )

    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    of = sum("==" in line for line in (machine.root / "requirements.txt").read_text().splitlines())
    assert f"\raitp: 2 of {of} packages " in shown
    assert shown.endswith("\r\x1b[K")


def test_aitp_itself_is_a_package_of_its_environment_in_the_version_that_is_there(machine: Machine) -> None:
    machine.run("check")
    init = machine.root / "aitp/__init__.py"
    init.write_text(init.read_text().replace(__version__, "9.9.9"))
    machine.run("check")

    (info,) = (machine.venv / "bin").glob("aitp-*.dist-info")
    assert info.name == "aitp-9.9.9.dist-info"
    assert (info / "METADATA").read_text() == "Metadata-Version: 2.1\nName: aitp\nVersion: 9.9.9\n"


def test_the_second_use_does_nothing_but_start(machine: Machine) -> None:
    machine.run("check")
    machine.calls_file.unlink()

    run = machine.run("check")

    assert run.stderr == ""
    assert machine.calls("") == ["-m aitp check"]


def test_the_service_takes_the_place_of_the_shell_so_that_signals_reach_it(machine: Machine) -> None:
    machine.run("check")

    process = machine.start("run")
    output, _ = process.communicate(timeout=30)

    assert output == f"pid {process.pid} runs -m aitp run\n"


def test_it_works_through_a_symbolic_link(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(machine.root / "bin/aitp")

    assert machine.run("check", program=tmp_path / "link").returncode == 0
    assert machine.venv.is_dir()


def test_changed_requirements_are_installed_into_the_same_environment(machine: Machine) -> None:
    machine.run("check")
    with (machine.root / "requirements.txt").open("a") as file:
        file.write("# another\n")

    run = machine.run("check")

    assert "bringing the Python packages" in run.stderr
    assert len(machine.calls("-m venv")) == 1
    assert len(machine.installed()) == 4


def test_a_clone_that_was_moved_finds_itself_again(machine: Machine) -> None:
    machine.run("check")
    machine.root = machine.root.rename(machine.root.parent / "elsewhere")

    assert machine.run("check").returncode == 0
    assert (machine.root / ".venv/bin/aitp.pth").read_text() == f"{machine.root}\n"


def test_an_environment_whose_python_is_gone_is_made_anew(machine: Machine) -> None:
    machine.run("check")
    (machine.venv / "bin/python").unlink()

    assert machine.run("check").returncode == 0
    assert len(machine.calls("-m venv --clear")) == 1


def test_two_first_uses_at_once_make_one_environment(machine: Machine) -> None:
    both = [machine.start("check"), machine.start("check")]

    assert [finish(process)[0] for process in both] == [0, 0]
    assert len(machine.calls("-m venv")) == 1
    assert len(machine.installed()) == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_first_use_leaves_nothing_half_made(machine: Machine, stop: signal.Signals) -> None:
    temporary = machine.root.parent / "tmp"
    temporary.mkdir()
    process = machine.start("check", SLOW="1", TMPDIR=str(temporary))
    wait_until((machine.venv / "lib").exists)

    process.send_signal(stop)

    code, errors = finish(process)
    assert code == 128 + stop
    assert "interrupted; removing what was half made" in errors
    assert not list(temporary.iterdir())
    assert [path.name for path in machine.root.glob(".venv*")] == [".venv.lock"]


def test_after_a_kill_the_next_use_starts_anew(machine: Machine) -> None:
    process = machine.start("check", SLOW="1")
    wait_until((machine.venv / "lib").exists)
    making = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    process.kill()
    # The orphan holds the lock until it ends, as pip would.
    os.killpg(making, signal.SIGKILL)
    process.communicate(timeout=30)

    run = machine.run("check")

    assert run.returncode == 0
    assert len(machine.calls("-m venv")) == 2
    assert not (machine.venv / "lib").exists()


def test_without_network_it_says_so_and_tries_again_next_time(machine: Machine) -> None:
    failed = machine.run("check", NO_NETWORK="1")

    assert failed.returncode == 1
    assert "ERROR: no network\naitp: installing the Python packages failed (see above)" in failed.stderr
    assert not machine.venv.exists()
    assert machine.run("check").returncode == 0


def test_without_python_one_line_says_what_to_install(bare: Machine) -> None:
    run = bare.run("check")

    assert run.returncode == 1
    assert run.stderr == (
        "aitp: needs Python 3.11 or newer, and found no python3; "
        "install it (Debian 12: apt install python3 python3-venv)\n"
    )


def test_an_old_python_is_named(machine: Machine) -> None:
    run = machine.run("check", TOO_OLD="1")

    assert run.returncode == 1
    assert "needs Python 3.11 or newer, and found Python 3.11.2;" in run.stderr


def test_a_python_without_venv_names_the_package(machine: Machine) -> None:
    run = machine.run("check", NO_VENV="1")

    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "apt install python3-venv" in run.stderr


def test_a_newer_python_of_another_name_is_found(bare: Machine) -> None:
    bare.add_python("python3.12")
    assert bare.run("check").returncode == 0


def test_a_directory_that_is_something_else_is_refused_and_left_alone(machine: Machine, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()

    run = machine.run("check", AITP_VENV=str(precious))

    assert run.returncode == 1
    assert "is not empty and not a virtual environment" in run.stderr
    assert [path.name for path in precious.iterdir()] == ["file"]


def test_aitp_venv_names_another_place(machine: Machine, tmp_path: Path) -> None:
    assert machine.run("check", AITP_VENV="other place").returncode == 0
    assert (tmp_path / "other place/pyvenv.cfg").exists()
    assert not machine.venv.exists()
