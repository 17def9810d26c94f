"""What a vector costs between the provider's answer and the JSON that is delivered, in CPU time.

Side by side: our path (base64 to float32 to JSON, no Python floats) and the client's own (base64 to list of floats to
JSON), first for the body alone, then for whole calls to a server on loopback, which runs in a process of its own.

    PYTHONPATH=. python bench/vector_path.py [--repeat 300]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aitp.settings import load_settings, prepare_environment

prepare_environment()

import openai  # noqa: E402
import orjson  # noqa: E402
from openai.types import CreateEmbeddingResponse  # noqa: E402

from aitp.demo.openai_api import DEMO_KEY, OpenAIApi  # noqa: E402
from aitp.demo.vectors import encoded_vector  # noqa: E402
from aitp.providers.openai import OpenAIProvider, read_embeddings  # noqa: E402

MODEL = "text-embedding-3-small"
LENGTH = 1024
ROUNDS = 7


def cpu_us(act: Callable[[], object], repeat: int) -> float:
    """CPU microseconds of this process for one `act`: the best of a few rounds, for the machine has other work."""
    for _ in range(10):
        act()
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(repeat):
            act()
        rounds.append((time.process_time() - started) / repeat * 1e6)
    return min(rounds)


def body_of(count: int) -> bytes:
    """An answer with that many vectors."""
    items = [
        {"object": "embedding", "index": index, "embedding": encoded_vector(str(index), MODEL, LENGTH).decode()}
        for index in range(count)
    ]
    return orjson.dumps({"object": "list", "data": items, "usage": {"prompt_tokens": 8, "total_tokens": 8}})


def plain_results(answer: CreateEmbeddingResponse) -> list[bytes]:
    """What a straightforward program delivers."""
    return [json.dumps(item.embedding).encode() for item in answer.data]


def plain_path(body: bytes) -> list[bytes]:
    """The client's way from a body, without HTTP: its model, its lists (it uses numpy where there is numpy)."""
    import base64

    import numpy

    answer = CreateEmbeddingResponse.construct(**json.loads(body))
    for item in answer.data:
        raw = base64.b64decode(str(item.embedding))
        item.embedding = numpy.frombuffer(raw, dtype="float32").tolist()
    return plain_results(answer)


@contextmanager
def provider_process() -> Iterator[str]:
    """The demo's provider in a child; yields its address."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with OpenAIApi() as server:
            os.write(writer, server.base_url.encode())
            signal.pause()
    try:
        yield os.read(reader, 1024).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=100, help="acts a round")
    repeat = parser.parse_args().repeat
    nowhere = {"API_BASE_URL": "http://127.0.0.1:1", "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/token"}
    nobody = {"OAUTH2_CLIENT_ID": "nobody", "OAUTH2_CLIENT_SECRET": "nothing", "AITP_ENV_FILE": ""}
    environ = {**nowhere, **nobody, "PROCESSING_MODE": "openai", "OPENAI_API_KEY": DEMO_KEY}
    with provider_process() as url:
        ours = OpenAIProvider(load_settings(environ | {"OPENAI_BASE_URL": url}))
        client = openai.OpenAI(api_key=DEMO_KEY, base_url=url, max_retries=0)
        print(f"{'CPU of this process, µs':44}{'ours':>10}{'plain':>10}{'ratio':>8}{'bytes/vector':>20}")
        compare(ours, client, 1, repeat)
        compare(ours, client, 32, repeat)


def compare(ours: OpenAIProvider, client: openai.OpenAI, count: int, repeat: int) -> None:
    """Two rows: the body alone, and the whole call, for `count` texts."""
    body, texts = body_of(count), [f"Uma frase de exemplo, número {number}. " * 4 for number in range(count)]

    def short_path() -> list[bytes]:
        vectors = read_embeddings(orjson.loads(body), texts, LENGTH).vectors
        return [vector for vector in vectors if isinstance(vector, bytes)]

    def plain_call() -> list[bytes]:
        return plain_results(client.embeddings.create(model=MODEL, input=texts, dimensions=LENGTH))

    sizes = len(short_path()[0]), len(plain_path(body)[0])
    row(
        f"body to results, {count} x {LENGTH}",
        sizes,
        cpu_us(short_path, repeat),
        cpu_us(lambda: plain_path(body), repeat),
    )
    row(
        f"whole call, {count} texts",
        sizes,
        cpu_us(lambda: ours.embed(texts, MODEL), repeat),
        cpu_us(plain_call, repeat),
    )


def row(what: str, sizes: tuple[int, int], ours: float, plain: float) -> None:
    print(f"{what:44}{ours:10.0f}{plain:10.0f}{plain / ours:8.1f}{f'{sizes[0]} / {sizes[1]}':>20}")


if __name__ == "__main__":
    main()
