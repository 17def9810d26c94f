"""The arithmetic of scores, by hand and by property."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitp.quality.scoring import (
    LEVELS,
    ChoiceScore,
    LevelScore,
    Names,
    SetScore,
    compare_choice,
    compare_levels,
    compare_sets,
)

PELE = ["Pelé", "Edson Arantes do Nascimento"]
CURIE = ["Marie Curie", "Maria Skłodowska"]


@pytest.mark.parametrize(
    ("found", "expected", "score"),
    [
        ([], [], SetScore(1, 1, 0, 0, 0)),
        ([["Ana"]], [], SetScore(1, 0, 0, 1, 0)),
        ([], [PELE], SetScore(1, 0, 0, 0, 1)),
        ([["PELE"]], [PELE], SetScore(1, 1, 1, 1, 1)),
        ([["edson arantes  do nascimento"]], [PELE], SetScore(1, 1, 1, 1, 1)),
        ([["Pelé"], ["Edson Arantes do Nascimento"]], [PELE], SetScore(1, 0, 1, 2, 1)),
        ([["Pelé", "Marie Curie"], ["Pelé"]], [PELE, CURIE], SetScore(1, 1, 2, 2, 2)),
        ([["Pelé"], ["Marie"]], [PELE, CURIE], SetScore(1, 0, 1, 2, 2)),
    ],
    ids=["nobody", "invented", "missed", "folded", "alias", "twice", "two names fit", "part of a name"],
)
def test_sets_are_compared_thing_by_thing(found: list[Names], expected: list[Names], score: SetScore) -> None:
    assert compare_sets(found, expected) == score


def test_what_is_optional_counts_neither_way() -> None:
    optional = [["Le Monde"]]

    assert compare_sets([["Pelé"]], [PELE], optional) == SetScore(1, 1, 1, 1, 1)
    assert compare_sets([["Pelé"], ["Le Monde"]], [PELE], optional) == SetScore(1, 1, 1, 1, 1)
    assert compare_sets([["Le Monde"], ["le monde"]], [PELE], optional) == SetScore(1, 0, 0, 1, 1)


def test_figures_of_sets() -> None:
    figures = (SetScore(1, 1, 3, 3, 3) + SetScore(1, 0, 1, 5, 2)).figures()

    assert figures == {"precision": 4 / 8, "recall": 4 / 5, "F1": 8 / 13, "exact": 1 / 2}


def test_nothing_to_divide_by_is_no_figure() -> None:
    assert SetScore(1, 1, 0, 0, 0).figures() == {"precision": None, "recall": None, "F1": None, "exact": 1.0}
    assert set(SetScore().figures().values()) == {None}


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

    assert compare_sets(found, expected).hits == most


def test_a_choice_agrees_or_will_do() -> None:
    assert compare_choice("SAUDE", "Saúde") == ChoiceScore(1, 1, 1)
    assert compare_choice("Ciência", "Saúde", ["Cultura", "ciencia"]) == ChoiceScore(1, 0, 1)
    assert compare_choice("Esporte", "Saúde", ["Cultura"]) == ChoiceScore(1, 0, 0)
    assert (ChoiceScore(1, 1, 1) + ChoiceScore(1, 0, 1)).figures() == {"agreement": 0.5, "accepted": 1.0}


def test_levels_run_from_critical_to_low_1() -> None:
    assert (LEVELS[0], LEVELS[1], LEVELS[-1], len(LEVELS)) == ("critical", "high_3", "low_1", 10)


@pytest.mark.parametrize(
    ("found", "expected", "score"),
    [
        ("high_1", "high_1", LevelScore(1, 1, 1, 0, 0)),
        ("high_3", "critical", LevelScore(1, 0, 1, 1, -1)),
        ("medium_3", "medium_1", LevelScore(1, 0, 0, 2, 2)),
        ("critical", "low_1", LevelScore(1, 0, 0, 9, 9)),
    ],
)
def test_levels_are_compared_by_their_distance(found: str, expected: str, score: LevelScore) -> None:
    assert compare_levels(found, expected) == score


def test_figures_of_levels() -> None:
    score = (
        compare_levels("critical", "high_3") + compare_levels("low_1", "medium_1") + compare_levels("low_2", "low_2")
    )

    assert score.figures() == {"agreement": 1 / 3, "within one": 2 / 3, "mean distance": 4 / 3, "mean bias": -2 / 3}
