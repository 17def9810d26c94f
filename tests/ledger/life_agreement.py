"""What must hold of the ledger and of its model after every step of `test_life_model.py`."""

from __future__ import annotations

from hypothesis.stateful import RuleBasedStateMachine, invariant

from aitp.ledger.inbox import Poll
from aitp.ledger.limits import use_of_limits
from tests.ledger.life_model import TEXTS, Listed, Model, result_of
from tests.ledger.world import World

# What no row may be, of suspects and worlds: of these the service depends on none, but each would be a bug.
NEVER = (
    # Tasks that have failed are suspects, and only those that are still to be run.
    "SELECT * FROM tasks WHERE is_suspect = 0 AND state IN ('ready', 'claimed')"
    " AND (attempts > 0 OR crashes > 0 OR batch_limit IS NOT NULL)",
    "SELECT * FROM tasks WHERE is_suspect = 1 AND state NOT IN ('ready', 'claimed')",
    "SELECT * FROM evidence WHERE seq NOT IN (SELECT seq FROM tasks WHERE is_suspect = 1)",
    # Rows name worlds that are there.
    "SELECT * FROM (SELECT world FROM tasks WHERE world IS NOT NULL UNION ALL SELECT world FROM evidence"
    " UNION ALL SELECT world FROM failures) AS named WHERE world NOT IN (SELECT id FROM worlds)",
    # Nobody else would be sent there for as long as that process lives.
    "SELECT * FROM worlds WHERE probe_slot IS NOT NULL AND (paused_until IS NULL"
    " OR probe_slot NOT IN (SELECT slot FROM tasks WHERE state = 'claimed'))",
)


class Agreement(RuleBasedStateMachine):
    """`listing`: the poll underway, in both. `given_up`: its relay will not end it. `away`: slots that cannot act."""

    world: World
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.listing: tuple[Poll, Listed] | None = None
        self.given_up = False
        self.away: set[int] = set()
        self._sequence = 0  # the ledger's own, as last seen

    @property
    def polling_slot(self) -> int | None:
        return None if self.listing is None else self.listing[0].slot

    @property
    def polls(self) -> bool:
        """Whether a relay is at a poll that it means to end."""
        return self.listing is not None and not self.given_up and self.polling_slot not in self.away

    @invariant()
    def both_agree(self) -> None:
        found = {name: about for name, *about in self.world.rows("SELECT id, state, slot FROM tasks")}
        assert found == {name: [known.state, known.slot] for name, known in self.model.tasks.items()}
        assert self.world.value("SELECT slot FROM polls") == self.polling_slot

    @invariant()
    def twins_wait_for_the_same(self) -> None:
        waiting = dict(self.world.rows("SELECT a.id, b.id FROM tasks AS a JOIN tasks AS b ON b.seq = a.duplicate_of"))
        assert waiting == {name: known.twin_of for name, known in self.model.tasks.items() if known.twin_of}
        kept = self.world.rows("SELECT fingerprint, task_id, finished_at, body FROM answers")
        assert {bytes(text).decode(): (of, at, bytes(body)) for text, of, at, body in kept} == {
            text: (each.of, each.finished_at, result_of(text)) for text, each in self.model.kept.items()
        }

    @invariant()
    def each_result_is_its_own_text_s(self) -> None:
        rows = self.world.rows("SELECT id, status, body FROM tasks JOIN results USING (seq)")
        assert {name for name, _, _ in rows} == {*self.model.in_state("finished"), *self.model.in_state("dead")}
        for name, status, body in rows:
            assert (status == "succeeded") == self.model.tasks[name].succeeded
            assert status == "failed" or bytes(body) == result_of(TEXTS[name])

    @invariant()
    def nothing_is_left_lying_about(self) -> None:
        assert self.world.value("SELECT COUNT(*) FROM results WHERE seq NOT IN (SELECT seq FROM tasks)") == 0
        assert self.world.value("SELECT COUNT(*) FROM contents WHERE seq NOT IN (SELECT seq FROM tasks)") == 0
        to_be_run = "SELECT COUNT(*) FROM tasks WHERE state IN ('ready', 'claimed') AND seq NOT IN"
        assert self.world.value(f"{to_be_run} (SELECT seq FROM contents)") == 0

    @invariant()
    def suspects_and_worlds_are_in_order(self) -> None:
        for never in NEVER:
            assert self.world.rows(never) == []

    @invariant()
    def every_attempt_counts_once(self) -> None:
        rows = self.world.rows("SELECT id, completed_at FROM task_completions ORDER BY id")
        assert [number for number, _ in rows] == list(range(1, len(self.model.completions) + 1))
        times = [time for _, time in rows]
        assert times == sorted(times)
        assert times == self.model.completions

    @invariant()
    def limits_count_what_ended_and_what_is_claimed(self) -> None:
        limits = self.model.limits
        with self.world.database.reading() as connection:
            uses = use_of_limits(connection, self.model.now)
        assert {period.value: use.current for period, use in uses.items()} == {
            each: self.model.used(each) for each in limits
        }
        assert all(use.remaining == max(0, limits[period] - use.current) for period, use in uses.items())

    @invariant()
    def the_sequence_never_goes_back(self) -> None:
        before, self._sequence = self._sequence, int(self.world.value("SELECT sequence FROM ledger"))
        assert self._sequence >= before
