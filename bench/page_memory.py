"""What reading a page of the pending list costs: CPU time and memory beyond what the process had before.

Today's task API lists everything that is pending, so a page may hold thousands of tasks with 10 kB of text each. Side
by side, each in a fresh process against a task API in another: our splitter (cut only, and up to tasks for the ledger),
ijson if it is installed (`pip install ijson`: yajl2_c, up to each document's objects), and a plain `response.json()`.

    PYTHONPATH=. python bench/page_memory.py [--tasks 10000] [--text-bytes 10000]
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import orjson
import requests

from aitp.demo.sentences import tasks, text_of
from aitp.demo.world_process import WorldProcess
from aitp.process.relay import read_document
from aitp.settings import load_settings
from aitp.taskapi.client import TaskApi
from aitp.taskapi.token import Tokens
from aitp.tasks import NewTask

READERS = ("ours", "ours, up to tasks", "ijson", "response.json()")
LIMIT_BYTES = 30 * 2**20


def fill(world: WorldProcess, count: int, text_bytes: int) -> None:
    """Tasks like the demo's, their sentences repeated until the text has that length."""
    documents = []
    for number, document in enumerate(tasks(count), 1):
        sentence = text_of(document) + " "
        text = (sentence * (text_bytes // len(sentence.encode()) + 1)).encode()[:text_bytes].decode(errors="ignore")
        documents.append(document | {"content": {"text": text, "model": "text-embedding-3-small"}})
        if len(documents) == 500 or number == count:
            world.add_documents(documents)
            documents.clear()


def memory(name: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (at most since the last reset)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def read_all(reader: str, page: Generator[bytes, None, None], address: str, token: str) -> int:
    """Read the page in one of the ways; how many documents there were."""
    if reader == "ours":
        return sum(1 for _ in page)
    if reader == "ours, up to tasks":
        return sum(isinstance(read_document(raw), NewTask) for raw in page)
    page.close()
    headers = {"Authorization": f"Bearer {token}"}
    with requests.get(address + "/api/ai-tasks/pending", headers=headers, stream=True, timeout=60) as response:
        if reader == "ijson":
            ijson = importlib.import_module("ijson.backends.yajl2_c")
            return sum(1 for _ in ijson.items(response.raw, "item", use_float=True, buf_size=65_536))
        return len(response.json())


def measure(reader: str) -> None:
    """In a fresh process: read the page once, print the figures as JSON."""
    settings = load_settings(dict(os.environ))
    tokens = Tokens(settings, lambda succeeded: None)
    api = TaskApi(settings, tokens, lambda *facts: None)
    page = api.pending(10)  # the connection, and the lazy parts of the libraries, are there before we look
    Path("/proc/self/clear_refs").write_text("5")
    before, started = memory("VmRSS"), time.process_time()
    count = read_all(reader, page, settings.api_base_url, tokens.current())
    seconds = time.process_time() - started
    print(orjson.dumps({"documents": count, "seconds": seconds, "grown": memory("VmHWM") - before}).decode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--text-bytes", type=int, default=10_000)
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        measure(arguments.reader)
        return
    with tempfile.TemporaryDirectory() as directory, WorldProcess() as world:
        fill(world, arguments.tasks, arguments.text_bytes)
        settings = {**world.environment, "RUNTIME_DIR": directory, "PROCESSING_MODE": "openai", "AITP_ENV_FILE": ""}
        print(f"{'a page of ' + format(arguments.tasks, ','):24}{'documents':>12}{'CPU µs each':>14}{'memory +MB':>12}")
        for reader in READERS:
            show(reader, {**os.environ, **settings})


def show(reader: str, surroundings: dict[str, str]) -> None:
    """One row."""
    command = [sys.executable, __file__, "--reader", reader]
    done = subprocess.run(command, env=surroundings, capture_output=True, check=False)
    if done.returncode:
        print(f"{reader:24}{'not measured: ' + done.stderr.decode().splitlines()[-1]}")
        return
    figures = orjson.loads(done.stdout)
    each = figures["seconds"] / max(figures["documents"], 1) * 1e6
    note = "" if figures["grown"] < LIMIT_BYTES else "   above 30"
    print(f"{reader:24}{figures['documents']:12,}{each:14.1f}{figures['grown'] / 2**20:12.1f}{note}")


if __name__ == "__main__":
    main()
