"""The ledger cared for from the command line, beside a running service and after damage."""

from __future__ import annotations

import json
import stat

import pytest

from tests.end_to_end.running import Service
from tests.ledger.damage import empty_log, overwrite, pages_of


def test_check_and_backup_beside_a_service_and_recovery_without_it(service: Service) -> None:
    world = service.open_world(40, openai_api={"latency_seconds": 0.3})
    service.start(CONCURRENCY_LIMIT=2, EMBEDDING_BATCH_SIZE=1)
    service.wait(lambda: world.states().get("succeeded", 0) > 3, what="nothing is delivered")
    backup = service.directory / "backup.db"

    code, said = service.ask("ledger", "check", "--json")
    assert (code, json.loads(said)["ok"], json.loads(said)["problems"]) == (0, True, [])
    code, said = service.ask("ledger", "backup", "--json", str(backup))
    assert (code, json.loads(said)["backup"]) == (0, str(backup))
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    code, said = service.ask("ledger", "recover")
    assert code == 0
    assert "is sound" in said
    assert service.stop() == 0

    empty_log(service.ledger_path)
    overwrite(service.ledger_path, pages_of(service.ledger_path, "contents")[0])
    assert service.run("master", timeout=20) == 78
    assert "`aitp ledger recover`" in service.log()
    code, said = service.ask("ledger", "check")
    assert code == 1
    assert "is damaged:" in said
    code, said = service.ask("ledger", "recover")
    assert code == 0
    assert "results" not in said.partition("lost:")[2]  # tasks that were not run yet are listed by the task API again
    assert len(list(service.ledger_path.parent.glob("*.damaged-*Z"))) == 1
    assert service.ask("ledger", "check")[0] == 0

    service.start()
    service.wait(lambda: world.states() == {"succeeded": 40}, what="not everything is delivered")
    assert world.summary().bought_again == 0


@pytest.mark.slow
def test_a_damaged_ledger_ends_the_whole_service_at_once(service: Service) -> None:
    service.open_world(1)
    service.configure(CONCURRENCY_LIMIT=1)
    assert service.run("once") == 0
    empty_log(service.ledger_path)
    overwrite(service.ledger_path, 1)

    assert service.run("run") == 78
    assert service.log().count("Configuration cannot be used") == 1


def test_a_ledger_that_was_never_made_is_said_to_be_missing(service: Service) -> None:
    service.open_world()

    assert service.run("ledger", "check") == 1
    assert "there is no ledger" in service.log()
