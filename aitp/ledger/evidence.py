"""Judging calls that have ended: whose fault a failure is, by what befalls others in the same world.

The finish tells what happened; what is to become of the tasks, of the request, of the world and of its provider's
breaker, `aitp.policy.evidence` decides. While nothing fails the finish does not ask. Everything runs inside a
transaction of the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import pybreaker

from aitp.ledger.breakers import BreakerChange, Breakers, forget_guesses
from aitp.ledger.engine import Connection, Row, these
from aitp.ledger.queue import CLAIMED, READY
from aitp.ledger.worlds import PROFILE_SECONDS, moved, release_probes
from aitp.policy.evidence import Remedy, Situation, Tally, answers_again, is_at_fault, is_ill, remedy
from aitp.policy.retry import pause_delay
from aitp.tasks import Culprit, Ending, Health, Outcome

# A guess that may have been none, as another task than the refused ones was served: whether it was is soon tried again.
GUESS_SECONDS = 900.0
MOST_GUESSED = 100
# What was left out in vain may not have been, had the server not been ill then: guesses are made anew after so long.
FUTILE_SECONDS = 21_600.0
# What is left out because a tier has no room is tried again sooner than anything else.
TIER_SECONDS = 900.0
# A queue that a world's success brings back comes back within these seconds.
RETURN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call failed as a whole. `named`: the server itself says whose fault it is.

    `parameter`: of our request, that it names, or that a setting of ours stands behind. `stranger`: the model is one
    that no setting names. `sent`: the request may have reached the server, so that it may be what failed there.
    `patience`: how often a task that the service fails at is tried again at least, by the provider's own rule.
    """

    culprit: Culprit
    reason: str = ""
    named: bool = False
    parameter: str = ""
    stranger: bool = False
    sent: bool = True
    patience: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person is to hear of once: `what` has happened to a model's tasks, and why."""

    what: str
    provider: str
    model: str
    type: str
    reason: str
    parameter: str = ""
    until: float | None = None


class Judgement(NamedTuple):
    """What became of a call's tasks: `tries` of those that are to wait, by task (how long grows with it).

    `limits`: the largest batch that a task may be in, where that was cut. `cleared`: others may go on now.
    """

    outcomes: tuple[Outcome, ...]
    tries: Mapping[int, int] = {}
    limits: Mapping[int, int] = {}
    breaker: BreakerChange | None = None
    told: tuple[Notice, ...] = ()
    cleared: bool = False


# Failures that a world keeps a tally of, in the order of its columns; all others are nobody's but ours.
COUNTED = (Culprit.SERVICE, Culprit.ACCOUNT, Culprit.INPUT, Culprit.ANSWER)
# Of these, what is a whole provider's, not one model's.
_OF_PROVIDERS = f"'{Culprit.SERVICE}', '{Culprit.ACCOUNT}'"

# For select lists. A task that has failed, or whose process has died; and whether all is as it should be.
ANY_SUSPECTS = "EXISTS (SELECT 1 FROM tasks WHERE is_suspect = 1 AND queue > 0)"  # the index begins with the kind
NO_FAILURES = "NOT EXISTS (SELECT 1 FROM failures)"


