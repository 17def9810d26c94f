"""`aitp demo --servers DIRECTORY`: the demo's servers alone, and settings that point at them. The service is yours."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from aitp.demo.command import OLLAMA_CHATTER, OLLAMA_EMBEDDER, Plan
from aitp.demo.envfile import write_env_file
from aitp.demo.stopping import undisturbed
from aitp.demo.world_process import WorldProcess

ENV_FILE = "aitp.env"
PORT = 8001  # the service's own default


def practise(plan: Plan, directory: Path) -> int:
    """Keep the servers up until Ctrl-C; 0. Raises ValueError if `directory` cannot be used."""
    directory = directory.absolute()
    env_file = directory / ENV_FILE
    console = Console()
    try:
        with ExitStack() as begun:
            with undisturbed():
                world = begun.enter_context(WorldProcess(_servers(plan)))
            try:
                if directory.exists() and not directory.is_dir():
                    raise ValueError(f"{directory} is no directory; name another")
                directory.mkdir(parents=True, exist_ok=True)
                write_env_file(env_file, _settings(plan, world, directory))
            except FileExistsError:
                raise ValueError(
                    f"{env_file} is there already: if an earlier demo made {directory}, remove that; else name "
                    "another directory"
                ) from None
            except OSError as error:
                raise ValueError(f"{env_file}: {error.strerror}; name another directory") from None
            console.print(_introduction(plan, world, env_file), soft_wrap=True, highlight=False, markup=False)
            world.wait()
    except KeyboardInterrupt:
        console.print(f"The servers are gone; {directory} stays, for you to look at and remove", soft_wrap=True)
    return 0


def _servers(plan: Plan) -> dict[str, Any]:
    latency = {"latency_seconds": plan.latency_ms / 1000}
    return {"openai_api": latency, "ollama_api": latency, "tasks": plan.tasks, "kind": plan.kind}


def _settings(plan: Plan, world: WorldProcess, directory: Path) -> dict[str, str]:
    return {
        **world.environment,
        "PROCESSING_MODE": plan.mode,
        "SUPPORTED_MODELS": f"{OLLAMA_EMBEDDER},{OLLAMA_CHATTER}",
        "CONCURRENCY_LIMIT": str(plan.workers),
        "POLLING_INTERVAL_SECONDS": "5",
        "RATE_LIMIT_PER_MINUTE": "60",
        "RATE_LIMIT_PER_HOUR": "1000",
        "RATE_LIMIT_PER_DAY": "5000",
        "RATE_LIMIT_PER_WEEK": "20000",
        "RATE_LIMIT_PER_MONTH": "50000",
        "RATE_LIMIT_STORAGE_PATH": str(directory / "data" / "rate_limits.db"),
        "RUNTIME_DIR": str(directory / "run"),
        "METRICS_HOST": "127.0.0.1",
        "METRICS_PORT": str(plan.port or PORT),
    }


def _introduction(plan: Plan, world: WorldProcess, env_file: Path) -> str:
    return f"""\
Up until Ctrl-C: a task API with {plan.tasks} tasks, its authorization server, and stand-ins for
OpenAI, Ollama and Wikidata.

In another terminal:
  export AITP_ENV_FILE={shlex.quote(str(env_file))}
  bin/aitp check
  bin/aitp run        # its page: http://127.0.0.1:{plan.port or PORT}/

More tasks:     curl -d '{{"count": 100}}' {world.control}/control/tasks
An outage:      curl -d '{{"server": "task_api", "seconds": 60}}' {world.control}/control/down
What they saw:  curl {world.control}/control/summary"""
