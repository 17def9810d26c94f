"""What befalls a machine's processes besides kill -9: no memory, no writing, a stop at the worst moment, a flood."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitp.process.scoreboard import Role
from tests.chaos.run import Performance
from tests.chaos.schedule import Schedule
from tests.chaos.stage import Stage
from tests.end_to_end.running import private_megabytes

SETTINGS = {
    "CONCURRENCY_LIMIT": 3,
    "EMBEDDING_BATCH_SIZE": 4,
    "POLLING_INTERVAL_SECONDS": 0.5,
    "SHUTDOWN_GRACE_SECONDS": 5,
}
SLOW = Schedule(0, SETTINGS, {"openai_api": {"latency_seconds": 0.3}}, loads=((0.0, 60),), acts=())
MEMORY = Path("/sys/fs/cgroup/memory")  # cgroup v1
UNIFIED = Path("/sys/fs/cgroup")  # v2
GROUP_BYTES = 64 * 1024
FLOOD = 50_000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.clear()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose ledger is on a file system of its own."""
    stage = Stage(tmp_path, small_disk=True)
    try:
        if stage.disk is None:
            pytest.skip("needs the right to mount a tmpfs (root)")
        yield stage
    finally:
        stage.clear()


@pytest.fixture
def memory_group(tmp_path: Path) -> Iterator[Path]:
    """A control group with next to no memory: whoever is put in there is killed by the kernel when he asks for more."""
    group = next((root / tmp_path.parent.name for root in (MEMORY, UNIFIED) if root.exists()), None)
    limit = "memory.limit_in_bytes" if MEMORY.exists() else "memory.max"
    try:
        assert group is not None
        group.mkdir()
        (group / limit).write_text(str(GROUP_BYTES))
    except (AssertionError, OSError):
        pytest.skip("needs the right to make a memory control group (root)")
    try:
        yield group
    finally:
        group.rmdir()


def kills_in(group: Path) -> int:
    """How many the kernel has killed there for want of memory."""
    counts = group / ("memory.oom_control" if MEMORY.exists() else "memory.events")
    lines = dict(line.split() for line in counts.read_text().splitlines())
    return int(lines["oom_kill"])


def test_a_worker_killed_by_the_kernel_for_want_of_memory_costs_its_call_in_flight_only(
    stage: Stage, memory_group: Path
) -> None:
    performance = Performance(stage, SLOW)
    performance.begin()
    victim = stage.busy(Role.WORKER).pid

    (memory_group / "cgroup.procs").write_text(str(victim))

    stage.wait(lambda: kills_in(memory_group), what="nobody was killed for want of memory")
    assert performance.conclude() == []
    assert performance.figures["bought again"] <= SETTINGS["EMBEDDING_BATCH_SIZE"]
    assert stage.said("Child died", pid=victim, exit_code=-9, cause="crashed")


def test_a_disk_that_can_only_be_read_ends_the_start_with_a_clear_error_and_loses_nothing(disk: Stage) -> None:
    performance = Performance(disk, SLOW)
    performance.begin()
    disk.await_bought(8)
    disk.kill_everything()
    subprocess.run(["mount", "-o", "remount,ro", str(disk.disk)], check=True)

    assert disk.run("run") == 78

    assert "this user must be able to write there (Read-only file system)" in disk.log()
    subprocess.run(["mount", "-o", "remount,rw", str(disk.disk)], check=True)
    disk.restart()
    assert performance.conclude() == []


@pytest.mark.slow
def test_a_worker_stopped_in_the_middle_of_a_transaction_holds_the_others_up_until_its_deadline(stage: Stage) -> None:
    stage.step_seconds = 4.0
    performance = Performance(stage, SLOW)
    performance.begin()
    stage.controls.arm("finish.uncommitted", "stop")
    stage.wait(stage.controls.struck, what="nobody came to the point")

    assert performance.conclude() == []
    assert stage.said("Child overran its deadline and is killed", pid=stage.controls.struck()["finish.uncommitted"])


@pytest.mark.slow
def test_a_page_of_fifty_thousand_each_listed_twice_is_taken_in_as_there_is_room(stage: Stage) -> None:
    stage.open_world(FLOOD, task_api={"repeats": True, "keep_results": False})

    stage.start("master", CONCURRENCY_LIMIT=2, POLLING_INTERVAL_SECONDS=1, INBOX_LIMIT=1000)

    stage.wait(lambda: stage.world.states().get("succeeded", 0) > 1500, 60, "the flood is not worked on")
    assert stage.snapshot().ready + stage.snapshot().waiting <= 1000
    assert max(private_megabytes(child.pid) for child in stage.crew(Role.RELAY)) < 40
    assert stage.stop() == 0
    summary = stage.world.summary()
    assert (summary.bought_again, summary.delivered_again) == (0, 0)
    assert summary.states["pending"] > FLOOD // 2, "it is stopped in the middle of it"
