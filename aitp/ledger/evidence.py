"""Worlds and what happens in them: the evidence by which a failed attempt is judged (`aitp.policy.evidence` decides).

A world is what attempts are made in: a provider as it is set up, a model, a type of tasks, and the parameters that are
sent. The claim asks for a kind's present world, and whether it may be sent to; the finish tells what befell there.
While nothing fails neither costs a statement: what claims need is remembered by each process until the ledger's
`worlds_version` moves. Everything runs inside a transaction of the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import apsw
import pybreaker

from aitp.ledger.breakers import BreakerChange, Breakers
from aitp.ledger.database import Row, these
from aitp.policy.evidence import Remedy, Standing, Tally, is_at_fault, is_ill, pause_delay, remedy
from aitp.policy.routing import Route
from aitp.tasks import Culprit, Ending, Health, Outcome

# What a server does not take of a request is believed for so long.
PROFILE_SECONDS = 86_400.0
# Those that nobody was sent to lately are forgotten: settings and models come and go.
MOST_WORLDS = 500
# A queue that a world's success brings back comes back within these seconds.
RETURN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call failed as a whole. `named`: the server itself says whose fault it is.

    `parameter`: of our request, that it names, or that a setting of ours stands behind. `stranger`: the model is one
    that no setting names.
    """

    culprit: Culprit
    reason: str = ""
    named: bool = False
    parameter: str = ""
    stranger: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """A kind's present world, as a claim needs it.

    `left_out`: parameters not to be sent. `proven`: it has served a task. `row`: failures in a row. `paused_until`:
    when it is probed, by `probe_slot` (None: by nobody yet). `expires_at`: until then its profile is believed.
    """

    id: int
    left_out: tuple[str, ...] = ()
    proven: bool = True
    row: int = 0
    paused_since: float | None = None
    paused_until: float | None = None
    probe_slot: int | None = None
    expires_at: float = float("inf")

    @property
    def is_well(self) -> bool:
        """Whether one more success there says nothing new."""
        return self.proven and self.paused_until is None


@dataclass(frozen=True, slots=True)
class Told:
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
    told: tuple[Told, ...] = ()
    cleared: bool = False


class Worlds:
    """A claim's view: the present world of a route and type. For one process; `threshold` as the breakers have it."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._version = -1
        self._known: dict[tuple[str, str, str], World] = {}

    def find(
        self, connection: apsw.Connection, version: int, route: Route, type_: str, setup: str, now: float
    ) -> World:
        """The world in which a task of `type_` would be sent by `route`, made if need be. `version`: the ledger's."""
        if version != self._version:
            self._version, self._known = version, {}
        key = (route.provider, route.model, type_)
        found = self._known.get(key)
        if found is None or found.expires_at <= now:
            found = self._known[key] = _find(connection, route, type_, setup, now)
        return found

    def forget(self) -> None:
        """The transaction in which worlds were found, or made, has come to nothing."""
        self._known = {}

    def free_for(self, connection: apsw.Connection, world: World, kind: int, now: float, canary: float) -> bool:
        """Whether one more call may be made there now, beside those that are in flight.

        While failures come in a row, no more are sent than it takes to know whose fault that is. Where nobody has been
        served yet, the others wait `canary` seconds for the first answer: what it refuses is then refused once.
        """
        if world.proven and not world.row:
            return True
        calls = int(
            # Served by tasks_claimed; only while something is wrong, or new.
            connection.execute(
                "SELECT COUNT(DISTINCT slot) FROM tasks WHERE state = 'claimed' AND kind = ?", (kind,)
            ).get
        )
        if calls and world.row + calls >= max(self._threshold, 1):
            return False
        if world.proven or not canary:
            return True
        tried_at = connection.execute("SELECT tried_at FROM worlds WHERE id = ?", (world.id,)).get
        if calls and now - canary < tried_at <= now:
            return False
        connection.execute("UPDATE worlds SET tried_at = ? WHERE id = ?", (now, world.id))
        return True

    def begin_probe(self, connection: apsw.Connection, world: World, slot: int) -> None:
        """Let `slot` alone be sent to a paused world whose time has come."""
        connection.execute("UPDATE worlds SET probe_slot = ? WHERE id = ?", (slot, world.id))
        _moved(connection)


_PROFILE = "SELECT left_out, since FROM request_profiles WHERE provider = ? AND model = ? AND setup = ? AND since > ?"
_WORLD = (
    "SELECT id, proven, (SELECT COUNT(*) FROM failures WHERE world = worlds.id), paused_since, paused_until, probe_slot"
    " FROM worlds WHERE provider = ? AND model = ? AND type = ? AND setup = ? AND left_out = ?"
)


