"""The page in a real browser: what a person sees in five seconds, and that it stays true while he looks.

Every test ends with an empty console: no script error, no violated policy, nothing that did not load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitp.ledger.evidence import Failure, Report
from aitp.ledger.hosts import Host
from aitp.ledger.stats import snapshot
from aitp.metrics import known_models, open_metrics
from aitp.policy.costs import NANO
from aitp.process.scoreboard import State
from aitp.tasks import Culprit, Ending, Outcome
from aitp.web import health
from tests.ledger.world import set_budgets
from tests.ports import free_port
from tests.waiting import wait_until
from tests.web.browser import Browser, Window, needs_browser
from tests.web.hour import Hour
from tests.web.serving import served, served_here
from tests.web.test_spending import A_DAY_LONG
from tests.web.world import WORKER, World

pytestmark = needs_browser

CREW = {"CONCURRENCY_LIMIT": "1", "RELAY_PROCESSES": "1"}
MOCK = CREW | {"OPENAI_API_KEY": "your_openai_api_key_here"}
ONE_A_MINUTE, ONE_AN_HOUR = CREW | {"RATE_LIMIT_PER_MINUTE": "1"}, CREW | {"RATE_LIMIT_PER_HOUR": "1"}
ATTACK = "<img src=x onerror=document.title='hurt'><script>document.title='hurt'</script>\"' \u202e" + "W" * 2000
DESKTOP, PHONE = (1200, 800), (360, 740)

# The lowest contrast between any text that can be seen and what is behind it (WCAG 2.2, relative luminance).
CONTRAST = """(() => {
  const parse = (text) => {
    const n = (text.match(/[\\d.]+/g) || []).map(Number), unit = text.startsWith("color(") ? 255 : 1;
    return [n[0] * unit, n[1] * unit, n[2] * unit, n[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (node) => {
    if (!node) return [255, 255, 255, 1];
    const own = parse(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(node.parentElement));
  };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let lowest = [99, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("svg, script, .hidden")) continue;
    const back = behind(node), pair = [light(over(parse(getComputedStyle(node).color), back)), light(back)].sort();
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, walker.currentNode.data];
  }
  return lowest;
})()"""


@pytest.fixture(scope="module")
def window() -> Iterator[Window]:
    window = Window()
    yield window
    window.close()


@pytest.fixture
def browser(window: Window) -> Iterator[Browser]:
    """As a new one on a desktop; what it logged is judged at the end."""
    browser = window.fresh(*DESKTOP)
    yield browser
    logged = browser.console()
    browser.open("about:blank")  # from wherever it is
    assert logged == []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.create(tmp_path, **CREW)


@contextmanager
def visited(browser: Browser, server: AbstractContextManager[str]) -> Iterator[str]:
    """The page's address; the browser leaves it before the server does, or the console would tell of that."""
    with server as url:
        try:
            yield url
        finally:
            browser.open("about:blank")


def change(world: World, statement: str, *values: object) -> None:
    ledger = world.ledger()
    with ledger._database.transaction() as connection:
        connection.execute(statement, values)
    ledger.close()


def nothing(world: World) -> None:
    pass


def pause(world: World) -> None:
    ledger = world.ledger()
    ledger.pause(True)
    ledger.close()


def use_the_limit_up(world: World) -> None:
    world.admit("t1", "t2")
    ledger = world.ledger()
    claim = world.claim(ledger)
    ledger.outcomes.finish(claim, Report([Outcome(claim.tasks[0], Ending.SUCCEEDED, b"[1]")]))
    ledger.close()


def refuse_the_key(world: World) -> None:
    world.admit("t1")
    ledger = world.ledger()
    claim = world.claim(ledger)
    outcomes = [Outcome(claim.tasks[0], Ending.RETRY, reason="401", culprit=Culprit.ACCOUNT)]
    refused = Failure(Culprit.ACCOUNT, "OpenAI refuses OPENAI_API_KEY (401)", named=True)
    ledger.outcomes.finish(claim, Report(outcomes, refused))
    ledger.close()


def lose_the_ledger(world: World) -> None:
    world.settings.rate_limit_storage_path.unlink()


def lose_the_master(world: World) -> None:
    (world.settings.runtime_dir / "scoreboard").unlink()


def bury_a_result(world: World) -> None:
    change(world, "INSERT INTO queues (id, type, model, failed_at) VALUES (9, 'text_embedding', 'm', '')")
    bury(world, "d", 1.0)


def bury(world: World, name: str, at: float) -> None:
    change(
        world,
        f"INSERT INTO tasks (id, queue, state, entered_sequence, entered_at) VALUES ('{name}', 9, 'dead', 1, {at})",
    )
    change(
        world,
        "INSERT INTO results (seq, status, finished_at, refusal, refused_at)"
        f" SELECT seq, 'failed', {at}, '400', {at} FROM tasks WHERE id = '{name}'",
    )


Story = Callable[[World], None]
STATES: dict[str, tuple[dict[str, str], Story, str, str, str]] = {
    "well": (CREW, nothing, "well", "All is well.", ""),
    "stopping": (CREW, lambda world: world.master(State.DRAINING), "look", "Stopping.", "being stopped"),
    "starting": (CREW, lambda world: world.child(WORKER, State.STARTING), "look", "Starting.", "no worker is at work"),
    "paused": (CREW, pause, "look", "Paused: nothing new is taken.", "aitp resume"),
    "brief limit": (ONE_A_MINUTE, use_the_limit_up, "well", "All is well.", "The limit per minute is used up"),
    "limit": (ONE_AN_HOUR, use_the_limit_up, "look", "It works, but take a look.", "The limit per hour is used up"),
    "dead letter": (CREW, bury_a_result, "look", "It works, but take a look.", "aitp dead list"),
    "mock": (MOCK, nothing, "look", "It works, but every result is invented.", ""),
    "breaker": (CREW, refuse_the_key, "bad", "Running, but it cannot do its work.", "refuses OPENAI_API_KEY (401)"),
    "no ledger": (CREW, lose_the_ledger, "bad", "Running, but it cannot do its work.", "There is no ledger at"),
    "hanging": (CREW, lambda world: world.master(State.RUNNING, ticks=False), "bad", "Not well.", "its rounds"),
    "not running": (CREW, lose_the_master, "bad", "The service is not running.", "Start it"),
}


@pytest.mark.parametrize("state", STATES)
def test_five_seconds_tell_whether_all_is_well(browser: Browser, tmp_path: Path, state: str) -> None:
    settings, story, level, sentence, point = STATES[state]
    world = World.create(tmp_path, **settings)
    story(world)
    with visited(browser, served_here(world)) as url:
        browser.open(url)

        assert browser.text("#verdict") == sentence
        assert point in browser.text("#points")
        assert browser.run("document.querySelector('#mark svg').classList.value") == level
        assert browser.run("document.title").startswith(sentence)
        assert ("results are invented, nothing is bought" in browser.text(".mock")) == (settings is MOCK)
        for width, height in (DESKTOP, PHONE):
            browser.size(width, height)
            assert browser.run("document.querySelector('#verdict').getBoundingClientRect().bottom") < 0.4 * height
            assert browser.run("document.documentElement.scrollWidth") <= width


def test_hostile_values_are_text_and_break_nothing(browser: Browser, world: World) -> None:
    world.child(WORKER, State.BUSY, task_id=ATTACK)
    change(world, "UPDATE breakers SET state = 'open', opened_at = 1.0, reason = ?", ATTACK)
    change(
        world,
        "INSERT INTO cooldowns (provider, model, until, reason) VALUES (?1, ?1, ?2, ?1)",
        ATTACK,
        time.time() + 60,
    )
    change(world, "UPDATE polls SET problem = ?", ATTACK)
    change(world, "INSERT INTO recent_errors VALUES (1, ?1, ?1, ?1, ?1, 1.0, 2.0, 3, ?1)", ATTACK)
    change(
        world,
        "INSERT INTO minutes SELECT unixepoch() / 60, 'text_embedding', 9e18, 9e18, 9e18, 9e18, 9e300, 9e300, NULL",
    )
    with visited(browser, served_here(world)) as url:
        for size in (DESKTOP, PHONE):
            browser.size(*size)
            browser.open(url)

            assert "<script>" in browser.text("#errors")
            assert browser.run("document.querySelectorAll('img').length") == 0
            assert browser.run("document.scripts.length") == 1
            assert "hurt" not in browser.run("document.title")
            assert browser.run("document.documentElement.scrollWidth") <= size[0]


def test_much_money_has_room_on_every_screen_and_stands_below_the_limits(browser: Browser, tmp_path: Path) -> None:
    world = World.create(tmp_path, **CREW)
    ledger = world.ledger()
    set_budgets(ledger, "USD", {"day": 20_000 * NANO, "month": 90_000 * NANO})
    ledger.close()
    change(world, A_DAY_LONG, 19_999_990_000_000)
    change(world, "UPDATE budgets SET kept_back_until = unixepoch('now', 'start of day', '+1 day')")
    metrics = open_metrics(world.settings.runtime_dir / "metrics", WORKER, known_models(("text-embedding-3-large",)))
    metrics.tokens("openai", "text-embedding-3-large", "prompt_tokens", 12_345_678_901)
    metrics.tokens("openai", "text-embedding-3-large", "completion_tokens", 2_345_678_901)
    metrics.cost("openai", "text-embedding-3-large", "USD", 12_345.67)
    metrics.close()
    with visited(browser, served_here(world)) as url:
        for size in (DESKTOP, PHONE):
            browser.size(*size)
            browser.open(url)
            assert "12,345.67 USD" in browser.text("#models")
            assert browser.run("document.documentElement.scrollWidth") <= size[0]
        browser.size(*DESKTOP)
        places = {name: browser.run(f"document.querySelector('#{name}').getBoundingClientRect().toJSON()") for name in
                  ("limits", "budgets", "services")}  # fmt: skip

    assert places["budgets"]["left"] == places["limits"]["left"]
    assert places["budgets"]["top"] > places["limits"]["bottom"]
    assert places["services"]["top"] == places["limits"]["top"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_by_day_and_by_night(browser: Browser, tmp_path: Path, scheme: str) -> None:
    settings = MOCK | {"RATE_LIMIT_PER_MINUTE": "1"}
    world = World.create(tmp_path, **settings)
    use_the_limit_up(world)
    refuse_the_key_of = "UPDATE breakers SET state = 'open', opened_at = 1.0, reason = 'refused' WHERE service = 'api'"
    change(world, refuse_the_key_of)
    bury_a_result(world)
    browser.prefer(color_scheme=scheme)
    with visited(browser, served_here(world)) as url:
        browser.open(url)
        browser.run("document.querySelector('details').open = true")
        contrast, text = browser.run(CONTRAST)
        paper = browser.run("getComputedStyle(document.body).backgroundColor")

    assert contrast >= 4.5, text
    assert (paper == "rgb(19, 20, 21)") == (scheme == "dark")


def test_it_is_built_to_be_heard(browser: Browser, world: World) -> None:
    """Landmarks, headings, captions, and one region that speaks up."""
    with visited(browser, served_here(world)) as url:
        browser.open(url)

        def count(selector: str) -> Any:
            return browser.run(f"document.querySelectorAll({selector!r}).length")

        for landmark in (
            "body > header",
            "main",
            "body > footer",
            "section nav[aria-label]",
            "footer nav[aria-label]",
            "h1",
        ):
            assert count(landmark) == 1
        assert browser.run("document.documentElement.lang") == "en"
        assert count("table") == count("table > caption") > 0
        assert count("th") == count("th[scope]") > 0
        assert count("thead th:empty") == 0
        assert count("main section") == count("main section:is([aria-labelledby], [aria-label])")
        assert count("svg:not([aria-hidden]):not([role=img][aria-label])") == 0
        assert count("[aria-live], [role=status]") == 1
        ids = browser.run("[...document.querySelectorAll('[id]')].map((one) => one.id)")
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("wish", "transition"), [("reduce", "all"), ("no-preference", "opacity")])
def test_nothing_moves_for_who_wants_it_still(browser: Browser, world: World, wish: str, transition: str) -> None:
    browser.prefer(reduced_motion=wish)
    with visited(browser, served_here(world)) as url:
        browser.open(url)
        browser.run("document.documentElement.classList.add('lost')")

        assert browser.run("getComputedStyle(document.querySelector('main')).transitionProperty") == transition


def test_a_bar_s_values_are_read_with_a_mouse_a_finger_and_the_arrow_keys(browser: Browser, world: World) -> None:
    change(
        world,
        "INSERT INTO minutes SELECT unixepoch() / 60 - i, 'text_embedding', 4, i, 1, 0, 2.0, 1.5, NULL"
        " FROM (SELECT 1 AS i UNION SELECT 30)",
    )
    touched = """((bars) => {
      const box = bars.getBoundingClientRect();
      const at = {clientX: box.left + (box.width * 29.5) / 60, clientY: box.top + 9};
      bars.dispatchEvent(new PointerEvent("pointerdown", {...at, pointerType: "touch"}));
    })(document.querySelector("#calls .bars"))"""
    with visited(browser, served_here(world)) as url:
        for size in (DESKTOP, PHONE):
            browser.size(*size)
            browser.open(url)
            assert browser.text("#done .sum") == "31 succeeded, 2 failed, 0 put back."

            browser.run("document.querySelector('#done .bars').focus()")
            browser.press("ArrowLeft")
            assert browser.text("#done .read").endswith(": 1 succeeded, 1 failed, 0 put back")
            assert browser.run("document.activeElement.ariaValueText") == browser.text("#done .read")
            browser.press("Home")
            browser.press("ArrowLeft")
            assert browser.text("#done .read").endswith(": 0 succeeded, 0 failed, 0 put back")
            browser.run("document.activeElement.blur()")
            assert not browser.run("document.querySelector('#done .read').checkVisibility()")

            browser.run(touched)
            assert browser.text("#calls .read").endswith(": 500 ms mean, 1.5 s slowest")


def test_a_command_is_marked_whole_when_it_has_the_focus_and_stays_so(browser: Browser, world: World) -> None:
    bury_a_result(world)
    with visited(browser, served_here(world)) as url:
        browser.open(url)
        browser.run("document.querySelector('#dead .run').focus()")
        assert browser.run("getSelection().toString()") == "aitp dead retry d"

        bury(world, "e", 0.5)
        wait_until(lambda: "aitp dead retry e" in browser.text("#dead"), timeout=20, every=0.2)

        assert browser.run("getSelection().toString()") == "aitp dead retry d"
        assert browser.run("document.activeElement.className") == "run"


def test_a_phone_shows_every_column_that_a_desktop_does(browser: Browser, world: World) -> None:
    world.admit("t1")
    bury_a_result(world)
    change(world, "INSERT INTO recent_errors VALUES (1, 'openai', 'linking', 'failed', 'no', 1.0, 2.0, 3, 't9')")
    cells = []
    with visited(browser, served_here(world)) as url:
        for size in (DESKTOP, PHONE):
            browser.size(*size)
            browser.open(url)
            shown = "[...document.querySelectorAll('td:not(:empty)')].filter((cell) => cell.checkVisibility()).length"
            cells.append(browser.run(shown))
            assert browser.run("document.documentElement.scrollWidth") <= size[0]

    assert cells[0] == cells[1] > 20


def test_the_hosts_of_a_fleet_have_room_on_every_screen(
    browser: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a-host-with-a-name-as-long-as-a-cloud-provider-makes-it.eu-central-1.compute.internal"
    hosts = (
        Host(0, "worker-1", True, time.time(), "2.1.0", 20, 2, "worker-1:8001"),
        Host(1, name, False, time.time() - 5400, "2.1.0", 1000, 10, f"{name}:8001"),
    )
    monkeypatch.setattr(health, "snapshot", lambda *where, **how: replace(snapshot(*where, **how), hosts=hosts))
    with visited(browser, served_here(world)) as url:
        for size in (DESKTOP, PHONE):
            browser.size(*size)
            browser.open(url)
            assert "seen 90 min ago" in browser.text("#hosts")
            assert browser.run("document.querySelector('#hosts a').href") == "http://worker-1:8001/"
            assert browser.run("document.documentElement.scrollWidth") <= size[0]


def test_without_script_it_is_whole_and_loads_itself_again(browser: Browser, world: World) -> None:
    Hour(world).close()
    browser.scripts(False)
    with visited(browser, served_here(world)) as url:
        browser.open(url)

        assert browser.text("#verdict") == "All is well."
        assert browser.run("document.querySelectorAll('main section').length") >= 6
        assert browser.run("document.querySelector('noscript meta').httpEquiv") == "refresh"


def test_what_is_shown_follows_the_service(browser: Browser, world: World, tmp_path: Path) -> None:
    with visited(browser, served(tmp_path, CREW)) as url:
        browser.open(url)
        browser.run("window.kept = document.getElementById('verdict')")
        browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        icon = browser.run("document.querySelector('link[rel=icon]').href")

        world.admit("t1", "t2", "t3")
        pause(world)
        wait_until(lambda: browser.text("#verdict") == "Paused: nothing new is taken.", timeout=20, every=0.2)

        assert "3" in browser.text("#figures dd")
        assert "aitp resume" in browser.text("#points")
        assert browser.run("document.title").startswith("Paused")
        assert browser.run("document.querySelector('link[rel=icon]').href") != icon
        # In place: who listens hears the sentence that changed, and what was unfolded stays so.
        assert browser.run("window.kept === document.getElementById('verdict')")
        assert browser.run("window.kept.className") == "look"
        assert browser.run("[...document.querySelectorAll('details')].every((one) => one.open)")


def test_parts_that_come_or_go_bring_the_whole_page_anew(browser: Browser, world: World, tmp_path: Path) -> None:
    aside = tmp_path / "aside.db"
    world.settings.rate_limit_storage_path.rename(aside)
    with visited(browser, served(tmp_path, CREW)) as url:
        browser.open(url)
        assert browser.text("#limits") == ""

        aside.rename(world.settings.rate_limit_storage_path)

        wait_until(
            lambda: browser.text("#limits") and browser.text("#verdict") == "All is well.", timeout=20, every=0.2
        )


def test_a_service_that_does_not_answer_is_not_shown_as_well(browser: Browser, world: World, tmp_path: Path) -> None:
    port = free_port()
    with served(tmp_path, CREW, port) as url:
        browser.open(url)
        assert browser.text("#lost") == ""
        shown = browser.text("#now")
    wait_until(lambda: browser.text("#lost"), timeout=20, every=0.2)

    assert browser.text("#lost").startswith("The service does not answer.")
    assert browser.run("document.title").startswith("No answer!")
    assert shown[:10] in browser.text("#lost")

    with served(tmp_path, CREW, port):
        wait_until(lambda: not browser.text("#lost"), timeout=20, every=0.2)
        assert browser.run("document.title").startswith("All is well.")
    assert any("ERR_CONNECTION" in line for line in browser.console())


def test_with_a_token_the_browser_asks_once_and_stays_live(browser: Browser, world: World, tmp_path: Path) -> None:
    settings = CREW | {"METRICS_TOKEN": "a-token-of-some-length"}
    with visited(browser, served(tmp_path, settings)) as url:
        browser.open(url.replace("://", "://operator:a-token-of-some-length@"))
        assert browser.text("#verdict") == "All is well."

        pause(world)
        wait_until(lambda: browser.text("#verdict").startswith("Paused"), timeout=20, every=0.2)
        assert "a-token-of-some-length" not in browser.run("document.documentElement.outerHTML")


def test_a_script_that_got_in_would_not_run(browser: Browser, world: World, tmp_path: Path) -> None:
    """And would be found by every other test here: the console tells of it."""
    with visited(browser, served(tmp_path, CREW)) as url:
        browser.open(url)
        browser.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hurt = 1'}))")

        assert browser.run("window.hurt") is None
    assert any("Content Security Policy" in line for line in browser.console())
