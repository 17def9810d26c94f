"""The pictures of the page in docs/: an hour of service, looked at in a real browser.

    PYTHONPATH=. python bench/screenshots.py [--to docs]

Needs chromium, chromium-driver and pngquant (Debian). The hour is lived through by a real ledger whose clock is set by
hand.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aitp.process.scoreboard import State
from aitp.providers.inventory import Inventory, ModelState, Stage, write_inventory
from aitp.settings import PROJECT_ROOT
from aitp.tasks import Ending, Health
from tests.web.browser import Browser, chromium
from tests.web.hour import EMBEDDING, Hour
from tests.web.serving import served
from tests.web.world import World

SETTINGS = {
    "PROCESSING_MODE": "hybrid",
    "SUPPORTED_MODELS": "nomic-embed-text",
    "CONCURRENCY_LIMIT": "3",
    "RATE_LIMIT_PER_MINUTE": "50",
    "RATE_LIMIT_PER_HOUR": "600",
    "RATE_LIMIT_PER_DAY": "5000",
    "RATE_LIMIT_PER_WEEK": "20000",
    "RATE_LIMIT_PER_MONTH": "0",
    "PRICES": str(PROJECT_ROOT / "etc/prices.example.toml"),
    "BUDGET_PER_DAY": "5",
    "BUDGET_PER_MONTH": "60",
}


@contextmanager
def service(story: Callable[[Hour], None]) -> Iterator[str]:
    """The page of a service that has had such an hour."""
    with tempfile.TemporaryDirectory(prefix="aitp-page-") as place:
        folder = Path(place)
        world = World.create(folder, **SETTINGS)
        for slot in (2, 102, 103):
            world.child(slot, State.IDLE)
        write_inventory(world.settings.runtime_dir, Inventory({"nomic-embed-text": ModelState(Stage.PRESENT)}))
        hour = Hour(world)
        story(hour)
        hour.close()
        with served(folder, SETTINGS) as url:
            yield url


def well(hour: Hour) -> None:
    """Everything goes as it should."""
    hour.spent_before(today=1_310_000_000, this_month=23_700_000_000)
    hour.live()
    hour.leave(waiting=14, in_flight=2, finished=4)


def badly(hour: Hour) -> None:
    """The task API refuses the token, results wait and one was refused for good, a task failed."""

    def refused() -> None:
        hour.refuse("400: result must be a non-empty array of numbers")

    def failed() -> None:
        hour.trouble("the answer ended before it was complete (finish_reason length)", health=Health.HEALTHY)
        hour.trouble("the text has no words", EMBEDDING, Ending.FAILED, Health.HEALTHY)

    hour.spent_before(today=4_420_000_000, this_month=31_250_000_000)
    hour.live({21: refused, 44: failed})
    hour.leave(waiting=0, in_flight=1, finished=31)
    hour.api_refuses("the task API refuses a fresh token (403)")


def save(browser: Browser, path: Path) -> None:
    """A picture of the whole page, with as few colours as it needs."""
    command = ["pngquant", "--speed", "1", "--quality", "80-100", "-"]
    path.write_bytes(subprocess.run(command, input=browser.screenshot(), stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=PROJECT_ROOT / "docs")
    folder: Path = parser.parse_args().to
    with chromium() as browser:
        with service(well) as url:
            for name, width, scheme in (("page", 1280, "light"), ("page-phone", 390, "light")):
                browser.size(width, 800)
                browser.prefer(color_scheme=scheme)
                browser.open(url)
                save(browser, folder / f"{name}.png")
        with service(badly) as url:
            browser.size(1280, 800)
            browser.prefer(color_scheme="dark")
            browser.open(url)
            save(browser, folder / "page-dark.png")
    for picture in sorted(folder.glob("page*.png")):
        print(f"{picture.name}: {picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
