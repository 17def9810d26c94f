"""Run as a process by test_warm_up: a master that warms up and forks, and a worker that buys twenty batches.

Prints what it saw as JSON. The only argument is the provider's address.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from aitp.settings import Settings, prepare_environment

prepare_environment()

from aitp.http import tls_context  # noqa: E402
from aitp.processors import PROCESSORS, Context  # noqa: E402
from aitp.providers import build, warm_up  # noqa: E402
from tests.providers.embeddings import SMALL, settings  # noqa: E402

CONTEXT = Context.of(settings())
TEXTS = ["Uma frase de exemplo em português, nem curta nem longa demais. " * 3] * 32


def opened() -> list[str]:
    """What this process holds open, and its threads."""
    links = [f"/proc/self/fd/{descriptor}" for descriptor in range(3, 1024)]
    descriptors = sorted(os.readlink(link) for link in links if os.path.lexists(link))
    return descriptors + [f"thread of {os.getpid()}" for _ in os.listdir("/proc/self/task")]


def private_kilobytes() -> int:
    """Memory that this process shares with no other."""
    with open("/proc/self/smaps_rollup") as rollup:
        rows = [line.split() for line in rollup]
    return sum(int(row[1]) for row in rows if row[0] in ("Private_Dirty:", "Private_Clean:"))


def work(settings: Settings) -> dict[str, Any]:
    """The worker's part, after fork."""
    embedding = PROCESSORS["text_embedding"]
    provider = build(settings)["openai"]
    for _ in range(20):
        answer = embedding.run([embedding.parse({"text": text, "model": SMALL}) for text in TEXTS], provider, CONTEXT)
        assert all(isinstance(result, bytes) for result in answer)
    return {"private_kilobytes": private_kilobytes()}


def main(url: str) -> None:
    before = opened()
    warm_up(settings(openai_base_url=url))
    inherited = settings(openai_base_url=url)
    facts: dict[str, Any] = {"before": before, "after": opened(), "trust": tls_context.cache_info().currsize}
    known = set(sys.modules)  # here, not in the child: merely looking at an object there copies its page
    gc.collect()
    gc.freeze()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        seen = work(inherited)
        seen["modules"] = sorted(set(sys.modules) - known)
        os.write(writer, json.dumps(seen).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    facts |= json.loads(os.read(reader, 65_536))
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
