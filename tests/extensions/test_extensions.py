"""Task types and providers of other packages: there by being installed, named when they are broken."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT
from tests.extensions.packages import environment, install, install_extensions, pip_install, run

EXAMPLE = PROJECT_ROOT / "examples" / "aitp_sentiment"
PROCESSOR = """
from aitp.processors import Content, Processor, processor

@processor({name!r})
class ShoutingProcessor(Processor[Content]):
    content = Content
    def run(self, contents, provider, context):
        return [b'"LOUD"'] * len(contents)
"""
TYPES = "from aitp.processors import PROCESSORS; print(sorted(PROCESSORS))"
OWN = ["defining_impact_area", "defining_severity", "defining_topics", "identifying_data", "text_embedding"]


def test_without_other_packages_there_are_five_task_types() -> None:
    assert run(TYPES).stdout == f"{OWN}\n"


def test_an_installed_task_type_is_in_the_table(tmp_path: Path) -> None:
    install(tmp_path, "loud", PROCESSOR.format(name="shouting"), "aitp.processors", {"shouting": "loud"})

    assert run(TYPES, tmp_path).stdout == f"{sorted([*OWN, 'shouting'])}\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1", "loading it enters no @processor('shouting')"),
        (PROCESSOR.format(name="whispering"), "loading it enters no @processor('shouting')"),
        (PROCESSOR.format(name="text_embedding"), "text_embedding has a processor already: TextEmbeddingProcessor"),
    ],
)
def test_a_broken_package_is_a_configuration_error_that_names_it(tmp_path: Path, source: str, said: str) -> None:
    install(tmp_path, "loud", source, "aitp.processors", {"shouting": "loud"})
    ended = run(TYPES, tmp_path)

    assert "ConfigurationError: the package loud 2.0 cannot be used for aitp.processors shouting" in ended.stderr
    assert said in ended.stderr


PROVIDER = """
class Acme:
    def __init__(self, settings): self.name = "acme"
    def embed(self, texts, model, dimensions=None): raise NotImplementedError
    def ask(self, question, model): raise NotImplementedError
    def close(self): pass
