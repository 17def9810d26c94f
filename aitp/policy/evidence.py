"""Whose fault is it? What a failed attempt says of its task, of the request, and of the world it was made in. Pure.

A *world* is what an attempt is made in: a provider at its address with our credentials, a model, a type of tasks, and
the parameters that are sent. What a server says of a failure (status, code, words) is a hint, for a quick verdict. What
decides is what happens to other tasks in the same world: a task is failed only when it was tried alone, when the
world has served another one since, and when so many failures would be improbable there by what befell the others. So a
flaky service needs more tries, and a world that is ill fails nobody. The finish transaction asks.

The rule in numbers: `tests/policy/test_evidence_worlds.py` plays it through thousands of random worlds.

Deliveries likewise. A task API that is out fails every delivery; a result whose target is broken fails every time. The
answers look alike, and evidence tells them apart: a delivery that failed before, while the API did something else well
since, is a suspect by itself and says nothing of the API. And however many fail in a row, a poll has the last word
before the breaker opens, because a poll depends on no result. So no number of broken targets opens it, and an outage
costs a few deliveries and a poll.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from aitp.tasks import Culprit

# (failures, calls) that are believed of a world before anything is known of it: a service fails now and then, a refusal
# of the input or an answer that is useless is rare.
BELIEVED: Mapping[Culprit, tuple[int, int]] = {
    Culprit.SERVICE: (1, 2),
    Culprit.ACCOUNT: (1, 4),
    Culprit.INPUT: (1, 20),
    Culprit.ANSWER: (1, 20),
}
IMPROBABLE = 0.0005
# A refusal is the provider's word about this very request: one of them in twenty calls that it took is enough.
IMPROBABLE_REFUSAL = 0.06
ACCOUNT_TRIES = 2
# More tries of one that has hardly failed beside others that were served: an outage that began in the meantime, with
# nothing else to be run, looks the same. As tries come ever more seldom, that is a minute.
QUIET_TRIES = 2
ENOUGH_TURNS = 3
# Refusals of the account's kind in a row that are the account's: waiting for five buys nothing.
ACCOUNT_ROW = 3


class Tally(NamedTuple):
    """A world's calls so far: those that brought a usable answer, and those that failed, by presumed culprit."""

    good: int = 0
    service: int = 0
    account: int = 0
    input: int = 0
    answer: int = 0

    def failures(self, culprit: Culprit) -> int:
        return int(getattr(self, culprit.value))

    def more(self, culprit: Culprit | None, count: int = 1) -> Tally:
        """One failure (or `count`) of `culprit` more; None: one good call more."""
        field = "good" if culprit is None else culprit.value
        return self._replace(**{field: getattr(self, field) + count})


def is_at_fault(
    culprit: Culprit,
    alone: int,
    world: Tally,
    before: Tally,
    max_retries: int,
    *,
    named: bool = False,
    proven: bool = False,
    witnessed: int | None = None,
    turns: int = ENOUGH_TURNS,
) -> bool:
    """Whether a task that failed so `alone` times, this time included, is itself to blame, and is to be failed.

    `world`: the tally now; `before`: as it was at the task's first failure, with all failed calls in it that the task
    was in, then and since, alone or not: what is left of the world's failures are those of others. `witnessed`: the
    world's good calls when the call that failed now began (None: all until now): what went well while it was under way
    does not show that the world was well before. `turns`: how often it failed, alone or not, others being served in
    between.
    `named`: the provider itself says that it is the text, which is believed of a world that is `proven` (it has served
    another task, ever), and else needs as many tries as a useless answer; or that it is the account, which is believed.
    """
    if named and culprit is Culprit.ACCOUNT:
        return False
    if named:
        return alone >= (1 if proven else max_retries + 1)
    # A useless answer is the provider's word about this very task: it needs no other task as a witness.
    if (world.good if witnessed is None else witnessed) <= before.good and culprit is not Culprit.ANSWER:
        return False
    good = max(0, world.good - before.good)
    more = QUIET_TRIES if turns < ENOUGH_TURNS and culprit in (Culprit.SERVICE, Culprit.ACCOUNT) else 0
    fewest = {Culprit.INPUT: 1, Culprit.ACCOUNT: ACCOUNT_TRIES}.get(culprit, max_retries + 1)
    if alone < fewest + more:
        return False
    others = max(0, world.failures(culprit) - before.failures(culprit))
    failed, called = BELIEVED[culprit]
    chance = ((others + failed) / (good + others + called)) ** alone
    return chance < (IMPROBABLE_REFUSAL if culprit is Culprit.INPUT else IMPROBABLE)


