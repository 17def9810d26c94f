"""What strangers are like, drawn by hypothesis: refusals in words, codes and shapes that no table knows.

Words are made of syllables that mean nothing, so that no hint of aitp's tables stands in them but by what is drawn on
purpose (`names`: the server says which parameter or model it means, as the best of them do).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from hypothesis import strategies as st

from aitp.tasks import QueueKey
from tests.strangers.server import (
    LENGTH,
    OF_CHATS,
    OF_EMBEDDINGS,
    Manner,
    Nature,
    Poison,
    Refusing,
    Rude,
    Useless,
)

EMBEDDINGS = QueueKey("text_embedding", "text-embedding-3-small")
TOPICS = QueueKey("defining_topics", "quelle-7b")

SYLLABLES = ("bo", "ka", "ri", "mu", "te", "zla", "gno", "pfe", "wix", "ool", "dru", "hya")
CLIENTS_FAULT = (400, 401, 402, 403, 404, 405, 409, 413, 415, 418, 422)
SERVERS_FAULT = (500, 501, 502, 503, 504, 520)
TEMPORARY = (408, 429)
HANG_SECONDS = 60.0

words = st.lists(st.sampled_from(SYLLABLES), min_size=1, max_size=4).map("".join)
sentences = st.lists(words, min_size=1, max_size=12).map(" ".join)
codes = st.one_of(st.none(), words, st.integers(1000, 99_999), words.map(str.upper))


@st.composite
def manners(draw: st.DrawFn, statuses: tuple[int, ...], names: str = "", rude: bool = True) -> Manner:
    """One manner of refusing. `names`: what the server may say it is about."""
    seconds = draw(st.sampled_from((0.1, 0.1, 2.0)))
    # A hang costs the test a real time-out: it is rare.
    queues = ("answer",) * 9 + (("reset", "drop", "garbage", "hang") if rude else ())
    match draw(st.sampled_from(queues)):
        case "reset":
            return Manner(rude=Rude.RESET, seconds=seconds)
        case "drop":
            return Manner(rude=Rude.DROP, seconds=seconds)
        case "hang":
            return Manner(rude=Rude.HANG, seconds=HANG_SECONDS)
        case "garbage":
            body = draw(st.sampled_from((b"<html><p>ool</p></html>", b"", b"[]", b'"gno"', b"{", b"null", b"\xff\x00")))
            return Manner(200, body, draw(st.sampled_from(("text/html", "application/json"))), seconds=seconds)
    status = draw(st.sampled_from(statuses))
    body, content_type = draw(_bodies(status, names))
    return Manner(status, body, content_type, seconds=seconds)


@st.composite
def _bodies(draw: st.DrawFn, status: int, names: str) -> tuple[bytes, str]:
    said = draw(sentences)
    named = names and draw(st.booleans())
    if named:
        said = f"{said} {names} {draw(words)}"
    error: dict[str, Any] = {"message": said}
    for key in ("code", "type", "param"):
        if draw(st.booleans()):
            error[key] = draw(codes)
    if named and draw(st.booleans()):
        error["param"] = names
    document: object
    match draw(st.sampled_from(("openai", "list", "flat", "detail", "fastapi", "problem", "nested", "html", "xml",
                                "text", "empty", "binary", "mislabelled"))):  # fmt: skip
        case "openai":
            document = {"error": error}
        case "list":
            document = [{"error": error}]
        case "flat":
            document = {"code": draw(codes), "error": said}
        case "detail":
            document = {"detail": said}
        case "fastapi":
            document = {"detail": [{"loc": ["body", draw(words)], "msg": said, "type": draw(words)}]}
        case "problem":
            problem = {"type": "about:blank", "title": draw(words), "status": status, "detail": said}
            return orjson.dumps(problem), "application/problem+json"
        case "nested":
            document = {draw(words): {draw(words): [{"reason": said, "n": draw(codes)}]}, "ok": False}
        case "html":
            return f"<!doctype html><title>{status}</title><h1>{said}</h1>".encode(), "text/html; charset=utf-8"
        case "xml":
            return f"<?xml version='1.0'?><fault><why>{said}</why></fault>".encode(), "application/xml"
        case "text":
            return said.encode(), "text/plain"
        case "empty":
            return b"", "text/plain"
        case "binary":
            return draw(st.binary(min_size=1, max_size=64)), "application/octet-stream"
        case _:
            return orjson.dumps({"error": error}), "text/html"
    return orjson.dumps(document), "application/json"


@dataclass(frozen=True, slots=True)
class Strange:
    """One world: a nature, and the tasks that meet it. `waves`: (seconds from the start, texts)."""

    queue: QueueKey
    nature: Nature
    waves: tuple[tuple[float, tuple[str, ...]], ...]
    bad: frozenset[str]
    workers: int
    batch: int
    per_minute: int = 0
    per_hour: int = 0

    @property
    def texts(self) -> list[str]:
        return [text for _, texts in self.waves for text in texts]

    @property
    def good(self) -> list[str]:
        return [text for text in self.texts if text not in self.bad]


# That an account has no credit left is believed, and waited for: of single texts test_reports.py has it.
of_a_text = tuple(status for status in CLIENTS_FAULT + SERVERS_FAULT if status != 402)
# What a service says that fails now and then; 501 is a refusal.
passing = tuple(status for status in SERVERS_FAULT if status != 501)


@st.composite
def worlds(
    draw: st.DrawFn,
    *,
    flaky: tuple[float, ...] = (0, 0, 0, 0.05, 0.15),
    lasting: bool = False,
    limits: bool = False,
    only_poison: bool = False,
) -> Strange:
    """A world. `lasting`: something is wrong for ever with more than single texts; else everything passes."""
    chat = draw(st.sampled_from((False, False, True)))
    queue = TOPICS if chat else EMBEDDINGS
    count = draw(st.sampled_from((1, 2, 5, 10, 20))) if not only_poison else draw(st.integers(10, 24))
    texts = [f"{draw(words)} and number {number}" for number in range(count)]
    share = draw(st.sampled_from((0, 1, 1, 2)))
    most = count // 5 if count > 2 else count // 2
    bad = frozenset(draw(st.lists(st.sampled_from(texts), min_size=min(share, most), max_size=min(share, most))))
    useless = st.sampled_from(OF_CHATS if chat else OF_EMBEDDINGS)
    poison = None
    if bad:
        within: Manner | Useless = draw(st.one_of(manners(of_a_text), manners(of_a_text), useless))
        alone = draw(st.one_of(st.none(), manners(of_a_text))) if isinstance(within, Manner) else None
        poison = Poison(bad, within, alone)
    account = mute = None
    gone: tuple[tuple[str, Refusing], ...] = ()
    outages: tuple[Refusing, ...] = ()
    refused: tuple[tuple[str, Manner], ...] = ()
    length = LENGTH
    if not only_poison:
        troubles = [
            draw(st.sampled_from(("none", "outage", "account", "parameter", "mute", "parameter", "none", "gone")))
        ]
        if troubles == ["parameter"]:  # and that while the server is not well: neither hides the other for good
            troubles.append(draw(st.sampled_from(("none", "outage", "account"))))
        if lasting:
            troubles = [draw(st.sampled_from(("account", "gone", "mute", "length", "outage")))]
        until = float("inf") if lasting else draw(st.sampled_from((20.0, 200.0, 1500.0)))
        start = 0.0 if lasting else draw(st.sampled_from((0.0, 0.5, 1.0, 3.0)))
        for trouble in troubles:
            match trouble:
                case "outage":
                    outages = (Refusing(draw(manners(SERVERS_FAULT + TEMPORARY)), start, start + until),)
                case "account":
                    manner = draw(manners((400, 401, 402, 403, 404, 418, 422), rude=False))
                    account = Refusing(manner, start if len(troubles) > 1 else 0.0, start + until)
                case "gone":
                    manner = draw(manners((400, 403, 404, 410), queue.model, rude=False))
                    gone = ((queue.model, Refusing(manner, until=until)),)
                case "mute":
                    mute = draw(useless)
                case "parameter":
                    names = ["temperature", "json_schema", "json_object"] if chat else ["encoding_format", "dimensions"]
                    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
                    refused = tuple((name, draw(manners((400, 415, 422, 501), name, rude=False))) for name in chosen)
                case "length":
                    queue = EMBEDDINGS
                    refused = (("dimensions", draw(manners((400, 422), "dimensions", rude=False))),)
                    length = LENGTH * 2
        if troubles == ["length"] and chat:
            poison, bad = None, frozenset()
    else:
        until = 0.0
    nature = Nature(
        outages=outages,
        flaky=0 if only_poison else draw(st.sampled_from(flaky)),
        flaky_manner=draw(manners(passing)),
        account=account,
        gone=gone,
        refused=refused,
        poison=poison,
        mute=mute,
        mute_until=until,
        length=length,
        seconds=draw(st.sampled_from((0.2, 1.0, 5.0))),
        seed=draw(st.integers(0, 1 << 20)),
    )
    cut = draw(st.integers(0, len(texts))) if draw(st.booleans()) else len(texts)
    later = draw(st.sampled_from((5.0, 400.0)))
    waves = tuple(wave for wave in ((0.0, tuple(texts[:cut])), (later, tuple(texts[cut:]))) if wave[1])
    return Strange(
        queue,
        nature,
        waves,
        bad,
        workers=draw(st.sampled_from((1, 2, 4))),
        batch=draw(st.sampled_from((4, 32))),
        per_minute=draw(st.sampled_from((3, 12))) if limits else 0,
        per_hour=draw(st.sampled_from((40, 100))) if limits else 0,
    )
