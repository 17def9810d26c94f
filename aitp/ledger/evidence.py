"""Judging calls that have ended: whose fault a failure is, by what befalls others in the same world.

The finish tells what happened, by the worker's `Report`, and has it written into what is `Settled`; what is to become
of the tasks, of the request, of the world and of its provider's breaker, `aitp.policy.evidence` decides. While nothing
fails the finish does not ask. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from aitp.ledger.breakers import BreakerChange, Breakers, Cooldown, forget_guesses
from aitp.ledger.duplicates import Reused
from aitp.ledger.engine import Connection, these
from aitp.ledger.queue import CLAIMED, READY, LedgerConfig
from aitp.ledger.worlds import PROFILE_SECONDS, moved, release_probes
from aitp.policy.costs import Bill
from aitp.policy.evidence import Remedy, Situation, Tally, is_at_fault, is_ill, remedy
from aitp.policy.retry import pause_delay
from aitp.tasks import BreakerState, Culprit, Ending, Health, Outcome

# A guess that may have been none, as another task than the refused ones was served: whether it was is soon tried again.
GUESS_SECONDS = 900.0
MOST_GUESSED = 100
# What was left out in vain may not have been, had the server not been ill then: guesses are made anew after so long.
FUTILE_SECONDS = 21_600.0
# What is left out because a tier has no room is tried again sooner than anything else.
TIER_SECONDS = 900.0
# A queue that a world's success brings back comes back within these seconds.
RETURN_SECONDS = 5.0

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

# Failures that a world keeps a tally of, in the order of its columns; all others are nobody's but ours.
COUNTED = (Culprit.SERVICE, Culprit.ACCOUNT, Culprit.INPUT, Culprit.ANSWER)

# For select lists. A task that has failed, or whose process has died; and whether all is as it should be.
ANY_SUSPECTS = "EXISTS (SELECT 1 FROM tasks WHERE is_suspect = 1 AND queue > 0)"  # the index begins with the kind
NO_FAILURES = "NOT EXISTS (SELECT 1 FROM failures)"


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


NO_FAILURE = Failure(Culprit.MACHINE)


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


@dataclass(frozen=True, slots=True)
class Report:
    """How a claim's call ended: an outcome for each task, how it failed as a whole if it did, how long it took.

    `optional`: parameters that it was sent with and could do without. `bill`: what it cost, where prices are known.
    `waits`: the provider's own rule of how long a task at which it fails waits, by the number of the try; `at_least`:
    what it asked for; `has_stand_in`: another one takes it over after them.
    """

    outcomes: Sequence[Outcome]
    failure: Failure | None = None
    cooldown: Cooldown | None = None
    seconds: float = 0.0
    bill: Bill | None = None
    optional: Sequence[str] = ()
    waits: Sequence[float] = ()
    at_least: float = 0.0
    has_stand_in: bool = False


@dataclass(slots=True)
class Settled:
    """What is made of tasks whose attempt has ended: blame and poison are decided.

    `breaker`: the one that moved. `paused_processor`: the type whose bugs just paused it. `reused`: their duplicates.
    `frees_others`: others may go on now, or money came back that they wait for. `told`: for a person to hear of.
    `late`: how many of them were this slot's no more. By task, of those that wait: `tries`, with which the wait grows,
    and the largest batch that they may be in, where that was cut (`bounds`).
    """

    outcomes: tuple[Outcome, ...] = ()
    breaker: BreakerChange | None = None
    retry_at: float | None = None
    paused_processor: str | None = None
    reused: tuple[Reused, ...] = ()
    frees_others: bool = False
    told: tuple[Notice, ...] = ()
    late: int = 0
    tries: dict[int, int] = field(default_factory=dict)
    bounds: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges calls that have ended."""

    breakers: Breakers
    config: LedgerConfig

    def judge(
        self,
        connection: Connection,
        now: float,
        slot: int,
        world: int | None,
        report: Report,
        settled: Settled,
        witnessed: int | None = None,
    ) -> None:
        """Decide what is to become of the tasks of a call by `slot` in `world`, and what it says of that and of its
        provider. `settled`: what has become of them so far. `witnessed`: `World.good` as claimed.
        """
        row = connection.execute(_WORLD, (slot, world)).fetchone()
        if row is not None:  # else it was forgotten, and nothing is known of it
            facts = len(Tally._fields)
            case = _Case(self, connection, now, slot, report, settled, witnessed, Tally(*row[:facts]), *row[facts:])
            settled.outcomes = tuple(case.judge())


