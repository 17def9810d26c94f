"""The checker: reads the record of a run and says which promises were broken. Pure: it can be shown forgeries."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.record import Buy, Fate, Patch, Record
from tests.chaos.windows import SLACK_SECONDS, exceeded

Check = Callable[[Record], Iterator[str]]

# What the task API says of a result itself, and not of its own health: its own pages alone are in the record.
REFUSALS = frozenset({400, 404, 409, 413, 422, 501})
UNFLUSHED_SECONDS = 2.0  # PostgreSQL's own writer comes by more often (three times wal_writer_delay)
LATE_SECONDS = 1.0  # by which a busy server may read what a process sent that is dead by then, and replaced

# A batch of 16 fails, and so does each of its halves.
MOST_TOGETHER = 5
PROBES = 8
# A service that fails before it has served anyone may fail at a parameter: each is left out in turn, with all tries.
ADAPTATIONS = 4
# What was found out about a service is forgotten after a day: a lone suspect, tried once an hour, is tried this often.
TRIES_A_DAY = 30
IMPROBABLE = 0.0005


def violations(record: Record) -> list[str]:
    """Every broken promise, in words. Empty: all were kept."""
    return [f"{check.__name__}: {found}" for check in CHECKS for found in check(record)]


# Nothing lost


def every_task_is_delivered_or_dead_with_a_reason(record: Record) -> Iterator[str]:
    accepted = {patch.id: patch.state for patch in record.patches if patch.status == 200}
    refused = {patch.id for patch in record.patches if patch.status in REFUSALS}
    for document in record.documents:
        known, dead = document.id in record.states, record.dead.get(document.id)
        ended = accepted.get(document.id)
        if document.id in record.held:
            yield f"{document.id} is still {record.held[document.id]} in the ledger"
        if dead is not None and not dead:
            yield f"{document.id} is dead without a reason"
        if dead and document.id not in refused:
            yield f"{document.id} is a dead letter, and the task API has never refused it: {dead}"
        if not known or dead:
            continue  # taken away by somebody else, or kept for a person
        match document.fate:
            case Fate.SUCCEEDS if ended == "failed" and document.text in record.declined:
                continue
            case Fate.SUCCEEDS if ended != "succeeded":
                yield f"{document.id} should have succeeded, it is {ended}"
            case Fate.FAILS if ended != "failed":
                yield f"{document.id} should have failed, it is {ended}"
            case Fate.STAYS if document.id not in record.unreadable:
                yield f"{document.id} cannot be read and was not set aside"
            case Fate.STAYS | Fate.NAMELESS if record.states[document.id] != "pending":
                yield f"{document.id} cannot be read and is not pending any more"
    nameless = sum(document.fate is Fate.NAMELESS for document in record.documents)
    set_aside = sum(task_id.startswith("nameless:") for task_id in record.unreadable)
    if set_aside != nameless:
        yield f"{nameless} documents have no usable id, {set_aside} were set aside"


def no_result_is_another_tasks(record: Record) -> Iterator[str]:
    for task_id in record.wrong_results:
        yield f"{task_id} has a vector that is not its text's"


def nothing_is_delivered_twice_without_a_cause(record: Record) -> Iterator[str]:
    """Again only if the acknowledgement was lost: on the wire, or with the process or the disk that had it."""
    by_id: dict[str, list[Patch]] = defaultdict(list)
    for patch in record.patches:
        if patch.status == 200:
            by_id[patch.id].append(patch)
    settled = _times(record, "settle", lambda line: line["id"] if line["verdict"] == "delivered" else None)
    failed = _times(record, "settle failed", lambda line: line.get("id"))
    put_off = _times(record, "settle", lambda line: line["id"] if line["verdict"] == "later" else None)
    broken_off = _times(record, "deliver failed", lambda line: line.get("id"))
    for task_id, patches in by_id.items():
        patches.sort(key=lambda patch: patch.at)
        for before, after in itertools.pairwise(patches):
            recorded = _first_in(settled[task_id], before.at, after.at)
            if recorded is not None:
                if not _may_be_forgotten(record, recorded, after.at):
                    yield f"{task_id} was delivered again {after.at - recorded:.2f} s after that was on record"
                continue
            explained = (
                not before.whole
                or _first_in(failed[task_id], before.at, after.at) is not None
                or _first_in(broken_off[task_id], before.at, after.at) is not None
                or _died_with(record, "take", task_id, before.at, after.at)
                or (_first_in(put_off[task_id], before.at, after.at) is not None and _in_trouble(record, before, after))
            )
            if not explained:
                yield f"{task_id} was delivered twice, and no acknowledgement was lost"


# Bought once


def nothing_is_bought_again_once_its_answer_is_on_record(record: Record) -> Iterator[str]:
    recorded = _times(record, "finish", lambda line: _succeeded(line))
    ids = _ids_by_text(record)
    for buy in record.buys:
        at = min((at for task_id in ids[buy.text] for at in recorded[task_id]), default=math.inf)
        if buy.at > at + SLACK_SECONDS:
            yield f"the text of {ids[buy.text]} was sent again {buy.at - at:.2f} s after its answer was recorded"


def nothing_is_bought_again_without_a_cause(record: Record) -> Iterator[str]:
    """A good answer is bought again only if whoever had it died before it was on record, or could not record it."""
    ids = _ids_by_text(record)
    reports = _times(record, "finish", lambda line: [outcome[0] for outcome in line["outcomes"]])
    by_text: dict[str, list[Buy]] = defaultdict(list)
    for buy in record.buys:
        by_text[buy.text].append(buy)
    for text, buys in by_text.items():
        buys.sort(key=lambda buy: buy.at)
        for before, after in itertools.pairwise(buys):
            if not before.clean:
                continue
            # A report other than of success: the answer was not used, and the report says why.
            explained = any(
                _first_in(reports[task_id], before.at, after.at) is not None
                or _died_with(record, "claim", task_id, before.at, after.at)
                for task_id in ids[text]
            )
            if ids[text] and not explained:
                yield f"the text of {ids[text]} was bought twice, and nobody died in between"


def no_text_is_sent_more_often_than_it_takes(record: Record) -> Iterator[str]:
    """Bad texts, and good ones for being sent together with them.

    Tries that failed, and whose failure is on record, are counted by provider. In company: each such failure halves the
    batch that a task may be in, so the largest (16) is one task after five. Alone: as many as the rule takes, told from
    what befell others of the type there in the meantime (`_tries_alone`), and some more, for it waits while its
    provider's breaker is open or its world paused, and is tried again as a probe; more for each day that passes.
    """
    tries = _failed_tries(record)
    bad = {document.text for document in record.documents if document.fate is Fate.FAILS}
    for (text, provider), failed in tries.items():
        together = sum(each.company > 1 for each in failed)
        alone = [each for each in failed if each.company == 1]
        if together > MOST_TOGETHER:
            yield f"the text of {_ids_by_text(record)[text]} failed {together} times together with others at {provider}"
        if text in bad and alone:
            most = _tries_alone(record, text, provider, alone[0].at, alone[-1].at) + PROBES
            first = _first_good(record, text, provider)
            most += min(sum(each.at < first for each in alone), ADAPTATIONS * (record.max_retries + 1))
            most += TRIES_A_DAY * _days_passed(record, alone[0].at, alone[-1].at)
            if len(alone) > most:
                yield f"the bad text of {_ids_by_text(record)[text]} was tried {len(alone)} times alone at {provider}"


def no_task_is_failed_without_a_reason(record: Record) -> Iterator[str]:
    for line in record.journal:
        if line["step"] in ("finish", "release"):
            for task_id, ending, reason in line["outcomes"]:
                if ending == "failed" and not reason:
                    yield f"{task_id} was failed without a reason"


# Within every limit


def no_window_is_exceeded(record: Record) -> Iterator[str]:
    """By the providers' records, on the clock that the service was told; a step back makes no room."""
    if not record.limits:
        return
    sent, steps = list(_sent(record)), [since for since, _ in record.clock]

    def told(at: float) -> float:
        return at + record.wall_minus_monotonic + record.clock[max(0, bisect.bisect_right(steps, at) - 1)][1]

    for period, limit in record.limits.items():
        yield from exceeded(period, limit, record.strategy, record.zone, sent, steps, told)


