"""The page of the whole service at work, in a real browser: what it shows becomes true by itself."""

from __future__ import annotations

from aitp.ledger.stats import reading
from tests.end_to_end.running import Service
from tests.web.browser import chromium, needs_browser


@needs_browser
def test_who_watches_sees_the_tasks_go_by(service: Service) -> None:
    world = service.open_world()
    service.start(LOG_LEVEL="INFO")
    service.start_metrics()
    service.wait(lambda: (service.get("/ready") or (0,))[0] == 200, what="it is not ready")
    with chromium() as browser:
        browser.open(f"http://127.0.0.1:{service.port}/")
        assert browser.text("#figures div:nth-child(5) dd").startswith("0")

        world.add_tasks(40)

        service.wait(lambda: browser.text("#figures div:nth-child(5) dd").startswith("40"), 60, "40 are not shown")
        assert browser.text("#verdict") == "All is well."
        assert browser.text("#errors .none") == "None."
        assert browser.text("#models tbody th") == "text-embedding-3-small"
        assert browser.text("#done .sum") == "40 succeeded, 0 failed, 0 put back."
        assert browser.text("#queue .sum") == "Nothing waits."
        assert browser.text("#types tbody").split()[:4] == ["text_embedding", "0", "40", "0"]
        assert browser.run("document.querySelectorAll('#done path.main').length") == 1
        with reading(service.ledger_path) as (connection, _):
            noted = connection.execute("SELECT MIN(waiting) FROM minutes WHERE type = ''").get
        assert noted is not None  # by the relays
        assert browser.console() == []
