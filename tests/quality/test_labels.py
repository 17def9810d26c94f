"""The labelled texts are sound, and unsound ones are refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aitp.errors import ConfigurationError
from aitp.quality import LABELS, load_labels

TEXT: dict[str, Any] = {
    "id": "en-01",
    "hard": "",
    "text": "Marie Curie was born in Warsaw.",
    "people": [["Marie Curie"]],
    "topics": [["physics"]],
    "area": ["Science"],
    "severity": "low_1",
}


def written(directory: Path, *texts: dict[str, Any], name: str = "en.json") -> Path:
    document = {"language": "en", "areas": ["Science", "Culture"], "texts": texts}
    (directory / name).write_text(json.dumps(document))
    return directory


def test_there_are_forty_texts_half_of_them_portuguese() -> None:
    texts = load_labels(LABELS)

    assert Counter(text.language for text in texts) == {"pt": 20, "en": 20}
    assert len({text.text for text in texts}) == 40
    assert {text.language for text in texts[:2]} == {"pt", "en"}


def test_they_cover_all_that_is_asked_for() -> None:
    texts = load_labels(LABELS)

    assert len({text.severity for text in texts}) == 10
    assert sum(not text.people for text in texts) >= 10
    assert any(len(text.people) > 2 for text in texts)
    assert sum(len(text.area) > 1 for text in texts) >= 5
    for language in ("pt", "en"):
        areas = {text.area[0] for text in texts if text.language == language}
        assert len(areas) >= 9


def test_a_text_comes_with_the_areas_of_its_file(tmp_path: Path) -> None:
    (text,) = load_labels(written(tmp_path, TEXT))

    assert (text.language, text.areas) == ("en", ("Science", "Culture"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"area": ["Sport"]}, "en-01: area: Sport is none"),
        ({"people": [["Ada Lovelace"]]}, "Ada Lovelace is not mentioned"),
        ({"people": [["Marie Curie"], ["MARIE CURIE", "Warsaw"]]}, "two of them go by the name marie curie"),
        ({"topics": [["física"]], "optional_topics": [["fisica"]]}, "two of them go by the name fisica"),
        ({"severity": "high"}, "severity"),
        ({"peple": []}, "peple"),
    ],
)
def test_a_label_that_cannot_be_right_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_labels(written(tmp_path, TEXT | change))


def test_two_texts_of_one_name_are_refused(tmp_path: Path) -> None:
    written(tmp_path, TEXT, name="a.json")

    with pytest.raises(ConfigurationError, match="two texts are called en-01"):
        load_labels(written(tmp_path, TEXT, name="b.json"))


def test_a_place_without_texts_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no labelled texts"):
        load_labels(tmp_path)
