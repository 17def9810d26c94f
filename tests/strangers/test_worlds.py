"""Whose fault is it? Hundreds of worlds that no table of words knows, and the promises that hold in every one of them.

After finitely many sends every good task has succeeded and every bad one has failed, alone and with its reason; or what
is left waits for a reason that can be read. No task is sent more often than back-off allows, no window is passed. The
same with the hints that `aitp.providers.failures` takes from words withheld, and with those of the status as well.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from aitp.ledger.claims import IdleReason
from aitp.ledger.evidence import FUTILE_SECONDS
from aitp.ledger.worlds import PROFILE_SECONDS
from aitp.providers import client, failures
from aitp.tasks import TaskStatus
from tests.services import same_vector
from tests.strangers.house import House
from tests.strangers.natures import EMBEDDINGS, Strange, worlds
from tests.strangers.server import Seen, Stranger, expected

MAX_RETRIES = 3
HOUR = 3600.0
# Breaker, pause of a kind, a lone suspect's longest back-off: within so long of the last trouble all is tried again.
PATIENCE = 3 * HOUR
FLAKY = 0.3  # from here on the statistics may err

Opened = Callable[..., House]


def examples(daily: int) -> settings:
    """So many worlds; the same ones every day, so that what fails has been caused by a change.

    Shown as they were drawn: to look for a smaller one would take minutes.
    """
    return settings(
        max_examples=daily,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(params=["with all hints", "without words", "without words and status"])
def hints(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What aitp may take from an error answer. Without a status it is some failure or other."""
    real = failures.refusal_of
    if request.param != "with all hints":

        def mute(*arguments: Any, **named: Any) -> failures.Refusal:
            said = real(*arguments, **named)
            status = said.status if request.param == "without words" else 599
            return dataclasses.replace(
                said, status=status, code="", type="", param="", message="", page=False, is_json=False
            )

        monkeypatch.setattr(client, "refusal_of", mute)
    return str(request.param)


def play(opened: Opened, world: Strange, seconds: float, **limits: int) -> House:
    """Live through a world; the house is closed, and can be looked at."""
    with opened(world.nature, world.workers, world.batch, **limits) as house:
        for at, texts in world.waves:
            if at:
                house.admit_later(at, texts, world.queue)
            else:
                house.admit(texts, world.queue)
        house.run(seconds, house.done)
        house.found = house.ended()
        house.told = why_waiting(house)
    return house


def why_waiting(house: House) -> list[str]:
    """What an operator can read about tasks that have not ended."""
    state = house.snapshot()
    told = [f"{name}: {breaker.reason}" for name, breaker in state.breakers.items() if breaker.state != "closed"]
    told += [f"{pause.provider} {pause.model}: {pause.reason}" for pause in state.cooldowns]
    told += [f"{type_} is paused" for type_ in state.paused_processors]
    told += [f"{each.provider} {each.model}: {each.reason}" for each in state.quarantines]
    told += [str(idle.because) for idle in house.idles[-8:] if idle.because is not IdleReason.NOTHING_READY]
    told += [f"due in {idle.until - house.clock.now:.0f} s" for idle in house.idles[-8:] if idle.until is not None]
    return told


def failed_texts(house: House) -> set[str]:
    return {text for text, ended in house.found.items() if ended.status is TaskStatus.FAILED}


def left_texts(house: House, world: Strange) -> list[str]:
    return [text for text in world.texts if text not in house.found]


def sends_allowed(elapsed: float, batch: int) -> int:
    """Halvings, MAX_RETRIES + 1, and what a back-off that doubles to an hour leaves room for beyond."""
    waited, sends = 0.0, 0
    while waited <= elapsed:
        sends += 1
        waited += 0.75 * min(HOUR, 2.0 ** (sends + 1))
    return max(sends, MAX_RETRIES + 1) + math.ceil(math.log2(batch)) + 1