def _sent(record: Record) -> Iterator[float]:
    """When each text was sent. What is said to a chat model about one task, after it answered, is the same attempt, and
    so is another path of a server that does not know the first.

    One whose claim began before the clock was set back, and that was sent after that, had its room by the clock before.
    """
    ids, claims = _ids_by_text(record), _lines_by_task(record, "claim")
    answered: set[tuple[str, float]] = set()
    for buy in record.buys:
        claim = _claim_of(buy, ids, claims)
        claimed_at = buy.at if claim is None else float(claim["began"])
        attempt = (buy.text, claimed_at)
        if attempt not in answered:
            set_back = any(
                late < early and claimed_at < since <= buy.at
                for (_, early), (since, late) in itertools.pairwise(record.clock)
            )
            yield claimed_at if set_back else buy.at
        if buy.not_found or (buy.chat and buy.paid):
            answered.add(attempt)


def each_claim_counts_all_claims_before_it(record: Record) -> Iterator[str]:
    """What is counted in all is a counter that claims fetch and add to, in whatever process or host. It is linearizable
    (Herlihy and Wing, 1990) if each finds at least what every claim had made of it that was over before this one began.

    At least: a claim whose process died before it could say so has added as well. Less by what was never sent, which
    comes back. (Where the power is cut, claims that no limit has on disk may be forgotten.)
    """
    if record.power_cuts:
        return
    claims = [line for line in record.journal if line["step"] == "claim" and "used" in line]
    returned = sorted(
        (float(line["began"]), sum(ending == "unsent" for _, ending, _ in line["outcomes"]))
        for line in record.journal
        if line["step"] == "finish"
    )
    over = sorted(claims, key=_at)
    least, came_back, ended = 0, 0, 0
    for line in sorted(claims, key=lambda line: float(line["began"])):
        while ended < len(over) and over[ended]["at"] < line["began"]:
            least = max(least, over[ended]["used"] + len(over[ended]["ids"]))
            ended += 1
        came_back = sum(count for began, count in returned if began <= line["at"])
        if line["used"] < least - came_back:
            yield f"the claim of {line['ids']} found {line['used']} counted, where {least} had been"