def _find(connection: apsw.Connection, route: Route, type_: str, setup: str, now: float) -> World:
    profile = connection.execute(_PROFILE, (route.provider, route.model, setup, now - PROFILE_SECONDS)).fetchone()
    left_out, expires_at = ("", float("inf")) if profile is None else (profile[0], profile[1] + PROFILE_SECONDS)
    key = (route.provider, route.model, type_, setup, left_out)
    row = connection.execute(_WORLD, key).fetchone()
    if row is None:
        connection.execute("INSERT INTO worlds (provider, model, type, setup, left_out) VALUES (?, ?, ?, ?, ?)", key)
        row = connection.execute(_WORLD, key).fetchone()
        assert row is not None
    number, proven, failures, since, until, prober = row
    return World(number, tuple(left_out.split()), bool(proven), failures, since, until, prober, expires_at)


def _moved(connection: apsw.Connection) -> None:
    """What claims remember of worlds is not so any more."""
    connection.execute("UPDATE ledger SET worlds_version = worlds_version + 1")


def release_probes(connection: apsw.Connection, slot: int) -> None:
    """A dead slot's probes of paused worlds end without an outcome."""
    connection.execute("UPDATE worlds SET probe_slot = NULL WHERE probe_slot = ?", (slot,))
    if connection.changes():
        _moved(connection)


# For select lists. A task that has failed, or whose process has died; and whether all is as it should be.
ANY_SUSPECTS = "EXISTS (SELECT 1 FROM tasks WHERE is_suspect = 1 AND kind > 0)"  # the index begins with the kind
NO_FAILURES = "NOT EXISTS (SELECT 1 FROM failures)"


@dataclass(slots=True)
class _Case:
    """One call to be judged, and what has been found out about it so far."""

    connection: apsw.Connection
    now: float
    slot: int
    world: int
    provider: str
    model: str
    type: str
    setup: str
    left_out: str
    tally: Tally
    proven: bool
    pauses: int
    paused: bool
    probing: bool  # this slot, the paused world
    told: list[Told] = field(default_factory=list)
    tries: dict[int, int] = field(default_factory=dict)
    limits: dict[int, int] = field(default_factory=dict)