def is_ill(culprit: Culprit, row: Sequence[frozenset[int]], threshold: int) -> bool:
    """Whether failures in a row, the last of them of `culprit`, are not their tasks' fault.

    `row`: the tasks of each failed call since the last success, newest last; `threshold`: how many it takes. A batch
    counts once, and no task may be in all of them: one task that fails again and again says nothing of the others.
    """
    needed = min(ACCOUNT_ROW, threshold) if culprit is Culprit.ACCOUNT else threshold
    if len(row) < needed:
        return False
    return threshold == 1 or not frozenset.intersection(*row[-threshold:])


class Remedy(Enum):
    """What a failed call asks for, besides that its tasks are tried again."""

    WAIT = "wait"
    LEAVE_OUT = "leave out"  # a parameter: the request adapts to what the server takes
    OPEN = "open"  # the provider's breaker
    PAUSE = "pause"  # this world alone: its model, type and request


class Situation(NamedTuple):
    """What `remedy` goes by. `named`: the server itself says so. `optional`: a parameter is left to leave out.

    `setting`: a setting stands behind one that was refused and cannot be left out. `insists`: the service failed at a
    probe, or at one task alone as often as it may be tried.
    `proven`: this world has served a task. `row_is_ill`: of this world, `provider_is_ill`: of all that its provider
    serves. `provider_serves`: it has served another world since this one's row began.
    """

    culprit: Culprit
    named: bool = False
    optional: bool = False
    setting: bool = False
    insists: bool = False
    proven: bool = False
    row_is_ill: bool = False
    provider_is_ill: bool = False
    provider_serves: bool = False


def remedy(situation: Situation) -> Remedy:
    """What to do about a call that failed as a whole."""
    ill = situation.row_is_ill
    match situation.culprit:
        case Culprit.MODEL | Culprit.REQUEST:
            return Remedy.PAUSE
        case Culprit.ACCOUNT if situation.named:
            return Remedy.OPEN
        case Culprit.ACCOUNT | Culprit.SERVICE:
            # Some servers fail at a parameter that they do not know. Tried only where sends are few already.
            if situation.insists and situation.optional and not situation.proven:
                return Remedy.LEAVE_OUT
            if situation.provider_is_ill:
                return Remedy.OPEN
            return Remedy.PAUSE if ill else Remedy.WAIT
        case Culprit.INPUT:
            # A world that has served nobody yet is asked for less at once: that costs one call, and each refusal of a
            # parameter costs one as well. In one that has, a refusal is far more likely the text's.
            if situation.optional and (situation.named or ill or not situation.proven):
                return Remedy.LEAVE_OUT
            if situation.setting and not situation.proven:
                return Remedy.PAUSE
            if not ill:
                return Remedy.WAIT
            return Remedy.PAUSE if situation.provider_serves else Remedy.OPEN
        case Culprit.ANSWER if ill:
            return Remedy.PAUSE
    return Remedy.WAIT


CONFLICT = 409
CONFLICT_TRIES = 3


def is_refused_for_good(status: int, conflicts: int) -> bool:
    """Whether a result that the API itself answered with `status` is a dead letter, after so many conflicts before.

    A conflict may be a race of two results that make the same thing there: the other one is through by the next try.
    """
    return status != CONFLICT or conflicts + 1 >= CONFLICT_TRIES


def is_suspect(tries: int, witnessed: bool) -> bool:
    """Whether a failed delivery is presumed to be its result's fault.

    `tries`: failures before this one; `witnessed`: the API took another result or answered a poll since the first.
    """
    return tries > 0 and witnessed


def awaits_poll(failures: int, threshold: int) -> bool:
    """Whether one more failure in a row would open the breaker, so that a poll is to be made before any delivery.

    A threshold of 1 leaves nothing to wait for: whoever set it wants the breaker open at the first failure.
    """
    return 1 < threshold <= failures + 1
