"""Which provider runs a task: the whole decision as a table."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aitp.policy.routing import Mode, Route, Routing, Rules, Why, canonical

EMBEDDING = "text-embedding-3-small"
NOMIC = "nomic-embed-text"


def routing(
    mode: Mode = Mode.HYBRID,
    *,
    fallbacks: dict[str, str] | None = None,
    may_fall_back: bool = True,
    has_openai: bool = True,
    aliases: dict[str, str] | None = None,
) -> Routing:
    return Routing(mode, (NOMIC, "a/b:Q8_0"), fallbacks or {}, may_fall_back, has_openai, aliases=aliases or {})


INSTEAD = Route("openai", EMBEDDING, "ollama", Why.BLOCKED)

TABLE = [
    ("openai takes any model", routing(Mode.OPENAI), "x", "", (Route("openai", "x"),)),
    ("ollama takes any model, and refuses it itself", routing(Mode.OLLAMA), "x", "", (Route("ollama", "x"),)),
    ("hybrid asks Ollama first", routing(), NOMIC, "", (Route("ollama", NOMIC), INSTEAD)),
    (
        "a tag that is the default is the same model",
        routing(),
        f"{NOMIC}:latest",
        "",
        (Route("ollama", NOMIC), INSTEAD),
    ),
    (
        "another spelling is the same model",
        routing(),
        "Library/Nomic-Embed-Text",
        "",
        (Route("ollama", NOMIC), INSTEAD),
    ),
    ("so it is where all goes to Ollama", routing(Mode.OLLAMA), f"{NOMIC}:LATEST", "", (Route("ollama", NOMIC),)),
    ("OpenAI's names are left as they are", routing(Mode.OPENAI), "Library/X", "", (Route("openai", "Library/X"),)),
    ("another tag is another model", routing(), f"{NOMIC}:v1.5", "", (Route("openai", f"{NOMIC}:v1.5"),)),
    ("a tag is kept", routing(), "a/b:Q8_0", "", (Route("ollama", "a/b:Q8_0"), INSTEAD)),
    ("a name without its tag is not the model", routing(), "a/b", "", (Route("openai", "a/b"),)),
    ("other models go to OpenAI", routing(), "o3-mini", "", (Route("openai", "o3-mini"),)),
    (
        "other models without a key are Ollama's to refuse",
        routing(has_openai=False),
        "o3",
        "",
        (Route("ollama", "o3"),),
    ),
    ("no key, no fallback", routing(has_openai=False), NOMIC, "", (Route("ollama", NOMIC),)),
    ("switched off, no fallback", routing(may_fall_back=False), NOMIC, "", (Route("ollama", NOMIC),)),
    (
        "a name of its own",
        routing(fallbacks={NOMIC: "text-embedding-3-large", "*": "other"}),
        NOMIC,
        "",
        (Route("ollama", NOMIC), Route("openai", "text-embedding-3-large", "ollama", Why.BLOCKED)),
    ),
    (
        "a name of its own, whatever the spelling",
        routing(fallbacks={f"{NOMIC}:latest": "text-embedding-3-large"}),
        NOMIC,
        "",
        (Route("ollama", NOMIC), Route("openai", "text-embedding-3-large", "ollama", Why.BLOCKED)),
    ),
    (
        "a name for all others",
        routing(fallbacks={"*": "other"}),
        NOMIC,
        "",
        (Route("ollama", NOMIC), Route("openai", "other", "ollama", Why.BLOCKED)),
    ),
    (
        "what failed at Ollama goes to OpenAI, and back only if OpenAI cannot",
        routing(),
        NOMIC,
        "ollama",
        (Route("openai", EMBEDDING, "ollama", Why.FAILED), Route("ollama", NOMIC)),
    ),
    (
        "what failed at Ollama stays there if there is no fallback",
        routing(may_fall_back=False),
        NOMIC,
        "ollama",
        (Route("ollama", NOMIC),),
    ),
]

TABLE += [
    ("an alias is asked for instead", routing(aliases={"old": "new"}), "old", "", (Route("openai", "new"),)),
    ("an alias of an alias is not", routing(aliases={"a": "b", "b": "c"}), "a", "", (Route("openai", "b"),)),
    (
        "an alias may name a model of Ollama",
        routing(aliases={"old": NOMIC}),
        "old",
        "",
        (Route("ollama", NOMIC), INSTEAD),
    ),
    (
        "an alias of a model of Ollama",
        routing(aliases={NOMIC: "new"}),
        "Nomic-embed-text:latest",
        "",
        (Route("openai", "new"),),
    ),
    (
        "the very name goes before its other spellings",
        routing(aliases={"x": "a", "X": "b"}),
        "X",
        "",
        (Route("openai", "b"),),
    ),
    ("OpenAI tells capitals apart", routing(Mode.OPENAI, aliases={"x": "a"}), "X", "", (Route("openai", "X"),)),
    (
        "no fallback for what an alias took to OpenAI",
        routing(aliases={NOMIC: "new"}),
        NOMIC,
        "ollama",
        (Route("openai", "new"),),
    ),
]


@pytest.mark.parametrize(
    ("rules", "model", "failed_at", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_the_routes_of_a_task(rules: Routing, model: str, failed_at: str, expected: tuple[Route, ...]) -> None:
    assert rules.options(model, EMBEDDING, failed_at) == expected


def test_a_model_of_another_package_goes_there_in_every_mode() -> None:
    for mode in Mode:
        rules = Routing(mode, (), {}, True, True, {"tone": "example"})
        assert rules.options("tone", EMBEDDING) == (Route("example", "tone"),)
        assert rules.options("Tone", EMBEDDING) != (Route("example", "tone"),)


JEV = Rules(waits=(5.0, 10.0), stand_in="gpt", most_per_day=3)
STAND_IN = Route("openai", "gpt", "jev", Why.BLOCKED, most_per_day=3)


def foreign(mode: Mode = Mode.OLLAMA, *, may_stand_in: bool = True, **given: Any) -> Routing:
    rules = {"foreign": {"jev*": "jev", "jev-2*": "second", "jev-of-acme": "acme"}, "rules": {"jev": JEV}, **given}
    return Routing(mode, (NOMIC,), {}, True, True, may_stand_in=may_stand_in, **rules)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("model", "provider"),
    [("jev-1.13.0", "jev"), ("JEV", "jev"), ("Jev-2.0", "second"), ("jev-of-acme", "acme"), ("JEV-of-acme", "jev")],
)
def test_a_beginning_stands_for_all_that_begin_so_and_a_whole_name_comes_first(
    mode: Mode, model: str, provider: str
) -> None:
    assert foreign(mode).options(model, "o3")[0].provider == provider
    assert foreign(mode).options(model, "o3")[0].model == model


def test_a_provider_of_another_package_waits_and_is_stood_in_for_by_its_rules() -> None:
    first = Route("jev", "jev-1", waits=(5.0, 10.0))

    assert foreign().options("jev-1", "o3") == (first, STAND_IN)
    assert foreign().options("jev-1", "o3", "jev") == (STAND_IN._replace(reason=Why.FAILED), first)
    assert foreign(may_stand_in=False).options("jev-1", "o3", "jev") == (first,)
    none = {"jev": dataclasses.replace(JEV, most_per_day=0)}
    assert foreign(rules=none).options("jev-1", "o3") == (first,)


def test_tasks_wait_for_what_a_provider_lacks_or_for_the_package_that_has_it() -> None:
    lacking = foreign(rules={"jev": Rules(lacks="no key")})
    nobody = foreign(foreign={}, rules={}, aliases={"jev-old": "o3"})

    assert (lacking.options("jev-1", "o3"), lacking.waits_for("jev-1")) == ((), "jev: no key")
    assert nobody.options("Jev-1", "o3") == ()
    assert nobody.waits_for("Jev-1") == "no package that serves it is installed: aitp_jev (examples/aitp_jev)"
    assert nobody.options("jev-old", "o3") != ()  # an alias leads away
    assert nobody.waits_for("o3") == ""


def test_a_model_of_another_package_that_stands_in_for_ollama_is_asked_there() -> None:
    rules = Routing(Mode.HYBRID, (NOMIC,), {}, True, True, {"tone": "example"})

    assert rules.options(NOMIC, "tone")[1] == Route("example", "tone", "ollama", Why.BLOCKED)


def test_an_alias_may_lead_to_a_model_of_another_package_and_away_from_it() -> None:
    rules = Routing(Mode.OPENAI, (), {}, True, True, {"tone": "example"}, {"old": "tone", "tone": "new"})
    assert rules.options("old", EMBEDDING) == (Route("example", "tone"),)
    assert rules.options("tone", EMBEDDING) == (Route("openai", "new"),)


def test_an_ollama_name_never_reaches_openai() -> None:
    for failed_at in ("", "ollama"):
        for route in routing().options(NOMIC, EMBEDDING, failed_at):
            assert (route.provider == "openai") == (route.model != NOMIC)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("x", "x:latest"),
        ("x:q4", "x:q4"),
        ("X:Q4", "x:q4"),
        ("a/B:Q8_0", "a/b:q8_0"),
        ("host:5000/a/b", "host:5000/a/b:latest"),
        ("library/x", "x:latest"),
        ("registry.ollama.ai/library/x", "x:latest"),
        ("https://Registry.Ollama.ai/Library/X:Latest", "x:latest"),
        ("registry.ollama.ai/a/b:1", "a/b:1"),
        ("other.example/library/x", "other.example/library/x:latest"),
    ],
)
def test_all_spellings_of_a_model_are_one_name(name: str, full: str) -> None:
    assert canonical(name) == full
    assert canonical(full) == full