class Judge:
    """Judges calls that have ended. `recovery`: seconds until a world that was paused is probed."""

    def __init__(self, breakers: Breakers, threshold: int, recovery: float, max_retries: int) -> None:
        self._breakers = breakers
        self._threshold = threshold
        self._recovery = recovery
        self._max_retries = max_retries

    def judge(
        self,
        connection: apsw.Connection,
        slot: int,
        world: int | None,
        outcomes: Sequence[Outcome],
        failure: Failure | None,
        optional: Collection[str],
        provider: str,
        now: float,
        *,
        health: Health,
    ) -> Judgement:
        """What is to become of the tasks of a call in `world`, and what it says of the world and of its provider.

        `failure`: how it failed as a whole. `optional`: the parameters that it was sent with, and could do without.
        `health`: what it says of the provider where it says nothing of its tasks.
        """
        case = _open_case(connection, slot, world, now)
        if case is None:  # recovered, or from before there were any: nothing is known of it
            change = self._breakers.tell(connection, provider, health, slot, now)
            return Judgement(tuple(outcomes), breaker=change)
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
            "UPDATE worlds SET good = good + 1, proven = 1, culprit = '', reason = '', pauses = 0, paused_since = NULL,"
            " paused_until = NULL, probe_slot = NULL WHERE id = ?",
            (case.world,),
        )
        change = self._breakers.tell(connection, case.provider, Health.HEALTHY, case.slot, case.now)
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
        if had_row or case.paused or not case.proven:
            _moved(connection)
        if case.paused:
            case.told.append(_told(case, "Tasks of this model go on", ""))
        # The provider has spoken about each of these by itself, batch or not.
        judged = [
            self._judged(case, outcome, outcome.culprit, alone=True, counted=0)
            if outcome.ending is Ending.RETRY
            else outcome
            for outcome in outcomes
        ]
        cleared = had_row or case.paused or not case.proven
        return Judgement(tuple(judged), case.tries, case.limits, change, tuple(case.told), cleared)

    # A call that failed

    def _fail(self, case: _Case, outcomes: Sequence[Outcome], failure: Failure, optional: Collection[str]) -> Judgement:
        connection = case.connection
        if failure.culprit in (Culprit.INPUT, Culprit.REQUEST) and not _is_current(case):
            # Sent before the request was changed: that says nothing, neither of the task nor of the world.
            change = self._breakers.tell(connection, case.provider, Health.UNKNOWN, case.slot, case.now)
            return Judgement(tuple(_ready(outcome) for outcome in outcomes), breaker=change)
        if failure.culprit is Culprit.MODEL and failure.stranger and not _has_answered(case):
            reason = f"{failure.reason}; no setting names this model, and it never answered here"
            return Judgement(
                tuple(_failed(outcome, reason) for outcome in outcomes), breaker=self._speak(case, failure)
            )
        failed = [outcome for outcome in outcomes if outcome.ending in (Ending.RETRY, Ending.FALLBACK)]
        counted = failure.culprit in (Culprit.SERVICE, Culprit.ACCOUNT, Culprit.INPUT, Culprit.ANSWER)
        if counted:
            case.tally = case.tally.more(failure.culprit)
            column = failure.culprit.value
            connection.execute(f"UPDATE worlds SET {column} = {column} + 1 WHERE id = ?", (case.world,))
            self._note_row(case, failure.culprit, [outcome.task.seq for outcome in failed])
        profile = _profile(case)
        can_leave_out = [name for name in optional if name not in profile.kept]
        asked = remedy(self._standing(case, failure, can_leave_out))
        if asked is Remedy.LEAVE_OUT:
            name = failure.parameter if failure.parameter in can_leave_out else can_leave_out[0]
            self._leave_out(case, profile, name, failure)
            return Judgement(
                tuple(_ready(outcome) for outcome in outcomes),
                told=tuple(case.told),
                cleared=True,
                breaker=self._speak(case, failure, heard=True),
            )
        if self._restore(case, profile, failure, can_leave_out):
            return Judgement(
                tuple(_ready(outcome) for outcome in outcomes),
                told=tuple(case.told),
                cleared=True,
                breaker=self._speak(case, failure, heard=True),
            )
        judged = self._judge_each(case, outcomes, failure) if counted else [_ready_later(o) for o in outcomes]
        change = self._speak(case, failure, opened=asked is Remedy.OPEN)
        if asked is Remedy.PAUSE or case.probing:
            self._pause(case, failure, profile)
        elif counted:
            _moved(connection)  # the row is longer
        return Judgement(tuple(judged), case.tries, case.limits, change, tuple(case.told), cleared=counted)

    def _standing(self, case: _Case, failure: Failure, can_leave_out: Sequence[str]) -> Standing:
        row = _row(case.connection, "world = ?", case.world)
        of_provider = _row(case.connection, "provider = ? AND culprit IN ('service', 'account')", case.provider)
        detached = case.connection.execute(
            "SELECT 1 FROM failures WHERE world = ? AND provider = ''", (case.world,)
        ).get
        named = failure.named or failure.parameter in can_leave_out
        return Standing(
            failure.culprit,
            named=named,
            optional=bool(can_leave_out) and (not failure.named or failure.parameter in can_leave_out),
            proven=case.proven,
            row_is_ill=is_ill(failure.culprit, row, self._threshold),
            provider_is_ill=is_ill(failure.culprit, of_provider, self._threshold),
            provider_serves=detached is not None,
        )

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
                    case, outcome, failure.culprit, alone=not together, named=failure.named and not failure.parameter
                )
            judged.append(outcome)
        return judged

    def _judged(
        self, case: _Case, outcome: Outcome, culprit: Culprit, *, alone: bool, counted: int = 1, named: bool = False
    ) -> Outcome:
        """Note one more failure of a task, and fail it if the evidence says that it is to blame.

        `counted`: how many failures of the world's tally this was.
        """
        named = named or outcome.named
        row = case.connection.execute(
            "SELECT world, good_before, service_before, account_before, input_before, answer_before, service, account,"
            " input, answer FROM evidence WHERE seq = ?",
            (outcome.task.seq,),
        ).fetchone()
        if row is None or row[0] != case.world:  # its first failure here
            before, own = case.tally, {Culprit.SERVICE: 0, Culprit.ACCOUNT: 0, Culprit.INPUT: 0, Culprit.ANSWER: 0}
        else:
            before = Tally(*row[1:6]).more(culprit, counted)
            own = dict(zip((Culprit.SERVICE, Culprit.ACCOUNT, Culprit.INPUT, Culprit.ANSWER), row[6:], strict=True))
        if alone:
            own[culprit] += outcome.times
        case.connection.execute(
            "INSERT OR REPLACE INTO evidence (seq, world, good_before, service_before, account_before, input_before,"
            " answer_before, service, account, input, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (outcome.task.seq, case.world, *before, *own.values()),
        )
        case.tries[outcome.task.seq] = max(1, sum(own.values())) if alone else 1
        ill = case.paused or not self._breakers.is_closed(case.connection, case.provider)
        if ill or not alone:
            return outcome
        if is_at_fault(culprit, own[culprit], case.tally, before, self._max_retries, named=named, proven=case.proven):
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
            return self._breakers.tell(
                case.connection, case.provider, Health.REFUSED, case.slot, case.now, failure.reason
            )
        if heard or failure.culprit in (Culprit.ANSWER, Culprit.MODEL, Culprit.REQUEST):
            return self._breakers.tell(case.connection, case.provider, Health.HEALTHY, case.slot, case.now)
        # Whether it is the service's fault was decided above: only a probe is judged by this alone.
        return self._breakers.tell_probe(case.connection, case.provider, case.slot, case.now, failure.reason)

    # The request adapts

    def _leave_out(self, case: _Case, profile: _Profile, name: str, failure: Failure) -> None:
        guessed = profile.guessed if failure.parameter == name else [*profile.guessed, name]
        _write_profile(case, [*profile.left_out, name], guessed, profile.kept, failure.reason)
        case.told.append(_told(case, "Parameter is refused and left out", failure.reason, parameter=name))

    def _restore(self, case: _Case, profile: _Profile, failure: Failure, can_leave_out: Sequence[str]) -> bool:
        """Take back what was left out by guess, if that has not helped, or has made the answers useless."""
        back = []
        if failure.culprit is Culprit.REQUEST and failure.parameter in profile.guessed:
            back = [failure.parameter]
        elif failure.culprit is Culprit.INPUT and not case.proven and not can_leave_out:
            back = list(profile.guessed)
        if not back:
            return False
        left_out = [name for name in profile.left_out if name not in back]
        guessed = [name for name in profile.guessed if name not in back]
        _write_profile(case, left_out, guessed, [*profile.kept, *back], profile.reason)
        return True

    # A world is paused

    def _pause(self, case: _Case, failure: Failure, profile: _Profile) -> None:
        until = case.now + pause_delay(case.pauses, self._recovery)
        reason = failure.reason
        if failure.culprit is Culprit.INPUT and (named := profile.settings()):
            reason += f"; nothing is left to leave out of the request: look at {named}"
        case.connection.execute(
            "UPDATE worlds SET culprit = ?, reason = ?, pauses = pauses + 1, paused_since = ?, paused_until = ?,"
            " probe_slot = NULL WHERE id = ?",
            (failure.culprit.value, reason, case.now, until, case.world),
        )
        _moved(case.connection)
        if not case.paused:
            case.told.append(_told(case, "Tasks of this model wait", reason, until=until))

    def _put_off(self, case: _Case) -> None:
        """The probe said nothing of its world."""
        case.connection.execute(
            "UPDATE worlds SET probe_slot = NULL, paused_since = ?, paused_until = ? WHERE id = ?",
            (case.now, case.now + self._recovery, case.world),
        )
        _moved(case.connection)


