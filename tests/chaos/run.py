"""One run: set the stage, let the schedule happen, wait until all is calm, gather the record, judge it."""

from __future__ import annotations

import heapq
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aitp.demo.documents import tasks_of
from aitp.demo.faults import Fault
from aitp.demo.openai_api import BAD_MARKER
from aitp.demo.sentences import MODEL
from aitp.errors import LedgerError
from aitp.hardening import PR_SET_PDEATHSIG, prctl
from aitp.ledger.stats import held_tasks
from aitp.settings import CHAT_MODEL
from aitp.tasks import TaskState
from tests.chaos.acts import Acts, tell
from tests.chaos.checker import violations
from tests.chaos.gathering import gather
from tests.chaos.record import Fate, Sent
from tests.chaos.schedule import ACTIVE_SECONDS, Schedule, draw
from tests.chaos.stage import Stage
from tests.chaos.work import BAD_MANNERS, EMBEDDING

CALM_SECONDS = 150.0
# By which the clock is set forward now and then: a world that was ill to the end pauses for up to an hour.
PASSED_SECONDS = 180.0
LOOK_SECONDS = 0.05
MOST_DEAD = 1_000
START_SECONDS = 40.0
# The gauges are read at a moment when nothing moves.
STILL_SECONDS = 20.0
WHAT_TWINS_SHARE = ("type", "content", "callbackRoute", "callbackParams")
BAD_FROM, WITNESSES_FROM = 950_000, 1_000_000  # numbers of texts
TROUBLES = frozenset({"full_disk", "no_descriptors", "no_memory"})


@dataclass(frozen=True, slots=True)
class Result:
    """How a run went: what was broken, and its figures."""

    seed: int
    violations: Sequence[str]
    seconds: float
    figures: Counter[str] = field(default_factory=Counter)
    folder: Path | None = None  # kept, if something was broken


def run(schedule: Schedule, folder: Path | None = None) -> Result:
    """Make a schedule happen and judge it. Its files stay only if a promise was broken."""
    directory = folder or Path(tempfile.mkdtemp(prefix=f"aitp-chaos-{schedule.seed}-"))
    began = time.monotonic()
    stage = Stage(directory, small_disk=schedule.small_disk)
    performance = Performance(stage, schedule)
    try:
        broken = performance.play()
    except Exception as error:  # noqa: BLE001 (the border of a run: the others go on)
        told = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        broken = [f"the run did not come to its end: {told[-6000:]}"]
    finally:
        stage.clear()
    if left := stage.pids():
        broken = [*broken, f"processes are left: {left}"]
    if not broken:
        shutil.rmtree(directory, ignore_errors=True)
    return Result(schedule.seed, broken, time.monotonic() - began, performance.figures, directory if broken else None)


