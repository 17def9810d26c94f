"""What a worker or a relay costs in memory of its own, once it has worked for a while."""

from __future__ import annotations

import pytest

from aitp.process.scoreboard import Role, State
from tests.end_to_end.running import Service, private_megabytes

pytestmark = pytest.mark.usefixtures("own_interpreter")


BATCHES, BATCH = 12, 32
CHUNK = 8  # of a relay
MOST_MEGABYTES = 13.5


def test_after_a_dozen_batches_a_child_has_little_memory_of_its_own(service: Service) -> None:
    tasks = 2 * (BATCHES + 2) * BATCH
    world = service.open_world(tasks, openai_api={"latency_seconds": 0.05})
    service.start(CONCURRENCY_LIMIT=2, EMBEDDING_BATCH_SIZE=BATCH)
    service.await_states(timeout=60, succeeded=tasks)

    done = {child.slot: child.done for child in service.crew(Role.WORKER)}
    assert all(count >= BATCHES * BATCH for count in done.values()), done
    assert world.summary().deliveries >= 2 * BATCHES * CHUNK
    # At rest: before that, a page or an answer in hand is memory as well.
    service.wait(lambda: all(child.state is State.IDLE for child in service.crew()), what="children still at work")
    private = {child.slot: private_megabytes(child.pid) for child in service.crew()}
    assert max(private.values()) <= MOST_MEGABYTES, private