# A world as a case begins: whether its model has served anyone, however it was set up; calls of other slots there,
# counted in tasks_claimed; and its provider's breaker, whether it is closed, or this slot makes its probe.
_WORLD = (
    f"SELECT {', '.join(f'worlds.{field}' for field in Tally._fields)},"
    " id, provider, model, type, worlds.setup, left_out, proven, pauses, paused_until IS NOT NULL, worlds.culprit,"
    " COALESCE(worlds.probe_slot, -1) = ?1,"
    " EXISTS (SELECT 1 FROM worlds AS any_such WHERE any_such.provider = worlds.provider"
    " AND any_such.model = worlds.model AND any_such.proven = 1),"
    f" (SELECT COUNT(DISTINCT slot) FROM tasks WHERE {CLAIMED} AND world = ?2 AND slot <> ?1),"
    f" breakers.state = '{BreakerState.CLOSED}', COALESCE(breakers.probe_slot, -1) = ?1"
    " FROM worlds JOIN breakers ON breakers.service = provider WHERE id = ?2"
)
# A task's evidence in one world, with one more failure: the world's tally then, which has a call in it that failed as a
# whole now (?3: 1) and all before, and its own failures since. What it did elsewhere stands beside it.
_TALLIES = (*(f"{field}_before" for field in Tally._fields), *COUNTED)
_NOTE = (
    f"INSERT INTO evidence (seq, world, {', '.join(_TALLIES)})"
    f" VALUES (?1, ?2, {', '.join(f'?{number}' for number, _ in enumerate(_TALLIES, 4))})"
    " ON CONFLICT (seq, world) DO UPDATE SET {0}_before = evidence.{0}_before + ?3, {0} = evidence.{0} + excluded.{0},"
    f" turns = evidence.turns + 1 - evidence.failed_in_row, failed_in_row = 1 RETURNING {', '.join(_TALLIES)}, turns"
)


