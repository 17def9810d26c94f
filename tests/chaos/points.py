"""The fault points: between every two steps of a task's life, by name. `stack.py` has them struck, schedules draw them.

A step that is a transaction has three or four: before it begins, before its COMMIT, after its COMMIT but before the
disk has it (for those that wait for the disk), and after it has returned.
"""

from __future__ import annotations

# Step: whether it waits for the disk (a claim does where a limit is in force).
TRANSACTIONS = {
    "begin_poll": False,
    "admit": False,
    "end_poll": False,
    "claim": False,
    "finish": True,
    "take": False,
    "settle": False,
    "release": True,
}
CALLS = ("pending", "embed", "deliver", "ask")


def _points() -> tuple[str, ...]:
    found = []
    for step, durable in TRANSACTIONS.items():
        found += [f"{step}.before", f"{step}.uncommitted", *([f"{step}.unflushed"] if durable else []), f"{step}.after"]
    for call in CALLS:
        found += [f"{call}.before", f"{call}.after"]
    return (*found, "told.after", "checkpoint.before")


POINTS = _points()

# Met only at the start of a child whose predecessor left something behind.
AT_TAKEOVER = tuple(point for point in POINTS if point.startswith("release."))
# Met only where there are tasks for chat models.
OF_CHATS = tuple(point for point in POINTS if point.startswith("ask."))
COMMON = tuple(point for point in POINTS if point not in (*AT_TAKEOVER, *OF_CHATS))
