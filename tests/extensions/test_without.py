"""Tasks whose model only another package's provider serves, where that package is not installed."""

from __future__ import annotations

import pytest

from aitp.demo.documents import tasks_of
from tests.end_to_end.conftest import service as service
from tests.end_to_end.running import Service


@pytest.mark.parametrize("mode", ["openai", "hybrid"])
def test_a_task_for_jev_waits_and_says_so(service: Service, mode: str) -> None:
    service.open_world()
    service.world.add_documents(list(tasks_of(("defining_severity",), 1, chat_model="jev-1.13.0")))
    service.start(PROCESSING_MODE=mode, WIKIDATA_ENABLED="false")
    service.start_metrics()
    why = "no package that serves it is installed: aitp_jev"
    service.wait(lambda: why in str(service.get("/ready")))

    assert service.get("/ready")[0] == 503  # type: ignore[index]
    assert why in service.ask("check", "--offline")[1]
    service.wait(lambda: service.said("Tasks of a model wait", model="jev-1.13.0"))
    assert service.world.states() == {"pending": 1}
    assert service.world.purchases() == []