@dataclass
class _Case:
    """One call to be judged, and the world that it was made in.

    `probing`: this slot was the one to try the paused world; `paused_by`: whose fault that was. `has_answered`: its
    model, ever. `in_flight`: calls of other slots. `is_closed`: the breaker of its provider; `probes_provider`: this
    slot makes its probe.
    """

    rules: Judge
    connection: Connection
    now: float
    slot: int
    report: Report
    settled: Settled
    witnessed: int | None
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
    has_answered: bool
    in_flight: int
    is_closed: bool
    probes_provider: bool

    def judge(self) -> Iterable[Outcome]:
        """What is to become of the tasks."""
        if self.probing:
            release_probes(self.connection, self.slot)  # over, whatever is made of it
        if any(outcome.ending is Ending.SUCCEEDED for outcome in self.outcomes):
            return self._serve()
        if self.report.failure is not None:
            return self._fail()
        if self.probing:  # it said nothing of its world
            self._set_world("paused_until = ?", self.now + self.rules.config.breaker_recovery)
            moved(self.connection)
        self._tell(Health.UNKNOWN if self.report.cooldown is None else Health.HEALTHY)
        return self.outcomes

    @property
    def outcomes(self) -> Sequence[Outcome]:
        return self.settled.outcomes

    @property
    def failure(self) -> Failure:
        return self.report.failure or NO_FAILURE

    def _tell(self, health: Health, reason: str = "") -> None:
        """What the call says of its provider."""
        culprit = "" if health is Health.HEALTHY else self.failure.culprit
        self.settled.breaker = self.rules.breakers.tell(
            self.connection, self.provider, health, self.slot, self.now, reason, culprit
        )

    def _notice(self, what: str, reason: str = "", *, parameter: str = "", until: float | None = None) -> None:
        self.settled.told += (Notice(what, self.provider, self.model, self.type, reason, parameter, until),)

    def _set_world(self, settings: str, *bound: object) -> None:
        self.connection.execute(f"UPDATE worlds SET {settings} WHERE id = ?", (*bound, self.world))

    # A call that brought something

    def _serve(self) -> Iterable[Outcome]:
        connection = self.connection
        self.tally = self.tally.more(None)
        self._set_world("good = good + 1, proven = 1, pauses = 0, paused_until = NULL, probe_slot = NULL")
        self._tell(Health.HEALTHY)
        has_closed = self.settled.breaker is not None
        self.is_closed = self.is_closed or has_closed
        forget_guesses(connection, self.provider, self.model)
        if self.left_out and not self.proven:
            self._doubt_guesses()
        connection.execute("DELETE FROM failures WHERE world = ?", (self.world,))
        self.settled.frees_others = connection.changes() > 0 or self.paused or not self.proven
        connection.execute("UPDATE failures SET provider = '' WHERE provider = ?", (self.provider,))
        self._end_row(of_provider=has_closed, returns=self.paused or has_closed)
        if self.settled.frees_others:
            moved(connection)
        if self.paused:
            self._notice("Tasks of this model go on")
        # The provider has spoken about each of these by itself, batch or not.
        return map(self._judged, self.outcomes)

    def _end_row(self, *, of_provider: bool = False, returns: bool = True) -> None:
        """This world is well again, or all of its provider: what failed in that row is due within a few seconds, if it
        `returns`."""
        connection, bound = self.connection, (self.provider, self.world, int(of_provider))
        in_row = "failed_in_row = 1 AND world IN (SELECT id FROM worlds WHERE provider = ?1 AND (id = ?2 OR ?3 = 1))"
        if returns:
            connection.execute(
                # Spread by their numbers, so that they don't return all at once.
                "UPDATE tasks SET due_at = ?4 + ?5 * ((seq * 37) % 100) / 100.0"
                f" WHERE {READY} AND due_at > ?4 + ?5 AND seq IN (SELECT seq FROM evidence WHERE {in_row})",
                (*bound, self.now, RETURN_SECONDS),
            )
        connection.execute(f"UPDATE evidence SET failed_in_row = 0 WHERE {in_row}", bound)

    # A call that failed

    def _fail(self) -> Iterable[Outcome]:
        failure, culprit, profile = self.failure, self.failure.culprit, self._profile()
        if culprit in (Culprit.INPUT, Culprit.REQUEST) and profile.left_out != self.left_out:
            # Sent before the request was changed: that says nothing, neither of the task nor of the world.
            self._tell(Health.UNKNOWN)
            return map(_adapted, self.outcomes)
        if culprit is Culprit.MODEL and failure.named and failure.stranger and not self.has_answered:
            self._tell(Health.HEALTHY)
            reason = f"{failure.reason}; no setting names this model, and it never answered here"
            return [_failed(each, reason) for each in self.outcomes]
        failed = [each.task.seq for each in self.outcomes if each.ending in (Ending.RETRY, Ending.FALLBACK)]
        counted = culprit in COUNTED
        if counted:
            self._count(failed)
        kept = {Parameter.IN_VAIN, Parameter.NEEDED}
        if culprit is Culprit.SERVICE:
            kept.add(Parameter.TRIED_IN_VAIN)
        optional = [name for name in self.report.optional if failure.sent and profile.parameters.get(name) not in kept]
        situation = self._situation(optional, setting=bool(profile.settings))
        asked = remedy(situation)
        changed = asked is Remedy.LEAVE_OUT
        if changed:
            name = failure.parameter if failure.parameter in optional else optional[0]
            self._leave_out(profile, name, failed)
        elif failure.sent and not optional:
            changed = self._restore(profile, futile=situation.row_is_ill or situation.insists)
        if changed and culprit is not Culprit.SERVICE:  # a service that fails is not asked at once again
            self._tell(Health.HEALTHY)
            self.settled.frees_others = True
            return map(_adapted, self.outcomes)
        judged = [*map(self._judged if counted else _postponed, self.outcomes)]
        self._speak(opens=asked is Remedy.OPEN)
        # A useless answer is one all the same: the model is there, and takes what it is sent.
        if self.probing and culprit is Culprit.ANSWER and self.paused_by not in (Culprit.ANSWER, Culprit.REQUEST):
            self._resume()
        elif self.probing or asked is Remedy.PAUSE:
            self._pause(profile)
        elif counted:
            moved(self.connection)  # the row is longer
        self.settled.frees_others = counted
        return judged

    def _count(self, seqs: Sequence[int]) -> None:
        """One more failure in the world's tally; and in a row, unless all its tasks fail where others are served
        meanwhile: those speak for themselves, and no more for the world.
        """
        culprit, connection = self.failure.culprit, self.connection
        self.tally = self.tally.more(culprit)
        self._set_world(f"{culprit} = {culprit} + 1")
        if culprit is Culprit.INPUT and self.failure.named and self.proven:
            return  # a provider that serves others and names the text speaks of that text alone, however many there are
        are_these, bound = these(seqs)
        witnessed = connection.execute(
            f"SELECT COUNT(*) FROM evidence WHERE world = ? AND good_before < ? AND seq {are_these}",
            (self.world, self.tally.good, *bound),
        ).get
        if witnessed == len(seqs):
            return
        connection.execute(
            "INSERT INTO failures (provider, world, culprit, tasks) VALUES (?, ?, ?, ?)",
            (self.provider, self.world, culprit, json.dumps(list(seqs))),
        )
        connection.execute(
            "DELETE FROM failures WHERE world = ?1 AND number NOT IN"
            " (SELECT number FROM failures WHERE world = ?1 ORDER BY number DESC LIMIT ?2)",
            (self.world, max(self.rules.config.breaker_threshold, 5)),
        )

    def _situation(self, optional: Collection[str], *, setting: bool) -> Situation:
        failure, threshold = self.failure, self.rules.config.breaker_threshold
        failures = self.connection.execute(
            "SELECT world, provider, culprit, tasks FROM failures WHERE world = ? OR provider = ? ORDER BY number",
            (self.world, self.provider),
        ).fetchall()
        calls = [
            (world == self.world, of, culprit, frozenset(json.loads(tasks))) for world, of, culprit, tasks in failures
        ]
        own = [tasks for is_own, _, _, tasks in calls if is_own]
        # What is a whole provider's, not one model's.
        of_provider = [tasks for _, of, culprit, tasks in calls if of and culprit in (Culprit.SERVICE, Culprit.ACCOUNT)]
        by_name = failure.parameter in optional
        return Situation(
            failure.culprit,
            named=failure.named or by_name,
            optional=by_name or (bool(optional) and not failure.named),
            setting=setting,
            insists=failure.culprit is Culprit.SERVICE and self._insists(),
            proven=self.proven,
            row_is_ill=is_ill(failure.culprit, own, threshold),
            provider_is_ill=is_ill(failure.culprit, of_provider, threshold),
            provider_serves=any(is_own and not of for is_own, of, _, _ in calls),
        )

    def _insists(self) -> bool:
        """Whether a service failed at its breaker's probe, or at one task alone as often as that may be tried."""
        if self.probes_provider:
            return True
        tried = self.connection.execute(
            "SELECT service FROM evidence WHERE seq = ? AND world = ?", (self.outcomes[0].task.seq, self.world)
        ).get
        return len(self.outcomes) == 1 and (tried or 0) >= self._retries

    @property
    def _retries(self) -> int:
        return max(self.rules.config.max_retries, self.failure.patience)

    def _judged(self, outcome: Outcome) -> Outcome:
        """Note one more failure of a task, and fail it if the evidence says that it is to blame.

        A batch that failed as a whole is halved, whatever the answer was.
        """
        if outcome.ending is not Ending.RETRY:
            return outcome
        failure, culprit, seq = self.failure, outcome.culprit, outcome.task.seq
        failed_whole = self.report.failure is not None
        alone = not failed_whole or len(self.outcomes) == 1
        # What is in flight already began before a first failure, and is no witness of what the world is like since.
        before = self.tally.more(None, self.in_flight)
        own = (outcome.times if alone and each is culprit else 0 for each in COUNTED)
        *known, turns = self.connection.execute(
            _NOTE.format(culprit), (seq, self.world, int(failed_whole), *before, *own)
        ).get
        before, counted = Tally(*known[:5]), dict(zip(COUNTED, known[5:], strict=True))
        tries = counted[culprit] if failure.patience else sum(counted.values())
        self.settled.tries[seq] = max(1, tries) if alone else 1
        if not alone:
            self.settled.bounds[seq] = len(self.outcomes) // 2
        if not alone or self.paused or not self.is_closed:
            return outcome
        if is_at_fault(
            culprit,
            counted[culprit],
            self.tally,
            before,
            self._retries,
            named=outcome.named or (failure.named and not failure.parameter),
            proven=self.proven,
            witnessed=self.witnessed,
            turns=turns,
        ):
            often = f"failed {counted[culprit]} times alone, last: " if counted[culprit] > 1 else ""
            return _failed(outcome, often + outcome.reason)
        return outcome

    def _speak(self, *, opens: bool) -> None:
        """What a failed call says of its provider."""
        failure = self.failure
        if opens:
            needs_advice = failure.culprit in (Culprit.INPUT, Culprit.ACCOUNT) and not failure.named
            advice = f": look at {ACCESS.get(self.provider, 'its settings')}" if needs_advice else ""
            self._tell(Health.REFUSED, failure.reason + advice)
        elif failure.culprit in (Culprit.ANSWER, Culprit.MODEL, Culprit.REQUEST):
            self._tell(Health.HEALTHY)
        elif self.probes_provider:
            # Whether it is the service's fault was decided above: only a probe is judged by this alone.
            self._tell(Health.FAULTY, failure.reason)

    # A world is paused

    def _pause(self, profile: _Profile) -> None:
        until = self.now + pause_delay(self.pauses, self.rules.config.breaker_recovery)
        reason = self.failure.reason
        if self.failure.culprit is Culprit.INPUT and profile.settings:
            reason += f"; nothing is left to leave out of the request: look at {profile.settings}"
        self._set_world(
            "culprit = ?, reason = ?, pauses = pauses + 1, paused_until = ?, probe_slot = NULL",
            self.failure.culprit,
            reason,
            until,
        )
        moved(self.connection)
        if not self.paused:
            self._notice("Tasks of this model wait", reason, until=until)

    def _resume(self) -> None:
        """What it was paused for is over, although this answer was none. The next pause, if there is one, is longer."""
        self._set_world("paused_until = NULL")
        self.connection.execute("DELETE FROM failures WHERE world = ? AND culprit <> ?", (self.world, Culprit.ANSWER))
        self._end_row()
        moved(self.connection)
        self._notice("Tasks of this model go on")

    # The request adapts

    def _profile(self) -> _Profile:
        row = self.connection.execute(
            "SELECT parameters, tasks, reason FROM request_profiles"
            " WHERE provider = ? AND model = ? AND setup = ? AND since > ?",
            (self.provider, self.model, self.setup, self.now - PROFILE_SECONDS),
        ).fetchone()
        return _Profile({}, [], "") if row is None else _Profile(json.loads(row[0]), json.loads(row[1]), row[2])

    def _leave_out(self, profile: _Profile, name: str, seqs: Sequence[int]) -> None:
        """`seqs`: the tasks of the call. A guess is right if it serves one of them; that a service is well again is
        no proof of one."""
        failure = self.failure
        state, tasks = Parameter.GUESSED, [*profile.tasks, *seqs][-MOST_GUESSED:]
        if failure.culprit is Culprit.SERVICE:
            state, tasks = Parameter.TRIED, []
        if failure.parameter == name:
            state = Parameter.NAMED
        # A tier that has no room now may have some soon.
        believed = TIER_SECONDS if name == "service_tier" else PROFILE_SECONDS
        self._adopt(_Profile({**profile.parameters, name: state}, tasks, failure.reason), believed)
        self._notice("Parameter is refused and left out", failure.reason, parameter=name)

    def _restore(self, profile: _Profile, *, futile: bool) -> bool:
        """Take back what was left out by guess, if that was `futile`, and whatever has made the answers useless.

        That a service fails says nothing against what was left out because requests were refused.
        """
        culprit, back = self.failure.culprit, dict[str, str]()
        if culprit is Culprit.REQUEST:
            if self.failure.parameter in profile.left_out.split():
                back = {self.failure.parameter: Parameter.NEEDED}
        elif futile and not self.proven:
            in_vain = _IN_VAIN.get(culprit, {})
            back = {name: in_vain[state] for name, state in profile.parameters.items() if state in in_vain}
        if back:
            # A guess costs one send where requests are refused, and all its tries of a service that fails.
            believed = FUTILE_SECONDS if culprit is Culprit.INPUT else PROFILE_SECONDS
            self._adopt(profile._replace(parameters={**profile.parameters, **back}), believed)
        return bool(back)

    def _doubt_guesses(self) -> None:
        """The first tasks are served without what was left out: unless one of them was refused with it, that proves
        little. It is tried with it again before long.
        """
        profile = self._profile()
        served = {outcome.task.seq for outcome in self.outcomes if outcome.ending is Ending.SUCCEEDED}
        if served.isdisjoint(profile.tasks) and not {*_IN_VAIN[Culprit.INPUT]}.isdisjoint(profile.parameters.values()):
            self.connection.execute(
                "UPDATE request_profiles SET since = ?1 WHERE provider = ?2 AND model = ?3 AND since > ?1",
                (self.now + GUESS_SECONDS - PROFILE_SECONDS, self.provider, self.model),
            )

    def _adopt(self, profile: _Profile, believed: float) -> None:
        """From now on requests are others, for so many seconds: what failed before is due at once, and its evidence
        counts no more.
        """
        connection, model = self.connection, (self.provider, self.model)
        connection.execute("DELETE FROM request_profiles WHERE provider = ? AND model = ?", model)
        parameters, tasks = json.dumps(profile.parameters), json.dumps(profile.tasks)
        connection.execute(
            "INSERT INTO request_profiles (provider, model, setup, left_out, parameters, tasks, reason, since)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *model,
                self.setup,
                profile.left_out,
                parameters,
                tasks,
                profile.reason,
                self.now + believed - PROFILE_SECONDS,
            ),
        )
        of_model = "WHERE world IN (SELECT id FROM worlds WHERE provider = ?1 AND model = ?2)"
        connection.execute(
            f"UPDATE tasks SET due_at = ?3 WHERE {READY} AND due_at > ?3"
            f" AND seq IN (SELECT seq FROM evidence {of_model})",
            (*model, self.now),
        )
        for table in ("evidence", "failures"):
            connection.execute(f"DELETE FROM {table} {of_model}", model)
        moved(connection)


