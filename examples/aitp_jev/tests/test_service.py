"""The whole: aitp as a service, with this package beside it, against servers that keep count."""

from __future__ import annotations

from typing import Any

from jev_stub import Jev

from aitp.demo.documents import tasks_of
from tests.end_to_end.running import Service

MODEL = "jev-1.13.0"
TYPES = ("defining_impact_area", "defining_severity")


def add(
    service: Service, count: int, types: tuple[str, ...] = TYPES, start: int = 0, model: str = "jev-1.13.0"
) -> None:
    """So many tasks for Jev, with options where a type needs them."""
    documents: list[dict[str, Any]] = list(tasks_of(types, count, start=start, chat_model=model))
    for document in documents:
        if document["type"] == "defining_impact_area":
            document["content"]["options"] = ["Saúde", "Política", "Economia"]
    service.world.add_documents(documents)


def test_areas_and_severities_are_bought_from_jev_and_delivered(service: Service, jev: Jev) -> None:
    add(service, 6)
    service.start()
    service.await_states(succeeded=6)

    assert len(jev.bought()) == 6
    assert service.world.purchases() == []
    assert len(service.said("Jev judged a severity", matrix=2, reach=0, digit=2, cut=False)) == 3
    assert "ts-a-key-of-the-stub" not in service.log()