def never_more_calls_than_workers(record: Record) -> Iterator[str]:
    if record.most_calls_at_once > record.workers:
        yield f"{record.most_calls_at_once} calls at one time, {record.workers} were allowed"


# Breakers


def an_open_breaker_lets_one_probe_through(record: Record) -> Iterator[str]:
    """By the ledger's own moves there is one probe at a time, and by the provider's record no other call."""
    states: dict[str, str] = {}
    moved: dict[str, float] = {}
    opened: dict[str, float] = {}
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in record.journal:
        if line["step"] != "breaker":
            continue
        service, state = line["service"], line["state"]
        if _may_be_forgotten(record, moved.get(service, line["at"]), line["at"]):
            states.pop(service, None)  # the disk may not have kept the last move
        moved[service] = line["at"]
        if line["by"] == "begin_probe" and states.get(service, "closed") == "half-open":
            yield f"{service}: slot {line['slot']} began a probe while another was under way"
        if state == "open" and states.get(service, "closed") == "closed":
            opened[service] = line["at"]
        if state == "closed" and service in opened:
            spans[service].append((opened.pop(service), line["at"]))
        states[service] = state
    for service, since in opened.items():
        spans[service].append((since, math.inf))
    yield from _calls_past_the_gate(record, spans)


def _calls_past_the_gate(record: Record, spans: Mapping[str, list[tuple[float, float]]]) -> Iterator[str]:
    ids, claims = _ids_by_text(record), _lines_by_task(record, "claim")
    for buy in record.buys:
        open_ = spans.get(buy.provider, ())
        span = next((span for span in open_ if span[0] + SLACK_SECONDS < buy.at < span[1]), None)
        if span is None or _may_be_forgotten(record, span[0], span[1]):
            continue
        claim = _claim_of(buy, ids, claims)
        if claim is not None and not claim["probe"] and claim["began"] > span[0] + SLACK_SECONDS:
            after = f"{buy.at - span[0]:.2f} s after the breaker opened"
            yield f"{ids[buy.text]} was claimed and sent to {buy.provider} {after}, as no probe"


