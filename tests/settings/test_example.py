"""`.env.example` is checked against the settings: every variable, its default, its description."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from aitp.settings import FIELDS, PROJECT_ROOT, described, load_settings

EXAMPLE = PROJECT_ROOT / ".env.example"


def shown(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool | tuple | list | dict):
        return json.dumps(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize(("name", "field"), described().items())
def test_each_setting_is_documented_with_its_default(name: str, field: FieldInfo) -> None:
    text = EXAMPLE.read_text()
    prose = " ".join(re.findall(r"^# (.*)", text, re.MULTILINE))
    (line,) = re.findall(rf"^(?:# )?{name}=.*", text, re.MULTILINE)

    assert field.description
    assert field.description in prose
    if line.startswith("#"):
        assert line.replace('"read write"', "read write") == f"# {name}={shown(field.default)}"


def test_nothing_else_stands_in_it() -> None:
    named = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE)

    assert sorted(named) == sorted(FIELDS)


def test_a_copy_of_it_is_enough_to_start_in_mock_mode() -> None:
    settings = load_settings({"AITP_ENV_FILE": str(EXAMPLE)})

    assert settings.mock
    assert all("still has the example's value" in warning for warning in settings.warnings)


def test_with_every_default_spelt_out_it_means_the_same(tmp_path: Path) -> None:
    spelt_out = tmp_path / "all.env"
    spelt_out.write_text(re.sub(r"^# ([A-Z][A-Z0-9_]+=)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE))

    short = load_settings({"AITP_ENV_FILE": str(EXAMPLE)})
    long = load_settings({"AITP_ENV_FILE": str(spelt_out)})

    files = {"env_file", "aitp_env_file", "origins", "given"}
    assert long.model_dump(exclude=files) == short.model_dump(exclude=files)
