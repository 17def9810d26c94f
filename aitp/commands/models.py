"""`aitp models pull`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from aitp.commands.printing import print_json, show, table, visible
from aitp.logs import configure
from aitp.process.models import Look, look_after_models
from aitp.providers.inventory import ModelState, Stage, read_inventory, uses_models

if TYPE_CHECKING:
    from rich.progress import TaskID

    from aitp.settings import Settings


def pull_models(settings: Settings, *, as_json: bool) -> int:
    """Pull what Ollama lacks, with a progress bar for people; 0 if all is there."""
    if not uses_models(settings):
        raise click.ClickException("Ollama is not used: see PROCESSING_MODE, SUPPORTED_MODELS and OPENAI_API_KEY")
    configure("CRITICAL", settings.log_format)  # what it would say is shown here
    settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if as_json:
        look = look_after_models(settings, anew=True)
    else:
        with _progress_bars() as told:
            look = look_after_models(settings, anew=True, told=told)
    if look is Look.ELSEWHERE:
        raise click.ClickException("the service is pulling models already: /ready and its log tell how far it is")
    stock = read_inventory(settings.runtime_dir)
    states = dict(stock.models) if stock else {}
    if as_json:
        report = {name: dataclasses.asdict(state) for name, state in states.items()}
        print_json({"models": report, "problem": stock.problem if stock else ""})
    elif stock and stock.problem:
        raise click.ClickException(visible(stock.problem))
    else:
        rows = [(name, state.stage.value, state.reason) for name, state in states.items()]
        show(table(("MODEL", "STATE", "REASON"), rows))
    return 0 if look is Look.ALL_THERE else 1


@contextmanager
def _progress_bars() -> Iterator[Callable[[str, ModelState], None]]:
    """One bar a model that is being pulled."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns) as progress:
        bars: dict[str, TaskID] = {}

        def told(name: str, state: ModelState) -> None:
            if state.stage is Stage.PULLING and name not in bars:
                bars[name] = progress.add_task(visible(name), total=None)
            if name in bars:
                progress.update(bars[name], completed=state.completed, total=state.total or None)

        yield told