def _open_case(connection: apsw.Connection, slot: int, world: int | None, now: float) -> _Case | None:
    row = connection.execute(
        "SELECT provider, model, type, setup, left_out, good, service, account, input, answer, proven, pauses,"
        " paused_until IS NOT NULL, probe_slot IS ? FROM worlds WHERE id = ?",
        (slot, world),
    ).fetchone()
    if row is None or world is None:
        return None
    provider, model, type_, setup, left_out, *tally, proven, pauses, paused, probing = row
    return _Case(
        connection, now, slot, world, provider, model, type_, setup, left_out, Tally(*tally), bool(proven), pauses,
        bool(paused), bool(probing),
    )  # fmt: skip


def _row(connection: apsw.Connection, condition: str, bound: str | int) -> list[frozenset[int]]:
    rows: list[Row] = connection.execute(
        f"SELECT tasks FROM failures WHERE {condition} ORDER BY number", (bound,)
    ).fetchall()
    return [frozenset(json.loads(tasks)) for (tasks,) in rows]


def _return_all(case: _Case, *, whole_provider: bool) -> None:
    """The world is well again: what failed in that row is due at once, within a few seconds."""
    worlds = "SELECT id FROM worlds WHERE provider = ?" if whole_provider else "SELECT ?"
    bound = case.provider if whole_provider else case.world
    connection = case.connection
    failed = f"SELECT seq FROM evidence WHERE failed_in_row = 1 AND world IN ({worlds})"
    connection.execute(
        # Spread by their numbers, so that they don't return all at once.
        "UPDATE tasks SET due_at = ?1 + ?2 * ((seq * 37) % 100) / 100.0"
        f" WHERE state = 'ready' AND due_at > ?1 + ?2 AND seq IN ({failed.replace('?', '?3')})",
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
    """What is left out of requests to a model. `kept`: what cannot be, although it was tried."""

    left_out: list[str]
    guessed: list[str]
    kept: list[str]
    reason: str

    def settings(self) -> str:
        """The settings that stand behind what cannot be left out."""
        return ", ".join(SETTINGS[name] for name in self.kept if name in SETTINGS)


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
        "SELECT left_out, guessed, kept, reason FROM request_profiles"
        " WHERE provider = ? AND model = ? AND setup = ? AND since > ?",
        (case.provider, case.model, case.setup, case.now - PROFILE_SECONDS),
    ).fetchone()
    if row is None:
        return _Profile([], [], [], "")
    return _Profile(row[0].split(), row[1].split(), row[2].split(), row[3])