@dataclass
class _Case:
    """One call to be judged, and what has been found out about it so far. `probing`: this slot, the paused world;
    `paused_by`: whose fault that was.
    """

    connection: Connection
    now: float
    slot: int
    tally: Tally
    world: int
    provider: str
    model: str
    type: str
    setup: str
    left_out: str
    proven: bool
    pauses: int
    paused: bool
    paused_by: str
    probing: bool
    witnessed: int | None = None
    notices: list[Notice] = field(default_factory=list)
    tries: dict[int, int] = field(default_factory=dict)
    limits: dict[int, int] = field(default_factory=dict)

    @classmethod
    def open(cls, connection: Connection, slot: int, world: int | None, now: float) -> _Case | None:
        """None: the world is recovered, or from before there were any, and nothing is known of it."""
        row = connection.execute(
            "SELECT id, provider, model, type, setup, left_out, proven, pauses, paused_until IS NOT NULL,"
            " culprit, COALESCE(probe_slot, -1) = ?, good, service, account, input, answer FROM worlds WHERE id = ?",
            (slot, world),
        ).fetchone()
        return None if row is None else cls(connection, now, slot, Tally(*row[11:]), *row[:11])

    @cached_property
    def in_flight(self) -> int:
        """Calls of other slots in this world. Served by tasks_claimed; asked once, however many tasks failed."""
        found = self.connection.execute(
            f"SELECT COUNT(DISTINCT slot) FROM tasks WHERE {CLAIMED} AND world = ? AND slot <> ?",
            (self.world, self.slot),
        )
        return int(found.get)

    def tell(self, what: str, reason: str, *, parameter: str = "", until: float | None = None) -> None:
        """A person is to hear of it."""
        self.notices.append(Notice(what, self.provider, self.model, self.type, reason, parameter, until))

    def judgement(
        self, outcomes: Iterable[Outcome], breaker: BreakerChange | None = None, *, cleared: bool = False
    ) -> Judgement:
        return Judgement(tuple(outcomes), self.tries, self.limits, breaker, tuple(self.notices), cleared)