def build(settings): return Acme(settings)
build.models = ("acme-1", "acme-2")
"""
PROVIDERS = """
from aitp.providers import build, routing_of
from tests.providers.embeddings import settings
print(sorted(build(settings())), routing_of(settings()).foreign)
"""


def test_an_installed_provider_is_built_beside_the_others(tmp_path: Path) -> None:
    install(tmp_path, "acme_ai", PROVIDER, "aitp.providers", {"acme": "acme_ai:build"})

    assert run(PROVIDERS, tmp_path).stdout == "['acme', 'openai'] {'acme-1': 'acme', 'acme-2': 'acme'}\n"


SERVED = """
from aitp.process.models import asked_of_openai
from aitp.providers import models_of_ollama
from tests.providers.embeddings import settings
given = settings(**{
    "PROCESSING_MODE": "hybrid", "DEFAULT_CHAT_MODEL": "acme-1", "MODEL_ALIASES": '{"o3": "acme-2"}',
    "SUPPORTED_MODELS": "nomic-embed-text,acme-2",
})
print(sorted(asked_of_openai(given)), models_of_ollama(given))
"""


def test_nobody_else_is_asked_for_a_model_that_an_installed_provider_serves(tmp_path: Path) -> None:
    install(tmp_path, "acme_ai", PROVIDER, "aitp.providers", {"acme": "acme_ai:build"})

    assert run(SERVED, tmp_path).stdout == "['text-embedding-3-small'] ('nomic-embed-text',)\n"


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("openai", "acme_ai:build", "there is a provider of that name already"),
        ("acme", "acme_ai:Acme", "expected a callable with `models`"),
        ("acme", "acme_ai:nothing", "AttributeError"),
    ],
)
def test_a_broken_provider_is_a_configuration_error_too(tmp_path: Path, name: str, target: str, said: str) -> None:
    install(tmp_path, "acme_ai", PROVIDER, "aitp.providers", {name: target})
    ended = run(PROVIDERS, tmp_path)

    assert f"the package acme-ai 2.0 cannot be used for aitp.providers {name}" in ended.stderr
    assert said in ended.stderr


@pytest.fixture
def sentiment(tmp_path: Path) -> tuple[Path, Path]:
    """The example, installed as an editable install leaves it."""
    install(tmp_path, "aitp_sentiment", "", "aitp.processors", {"defining_sentiment": "aitp_sentiment"})
    (tmp_path / "aitp_sentiment.py").unlink()
    return EXAMPLE / "src", tmp_path


def test_the_examples_own_tests_pass(sentiment: tuple[Path, Path]) -> None:
    program = f"import pytest, sys; sys.exit(pytest.main(['-q', '-c', '/dev/null', {str(EXAMPLE / 'tests')!r}]))"
    ended = run(program, *sentiment)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 passed" in ended.stdout


def test_the_example_declares_the_entry_point_that_it_is_installed_with() -> None:
    assert "aitp.processors =\n    defining_sentiment = aitp_sentiment\n" in (EXAMPLE / "setup.cfg").read_text()


def test_the_example_is_installed_from_where_it_lies_and_nothing_is_asked_of_an_index(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    shutil.copytree(EXAMPLE, tmp_path / "example")

    ended = pip_install(python, tmp_path / "example")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    listing = "from importlib.metadata import entry_points as e; print([p.value for p in e(group='aitp.processors')])"
    assert subprocess.check_output([python, "-c", listing], text=True) == "['aitp_sentiment']\n"
    assert "Requires: aitp\n" in subprocess.check_output([python, "-m", "pip", "show", "aitp-sentiment"], text=True)


def test_extensions_txt_is_installed_and_its_parts_are_known_to_the_installer(tmp_path: Path) -> None:
    python = environment(tmp_path / ".venv")
    shutil.copytree(EXAMPLE, tmp_path / "etc" / "example")
    (tmp_path / "etc" / "extensions.txt").write_text("./example  # how a text sounds\n")

    ended = install_extensions(python, tmp_path / "etc")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    parts_of = re.search(r"^parts_of\(\) .*?^}", (PROJECT_ROOT / "bin/install").read_text(), re.DOTALL | re.MULTILINE)
    assert parts_of is not None
    told = subprocess.check_output(["sh", "-euc", f"{parts_of[0]}; parts_of $0", tmp_path], text=True)
    assert told == "task type defining_sentiment\n"


def test_an_extension_replaces_nothing_that_is_locked(tmp_path: Path) -> None:
    python = environment(tmp_path / ".venv")
    shutil.copytree(EXAMPLE, tmp_path / "etc" / "example")
    setup = tmp_path / "etc" / "example" / "setup.cfg"
    setup.write_text(setup.read_text().replace("    aitp\n", "    aitp\n    pydantic<2\n", 1))
    (tmp_path / "etc" / "extensions.txt").write_text("./example\n")

    ended = install_extensions(python, tmp_path / "etc")

    assert ended.returncode != 0
    assert "conflicting dependencies" in ended.stderr


def test_the_inventory_lists_what_is_registered(sentiment: tuple[Path, Path]) -> None:
    program = """
import dataclasses, json
from aitp.processors import registered
from tests.providers.embeddings import settings
print(json.dumps(dataclasses.asdict(registered(settings()))))
"""
    listed = json.loads(run(program, *sentiment).stdout)
    by_name = {entry["name"]: entry for entry in listed["task_types"]}

    assert sorted(by_name) == sorted([*OWN, "defining_sentiment"])
    assert by_name["text_embedding"]["prompt"] == ""
    assert by_name["defining_sentiment"]["module"] == "aitp_sentiment"
    assert by_name["defining_sentiment"]["prompt"].startswith("version 1, ")
