"""`aitp check`: whether the service can start with the settings."""

from __future__ import annotations

import dataclasses

from aitp.console.printing import print_json
from aitp.errors import ConfigurationError
from aitp.processors.inventory import inventory
from aitp.settings import load_settings


def show_settings(*, as_json: bool) -> int:
    """All that is wrong with them, or what they come to; the exit code."""
    try:
        settings = load_settings()
        found = inventory(settings)
    except ConfigurationError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": error.problems})
        return 78
    if as_json:
        report = {"ok": True, "problems": [], "warnings": settings.warnings, "mock": settings.mock}
        report |= dataclasses.asdict(found)
        print_json({**report, "env_file": settings.env_file and str(settings.env_file)})
        return 0
    for warning in settings.warnings:
        print(f"warning: {warning}")
    if settings.mock:
        print("MOCK MODE: OPENAI_API_KEY is the placeholder; results are invented, no calls are made")
    for entry in found.task_types:
        prompt = f", prompt {entry.prompt}" if entry.prompt else ""
        print(f"{entry.name}: {entry.processor} of {entry.module}{prompt}")
    for name, models in found.providers.items():
        print(f"provider {name}: {', '.join(models)}")
    print(f"Settings are fine ({f'environment and {settings.env_file}' if settings.env_file else 'environment'})")
    return 0
