"""How much the fuzz tests try, and what of: `bin/test --fuzz` says FUZZ=long, else it is a hundredth of that."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONG = os.environ.get("FUZZ") == "long"
SHORT_PART = 100

tried: Counter[str] = Counter()

F = TypeVar("F", bound=Callable[..., Any])


def cases(long: int) -> Callable[[F], F]:
    """So many examples in a long run. To be written above `given`; what runs is counted."""

    def bound(test: F) -> F:
        inner = test.hypothesis.inner_test  # type: ignore[attr-defined]

        @functools.wraps(inner)
        def counted(*arguments: Any, **named: Any) -> Any:
            tried[test.__module__.rpartition(".")[2].removeprefix("test_")] += 1
            return inner(*arguments, **named)

        test.hypothesis.inner_test = counted  # type: ignore[attr-defined]
        return settings(
            max_examples=long if LONG else max(25, long // SHORT_PART),
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )(test)

    return bound


# What nobody should ever send, and somebody will.
ODD_TEXTS = (
    "",
    " ",
    "\0",
    "\x1b[2J\x1b]0;x\x07",
    "\r\n",
    "\u202eabc",
    "💥" * 3,
    "NaN",
    "-1",
    "1e999",
    "null",
    "../..",
    "[red]",
)
texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=40), st.text(max_size=5).map(lambda text: text * 900))
numbers = st.one_of(
    st.integers(), st.sampled_from((0, -1, 2**31, 2**63, -(2**63) - 1, 10**30)), st.floats(), st.booleans(), st.none()
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(texts, numbers),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def likely(shape: Any) -> st.SearchStrategy[Any]:
    """Something like `shape`, a JSON value of which any part may be missing or anything else."""
    match shape:
        case dict():
            whole: st.SearchStrategy[Any] = st.fixed_dictionaries(
                {}, optional={name: likely(part) for name, part in shape.items()}
            )
            kept = st.fixed_dictionaries({name: likely(part) for name, part in shape.items()})
            return st.one_of(kept, kept, whole, values)
        case list():
            part = likely(shape[0])
            return st.one_of(st.lists(part, max_size=4), st.lists(part, min_size=1, max_size=1), values)
        case _:
            return st.one_of(st.just(shape), st.just(shape), st.just(shape), values)
