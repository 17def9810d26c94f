"""Which provider runs a task: the whole decision as a table."""

from __future__ import annotations

import pytest

from aitp.policy.model_names import with_tag
from aitp.policy.routing import Arrival, Mode, Route, Routing, Standing, Why, choose, standing

EMBEDDING = "text-embedding-3-small"
NOMIC = "nomic-embed-text"


def routing(
    mode: Mode = Mode.HYBRID,
    *,
    fallbacks: dict[str, str] | None = None,
    may_fall_back: bool = True,
    has_openai: bool = True,
) -> Routing:
    return Routing(mode, frozenset({"nomic-embed-text:latest", "a/b:Q8_0"}), fallbacks or {}, may_fall_back, has_openai)


INSTEAD = Route("openai", EMBEDDING, "ollama", Why.BLOCKED)

TABLE = [
    ("openai takes any model", routing(Mode.OPENAI), "x", "", (Route("openai", "x"),)),
    ("ollama takes any model, and refuses it itself", routing(Mode.OLLAMA), "x", "", (Route("ollama", "x"),)),
    ("hybrid asks Ollama first", routing(), NOMIC, "", (Route("ollama", NOMIC), INSTEAD)),
    ("a tag that is the default is the same model", routing(), f"{NOMIC}:latest", "", None),
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


@pytest.mark.parametrize(
    ("rules", "model", "failed_at", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_the_routes_of_a_task(rules: Routing, model: str, failed_at: str, expected: tuple[Route, ...] | None) -> None:
    found = rules.options(model, EMBEDDING, failed_at)

    assert found == ((Route("ollama", model), INSTEAD) if expected is None else expected)


def test_a_model_of_another_package_goes_there_in_every_mode() -> None:
    for mode in Mode:
        rules = Routing(mode, frozenset(), {}, True, True, {"tone": "example"})
        assert rules.options("tone", EMBEDDING) == (Route("example", "tone"),)


def test_an_ollama_name_never_reaches_openai() -> None:
    for failed_at in ("", "ollama"):
        for route in routing().options(NOMIC, EMBEDDING, failed_at):
            assert (route.provider == "openai") == (route.model != NOMIC)


FREE, BLOCKED, AWAITED = Standing.FREE, Standing.BLOCKED, Standing.AWAITED

CHOICES = [
    ("the first that is free is taken", (FREE, FREE), 0),
    ("what is blocked is stood in for", (BLOCKED, FREE), 1),
    ("what is awaited is waited for, though another is free", (AWAITED, FREE), None),
    ("nobody waits at a stand-in", (BLOCKED, AWAITED), None),
    ("if all are blocked the task waits", (BLOCKED, BLOCKED), None),
    ("one that is free is taken though a later one is awaited", (FREE, AWAITED), 0),
]


@pytest.mark.parametrize(("stands", "chosen"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_the_choice_among_the_routes(stands: tuple[Standing, Standing], chosen: int | None) -> None:
    options = routing().options(NOMIC, EMBEDDING)
    found = choose(options, lambda route: stands[options.index(route)])

    assert found == (None if chosen is None else options[chosen])


STANDINGS = [
    ("nothing stands in the way", False, False, Arrival.UNKNOWN, FREE),
    ("its model is being pulled", False, False, Arrival.COMING, AWAITED),
    ("no pull brought it, but somebody may have", False, False, Arrival.GIVEN_UP, FREE),
    ("it has just vanished", False, True, Arrival.UNKNOWN, AWAITED),
    ("it is missing, and is being pulled", False, True, Arrival.COMING, AWAITED),
    ("it is missing, and no pull brought it", False, True, Arrival.GIVEN_UP, BLOCKED),
    ("a breaker is open", True, False, Arrival.UNKNOWN, BLOCKED),
    ("the server died while it pulled", True, False, Arrival.COMING, BLOCKED),
    ("the server died without its model", True, True, Arrival.UNKNOWN, BLOCKED),
]


@pytest.mark.parametrize(
    ("blocked", "missed", "arrival", "expected"), [row[1:] for row in STANDINGS], ids=[row[0] for row in STANDINGS]
)
def test_how_a_route_stands(blocked: bool, missed: bool, arrival: Arrival, expected: Standing) -> None:
    assert standing(blocked=blocked, missed=missed, arrival=arrival) is expected


def test_names_get_the_tag_that_ollama_gives_them() -> None:
    assert [with_tag(name) for name in ("x", "x:q4", "a/b", "a/b:Q8_0", "host:5000/b")] == [
        "x:latest",
        "x:q4",
        "a/b:latest",
        "a/b:Q8_0",
        "host:5000/b:latest",
    ]