class Parameter(StrEnum):
    """What has become of a parameter of requests to a model that was not simply sent."""

    NAMED = "named"  # left out, as the server named it
    GUESSED = "guessed"  # left out, as requests were refused
    TRIED = "tried"  # left out, as the service failed
    IN_VAIN = "in vain"  # sent: it was left out, and requests were refused all the same
    TRIED_IN_VAIN = "tried in vain"  # sent: the service failed all the same; it may be refused yet
    NEEDED = "needed"  # sent: without it no answer is what a setting wants


LEFT_OUT = (Parameter.NAMED, Parameter.GUESSED, Parameter.TRIED)
# What becomes of guesses that did not help against failures of this kind.
_IN_VAIN: Mapping[str, Mapping[str, Parameter]] = {
    Culprit.INPUT: {Parameter.GUESSED: Parameter.IN_VAIN, Parameter.TRIED: Parameter.TRIED_IN_VAIN},
    Culprit.SERVICE: {Parameter.TRIED: Parameter.TRIED_IN_VAIN},
}


class _Profile(NamedTuple):
    """What has become of parameters of requests to a model. `tasks`: those that were refused before the guesses."""

    parameters: Mapping[str, str]
    tasks: list[int]
    reason: str

    @property
    def left_out(self) -> str:
        return " ".join(name for name, state in self.parameters.items() if state in LEFT_OUT)

    @property
    def settings(self) -> str:
        """Those that stand behind what cannot be left out."""
        needed = [name for name, state in self.parameters.items() if state == Parameter.NEEDED]
        return ", ".join(SETTINGS[name] for name in needed if name in SETTINGS)


def _adapted(outcome: Outcome) -> Outcome:
    return outcome._replace(ending=Ending.ADAPTED) if outcome.ending in (Ending.RETRY, Ending.FALLBACK) else outcome


def _postponed(outcome: Outcome) -> Outcome:
    return outcome._replace(ending=Ending.POSTPONED) if outcome.ending is Ending.RETRY else outcome


def _failed(outcome: Outcome, reason: str) -> Outcome:
    return outcome._replace(ending=Ending.FAILED, reason=reason)
