"""The ledger's file with anything done to it: every command says so or works, and recovery makes a sound one of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.ledger import Ledger, prepare
from aitp.ledger.maintenance import Allowance, back_up, check, recover
from aitp.ledger.outbox import DeliveryOutcome
from aitp.ledger.queue import LedgerConfig
from aitp.ledger.stats import snapshot
from tests.fuzz.cases import cases
from tests.ledger.damage import copy_of, empty_log, lived
from tests.ledger.world import OTHER_RELAY, WORKER, Clock, make_template, set_budgets

ALLOWANCE = Allowance("USD", {"day": 100_000, "month": 1_000_000})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ledger with a past, and with something in its log."""
    folder = tmp_path_factory.mktemp("original")
    world = lived(folder, make_template(folder))
    world.close()
    empty_log(world.path)
    world.open()
    (delivery,) = world.take(OTHER_RELAY, 1)
    world.ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
    set_budgets(world.ledger, ALLOWANCE.currency, ALLOWANCE.budgets)
    world.change("INSERT INTO spending VALUES ('USD', 1753833600, 1753920000, 30000)")
    world.change("INSERT INTO reservations VALUES (?, 'USD', 5000)", WORKER)
    yield copy_of(world.path, "original.db")
    world.close()


flips = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=30)
runs = st.tuples(st.integers(0, 10**6), st.integers(1, 9_000), st.sampled_from((b"\0", b"\xff", b"A", b"\xaa\x55")))
harm = st.one_of(
    st.tuples(st.just("flip"), flips),
    st.tuples(st.just("flip early"), flips),
    st.tuples(st.just("overwrite"), runs),
    st.tuples(st.just("page"), st.integers(1, 60)),
    st.tuples(st.just("swap"), st.tuples(st.integers(1, 60), st.integers(1, 60))),
    st.tuples(st.just("cut"), st.integers(0, 10**6)),
    st.tuples(st.just("magic"), st.binary(min_size=1, max_size=100)),
    st.tuples(st.just("append"), st.binary(min_size=1, max_size=5_000)),
)


def done(content: bytes, kind: str, how: object) -> bytes:
    data = bytearray(content)
    match kind, how:
        case ("flip" | "flip early", list()):
            for at, mask in how:
                data[at % (len(data) if kind == "flip" else min(len(data), 4_096))] ^= mask
        case "overwrite", (int(at), int(length), bytes(filling)):
            at %= len(data)
            data[at : at + length] = (filling * length)[: len(data[at : at + length])]
        case "page", int(page):
            page %= len(data) // 4_096
            data[page * 4_096 : page * 4_096 + 4_096] = bytes(4_096)
        case "swap", (int(one), int(other)):
            pages = [bytes(data[at : at + 4_096]) for at in range(0, len(data), 4_096)]
            one, other = one % len(pages), other % len(pages)
            pages[one], pages[other] = pages[other], pages[one]
            data = bytearray(b"".join(pages))
        case "cut", int(length):
            del data[length % len(data) :]
        case "magic", bytes(start):
            data[: len(start)] = start
        case "append", bytes(more):
            data += more
    return bytes(data)


@cases(1_500)
@example(harms=[(("flip", [(18, 1)]), "")], log=False)  # to SQLite that is a file which it must not write
@example(harms=[(("magic", b"R"), "")], log=True)  # a log that must not be moved into what is no ledger any more
@given(harms=st.lists(st.tuples(harm, st.sampled_from(("", "", "-wal"))), min_size=1, max_size=3), log=st.booleans())
def test_a_ledger_damaged_in_any_way_is_sound_or_said_to_be_damaged_and_recovered(
    folder: Path, original: Path, harms: list[tuple[tuple[str, object], str]], log: bool
) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    path = folder / "ledger.db"
    shutil.copy(original, path)
    if log:
        shutil.copy(original.with_name("original.db-wal"), folder / "ledger.db-wal")
    for (kind, how), end in harms:
        file = path.with_name(path.name + end)
        if file.exists() and file.stat().st_size >= 4_096:
            file.write_bytes(done(file.read_bytes(), kind, how))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    clock = Clock()
    clock.go(3_600)

    found = check(path)
    assert all(problem.isprintable() for problem in found.problems)
    look(path)
    refuse_or_start(path, clock)
    if not found.sound:
        assert not list(folder.glob("backup.db")), "no backup of a damaged ledger"
    try:
        outcome = recover(path, ALLOWANCE, clock=clock)
    except ConfigurationError as error:
        assert_of_another_release(error)
        return
    assert (outcome.set_aside is None) == found.sound
    if outcome.set_aside is not None:
        assert check(path).problems == ()
        kept = {file.name.replace(outcome.set_aside.name, "ledger.db"): file.read_bytes() for file in folder.iterdir()
                if file.name.startswith(outcome.set_aside.name)}  # fmt: skip
        assert {name: kept.get(name) for name in before} == before
    serve(path, clock)


def assert_tells(error: LedgerError) -> None:
    assert str(error).isprintable()


def assert_of_another_release(error: ConfigurationError) -> None:
    """A version is a number like any other: turned over, it can only be believed."""
    assert "install the newer release" in str(error) or "never released" in str(error)


def look(path: Path) -> None:
    """What looks at a ledger raises LedgerError at worst."""
    for act in (lambda: snapshot(path), lambda: back_up(path, path.with_name("backup.db"))):
        try:
            act()
        except LedgerError as error:
            assert_tells(error)


def refuse_or_start(path: Path, clock: Clock) -> None:
    """A start that refuses the ledger leaves it as it was, to the last byte."""
    folder = path.with_name("started")
    folder.mkdir()
    for file in [file for file in path.parent.iterdir() if file.is_file()]:
        shutil.copy(file, folder)
    before = {file: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}
    try:
        prepare(folder / path.name, strategy="rolling", timezone="UTC", limits={"month": 10_000}, clock=clock)
    except ConfigurationError as error:
        if "is damaged" in str(error):
            assert {file: file.read_bytes() for file in before} == before
    shutil.rmtree(folder)


def serve(path: Path, clock: Clock) -> None:
    """It can be worked with: what is finished goes out, what is ready is claimed."""
    try:
        prepare(path, strategy="rolling", timezone="UTC", limits={"month": 10_000}, clock=clock)
    except ConfigurationError as error:
        assert_of_another_release(error)
        return
    ledger = Ledger.open(path, LedgerConfig(), clock=clock)
    try:
        ledger.release_ownerless()
        taken = ledger.outbox.take(1, 5)
        for delivery in taken if isinstance(taken, tuple) else ():
            ledger.outbox.settle(delivery, DeliveryOutcome.DELIVERED)
    finally:
        ledger.close()