# What is left


def no_credentials_went_elsewhere(record: Record) -> Iterator[str]:
    if record.redirected:
        yield f"{record.redirected} requests with credentials followed a redirect to another host"


def nothing_is_left_behind(record: Record) -> Iterator[str]:
    yield from record.leftovers
    if record.exit_code != 0:
        yield f"exit code {record.exit_code}"


def gauges_are_true(record: Record) -> Iterator[str]:
    for name, value in record.truth.items():
        if record.gauges.get(name) != value:
            yield f"{name} says {record.gauges.get(name)}, it is {value}"


def no_error_was_unexpected(record: Record) -> Iterator[str]:
    yield from record.uncaught


CHECKS: tuple[Check, ...] = (
    every_task_is_delivered_or_dead_with_a_reason,
    no_result_is_another_tasks,
    nothing_is_delivered_twice_without_a_cause,
    nothing_is_bought_again_once_its_answer_is_on_record,
    nothing_is_bought_again_without_a_cause,
    no_text_is_sent_more_often_than_it_takes,
    no_task_is_failed_without_a_reason,
    no_window_is_exceeded,
    each_claim_counts_all_claims_before_it,
    never_more_calls_than_workers,
    an_open_breaker_lets_one_probe_through,
    no_credentials_went_elsewhere,
    nothing_is_left_behind,
    gauges_are_true,
    no_error_was_unexpected,
)


def _ids_by_text(record: Record) -> dict[str, list[str]]:
    """The tasks of each text: several, if they are twins."""
    found: dict[str, list[str]] = defaultdict(list)
    for document in record.documents:
        found[document.text].append(document.id)
    return found


def _types_by_text(record: Record) -> dict[str, str]:
    return {document.text: document.type for document in record.documents}


@dataclass(frozen=True, slots=True)
class _Try:
    """A claim of a text, by which it was sent, and which failed on record. `company`: tasks of that claim."""

    at: float
    company: int


def _failed_tries(record: Record) -> dict[tuple[str, str], list[_Try]]:
    """By text and provider, in order. A question and what is asked again about its answer are one."""
    ids, claims = _ids_by_text(record), _lines_by_task(record, "claim")
    retried = _times(record, "finish", lambda line: [each[0] for each in line["outcomes"] if each[1] == "retry"])
    ended = _times(record, "finish", lambda line: [each[0] for each in line["outcomes"]])
    found: dict[tuple[str, str], dict[int, _Try]] = defaultdict(dict)
    for buy in record.buys:
        claim = _claim_of(buy, ids, claims)
        if claim is None:
            continue
        for task_id in ids[buy.text]:
            at = _first_in(ended[task_id], buy.at, math.inf)
            if task_id in claim["ids"] and at is not None and at in retried[task_id]:
                found[buy.text, buy.provider][id(claim)] = _Try(buy.at, len(claim["ids"]))
    return {key: sorted(tries.values(), key=lambda each: each.at) for key, tries in found.items()}


