"""docs/EXTENDING.md as written: its provider is installed, asked and refused, its task type is registered and run."""

from __future__ import annotations

import json
import re
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aitp.settings import PROJECT_ROOT
from tests.extensions.packages import declare, run

TEXT = (PROJECT_ROOT / "docs/EXTENDING.md").read_text()


def blocks(chapter: str) -> list[str]:
    """The indented code of a chapter, without what stands in lists around it."""
    text = re.search(rf"^## {chapter}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert text is not None
    found = re.findall(r"(?:^(?: {4,}.*)?\n)+", text[1], re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in found if block.strip()]


class Acme:
    """A server that answers what `answer` says, and keeps what it saw."""

    def __init__(self) -> None:
        self.answer: tuple[int, Any, dict[str, str]] = (200, {"text": "{}", "usage": {"read": 3, "written": 1}}, {})
        self.seen: list[tuple[str, dict[str, Any]]] = []
        acme = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                acme.seen.append((self.headers["Authorization"], body))
                status, document, headers = acme.answer
                text = json.dumps(document).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def acme() -> Iterator[Acme]:
    acme = Acme()
    thread = threading.Thread(target=acme.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield acme
    acme.server.shutdown()
    acme.server.server_close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The chapter's package, as it is written there."""
    module, points = (block for block in blocks("A provider") if block.startswith(('"""', "[options")))
    (tmp_path / "acme_aitp.py").write_text(module)
    (tmp_path / "setup.cfg").write_text(f"[metadata]\nname = acme-aitp\nversion = 1.0\n\n{points}")
    declare(tmp_path, tmp_path)
    return tmp_path


ASK = """
from aitp.providers import build, Message, Question
from aitp.providers import routing_of, provider_rules
from tests.providers.embeddings import settings
given = settings({given!r})
models = ("acme-large", "ACME-2.1", "acme-3")
print([route.provider for model in models for route in routing_of(given).options(model, "x")])
question = Question("x", {{"type": "object"}}, [Message("user", "Que dia!")])
try:
    reply = build(given)["acme"].ask(question, "acme-large", {leave_out!r})
    print(reply.text, reply.usage.total_tokens)
except Exception as error:
    print(type(error).__name__, error, getattr(error, "parameter", ""))
"""


def ask(place: Path, acme: Acme, leave_out: tuple[str, ...] = (), key: str = "k") -> list[str]:
    given = {"ACME_BASE_URL": acme.url, "ACME_API_KEY": key}
    program = ASK.replace("settings({given!r})", "settings(**{given!r})").format(given=given, leave_out=leave_out)
    ended = run(program, place)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_provider_is_asked_for_its_models_and_answers(place: Path, acme: Acme) -> None:
    assert ask(place, acme, ("temperature",)) == ["['acme', 'acme', 'openai']", "{} 4"]

    [(key, request)] = acme.seen
    assert key == "Bearer k"
    assert sorted(request) == ["messages", "model", "schema"]


@pytest.mark.parametrize(
    ("status", "document", "said"),
    [
        (200, [], "UselessAnswer"),
        (200, {"text": ""}, "UselessAnswer"),
        (401, {}, "CredentialsRefused"),
        (404, {}, "ModelGone"),
        (408, {}, "ServiceFault"),
        (429, {}, "CooldownRequired"),
        (503, {}, "ServiceFault"),
        (422, {"parameter": "temperature"}, "RequestRefused"),
    ],
)
def test_it_raises_what_the_table_says(place: Path, acme: Acme, status: int, document: Any, said: str) -> None:
    acme.answer = (status, document, {"Retry-After": "7"})
    told = ask(place, acme)[1]

    assert told.split()[0] == said
    assert "Que dia" not in told
    if document == {"parameter": "temperature"}:
        assert told.endswith(" temperature")


def test_without_its_key_its_tasks_wait(place: Path) -> None:
    program = """
from aitp.providers import routing_of
from tests.providers.embeddings import settings
print(routing_of(settings()).waits_for("acme-large"), routing_of(settings()).options("acme-large", "x"))
"""
    assert run(program, place).stdout == "acme: ACME_API_KEY is not set ()\n"


def test_the_task_type_is_what_its_steps_add_up_to(tmp_path: Path) -> None:
    content, output, *_, processor, points = blocks("A task type")
    head = (PROJECT_ROOT / "examples/aitp_sentiment/src/aitp_sentiment/__init__.py").read_text().split("class ")[0]
    (tmp_path / "aitp_sentiment.py").write_text("\n".join([head, content, output, processor]))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/defining_sentiment.md").write_text("<!-- prompt: defining_sentiment, version: 1 -->\nSay.\n")
    (tmp_path / "setup.cfg").write_text(f"[metadata]\nname = aitp-sentiment\nversion = 1.0\n\n{points}")
    declare(tmp_path, tmp_path)
    program = """
from aitp.knowledge import Knowledge
from aitp.processors import PROCESSORS, Context
from aitp.processors import read_prompt
from aitp.providers import Reply, Usage

class Model:
    name = "openai"
    def ask(self, question, model, leave_out=()):
        return Reply('{"sentiment": "positive", "share": 0.5}', Usage(1, 1, 2))

each = PROCESSORS["defining_sentiment"]
context = Context(Knowledge(), "pt", "Brazil", {"defining_sentiment": read_prompt("defining_sentiment", each.prompt)})
print(each.run([each.parse({"text": "Que dia!", "polite": True})], Model(), context))
"""
    ended = run(program, tmp_path)

    assert ended.stdout == """[b'{"sentiment":"positive","share":0.5}']\n""", ended.stderr