def _is_current(case: _Case) -> bool:
    """Whether the call was sent as it would be sent now."""
    return " ".join(_profile(case).left_out) == case.left_out


def _write_profile(
    case: _Case, left_out: Sequence[str], guessed: Sequence[str], kept: Sequence[str], reason: str
) -> None:
    """From now on requests are others: what failed before is due at once, and its evidence counts no more."""
    connection = case.connection
    connection.execute(
        "INSERT OR REPLACE INTO request_profiles (provider, model, setup, left_out, guessed, kept, reason, since)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            case.provider,
            case.model,
            case.setup,
            " ".join(left_out),
            " ".join(guessed),
            " ".join(kept),
            reason,
            case.now,
        ),
    )
    worlds = "SELECT id FROM worlds WHERE provider = ? AND model = ?"
    bound = (case.provider, case.model)
    connection.execute(
        "UPDATE tasks SET due_at = ? WHERE state = 'ready' AND due_at > ?"
        f" AND seq IN (SELECT seq FROM evidence WHERE world IN ({worlds}))",
        (case.now, case.now, *bound),
    )
    connection.execute(f"DELETE FROM evidence WHERE world IN ({worlds})", bound)
    connection.execute(f"DELETE FROM failures WHERE world IN ({worlds})", bound)
    _moved(connection)


def _ready(outcome: Outcome) -> Outcome:
    return outcome._replace(ending=Ending.ADAPTED) if outcome.ending in (Ending.RETRY, Ending.FALLBACK) else outcome


def _ready_later(outcome: Outcome) -> Outcome:
    return outcome._replace(ending=Ending.POSTPONED) if outcome.ending is Ending.RETRY else outcome


def _failed(outcome: Outcome, reason: str) -> Outcome:
    return outcome._replace(ending=Ending.FAILED, reason=reason)


def _told(case: _Case, what: str, reason: str, *, parameter: str = "", until: float | None = None) -> Told:
    return Told(what, case.provider, case.model, case.type, reason, parameter, until)


def publish_setups(connection: apsw.Connection, setups: Mapping[str, str], now: float) -> None:
    """Services are now set up so (address, credentials): whatever is set up anew is tried at once.

    What was learned of an earlier set-up is forgotten.
    """
    for service, setup in setups.items():
        connection.execute("UPDATE breakers SET setup = ? WHERE service = ? AND setup <> ?", (setup, service, setup))
        if not connection.changes():
            continue
        connection.execute("UPDATE breakers SET opened_at = 0 WHERE service = ? AND state = 'open'", (service,))
        connection.execute("DELETE FROM cooldowns WHERE provider = ?", (service,))
        connection.execute("DELETE FROM request_profiles WHERE provider = ? AND setup <> ?", (service, setup))
        connection.execute(
            "UPDATE worlds SET paused_since = NULL, paused_until = NULL, probe_slot = NULL, culprit = '', reason = ''"
            " WHERE provider = ? AND setup <> ?",
            (service, setup),
        )
    _moved(connection)


def prune_worlds(connection: apsw.Connection) -> None:
    """Forget worlds that nothing refers to, beyond the newest."""
    if int(connection.execute("SELECT COUNT(*) FROM worlds").get) > MOST_WORLDS:
        connection.execute(
            "DELETE FROM worlds WHERE id <= (SELECT MAX(id) FROM worlds) - ? AND id NOT IN"
            " (SELECT world FROM evidence UNION SELECT world FROM tasks WHERE world IS NOT NULL)",
            (MOST_WORLDS,),
        )
        connection.execute("DELETE FROM failures WHERE world NOT IN (SELECT id FROM worlds)")
        _moved(connection)
