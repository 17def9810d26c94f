"""Which provider runs a task: the whole decision as a table."""

from __future__ import annotations

import pytest

from aitp.policy.model_names import with_tag
from aitp.policy.routing import Mode, Route, Routing, Why, choose

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


def test_the_first_route_that_is_free_is_taken_and_else_the_task_waits() -> None:
    options = routing().options(NOMIC, EMBEDDING)

    assert choose(options, lambda route: False) == options[0]
    assert choose(options, lambda route: route.provider == "ollama") == options[1]
    assert choose(options, lambda route: True) is None


def test_names_get_the_tag_that_ollama_gives_them() -> None:
    assert [with_tag(name) for name in ("x", "x:q4", "a/b", "a/b:Q8_0", "host:5000/b")] == [
        "x:latest",
        "x:q4",
        "a/b:latest",
        "a/b:Q8_0",
        "host:5000/b:latest",
    ]
