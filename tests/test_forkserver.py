"""A program that is forked for a test ends as it does anywhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import forkserver

PROGRAM = """
import atexit, sys, threading, time
atexit.register(print, "at the end", end="")
threading.Thread(target=lambda: [time.sleep(0.05), print("by a thread")]).start()
print("said", end=" ")
"""


@pytest.mark.parametrize("into", [None, "/dev/full"])
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "sys.exit('why')", "1 / 0"])
def test_what_it_says_last_and_its_exit_code_are_the_same(end: str, into: str | None) -> None:
    def run() -> tuple[int, str, list[str]]:
        command = [sys.executable, "-m", "tests.snippet", PROGRAM + end]
        with open(into or "/dev/null", "w") as full:
            done = subprocess.run(
                command,
                cwd=forkserver.ROOT,
                stdout=full if into else subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        return done.returncode, done.stdout, done.stderr.splitlines()[-1:]

    forked = run()
    with forkserver.switched_off():
        assert forked == run()
