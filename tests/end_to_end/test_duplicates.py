"""Equal texts are bought once by the whole service, whoever lists them and when."""

from __future__ import annotations

from tests.end_to_end.running import Service
from tests.services import a_task

TEXT = "A mesma frase, duas vezes."


def test_equal_tasks_are_bought_once_and_each_is_delivered(service: Service) -> None:
    world = service.open_world()
    together = world.add_documents([a_task(TEXT) for _ in range(5)])
    service.start(POLLING_INTERVAL_SECONDS=1)
    service.start_metrics()
    service.await_states(succeeded=5)
    later = world.add_documents([a_task(TEXT)])
    service.await_states(succeeded=6)

    assert len(world.purchases()) == 1
    assert {delivery.task_id for delivery in world.deliveries()} == {*together, *later}
    assert len({delivery.task_id for delivery in world.deliveries()}) == 6
    assert len(service.said("Result reused")) == 5
    _, scraped = service.get("/metrics") or (0, "")
    assert 'ai_results_reused_total{task_type="text_embedding"} 5.0' in scraped
    assert 'ai_tasks_processed_total{status="succeeded",task_type="text_embedding"} 6.0' in scraped


def test_switched_off_every_task_is_bought(service: Service) -> None:
    world = service.open_world()
    world.add_documents([a_task(TEXT) for _ in range(3)])
    service.start(RESULT_REUSE_SECONDS=0)
    service.await_states(succeeded=3)

    assert len(world.purchases()) == 3
