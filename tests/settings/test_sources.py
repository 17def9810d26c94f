"""Where values come from: the environment, the env file, files of secrets; and names that nobody reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aitp.errors import ConfigurationError
from aitp.settings import load_settings
from tests.settings.complete import COMPLETE

KEYLESS = {name: value for name, value in COMPLETE.items() if name != "OPENAI_API_KEY"}


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_the_env_file_is_read_and_the_real_environment_wins(tmp_path: Path) -> None:
    file = written(
        tmp_path / "aitp.env",
        'CONCURRENCY_LIMIT=7  # a comment\nexport LOG_LEVEL=debug\nOAUTH2_SCOPE="a b"\nINBOX_LIMIT=1\n',
    )

    settings = load_settings({**COMPLETE, "AITP_ENV_FILE": file, "INBOX_LIMIT": "2"})

    assert (settings.concurrency_limit, settings.log_level, settings.oauth2_scope) == (7, "DEBUG", "a b")
    assert settings.inbox_limit == 2
    assert settings.env_file == Path(file)


def test_each_setting_tells_where_it_is_from(tmp_path: Path) -> None:
    written(tmp_path / "aitp_METRICS_TOKEN", "from-a-credential")
    secret = written(tmp_path / "key", "sk-from-a-file")
    lines = f"INBOX_LIMIT=1\nCONCURRENCY_LIMIT=7\nLOG_LEVEL=\nOPENAI_API_KEY_FILE={secret}\n"
    file = written(tmp_path / "aitp.env", lines)
    given = {"AITP_ENV_FILE": file, "INBOX_LIMIT": "2", "CREDENTIALS_DIRECTORY": str(tmp_path)}

    settings = load_settings({**KEYLESS, **given, "RATE_LIMIT_STORAGE_PATH": str(tmp_path / "data/ledger.db")})

    assert settings.origins == {
        **dict.fromkeys((*KEYLESS, "AITP_ENV_FILE", "INBOX_LIMIT", "RATE_LIMIT_STORAGE_PATH"), "environment"),
        "CONCURRENCY_LIMIT": file,
        "OPENAI_API_KEY": secret,
        "METRICS_TOKEN": "credential aitp_METRICS_TOKEN",
        "RUNTIME_DIR": "beside RATE_LIMIT_STORAGE_PATH",
    }


def test_a_name_twice_in_the_env_file_is_warned_about_and_the_last_one_counts(tmp_path: Path) -> None:
    file = written(tmp_path / "aitp.env", "INBOX_LIMIT=1\nOTHER=1\n# INBOX_LIMIT=2\nINBOX_LIMIT=3\n")

    settings = load_settings({**COMPLETE, "AITP_ENV_FILE": file})

    assert settings.inbox_limit == 3
    assert settings.warnings == (
        f"{file}, line 4: INBOX_LIMIT is set a second time, and this line counts; leave one out",
    )


def test_a_secret_in_the_env_file_is_taken_as_it_is_written(tmp_path: Path) -> None:
    file = written(tmp_path / "aitp.env", "OPENAI_API_KEY='sk-${HOME}-$x'\n")

    settings = load_settings({**KEYLESS, "AITP_ENV_FILE": file})

    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-${HOME}-$x"


def test_dot_env_of_the_current_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    written(tmp_path / ".env", "\n".join(f"{name}={value}" for name, value in COMPLETE.items()))

    assert load_settings().env_file == tmp_path / ".env"

    monkeypatch.setenv("AITP_ENV_FILE", "")
    with pytest.raises(ConfigurationError, match="API_BASE_URL: required, but not set"):
        load_settings()


@pytest.mark.parametrize("name", ["missing.env", "."])
def test_an_env_file_that_cannot_be_read_is_a_problem(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"AITP_ENV_FILE=.*must be a readable text file"):
        load_settings({**COMPLETE, "AITP_ENV_FILE": str(tmp_path / name)})


def test_a_line_that_is_no_setting_is_a_problem_with_its_number_and_not_its_text(tmp_path: Path) -> None:
    file = written(tmp_path / "aitp.env", "INBOX_LIMIT=2\nOPENAI_API_KEY='sk-unclosed\n\nLOG_LEVEL\n")

    with pytest.raises(ConfigurationError) as caught:
        load_settings({**COMPLETE, "AITP_ENV_FILE": file})

    assert f"{file}, line 2: not NAME=value (is a quote missing?)" in caught.value.problems
    assert not any("unclosed" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("secret", "attribute"),
    [("OPENAI_API_KEY", "openai_api_key"), ("OAUTH2_CLIENT_SECRET", "oauth2_client_secret")],
)
def test_a_secret_can_stand_in_a_file_of_its_own(tmp_path: Path, secret: str, attribute: str) -> None:
    environ = {name: value for name, value in COMPLETE.items() if name != secret}

    settings = load_settings({**environ, f"{secret}_FILE": written(tmp_path / "secret", "sk-from-a-file\n")})

    assert getattr(settings, attribute).get_secret_value() == "sk-from-a-file"
    assert settings.warnings == ()


def test_a_secret_given_twice_is_a_problem(tmp_path: Path) -> None:
    file = written(tmp_path / "secret", "sk-from-a-file\n")

    with pytest.raises(ConfigurationError) as caught:
        load_settings({**COMPLETE, "OPENAI_API_KEY_FILE": file})

    assert caught.value.problems == ("OPENAI_API_KEY, OPENAI_API_KEY_FILE: both are set; keep one of them",)


def test_a_credential_of_systemd_is_the_secret_of_that_name(tmp_path: Path) -> None:
    written(tmp_path / "aitp_OPENAI_API_KEY", "sk-from-a-credential\n")
    written(tmp_path / "OAUTH2_CLIENT_SECRET", "of another service")

    settings = load_settings({**KEYLESS, "CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-from-a-credential"
    assert settings.oauth2_client_secret.get_secret_value() == COMPLETE["OAUTH2_CLIENT_SECRET"]


def test_a_credential_beside_a_value_is_refused_and_so_is_an_empty_one(tmp_path: Path) -> None:
    written(tmp_path / "aitp_OPENAI_API_KEY", "sk-from-a-credential\n")
    written(tmp_path / "aitp_OAUTH2_CLIENT_SECRET", "")
    environ = {**COMPLETE, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    del environ["OAUTH2_CLIENT_SECRET"]

    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ)

    assert set(caught.value.problems) == {
        "OPENAI_API_KEY, credential aitp_OPENAI_API_KEY: both are set; keep one of them",
        f"credential aitp_OAUTH2_CLIENT_SECRET={tmp_path}/aitp_OAUTH2_CLIENT_SECRET: the file is empty; "
        "it must hold the secret",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * 100_000, "too big"),
    ],
)
def test_a_file_without_a_usable_secret_is_one_problem(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    environ = {name: value for name, value in COMPLETE.items() if name != "OAUTH2_CLIENT_SECRET"}

    with pytest.raises(ConfigurationError) as caught:
        load_settings({**environ, "OAUTH2_CLIENT_SECRET_FILE": str(path)})

    (problem,) = caught.value.problems
    assert problem.startswith(f"OAUTH2_CLIENT_SECRET_FILE={path}: ")
    assert reason in problem


def test_a_pipe_for_a_secret_is_refused_because_the_next_process_would_find_it_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="must be a regular file"):
        load_settings({**KEYLESS, "OPENAI_API_KEY_FILE": str(tmp_path / "pipe")})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RATE_LIMT_PER_MINUTE", "RATE_LIMIT_PER_MINUTE"),
        ("RATE_LIMIT_PER_MIN", "RATE_LIMIT_PER_MINUTE"),
        ("OAUTH2_SECRET", "OAUTH2_CLIENT_SECRET"),
        ("OPENAI_KEY", "OPENAI_API_KEY"),
        ("OLLAMA_URL", "OLLAMA_BASE_URL"),
        ("CONCURENCY_LIMIT", "CONCURRENCY_LIMIT"),
        ("POLLING_INTERVAL_SECOND", "POLLING_INTERVAL_SECONDS"),
        ("log_level", "LOG_LEVEL"),
        ("METRIC_PORT", "METRICS_PORT"),
        ("CIRCUIT_BREAKER_TRESHOLD", "CIRCUIT_BREAKER_THRESHOLD"),
    ],
)
def test_a_misspelt_name_is_warned_about_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert load_settings({**COMPLETE, name: "1"}).warnings == (
        f"{name} is not a setting and is ignored; did you mean {meant}?",
    )


def test_misspelt_names_are_told_beside_what_is_missing_because_of_them(tmp_path: Path) -> None:
    lines = {"API_BASEURL" if name == "API_BASE_URL" else name: value for name, value in COMPLETE.items()}
    file = written(tmp_path / "settings.env", "\n".join(f"{name}={value}" for name, value in lines.items()))

    with pytest.raises(ConfigurationError) as refusal:
        load_settings({"AITP_ENV_FILE": str(file)})

    [problem] = refusal.value.problems
    assert problem.startswith("API_BASE_URL: required, but not set")
    assert refusal.value.warnings == ("API_BASEURL is not a setting and is ignored; did you mean API_BASE_URL?",)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LANG", "LOG", "HOSTNAME", "OLLAMA_HOST", "OPENAI_ORG_ID", "LS_COLORS", "XDG_RUNTIME_DIR"]
)
def test_names_of_others_are_left_alone(name: str) -> None:
    assert load_settings({**COMPLETE, name: "1"}).warnings == ()


def test_the_name_of_a_file_cannot_forge_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_settings({**COMPLETE, "AITP_ENV_FILE": str(tmp_path / "\x1b[2J\nall is well")})

    assert all(problem.isprintable() for problem in refusal.value.problems)
    assert "\\x1b[2J\\nall is well" in refusal.value.problems[0]