def see_to_the_promises(house: House, stranger: Stranger, world: Strange) -> None:
    """What holds in every world."""
    failed, seen = failed_texts(house), stranger.seen
    for text in failed:
        last = next(each for each in reversed(seen) if text in each.texts)
        assert last.texts == (text,), f"failed without having been alone: {last}"
        assert house.found[text].reason
    for text, ended in house.found.items():
        if ended.status is TaskStatus.SUCCEEDED and world.queue == EMBEDDINGS:
            assert same_vector(ended.result, expected(text, world.queue.model))
    # What a request could do without is left out by guess, and put back: of a service that fails, that costs all tries
    # anew, and again once that is not believed any more. And whatever was ill is tried when it is well.
    adapting = (MAX_RETRIES + 1) * (2 if world.queue == EMBEDDINGS else 4)
    allowed = sends_allowed(house.elapsed, world.batch) + adapting * (1 + house.elapsed // FUTILE_SECONDS) + 6
    most = max(stranger.refused_sends().values(), default=0)
    assert most <= allowed, f"{most} sends of one task, {allowed} allowed in {house.elapsed:.0f} s"
    if left_texts(house, world):
        assert house.told, "tasks wait, and nobody is told why"


def has_witness(stranger: Stranger, world: Strange) -> bool:
    """Whether anybody was served after the first refusal of a bad one."""
    first = min((seen.at for seen in stranger.seen if not world.bad.isdisjoint(seen.texts)), default=0.0)
    return any(seen.well and seen.at > first for seen in stranger.seen)


def good_ones_fail_by_chance(world: Strange) -> bool:
    """Where every answer is useless, fewer than five texts tell nothing of the model: none of it must be the first."""
    first = sum(len(texts) for at, texts in world.waves if not at)
    return world.nature.flaky >= FLAKY or (world.nature.mute is not None and first < 5)


def check_what_passes(opened: Opened, stranger: Stranger, world: Strange) -> None:
    # What an outage was found not to hang on is believed for a day, and may be refused when it is over.
    learned = PROFILE_SECONDS if world.nature.refused and world.nature.settles_at else 0.0
    house = play(opened, world, world.nature.settles_at + learned + PATIENCE)
    see_to_the_promises(house, stranger, world)
    good = set(world.good)
    if not good_ones_fail_by_chance(world):
        assert not good & failed_texts(house), house.found
    # Where a parameter is refused and half of the texts are as well, nothing tells one from the other: it is guessed at
    # once a day.
    if not (world.nature.refused and len(world.texts) < 5 and world.bad):
        assert not good & set(left_texts(house, world)), house.told


@examples(20)
@given(world=worlds())
def test_what_passes_costs_no_good_task(open_house: Opened, stranger: Stranger, world: Strange) -> None:
    check_what_passes(open_house, stranger, world)


@examples(15)
@given(world=worlds(only_poison=True, flaky=(0,)))
def test_the_bad_fail_alone_among_good_ones_and_soon(open_house: Opened, stranger: Stranger, world: Strange) -> None:
    house = play(open_house, world, PATIENCE)

    see_to_the_promises(house, stranger, world)
    failed = failed_texts(house)
    assert failed <= world.bad
    # Of several, each is to the others a sign that the service is ill: they may wait, if hardly anything else is left.
    assert set(left_texts(house, world)) <= world.bad - failed
    assert len(world.bad) > 1 or failed == world.bad or not has_witness(stranger, world)


@examples(15)
@given(world=worlds(lasting=True))
def test_what_lasts_fails_nobody(open_house: Opened, stranger: Stranger, world: Strange) -> None:
    house = play(open_house, world, HOUR)

    see_to_the_promises(house, stranger, world)
    if not good_ones_fail_by_chance(world):
        # The first of a model that is mute may have had its tries before others show that it is not alone.
        may_fail = 1 if world.nature.mute is not None else 0
        assert len(failed_texts(house) & set(world.good)) <= may_fail, house.found
    # Something asks now and then whether it is over, and not the whole queue.
    assert len(stranger.seen) <= 20 + len(world.texts) + 2 * HOUR / 60


@examples(10)
@given(world=worlds(limits=True))
def test_no_window_is_passed_whatever_goes_wrong(open_house: Opened, stranger: Stranger, world: Strange) -> None:
    limits = {"minute": world.per_minute, "hour": world.per_hour}

    play(open_house, world, 2 * HOUR, **limits)

    assert most_within(stranger.seen, 60.0) <= world.per_minute
    assert most_within(stranger.seen, HOUR) <= world.per_hour


def test_where_a_third_of_all_calls_fail_hardly_a_good_task_does(open_house: Opened, stranger: Stranger) -> None:
    """As in a simulation of the rule: one in two thousand."""
    good = failed = 0

    @examples(10)
    @given(world=worlds(flaky=(FLAKY, 0.6)))
    def live(world: Strange) -> None:
        nonlocal good, failed
        house = play(open_house, world, world.nature.settles_at + PATIENCE)
        see_to_the_promises(house, stranger, world)
        if world.nature.mute is None:
            good += len(world.good)
            failed += len(failed_texts(house) & set(world.good))

    live()
    assert failed <= 1 + good / 500, f"{failed} of {good}"


@pytest.mark.parametrize("hints", ["without words", "without words and status"], indirect=True)
def test_nothing_of_this_hangs_on_words(open_house: Opened, stranger: Stranger, hints: str) -> None:
    @examples(10)
    @given(world=worlds())
    def live(world: Strange) -> None:
        if hints == "without words and status" and world.nature.refused:
            # Nothing tells a refusal from an outage: waiting is right, if nobody fails and it is told.
            house = play(open_house, world, HOUR)
            see_to_the_promises(house, stranger, world)
            assert not failed_texts(house) & set(world.good)
        else:
            check_what_passes(open_house, stranger, world)

    live()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_of_this_hangs_on_words_in_thousands_of_worlds(
    open_house: Opened, stranger: Stranger, hints: str
) -> None:
    @settings(examples(1500), derandomize=False, phases=tuple(Phase))
    @given(world=worlds())
    def live(world: Strange) -> None:
        if hints != "without words and status" or not world.nature.refused:
            check_what_passes(open_house, stranger, world)

    live()


def most_within(seen: Sequence[Seen], seconds: float) -> int:
    """The most texts that any window of this length saw."""
    times = sorted(each.at for each in seen for _ in each.texts)
    return max((n - bisect.bisect_right(times, at - seconds) + 1 for n, at in enumerate(times)), default=0)