def end_with_parent() -> None:
    """In a process for runs: however the command ends that started it, the run is given up and its stage cleared."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def run_seed(seed: int) -> Result:
    """The schedule of a seed."""
    return run(draw(seed))


class Performance:
    """A schedule on its stage. `play` is the whole of it; `begin`, `load`, `conclude` are for acts of another kind."""

    def __init__(self, stage: Stage, schedule: Schedule) -> None:
        self._stage = stage
        self._schedule = schedule
        self._chance = random.Random(f"{schedule.seed} performance")
        self._acts = Acts(stage, self._chance)
        self._documents: list[Sent] = []
        self._originals: list[dict[str, Any]] = []
        self._numbers = itertools.count()
        self.figures: Counter[str] = Counter()

    def play(self) -> list[str]:
        """What was broken."""
        self.begin()
        self._happen()
        return self.conclude()

    def begin(self) -> None:
        """Open the world and start the service."""
        if self._schedule.clock.start_at is not None:
            self._stage.controls.set_clock(self._schedule.clock.start_at)
        self._stage.open_world(0, **self._schedule.servers)
        for _, count in self._schedule.loads[:1]:
            self.load(count)
        if self._schedule.odd:
            self._load_odd()
        self._load_bad()
        self._stage.start("run", **self._schedule.settings)

    def conclude(self) -> list[str]:
        """Wait for calm, stop the service, judge the run; what was broken."""
        self._grow_calm()
        gauges = self._look_at_gauges()
        record = gather(self._stage, self._schedule, self._documents, gauges)
        self._count(record)
        return violations(record)

    # What happens

    def _happen(self) -> None:
        """Everything at its moment."""
        began = time.monotonic()
        order = itertools.count()
        agenda: list[tuple[float, int, Callable[[], Any]]] = []

        def plan(at: float, deed: Callable[[], Any]) -> None:
            heapq.heappush(agenda, (at, next(order), deed))

        def perform(name: str, options: dict[str, Any]) -> None:
            undo = self._acts.perform(name, options)
            self.figures[name if name != "point" else "points armed"] += 1
            seconds = float(options.get("for_seconds", 1.0))
            if name in TROUBLES:
                self._stage.troubles.append((time.monotonic(), time.monotonic() + seconds + 1.0))
            if undo is not None:
                plan(time.monotonic() - began + seconds, undo)

        for at, count in self._schedule.loads[1:]:
            plan(at, lambda count=count: self.load(count))  # type: ignore[misc]
        for act in self._schedule.acts:
            plan(act.at, lambda act=act: perform(act.name, dict(act.options)))  # type: ignore[misc]
        plan(ACTIVE_SECONDS, lambda: None)
        while agenda:
            at, _, deed = heapq.heappop(agenda)
            time.sleep(max(0.0, began + at - time.monotonic()))
            deed()

    def load(self, count: int) -> None:
        """So many new tasks."""
        documents = self._made(self._schedule.work.types, count, next(self._numbers) * 1000)
        if self._schedule.twins and self._originals:
            # The task API makes a second task for a text whose first one takes long.
            original = self._chance.choice(self._originals)
            documents[0] = {**documents[0], **{part: original[part] for part in WHAT_TWINS_SHARE}}
        self._originals += documents
        self._add([(document, Fate.SUCCEEDS) for document in documents])
        self._acts.ids += [document.id for document in self._documents[-count:]]

    def _load_odd(self) -> None:
        """Bad inputs, documents that nobody can read, ids that no task API has."""
        work = self._schedule.work
        contents: list[tuple[dict[str, Any], Fate]] = [
            ({"content": {"text": f"{BAD_MARKER} 1", "model": work.embedding_model}}, Fate.FAILS),
            ({"content": {"text": f"{BAD_MARKER} 2", "model": work.embedding_model}}, Fate.FAILS),
            ({"content": {"text": ["a list"]}}, Fate.FAILS),
            ({"content": {"text": "", "model": work.embedding_model}}, Fate.FAILS),
            ({"type": "of_a_later_release"}, Fate.STAYS),
            ({"_id": "../../odd id/%2e?x=1#é"}, Fate.NAMELESS),
            ({"_id": "two\nlines \x1b[31m"}, Fate.NAMELESS),
            ({"_id": "x" * 64}, Fate.SUCCEEDS),
        ]
        first = self._made((EMBEDDING,), len(contents), 900_000)
        self._add([({**document, **odd}, fate) for document, (odd, fate) in zip(first, contents, strict=True)])

    def _load_bad(self) -> None:
        """Texts that the providers fare badly with, each in its manner, before anything else can go wrong there."""
        work = self._schedule.work
        manners = [manner for manner in BAD_MANNERS if any(manner == each for _, each in work.bad)]
        for number, manner in enumerate(manners):
            for server in work.providers:
                self._stage.world.add_fault(server, Fault(text=f"<|bad {number}|>", **manner))
        for number, (type_, manner) in enumerate(work.bad):
            words = f"<|bad {manners.index(manner)}|>"
            [document] = self._made((type_,), 1, BAD_FROM + number)
            content = {**document["content"], "text": f"{words} {document['content']['text']}"}
            self._add([({**document, "content": content}, Fate.FAILS)])

    def _load_witnesses(self) -> None:
        """One good task of each type for each model, without which nothing would tell a bad text from a bad world."""
        work = self._schedule.work
        models = {(work.embedding_model, work.chat_model)}
        if len(work.providers) > 1:
            models.add((MODEL, CHAT_MODEL))  # where those go that have failed at the other provider
        for embedding_model, chat_model in sorted(models):
            start = WITNESSES_FROM + 10 * next(self._numbers)
            types = sorted(set(work.types))
            seed = self._schedule.seed
            documents = tasks_of(
                types, len(types), seed=seed, start=start, embedding_model=embedding_model, chat_model=chat_model
            )
            self._add([(document, Fate.SUCCEEDS) for document in documents])

    def _made(self, types: Sequence[str], count: int, start: int) -> list[dict[str, Any]]:
        work = self._schedule.work
        models = {"embedding_model": work.embedding_model, "chat_model": work.chat_model}
        return list(tasks_of(types, count, seed=self._schedule.seed, start=start, **models))

    def _add(self, documents: Sequence[tuple[dict[str, Any], Fate]]) -> None:
        ids = self._stage.world.add_documents([document for document, _ in documents])
        for task_id, (document, fate) in zip(ids, documents, strict=True):
            content = document["content"]
            text = content if isinstance(content, str) else content["text"]
            self._documents.append(Sent(task_id, str(text), fate, str(document.get("type"))))

    # Calm

    def _grow_calm(self) -> None:
        """Nothing new; then until every document is accounted for and nothing is held."""
        stage = self._stage
        self.figures["points left"] += len(stage.controls.disarm())
        give_up = time.monotonic() + CALM_SECONDS
        stepped = time.monotonic()
        stage.world.set("task_api", lag_seconds=0.0)  # or it would lag as far behind as time is made to pass
        while not self._all_is_calm():
            assert stage.process is not None
            assert stage.process.poll() is None, f"the service ended by itself with {stage.process.returncode}"
            assert time.monotonic() < give_up, f"not calm after {CALM_SECONDS:g} s\n{self._how_things_stand()}"
            # Whatever waits for a minute to pass (room in a limit, a token that may be replaced) need not wait so long.
            if time.monotonic() - stepped > 3.0:
                stepped = time.monotonic()
                stage.controls.pass_time(max(self._schedule.clock.room_seconds, PASSED_SECONDS))
                self._nudge()
                if self._bad_ones_wait():
                    self._load_witnesses()
            time.sleep(LOOK_SECONDS)
        stage.world.clear_faults()  # those that met nobody so far

    def _nudge(self) -> None:
        """Nobody sleeps on one look at the clock for more than a minute; here it is to be less."""
        if (pid := self._stage.master_pid()) is not None:
            tell(pid, signal.SIGUSR1)

    def _bad_ones_wait(self) -> bool:
        states = self._stage.world.states_by_id()
        return any(states.get(document.id) == "pending" for document in self._documents if document.fate is Fate.FAILS)

    def _all_is_calm(self) -> bool:
        stays = sum(document.fate in (Fate.STAYS, Fate.NAMELESS) for document in self._documents)
        try:
            seen = self._stage.snapshot()
            return seen.held == 0 and seen.unreadable >= stays and self._pending_are_known()
        except LedgerError:
            return False

    def _pending_are_known(self) -> bool:
        """What is still pending in the task API, and should not be, is dead in the ledger."""
        states = self._stage.world.states_by_id()
        dead = {task.id for task in held_tasks(self._stage.place, [TaskState.DEAD], (), MOST_DEAD).tasks}
        ours = {sent.id for sent in self._documents if sent.fate in (Fate.SUCCEEDS, Fate.FAILS)}
        return all(state != "pending" or task_id in dead for task_id, state in states.items() if task_id in ours)

    def _how_things_stand(self) -> str:
        try:
            seen: object = self._stage.snapshot()
        except LedgerError as error:
            seen = error
        return f"{self._stage.world.states()}\n{seen}\n{self._stage.log()[-4000:]}"

    def _look_at_gauges(self) -> str:
        """A scrape of a moment in which nothing moves; all children are back at work by then."""
        self._stage.await_crew()
        answer = self._stage.wait(lambda: self._stage.get("/metrics"), STILL_SECONDS, "no answer to a scrape")
        return str(answer[1])

    def _count(self, record: Any) -> None:
        self.figures["tasks"] += len(record.documents)
        self.figures["twins"] += len(record.documents) - len({document.text for document in record.documents})
        self.figures["texts sent"] += len(record.buys)
        self.figures["bought again"] += sum(buy.paid for buy in record.buys) - len(
            {buy.text for buy in record.buys if buy.paid}
        )
        bad = {document.text for document in record.documents if document.fate is Fate.FAILS}
        self.figures["bad texts"] += len(bad & {buy.text for buy in record.buys})
        self.figures["bad texts sent"] += sum(buy.text in bad for buy in record.buys)
        accepted = [patch.id for patch in record.patches if patch.status == 200]
        self.figures["delivered"] += len(set(accepted))
        self.figures["delivered again"] += len(accepted) - len(set(accepted))
        self.figures["dead letters"] += len(record.dead)
        self.figures["deaths"] += len(record.deaths)
        self.figures["points struck"] += sum(line["step"] == "struck" for line in record.journal)
        self.figures["frames lost"] += self._stage.frames_lost
        self.figures["requests struck"] += self._stage.world.summary().faults_struck
