"""The arithmetic of scores, by hand and by property."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.quality import (
    LEVELS,
    Names,
    Score,
    compare_choice,
    compare_levels,
    compare_sets,
    figures,
)


def of_sets(exact: int, hits: int, found: int, expected: int) -> Score:
    return {
        "precision": (hits, found),
        "recall": (hits, expected),
        "f1": (2 * hits, found + expected),
        "exact": (exact, 1),
    }


def of_choice(agreed: int, accepted: int) -> Score:
    return {"agreement": (agreed, 1), "accepted": (accepted, 1)}


def of_levels(agreed: int, within_one: int, off: int, higher: int) -> Score:
    return {
        "agreement": (agreed, 1),
        "within_one": (within_one, 1),
        "mean_distance": (off, 1),
        "mean_bias": (higher, 1),
    }


PELE = ["Pelé", "Edson Arantes do Nascimento"]
CURIE = ["Marie Curie", "Maria Skłodowska"]


@pytest.mark.parametrize(
    ("found", "expected", "score"),
    [
        ([], [], of_sets(1, 0, 0, 0)),
        ([["Ana"]], [], of_sets(0, 0, 1, 0)),
        ([], [PELE], of_sets(0, 0, 0, 1)),
        ([["PELE"]], [PELE], of_sets(1, 1, 1, 1)),
        ([["edson arantes  do nascimento"]], [PELE], of_sets(1, 1, 1, 1)),
        ([["Pelé"], ["Edson Arantes do Nascimento"]], [PELE], of_sets(0, 1, 2, 1)),
        ([["Pelé", "Marie Curie"], ["Pelé"]], [PELE, CURIE], of_sets(1, 2, 2, 2)),
        ([["Pelé"], ["Marie"]], [PELE, CURIE], of_sets(0, 1, 2, 2)),
    ],
    ids=["nobody", "invented", "missed", "folded", "alias", "twice", "two names fit", "part of a name"],
)
def test_sets_are_compared_thing_by_thing(found: list[Names], expected: list[Names], score: Score) -> None:
    assert compare_sets(found, expected) == score


def test_what_is_optional_counts_neither_way() -> None:
    optional = [["Le Monde"]]

    assert compare_sets([["Pelé"]], [PELE], optional) == of_sets(1, 1, 1, 1)
    assert compare_sets([["Pelé"], ["Le Monde"]], [PELE], optional) == of_sets(1, 1, 1, 1)
    assert compare_sets([["Le Monde"], ["le monde"]], [PELE], optional) == of_sets(0, 0, 1, 1)


def test_figures_of_sets() -> None:
    assert figures([of_sets(1, 3, 3, 3), of_sets(0, 1, 5, 2)]) == {
        "precision": 4 / 8,
        "recall": 4 / 5,
        "f1": 8 / 13,
        "exact": 1 / 2,
    }


def test_nothing_to_divide_by_is_no_figure() -> None:
    assert figures([of_sets(1, 0, 0, 0)]) == {"precision": None, "recall": None, "f1": None, "exact": 1.0}
    assert figures([]) == {}


names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3)


@given(st.lists(names, max_size=5), st.permutations("abcdef"), st.integers(0, 6))
def test_as_many_things_as_possible_have_a_partner(found: Sequence[Names], shuffled: list[str], count: int) -> None:
    expected = [[letter] for letter in shuffled[:count]]
    size = min(len(found), count)
    most = max(
        sum(wanted[0] in got for got, wanted in zip(some, others, strict=True))
        for some in itertools.permutations(found, size)
        for others in itertools.combinations(expected, size)
    )

    assert compare_sets(found, expected)["precision"][0] == most


def test_a_choice_agrees_or_will_do() -> None:
    assert compare_choice("SAUDE", "Saúde") == of_choice(1, 1)
    assert compare_choice("Ciência", "Saúde", ["Cultura", "ciencia"]) == of_choice(0, 1)
    assert compare_choice("Esporte", "Saúde", ["Cultura"]) == of_choice(0, 0)
    assert figures([of_choice(1, 1), of_choice(0, 1)]) == {"agreement": 0.5, "accepted": 1.0}


def test_levels_run_from_critical_to_low_1() -> None:
    assert (LEVELS[0], LEVELS[1], LEVELS[-1], len(LEVELS)) == ("critical", "high_3", "low_1", 10)


@pytest.mark.parametrize(
    ("found", "expected", "score"),
    [
        ("high_1", "high_1", of_levels(1, 1, 0, 0)),
        ("high_3", "critical", of_levels(0, 1, 1, -1)),
        ("medium_3", "medium_1", of_levels(0, 0, 2, 2)),
        ("critical", "low_1", of_levels(0, 0, 9, 9)),
    ],
)
def test_levels_are_compared_by_their_distance(found: str, expected: str, score: Score) -> None:
    assert compare_levels(found, expected) == score


def test_figures_of_levels() -> None:
    scores = [
        compare_levels("critical", "high_3"),
        compare_levels("low_1", "medium_1"),
        compare_levels("low_2", "low_2"),
    ]

    assert figures(scores) == {"agreement": 1 / 3, "within_one": 2 / 3, "mean_distance": 4 / 3, "mean_bias": -2 / 3}