def _tries_alone(record: Record, text: str, provider: str, since: float, until: float) -> float:
    """How many it takes before so many would be improbable where others fared as they did.

    At least MAX_RETRIES + 1; of a failure that is the service's half of all calls are believed to be such beforehand.
    """
    type_of = _types_by_text(record)
    calls: dict[int, list[Buy]] = defaultdict(list)
    for buy in record.buys:
        if buy.provider == provider and since <= buy.at <= until and type_of.get(buy.text) == type_of[text]:
            calls[buy.call].append(buy)
    others = [call for call in calls.values() if all(buy.text != text for buy in call)]
    good = sum(any(buy.clean for buy in call) for call in others)
    failures = len(others) - good
    if not good:
        return math.inf  # nobody has shown that the world is well
    share = (failures + 1) / (good + failures + 2)
    return max(record.max_retries + 1, math.ceil(math.log(IMPROBABLE) / math.log(share)))


def _days_passed(record: Record, since: float, until: float) -> int:
    """Whole days by which the service's clock was set forward in the meantime."""
    ahead = [0.0, *(seconds for _, seconds in record.clock)]
    steps = zip(record.clock, itertools.pairwise(ahead), strict=True)
    return int(sum(max(0.0, late - early) for (at, _), (early, late) in steps if since <= at <= until) // 86_400)


def _first_good(record: Record, text: str, provider: str) -> float:
    """When anyone of this text's type was first served there."""
    type_of = _types_by_text(record)
    served = [buy for buy in record.buys if buy.clean and buy.provider == provider]
    return min((buy.at for buy in served if type_of.get(buy.text) == type_of[text]), default=math.inf)


def _succeeded(line: Mapping[str, Any]) -> list[str]:
    return [outcome[0] for outcome in line["outcomes"] if outcome[1] == "succeeded"]


def _times(record: Record, step: str, ids: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[float]]:
    """When each task went through a step."""
    found: dict[str, list[float]] = defaultdict(list)
    for line in record.journal:
        if line["step"] == step:
            about = ids(line)
            for task_id in about if isinstance(about, list) else [about]:
                if task_id is not None:
                    found[task_id].append(line["at"])
    return found


def _lines_by_task(record: Record, step: str) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in record.journal:
        if line["step"] == step:
            for task_id in line["ids"]:
                found[task_id].append(line)
    return found


def _claim_of(
    buy: Buy, ids: Mapping[str, list[str]], claims: Mapping[str, list[Mapping[str, Any]]]
) -> Mapping[str, Any] | None:
    """The claim that a text was sent by: the last one for that provider before it."""
    before = [
        line
        for task_id in ids[buy.text]
        for line in claims[task_id]
        if line["began"] <= buy.at and line["provider"] == buy.provider
    ]
    return max(before, key=_at, default=None)


def _died_with(record: Record, step: str, task_id: str, received: float, until: float) -> bool:
    """Whether the process that sent a request for this task died with it. A server that is slow to read may receive
    the request after that death: the one that had taken the task last has not sent it then."""
    taken = [line for line in _lines_by_task(record, step)[task_id] if line["at"] <= received]
    last = max(taken, key=_at, default=None)
    return any(
        pid == line["pid"] and line["at"] <= at <= until and (line is last or at >= received - LATE_SECONDS)
        for line in taken
        for pid, at in record.deaths
    )


def _in_trouble(record: Record, before: Patch, after: Patch) -> bool:
    """Whether the machine had no memory, descriptors or disk to spare between two deliveries."""
    return any(since <= after.at and before.at <= until for since, until in record.troubles)


def _at(line: Mapping[str, Any]) -> float:
    return float(line["at"])


def _first_in(times: list[float], since: float, until: float) -> float | None:
    return next((at for at in times if since <= at <= until), None)


def _may_be_forgotten(record: Record, recorded: float, until: float) -> bool:
    """Whether what was committed then, and flushed by nobody, may be gone by `until`."""
    return _any_in(record.power_cuts, recorded, until) or any(
        killed - UNFLUSHED_SECONDS <= recorded <= up and killed <= until for killed, up in record.server_deaths
    )


def _any_in(times: Any, since: float, until: float) -> bool:
    return any(since <= at <= until for at in times)
