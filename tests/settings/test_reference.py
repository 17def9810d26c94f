"""The generated documents say what the declarations say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from aitp.metrics import FAMILIES
from aitp.settings import FIELDS, PROJECT_ROOT
from tests.docs.reference import LABELS, documents, sections, settings_document


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_a_generated_document_is_up_to_date(path: Path) -> None:
    written = path.read_text() if path.exists() else ""

    assert written == documents()[path], f"{path.name} is out of date: run bin/docs, and commit what it writes"


def test_every_metric_and_every_setting_has_one_row() -> None:
    metrics, settings = (text.splitlines() for path, text in documents().items() if path.suffix == ".md")

    for names, lines in ((FAMILIES, metrics), (FIELDS, settings)):
        for name in names:
            assert len([line for line in lines if line.startswith(f"| `{name}` |")]) == 1, name


def test_every_setting_says_what_may_be_set() -> None:
    rows = [line.split(" | ") for line in settings_document(FIELDS, sections()).splitlines() if line.startswith("| `")]

    assert [row[0] for row in rows if not row[2].strip()] == []
    forms = {row[0].strip("| `"): row[2] for row in rows}
    assert forms["METRICS_PORT"] == "a whole number from 1 to 65,535"
    assert forms["OPENAI_API_KEY"] == "a secret"
    assert forms["API_BASE_URL"] == forms["OPENAI_BASE_URL"] == "an address, `http://` or `https://`"
    assert forms["PROCESSING_MODE"] == "openai, ollama, hybrid"
    assert forms["RUNTIME_DIR"] == "a path"


def test_a_setting_that_the_example_does_not_show_is_named() -> None:
    new = FieldInfo(default=1, description="Something new.")

    with pytest.raises(ValueError, match="does not show BRAND_NEW"):
        settings_document({**FIELDS, "BRAND_NEW": new}, sections())


def test_no_label_is_explained_that_nothing_has() -> None:
    used = {label for family in FAMILIES.values() for label in family.labels}

    assert set(LABELS) == used | {"le"}


def test_the_command_that_writes_them_is_executable() -> None:
    assert os.access(PROJECT_ROOT / "bin/docs", os.X_OK)
