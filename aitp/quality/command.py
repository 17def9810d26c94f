"""What `aitp eval` does: from options and settings to a provider, a run, and a report on standard output.

Calls are made from this process and are not counted against the service's limits. Only settings of providers matter:
the task API may be unknown.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aitp.errors import ConfigurationError
from aitp.knowledge import NoKnowledge
from aitp.logs import conceal, configure
from aitp.policy.routing import canonical
from aitp.processors import Context
from aitp.providers import Provider, build
from aitp.providers.foreign import foreign_models
from aitp.quality.evaluation import Case, EvaluationStoppedError, evaluate
from aitp.quality.labels import LabelledText, load_labels
from aitp.quality.lookups import wikidata_of
from aitp.quality.recorded import RecordedProvider
from aitp.quality.report import Report, print_report
from aitp.quality.trials import TRIALS
from aitp.settings import PROJECT_ROOT, Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console

LABELS = PROJECT_ROOT / "bench" / "quality"
NO_TASK_API = {
    "api_base_url": "http://localhost",
    "oauth2_token_url": "http://localhost",
    "oauth2_client_id": "nobody",
    "oauth2_client_secret": "nothing",
}


@dataclass(frozen=True, slots=True)
class Options:
    """`limit`: of texts; None means all. `model`: None means each type's default. `recorded`: what to play back.

    `wikidata`: look people and subjects up, as the service does.
    """

    task_types: Sequence[str] = tuple(TRIALS)
    limit: int | None = None
    model: str | None = None
    labels: Path = LABELS
    recorded: Path | None = None
    wikidata: bool = False
    as_json: bool = False


def run_evaluation(options: Options) -> int:
    """0: all texts were tried, and some had an answer; else 1. ConfigurationError: it cannot begin."""
    from rich.console import Console

    settings = load_settings(defaults=NO_TASK_API)
    conceal(settings.openai_api_key)
    # Standard output is the report's.
    configure("DEBUG" if settings.log_level == "DEBUG" else "WARNING", settings.log_format, stream=sys.stderr)
    texts = load_labels(options.labels)
    provider: Provider
    if options.recorded is not None:
        recording = RecordedProvider(options.recorded, texts)
        texts = [text for text in texts if text.id in recording.ids]
        provider = recording
    else:
        model = options.model or settings.default_chat_model
        options = dataclasses.replace(options, model=model)
        provider = _configured(settings, model)
    with wikidata_of(settings) if options.wikidata else nullcontext(NoKnowledge()) as knowledge:
        context = Context.of(settings, knowledge)
        report = _report(texts[: options.limit], provider, context, options, Console(stderr=True))
    provider.close()
    if options.as_json:
        Console(soft_wrap=True, highlight=False).out(json.dumps(report.as_json(), indent=2))
    else:
        print_report(report, Console())
    return int(bool(report.stopped) or len(report.failed) == len(report.cases))


def _report(
    texts: Sequence[LabelledText], provider: Provider, context: Context, options: Options, console: Console
) -> Report:
    cases: list[Case] = []
    stopped = ""
    try:
        found = evaluate(texts, options.task_types, provider, context, options.model)
        # What has been paid for is shown, also if it is not all.
        cases.extend(_watched(found, len(texts) * len(options.task_types), console))
    except EvaluationStoppedError as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = "interrupted"
    return Report(provider.name, options.model, cases, stopped)


def _watched(cases: Iterator[Case], total: int, console: Console) -> Iterator[Case]:
    from rich.progress import Progress

    # Drawn by us after each case: by itself it would start a thread.
    with Progress(console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Evaluating", total=total)
        for case in cases:
            progress.update(task, advance=1, description=f"{case.text.id} {case.task_type}", refresh=True)
            yield case


def _configured(settings: Settings, model: str) -> Provider:
    """The provider that tasks of `model` go to. ConfigurationError: there is none, so that no text could be tried."""
    name = foreign_models().get(model) or _own_name(settings, model)
    provider = build(settings).get(name)
    if provider is None:
        raise ConfigurationError(
            [
                f"OPENAI_API_KEY: not set, and {model} is no model of SUPPORTED_MODELS; set a key, or name a supported "
                "chat model with --model, or play replies back with --recorded bench/quality/recorded"
            ]
        )
    return provider


def _own_name(settings: Settings, model: str) -> str:
    if settings.mock:
        return "openai"  # whose name the mock has
    supported = canonical(model) in map(canonical, settings.supported_models)
    if settings.processing_mode == "ollama" and not supported:
        raise ConfigurationError(
            [
                f"SUPPORTED_MODELS={','.join(settings.supported_models)}: PROCESSING_MODE=ollama cannot ask {model}; "
                "name a supported chat model with --model"
            ]
        )
    return "ollama" if supported and settings.processing_mode != "openai" else "openai"