class Judge:
    """Judges calls that have ended. `recovery`: seconds until a world that was paused is probed."""

    def __init__(self, breakers: Breakers, threshold: int, recovery: float, max_retries: int) -> None:
        self._breakers = breakers
        self._threshold = threshold
        self._recovery = recovery
        self._max_retries = max_retries

    def judge(
        self,
        connection: Connection,
        slot: int,
        world: int | None,
        outcomes: Sequence[Outcome],
        failure: Failure | None,
        optional: Collection[str],
        provider: str,
        now: float,
        *,
        health: Health,
        witnessed: int | None = None,
    ) -> Judgement:
        """What is to become of the tasks of a call in `world`, and what it says of the world and of its provider.

        `failure`: how it failed as a whole. `optional`: the parameters that it was sent with, and could do without.
        `health`: what it says of the provider where it says nothing of its tasks. `witnessed`: `World.good` as claimed.
        """
        case = _Case.open(connection, slot, world, now)
        if case is None:
            change = self._breakers.tell(connection, provider, health, slot, now)
            return Judgement(tuple(outcomes), breaker=change)
        case.witnessed = witnessed
        if case.probing:
            release_probes(connection, slot)  # over, whatever is made of it
        served = any(outcome.ending is Ending.SUCCEEDED for outcome in outcomes)
        if served:
            return self._serve(case, outcomes)
        if failure is None:
            if case.probing:
                self._put_off(case)
            change = self._breakers.tell(connection, provider, health, slot, now)
            return Judgement(tuple(outcomes), breaker=change)
        return self._fail(case, outcomes, failure, optional)

    # A call that brought something

    def _serve(self, case: _Case, outcomes: Sequence[Outcome]) -> Judgement:
        connection = case.connection
        case.tally = case.tally.more(None)
        connection.execute(
            "UPDATE worlds SET good = good + 1, proven = 1, culprit = '', reason = '', pauses = 0,"
            " paused_until = NULL, probe_slot = NULL WHERE id = ?",
            (case.world,),
        )
        change = self._breakers.tell(connection, case.provider, Health.HEALTHY, case.slot, case.now)
        forget_guesses(connection, case.provider, case.model)
        if case.left_out and not case.proven:
            _doubt_guesses(case, {outcome.task.seq for outcome in outcomes if outcome.ending is Ending.SUCCEEDED})
        connection.execute("DELETE FROM failures WHERE world = ?", (case.world,))
        had_row = connection.changes() > 0
        connection.execute("UPDATE failures SET provider = '' WHERE provider = ?", (case.provider,))
        has_closed = change is not None and change.state == pybreaker.STATE_CLOSED
        if case.paused or has_closed:
            _return_all(case, whole_provider=has_closed)
        else:
            connection.execute(
                "UPDATE evidence SET failed_in_row = 0 WHERE world = ? AND failed_in_row = 1", (case.world,)
            )
        cleared = had_row or case.paused or not case.proven
        if cleared:
            moved(connection)
        if case.paused:
            case.tell("Tasks of this model go on", "")
        # The provider has spoken about each of these by itself, batch or not.
        judged = [
            self._judged(case, outcome, outcome.culprit, alone=True, counted=0)
            if outcome.ending is Ending.RETRY
            else outcome
            for outcome in outcomes
        ]
        return case.judgement(judged, change, cleared=cleared)

    # A call that failed

    def _fail(self, case: _Case, outcomes: Sequence[Outcome], failure: Failure, optional: Collection[str]) -> Judgement:
        connection = case.connection
        profile = _profile(case)
        is_as_now = " ".join(profile.left_out) == case.left_out
        if failure.culprit in (Culprit.INPUT, Culprit.REQUEST) and not is_as_now:
            # Sent before the request was changed: that says nothing, neither of the task nor of the world.
            change = self._breakers.tell(connection, case.provider, Health.UNKNOWN, case.slot, case.now)
            return case.judgement(map(_ready, outcomes), change)
        if failure.culprit is Culprit.MODEL and failure.stranger and not _has_answered(case):
            reason = f"{failure.reason}; no setting names this model, and it never answered here"
            failed = [_failed(outcome, reason) for outcome in outcomes]
            return case.judgement(failed, self._speak(case, failure))
        failed = [outcome for outcome in outcomes if outcome.ending in (Ending.RETRY, Ending.FALLBACK)]
        counted = failure.culprit in COUNTED
        if counted:
            case.tally = case.tally.more(failure.culprit)
            column = failure.culprit.value
            connection.execute(f"UPDATE worlds SET {column} = {column} + 1 WHERE id = ?", (case.world,))
            if not (failure.culprit is Culprit.INPUT and failure.named and case.proven):
                # A provider that serves others and names the text speaks of that text alone, however many there are.
                self._note_row(case, failure.culprit, [outcome.task.seq for outcome in failed])
        can_leave_out = [name for name in optional if failure.sent and not profile.keeps(name, failure.culprit)]
        situation = self._situation(case, failure, outcomes, can_leave_out, setting=bool(profile.settings()))
        asked = remedy(situation)
        changed = asked is Remedy.LEAVE_OUT
        if changed:
            name = failure.parameter if failure.parameter in can_leave_out else can_leave_out[0]
            self._leave_out(case, profile, name, failure, [outcome.task.seq for outcome in failed])
        elif failure.sent and not can_leave_out:
            changed = self._restore(case, profile, failure, futile=situation.row_is_ill or situation.insists)
        if changed and failure.culprit is not Culprit.SERVICE:  # a service that fails is not asked at once again
            return case.judgement(map(_ready, outcomes), self._speak(case, failure, heard=True), cleared=True)
        judged = self._judge_each(case, outcomes, failure) if counted else [_ready_later(o) for o in outcomes]
        change = self._speak(case, failure, opened=asked is Remedy.OPEN)
        if case.probing and answers_again(case.paused_by, failure.culprit):
            self._resume(case)
        elif asked is Remedy.PAUSE or case.probing:
            self._pause(case, failure, profile)
        elif counted:
            moved(connection)  # the row is longer
        return case.judgement(judged, change, cleared=counted)

    def _situation(
        self,
        case: _Case,
        failure: Failure,
        outcomes: Sequence[Outcome],
        can_leave_out: Sequence[str],
        *,
        setting: bool,
    ) -> Situation:
        row = _row(case.connection, "world = ?", case.world)
        of_provider = _row(case.connection, f"provider = ? AND culprit IN ({_OF_PROVIDERS})", case.provider)
        detached = case.connection.execute(
            "SELECT 1 FROM failures WHERE world = ? AND provider = ''", (case.world,)
        ).get
        named = failure.named or failure.parameter in can_leave_out
        return Situation(
            failure.culprit,
            named=named,
            optional=bool(can_leave_out) and (not failure.named or failure.parameter in can_leave_out),
            setting=setting,
            insists=failure.culprit is Culprit.SERVICE and self._insists(case, outcomes, failure),
            proven=case.proven,
            row_is_ill=is_ill(failure.culprit, row, self._threshold),
            provider_is_ill=is_ill(failure.culprit, of_provider, self._threshold),
            provider_serves=detached is not None,
        )

    def _insists(self, case: _Case, outcomes: Sequence[Outcome], failure: Failure) -> bool:
        """Whether a service failed at its breaker's probe, or at one task alone as often as that may be tried."""
        if self._breakers.is_probe(case.connection, case.provider, case.slot):
            return True
        tried = case.connection.execute(
            "SELECT service FROM evidence WHERE seq = ? AND world = ?", (outcomes[0].task.seq, case.world)
        ).get
        return len(outcomes) == 1 and (tried or 0) >= self._retries(failure)

    def _retries(self, failure: Failure | None) -> int:
        return max(self._max_retries, failure.patience if failure is not None else 0)

    def _note_row(self, case: _Case, culprit: Culprit, seqs: Sequence[int]) -> None:
        """The call as one more failure in a row, unless all its tasks fail where others are served meanwhile.

        Those speak for themselves, and no more for the world.
        """
        are_these, bound = these(seqs)
        witnessed = case.connection.execute(
            f"SELECT COUNT(*) FROM evidence WHERE world = ? AND good_before < ? AND seq {are_these}",
            (case.world, case.tally.good, *bound),
        ).get
        if not seqs or witnessed == len(seqs):
            return
        case.connection.execute(
            "INSERT INTO failures (provider, world, culprit, tasks) VALUES (?, ?, ?, ?)",
            (case.provider, case.world, culprit.value, json.dumps(list(seqs))),
        )
        case.connection.execute(
            "DELETE FROM failures WHERE world = ?1 AND number NOT IN"
            " (SELECT number FROM failures WHERE world = ?1 ORDER BY number DESC LIMIT ?2)",
            (case.world, max(self._threshold, 5)),
        )

    def _judge_each(self, case: _Case, outcomes: Sequence[Outcome], failure: Failure) -> list[Outcome]:
        """Each task by itself; a batch is halved, whatever the answer was."""
        together = len(outcomes) > 1
        judged = []
        for outcome in outcomes:
            if outcome.ending is Ending.RETRY:
                if together:
                    case.limits[outcome.task.seq] = max(1, len(outcomes) // 2)
                outcome = self._judged(
                    case,
                    outcome,
                    failure.culprit,
                    alone=not together,
                    named=failure.named and not failure.parameter,
                    failure=failure,
                )
            judged.append(outcome)
        return judged

    def _judged(
        self,
        case: _Case,
        outcome: Outcome,
        culprit: Culprit,
        *,
        alone: bool,
        counted: int = 1,
        named: bool = False,
        failure: Failure | None = None,
    ) -> Outcome:
        """Note one more failure of a task, and fail it if the evidence says that it is to blame.

        `counted`: how many failures of the world's tally this was.
        """
        named = named or outcome.named
        row = case.connection.execute(
            f"SELECT {', '.join(_TALLIES)}, turns + 1 - failed_in_row FROM evidence WHERE seq = ? AND world = ?",
            (outcome.task.seq, case.world),
        ).fetchone()
        turns = 1 if row is None else int(row[-1])
        if row is None:  # its first failure here; what it did elsewhere stands beside it, for it may come back there
            # What is in flight already began before this failure, and is no witness of what the world is like since.
            before, own = case.tally.more(None, case.in_flight), dict.fromkeys(COUNTED, 0)
        else:
            before = Tally(*row[:5]).more(culprit, counted)
            own = dict(zip(COUNTED, row[5:-1], strict=True))
        if alone:
            own[culprit] += outcome.times
        case.connection.execute(_NOTE, (outcome.task.seq, case.world, *before, *own.values(), turns))
        tries = own[culprit] if failure is not None and failure.patience else sum(own.values())
        case.tries[outcome.task.seq] = max(1, tries) if alone else 1
        ill = case.paused or not self._breakers.is_closed(case.connection, case.provider)
        if ill or not alone:
            return outcome
        if is_at_fault(
            culprit,
            own[culprit],
            case.tally,
            before,
            self._retries(failure),
            named=named,
            proven=case.proven,
            witnessed=case.witnessed,
            turns=turns,
        ):
            return _failed(
                outcome,
                f"failed {own[culprit]} times alone, last: {outcome.reason}" if own[culprit] > 1 else outcome.reason,
            )
        return outcome

    def _speak(
        self, case: _Case, failure: Failure, *, opened: bool = False, heard: bool = False
    ) -> BreakerChange | None:
        """What the call says of its provider."""
        if opened:
            reason = failure.reason
            if failure.culprit is Culprit.INPUT:
                reason += ", whatever is sent"
            if failure.culprit in (Culprit.INPUT, Culprit.ACCOUNT) and not failure.named:
                reason += f": look at {ACCESS.get(case.provider, 'its settings')}"
            return self._breakers.tell(
                case.connection, case.provider, Health.REFUSED, case.slot, case.now, reason, failure.culprit
            )
        if heard or failure.culprit in (Culprit.ANSWER, Culprit.MODEL, Culprit.REQUEST):
            return self._breakers.tell(case.connection, case.provider, Health.HEALTHY, case.slot, case.now)
        # Whether it is the service's fault was decided above: only a probe is judged by this alone.
        return self._breakers.tell_probe(
            case.connection, case.provider, case.slot, case.now, failure.reason, failure.culprit
        )

    # The request adapts

    def _leave_out(self, case: _Case, profile: _Profile, name: str, failure: Failure, seqs: Sequence[int]) -> None:
        """`seqs`: the tasks of the call. A guess is right if it serves one of them; that a service is well again is
        no proof of one."""
        guess = name + FOR_SERVICE if failure.culprit is Culprit.SERVICE else name
        guessed = profile.guessed if failure.parameter == name else [*profile.guessed, guess]
        tasks = [] if failure.culprit is Culprit.SERVICE else [*profile.tasks, *seqs][-MOST_GUESSED:]
        since = case.now
        if name == "service_tier":  # a tier that has no room now may have some soon
            since += TIER_SECONDS - PROFILE_SECONDS
        _adopt(case, _Profile([*profile.left_out, name], guessed, profile.kept, tasks, failure.reason), since)
        case.tell("Parameter is refused and left out", failure.reason, parameter=name)

    def _restore(self, case: _Case, profile: _Profile, failure: Failure, *, futile: bool) -> bool:
        """Take back what was left out by guess, if that was `futile`, and whatever has made the answers useless.

        That a service fails says nothing against what was left out because requests were refused.
        """
        needed = failure.culprit is Culprit.REQUEST
        guesses: list[str] = []
        if needed:
            guesses = [name for name in profile.left_out if name == failure.parameter]
        elif failure.culprit in (Culprit.INPUT, Culprit.SERVICE) and futile and not case.proven:
            by_service = failure.culprit is Culprit.SERVICE
            guesses = [name for name in profile.guessed if not by_service or name.endswith(FOR_SERVICE)]
        if not guesses:
            return False
        back = {_bare(guess) for guess in guesses}
        without = profile._replace(
            left_out=[name for name in profile.left_out if name not in back],
            guessed=[name for name in profile.guessed if _bare(name) not in back],
            kept=[*profile.kept, *(name + NEEDED if needed else name for name in guesses)],
        )
        refused = failure.culprit is Culprit.INPUT  # a guess costs one send there, and all its tries of a service
        _adopt(case, without, case.now + (FUTILE_SECONDS - PROFILE_SECONDS if refused else 0.0))
        return True

    # A world is paused

    def _pause(self, case: _Case, failure: Failure, profile: _Profile) -> None:
        until = case.now + pause_delay(case.pauses, self._recovery)
        reason = failure.reason
        if failure.culprit is Culprit.INPUT and (named := profile.settings()):
            reason += f"; nothing is left to leave out of the request: look at {named}"
        case.connection.execute(
            "UPDATE worlds SET culprit = ?, reason = ?, pauses = pauses + 1, paused_until = ?, probe_slot = NULL"
            " WHERE id = ?",
            (failure.culprit.value, reason, until, case.world),
        )
        moved(case.connection)
        if not case.paused:
            case.tell("Tasks of this model wait", reason, until=until)

    def _resume(self, case: _Case) -> None:
        """What it was paused for is over, although this answer was none. The next pause, if there is one, is longer."""
        case.connection.execute(
            "UPDATE worlds SET culprit = '', reason = '', paused_until = NULL, probe_slot = NULL WHERE id = ?",
            (case.world,),
        )
        case.connection.execute(
            "DELETE FROM failures WHERE world = ? AND culprit <> ?", (case.world, Culprit.ANSWER.value)
        )
        _return_all(case, whole_provider=False)
        moved(case.connection)
        case.tell("Tasks of this model go on", "")

    def _put_off(self, case: _Case) -> None:
        """The probe said nothing of its world."""
        case.connection.execute(
            "UPDATE worlds SET probe_slot = NULL, paused_until = ? WHERE id = ?",
            (case.now + self._recovery, case.world),
        )
        moved(case.connection)


# A task's evidence in one world: the world's tally then, and its own failures since.
_TALLIES = (*(f"{field}_before" for field in Tally._fields), *COUNTED)
_NOTE = (
    f"INSERT INTO evidence (seq, world, {', '.join(_TALLIES)}, turns) VALUES (?, ?{', ?' * len(_TALLIES)}, ?)"
    f" ON CONFLICT (seq, world) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _TALLIES)},"
    " turns = excluded.turns, failed_in_row = 1"
)


def _row(connection: Connection, condition: str, bound: str | int) -> list[frozenset[int]]:
    rows: list[Row] = connection.execute(
        f"SELECT tasks FROM failures WHERE {condition} ORDER BY number", (bound,)
    ).fetchall()
    return [frozenset(json.loads(tasks)) for (tasks,) in rows]


def _return_all(case: _Case, *, whole_provider: bool) -> None:
    """The world is well again: what failed in that row is due at once, within a few seconds."""
    worlds = "SELECT id FROM worlds WHERE provider = ?" if whole_provider else "SELECT CAST(? AS BIGINT)"
    bound = case.provider if whole_provider else case.world
    connection = case.connection
    failed = f"SELECT seq FROM evidence WHERE failed_in_row = 1 AND world IN ({worlds})"
    connection.execute(
        # Spread by their numbers, so that they don't return all at once.
        "UPDATE tasks SET due_at = ?1 + ?2 * ((seq * 37) % 100) / 100.0"
        f" WHERE {READY} AND due_at > ?1 + ?2 AND seq IN ({failed.replace('?', '?3')})",
        (case.now, RETURN_SECONDS, bound),
    )
    connection.execute(
        f"UPDATE evidence SET failed_in_row = 0 WHERE failed_in_row = 1 AND world IN ({worlds})", (bound,)
    )


def _has_answered(case: _Case) -> bool:
    """Whether this model ever served anyone here, however it was set up."""
    found = case.connection.execute(
        "SELECT 1 FROM worlds WHERE provider = ? AND model = ? AND proven = 1", (case.provider, case.model)
    )
    return found.get is not None


class _Profile(NamedTuple):
    """What is left out of requests to a model. `kept`: what need not be, for it did not help.

    `tasks`: those that were refused before the guesses were made.
    """

    left_out: list[str]
    guessed: list[str]
    kept: list[str]
    tasks: list[int]
    reason: str

    @property
    def needed(self) -> list[str]:
        """What cannot be left out: without it no answer is what a setting wants."""
        return [name.removesuffix(NEEDED) for name in self.kept if name.endswith(NEEDED)]

    def keeps(self, name: str, culprit: Culprit) -> bool:
        """Whether `name` is not to be left out because of a failure of `culprit`."""
        marks = ("", NEEDED, FOR_SERVICE) if culprit is Culprit.SERVICE else ("", NEEDED)
        return any(name + mark in self.kept for mark in marks)

    def settings(self) -> str:
        """The settings that stand behind what cannot be left out."""
        return ", ".join(SETTINGS[name] for name in self.needed if name in SETTINGS)


# Behind a name in `kept`; and behind one, there or in `guessed`, that was left out because the service failed.
NEEDED = "!"
FOR_SERVICE = "~"


def _bare(guess: str) -> str:
    return guess.removesuffix(FOR_SERVICE)


# Which settings say where a provider is, and who we are there.
ACCESS = {"openai": "OPENAI_API_KEY and OPENAI_BASE_URL", "ollama": "OLLAMA_BASE_URL and OLLAMA_API_KEY"}
# Which setting puts a parameter into a request.
SETTINGS = {
    "dimensions": "EMBEDDING_DIMENSIONS",
    "service_tier": "OPENAI_SERVICE_TIER",
    "reasoning_effort": "OPENAI_REASONING_EFFORT",
    "think": "OLLAMA_THINK",
    "options": "OLLAMA_OPTIONS",
}


def _profile(case: _Case) -> _Profile:
    row = case.connection.execute(
        "SELECT left_out, guessed, kept, tasks, reason FROM request_profiles"
        " WHERE provider = ? AND model = ? AND setup = ? AND since > ?",
        (case.provider, case.model, case.setup, case.now - PROFILE_SECONDS),
    ).fetchone()
    if row is None:
        return _Profile([], [], [], [], "")
    return _Profile(row[0].split(), row[1].split(), row[2].split(), json.loads(row[3]), row[4])


def _doubt_guesses(case: _Case, served: Collection[int]) -> None:
    """The first tasks are served without what was left out: unless one of them was refused with it, that proves little.

    It is tried with it again before long.
    """
    profile = _profile(case)
    if profile.guessed and not set(profile.tasks) & set(served):
        case.connection.execute(
            "UPDATE request_profiles SET since = ?1 WHERE provider = ?2 AND model = ?3 AND since > ?1",
            (case.now + GUESS_SECONDS - PROFILE_SECONDS, case.provider, case.model),
        )


def _adopt(case: _Case, profile: _Profile, since: float) -> None:
    """From now on requests are others: what failed before is due at once, and its evidence counts no more."""
    connection, model = case.connection, (case.provider, case.model)
    connection.execute("DELETE FROM request_profiles WHERE provider = ? AND model = ?", model)
    names = (" ".join(each) for each in (profile.left_out, profile.guessed, profile.kept))
    connection.execute(
        "INSERT INTO request_profiles (provider, model, setup, left_out, guessed, kept, tasks, reason, since)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*model, case.setup, *names, json.dumps(profile.tasks), profile.reason, since),
    )
    worlds = "SELECT id FROM worlds WHERE provider = ? AND model = ?"
    connection.execute(
        f"UPDATE tasks SET due_at = ? WHERE {READY} AND due_at > ?"
        f" AND seq IN (SELECT seq FROM evidence WHERE world IN ({worlds}))",
        (case.now, case.now, *model),
    )
    connection.execute(f"DELETE FROM evidence WHERE world IN ({worlds})", model)
    connection.execute(f"DELETE FROM failures WHERE world IN ({worlds})", model)
    moved(connection)


def _ready(outcome: Outcome) -> Outcome:
    return outcome._replace(ending=Ending.ADAPTED) if outcome.ending in (Ending.RETRY, Ending.FALLBACK) else outcome


def _ready_later(outcome: Outcome) -> Outcome:
    return outcome._replace(ending=Ending.POSTPONED) if outcome.ending is Ending.RETRY else outcome


def _failed(outcome: Outcome, reason: str) -> Outcome:
    return outcome._replace(ending=Ending.FAILED, reason=reason)
