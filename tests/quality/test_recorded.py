"""The whole arithmetic, against tests/quality/recorded: every figure here was worked out by hand from those replies.

Of the eight texts (pt-03, pt-09, pt-12, pt-13, en-01, en-05, en-08, en-13) some answers are wrong on purpose, one is
cut, two are refused, one is empty, three are repaired in the second round, and one stays unusable. A reply costs
300 + 40 tokens; a refused or cut one tells nothing of its tokens.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from aitp.quality import ALL, LABELS, TRIALS, Failure, Report, Row, evaluate, load_labels, print_report
from tests.processors.models import context
from tests.quality.playback import RecordedProvider

RECORDED = Path(__file__).parent / "recorded"
REPLY_TOKENS = 340


@pytest.fixture(scope="module")
def report() -> Report:
    texts = load_labels(LABELS)
    provider = RecordedProvider(RECORDED, texts)
    some = [text for text in texts if text.id in provider.ids]
    return Report("recorded", None, list(evaluate(some, list(TRIALS), provider, context(), None)))


@pytest.fixture(scope="module")
def rows(report: Report) -> Mapping[tuple[str, str], Row]:
    return {(row.task_type, row.language): row for row in report.rows()}


def figures(precision: float, recall: float, f1: float, exact: float) -> dict[str, float]:
    return {"precision": precision, "recall": recall, "f1": f1, "exact": exact}


# hits / found / expected, text by text:
# people  pt-03 0/0/0, pt-09 1/2/1 (one man twice), pt-12 2/2/3, pt-13 1/2/1 (an institute); en-01 3/3/3, en-08 0/0/0,
#         en-13 2/2/3 (the company is missing), en-05 refused
# topics  pt-03 3/3/4 (and an optional one), pt-12 3/4/3 (one topic twice), pt-13 2/2/2; en-01 2/2/2, en-05 1/2/2,
#         en-13 1/1/2; pt-09 cut, en-08 without a topic
@pytest.mark.parametrize(
    ("task_type", "language", "expected"),
    [
        ("identifying_data", "pt", figures(4 / 6, 4 / 5, 8 / 11, 1 / 4)),
        ("identifying_data", "en", figures(5 / 5, 5 / 6, 10 / 11, 2 / 3)),
        ("identifying_data", ALL, figures(9 / 11, 9 / 11, 18 / 22, 3 / 7)),
        ("defining_topics", "pt", figures(8 / 9, 8 / 9, 16 / 18, 1 / 3)),
        ("defining_topics", "en", figures(4 / 5, 4 / 6, 8 / 11, 1 / 3)),
        ("defining_topics", ALL, figures(12 / 14, 12 / 15, 24 / 29, 2 / 6)),
        # pt-03 and pt-09 agree, pt-12 will do, pt-13 is wrong; en-01 and en-13 agree, en-05 will do, en-08 is unusable.
        ("defining_impact_area", "pt", {"agreement": 2 / 4, "accepted": 3 / 4}),
        ("defining_impact_area", "en", {"agreement": 2 / 3, "accepted": 3 / 3}),
        ("defining_impact_area", ALL, {"agreement": 4 / 7, "accepted": 6 / 7}),
    ],
)
def test_figures_are_those_worked_out_by_hand(
    rows: Mapping[tuple[str, str], Row], task_type: str, language: str, expected: dict[str, float]
) -> None:
    assert rows[task_type, language].figures == pytest.approx(expected)


# Levels too high: pt-03 0, pt-09 +1, pt-12 +3, pt-13 -1; en-01 0, en-05 0, en-08 -1, en-13 refused.
@pytest.mark.parametrize(
    ("language", "agreement", "within_one", "distance", "bias"),
    [("pt", 1 / 4, 3 / 4, 5 / 4, 3 / 4), ("en", 2 / 3, 3 / 3, 1 / 3, -1 / 3), (ALL, 3 / 7, 6 / 7, 6 / 7, 2 / 7)],
)
def test_figures_of_severity_are_those_worked_out_by_hand(
    rows: Mapping[tuple[str, str], Row],
    language: str,
    agreement: float,
    within_one: float,
    distance: float,
    bias: float,
) -> None:
    expected = {"agreement": agreement, "within_one": within_one, "mean_distance": distance, "mean_bias": bias}

    assert rows["defining_severity", language].figures == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task_type", "failures", "calls", "replies"),
    [
        ("identifying_data", {Failure.REFUSED: 1}, 9, 8),  # 8 texts and a repair, one refused
        ("defining_topics", {Failure.CUT: 1, Failure.UNUSABLE: 1}, 8, 7),
        ("defining_impact_area", {Failure.UNUSABLE: 1}, 10, 10),  # two repairs
        ("defining_severity", {Failure.REFUSED: 1}, 9, 8),
    ],
)
def test_failures_calls_and_tokens_are_counted_apart_from_figures(
    rows: Mapping[tuple[str, str], Row], task_type: str, failures: Mapping[Failure, int], calls: int, replies: int
) -> None:
    row = rows[task_type, ALL]

    assert row.texts == 8
    assert {kind: count for kind, count in row.failures.items() if count} == failures
    assert (row.calls, row.total_tokens) == (calls, replies * REPLY_TOKENS)
    assert row.prompt_tokens == replies * 300


def test_each_failure_is_told_with_its_text_and_reason(report: Report) -> None:
    told = {(case.text.id, case.task_type): str(case.error) for case in report.failed}

    assert set(told) == {
        ("en-05", "identifying_data"),
        ("pt-09", "defining_topics"),
        ("en-08", "defining_topics"),
        ("en-08", "defining_impact_area"),
        ("en-13", "defining_severity"),
    }
    assert told["en-08", "defining_topics"].startswith("no topic found")
    assert not any(case.score for case in report.failed)


def test_people_get_a_table_a_type_and_the_failures_below(report: Report) -> None:
    written = io.StringIO()
    print_report(report, Console(file=written, width=120))

    lines = [line.split() for line in written.getvalue().splitlines()]
    assert ["all", "8", "1", "0.82", "0.82", "0.82", "0.43", "9", "2720"] in lines
    assert "en-05 identifying_data: refused: the model declined to answer (recorded)" in written.getvalue()


def test_programs_get_the_failures_as_well(report: Report) -> None:
    assert {
        "text": "en-05",
        "task_type": "identifying_data",
        "kind": "refused",
        "reason": "the model declined to answer (recorded)",
    } in report.as_json()["failures"]
