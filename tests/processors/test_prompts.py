"""Prompts are files with a version; an operator's own replace them all, and one that is broken stops the start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aitp.errors import ConfigurationError
from aitp.processors import PROCESSORS, Context, load_prompts, read_prompt
from tests.providers.embeddings import settings

PLACES = {each.task_type: each.prompt for each in PROCESSORS.values() if each.prompt is not None}
HEADER = "<!-- prompt: mood, version: 3 -->\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for place in PLACES.values():
        shutil.copy(place, tmp_path)
    return tmp_path


def test_each_type_that_asks_a_chat_model_has_a_prompt_of_its_name() -> None:
    prompts = load_prompts(PLACES, None)

    assert sorted(prompts) == ["defining_impact_area", "defining_severity", "defining_topics", "identifying_data"]
    assert all(prompt.version.isdecimal() and "$" not in prompt.filled(VARIABLES) for prompt in prompts.values())


VARIABLES = {"language": "pt", "country": "Brazil"}


def test_prompts_of_the_operators_replace_the_built_in_ones(own: Path) -> None:
    (own / "defining_topics.md").write_text(
        "<!-- prompt: defining_topics, version: ours-7 -->\r\nTopics in $language for ${country}, $$5."
    )
    context = Context.of(settings(prompts_dir=str(own), result_language="es", result_country="Chile"))

    assert context.prompt("defining_topics") == "Topics in es for Chile, $5."
    assert context.prompts["defining_topics"].version == "ours-7"
    assert "in Chile" in context.prompt("defining_severity")


def test_all_that_is_missing_or_broken_is_named_at_once(own: Path) -> None:
    (own / "defining_topics.md").unlink()
    (own / "defining_severity.md").write_text("Judge.")
    with pytest.raises(ConfigurationError) as raised:
        Context.of(settings(prompts_dir=str(own)))

    severity, topics = sorted(raised.value.problems)
    assert severity.startswith(f"PROMPTS_DIR: {own}/defining_severity.md must begin with the line")
    assert topics.startswith(f"PROMPTS_DIR: {own}/defining_topics.md cannot be read (No such file or directory); copy")


def test_each_prompt_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Context.of(settings(prompts_dir=str(tmp_path)))

    assert len(raised.value.problems) == len(PLACES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must begin with the line <!-- prompt: mood, version: 1 -->"),
        (b"Tell the mood.", "must begin with the line"),
        (b"<!-- prompt: mood -->\nTell.", "must begin with the line"),
        (b"<!-- prompt: topics, version: 1 -->\nTell.", "must begin with the line <!-- prompt: mood"),
        (HEADER.encode() + b"  \n", "holds nothing below its first line"),
        (HEADER.encode() + b"It costs $5.", "has a $ that stands for nothing"),
        (HEADER.encode() + b"Say $text.", "names $text, which is none of $country, $language"),
        (HEADER.encode() + b"\xff", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_prompt_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mood.md"
    path.write_bytes(content)
    with pytest.raises(ValueError) as raised:
        read_prompt("mood", path)

    assert said in str(raised.value)


def test_a_directory_in_place_of_a_prompt_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompt("mood", tmp_path)
