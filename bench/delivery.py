"""What bringing one result to the task API costs, in CPU time of the process that does it.

Side by side, against a task API in a process of its own: our client with a ready result, `requests` with these bytes,
and `requests` with the vector as a list of floats, as a straightforward program has it.

    PYTHONPATH=. python bench/delivery.py [--repeat 200] [--numbers 1024]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import orjson
import requests

from aitp.demo.world_process import WorldProcess
from aitp.settings import load_settings
from aitp.taskapi.client import TaskApi
from aitp.taskapi.token import Tokens
from aitp.tasks import TaskStatus

TASKS = 20
ROUNDS = 7


def cpu_ms(act: Callable[[int], object], repeat: int) -> float:
    """CPU milliseconds of this process for one `act`: the best of a few rounds, for the machine has other work."""
    rounds = []
    for _ in range(ROUNDS):
        act(0)
        started = time.process_time()
        for number in range(repeat):
            act(number)
        rounds.append((time.process_time() - started) / repeat * 1e3)
    return min(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=200, help="deliveries a round")
    parser.add_argument("--numbers", type=int, default=1024, help="numbers in a vector")
    arguments = parser.parse_args()
    draw = random.Random(0)
    vector = numpy.array([draw.uniform(-0.1, 0.1) for _ in range(arguments.numbers)], dtype="<f4")
    with tempfile.TemporaryDirectory() as directory, WorldProcess({"task_api": {"keep_results": False}}) as world:
        compare(world, Path(directory), vector, arguments.repeat)


def compare(world: WorldProcess, directory: Path, vector: numpy.ndarray, repeat: int) -> None:
    ids = world.add_tasks(TASKS)
    settings = load_settings(
        {
            **world.environment,
            "PROCESSING_MODE": "openai",
            "RUNTIME_DIR": str(directory),
            "RATE_LIMIT_STORAGE_PATH": str(directory / "ledger.db"),
        }
    )
    tokens = Tokens(settings, lambda succeeded: None)
    api = TaskApi(settings, tokens, lambda *facts: None)
    result = orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)
    body = b'{"state":"succeeded","result":%s}' % result
    numbers = vector.tolist()
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {tokens.current()}"
    address = f"{settings.api_base_url}/api/ai-tasks"

    def ours(number: int) -> None:
        api.deliver(ids[number % TASKS], TaskStatus.SUCCEEDED, result)

    def plain(number: int) -> None:
        headers = {"Content-Type": "application/json"}
        session.patch(f"{address}/{ids[number % TASKS]}", data=body, headers=headers, timeout=30).raise_for_status()

    def straightforward(number: int) -> None:
        document = {"state": "succeeded", "result": numbers}
        session.patch(f"{address}/{ids[number % TASKS]}", json=document, timeout=30).raise_for_status()

    print(f"{f'CPU of one delivery of {len(result):,} bytes':44}{'ms':>8}")
    for name, act in (("ours", ours), ("requests, ready bytes", plain), ("requests, list of floats", straightforward)):
        print(f"{name:44}{cpu_ms(act, repeat):8.3f}")


if __name__ == "__main__":
    main()
