"""What an evaluation found, for people (a table a processor) and for programs.

A row is one processor's work on the texts of one language, or of `all`. Failures stand beside the figures, and below
with their reasons: a figure speaks of the answers that there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from aitp.providers import Usage
from aitp.quality.evaluation import NOTHING, Case, Failure
from aitp.quality.labels import languages_of
from aitp.quality.scoring import Figures

if TYPE_CHECKING:
    from rich.console import Console

ALL = "all"


@dataclass(frozen=True, slots=True)
class Row:
    """`texts` that were tried; `failures`: how many of them have no score, by kind. `figures`: empty without any."""

    task_type: str
    language: str
    texts: int
    failures: Mapping[Failure, int]
    figures: Figures
    calls: int
    usage: Usage

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Report:
    """`stopped`: why not all texts were tried; empty if they were."""

    provider: str
    model: str | None
    cases: Sequence[Case]
    stopped: str = ""

    @property
    def mock(self) -> bool:
        return any(case.mock for case in self.cases)

    @property
    def failed(self) -> Sequence[Case]:
        return [case for case in self.cases if case.failure]

    def rows(self) -> Iterator[Row]:
        """In the order of the cases; for each processor its languages, then all of them."""
        for task_type in dict.fromkeys(case.task_type for case in self.cases):
            cases = [case for case in self.cases if case.task_type == task_type]
            for language in sorted(languages_of([case.text for case in cases])):
                yield _row(task_type, language, [case for case in cases if case.text.language == language])
            yield _row(task_type, ALL, cases)

    def as_json(self) -> dict[str, Any]:
        """Everything, as values that JSON knows."""
        return {
            "provider": self.provider,
            "model": self.model,
            "mock": self.mock,
            "stopped": self.stopped or None,
            "rows": [
                {
                    "task_type": row.task_type,
                    "language": row.language,
                    "texts": row.texts,
                    "scored": row.texts - row.failed,
                    "failures": {kind.value: row.failures.get(kind, 0) for kind in Failure},
                    "figures": {name.lower().replace(" ", "_"): figure for name, figure in row.figures.items()},
                    "calls": row.calls,
                    "prompt_tokens": row.usage.prompt_tokens,
                    "completion_tokens": row.usage.completion_tokens,
                    "total_tokens": row.usage.total_tokens,
                    "tokens_estimated": row.usage.estimated,
                }
                for row in self.rows()
            ],
            "failures": [
                {"text": case.text.id, "task_type": case.task_type, "kind": case.failure, "reason": case.reason}
                for case in self.failed
            ],
        }


def print_report(report: Report, console: Console) -> None:
    """Tables, then failures."""
    from rich.table import Table
    from rich.text import Text

    if report.mock:
        console.print(Text("MOCK MODE: the answers are invented, the figures say nothing", style="bold red"))
    rows = list(report.rows())
    for task_type in dict.fromkeys(row.task_type for row in rows):
        mine = [row for row in rows if row.task_type == task_type]
        names = max((list(row.figures) for row in mine), key=len)
        table = Table(title=task_type, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for head in ("language", "texts", "failed", *names, "calls", "tokens"):
            table.add_column(head, justify="left" if head == "language" else "right")
        for row in mine:
            shown = [_shown(row.figures.get(name)) for name in names]
            tokens = f"{'~' if row.usage.estimated else ''}{row.usage.total_tokens}"
            table.add_row(row.language, str(row.texts), str(row.failed or ""), *shown, str(row.calls), tokens)
        console.print(table)
        console.print()
    for case in report.failed:
        # Not markup: a reason may hold brackets.
        console.print(Text(f"{case.text.id} {case.task_type}: {case.failure}: {case.reason}"))
    if report.stopped:
        console.print(Text(f"Stopped after {len(report.cases)} tasks: {report.stopped}", style="bold red"))


def _row(task_type: str, language: str, cases: Sequence[Case]) -> Row:
    scores = [case.score for case in cases if case.score is not None]
    return Row(
        task_type,
        language,
        len(cases),
        Counter(case.failure for case in cases if case.failure),
        reduce(add, scores).figures() if scores else {},
        sum(case.calls for case in cases),
        sum((case.usage for case in cases), NOTHING),
    )


def _shown(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.2f}"
