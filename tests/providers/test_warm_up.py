"""What a master does for its workers before it forks: one refused call, of which nothing stays but what is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.providers.embeddings import answer, as_base64, item
from tests.providers.scripted import reply, scripted

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def facts() -> Iterator[dict[str, Any]]:
    """What a master and its worker saw of themselves."""
    vector = as_base64([0.03125 + i / 7_919 for i in range(1024)])
    with scripted(reply(200, answer(*(item(i, vector) for i in range(32))))) as server:
        command = [sys.executable, "-m", "tests.providers.forked_worker", server.url]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        yield json.loads(run.stdout)


def test_no_descriptor_no_socket_and_no_thread_are_left(facts: dict[str, Any]) -> None:
    assert facts["after"] == facts["before"]
    assert len([line for line in facts["after"] if line.startswith("thread")]) == 1


def test_a_worker_loads_no_module_of_its_own(facts: dict[str, Any]) -> None:
    assert facts["modules"] == []


def test_whom_to_trust_is_read_once_for_all(facts: dict[str, Any]) -> None:
    assert facts["trust"] == 1


def test_a_worker_has_little_memory_of_its_own_after_twenty_batches(facts: dict[str, Any]) -> None:
    # 12 MB for the whole worker; its ledger and metrics need some of that.
    assert facts["private_kilobytes"] < 10_000
