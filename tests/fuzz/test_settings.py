"""What an environment and a settings file may say."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aitp.errors import ConfigurationError
from aitp.settings import FIELDS, known_names, load_settings
from aitp.sources import SECRETS
from tests.fuzz.cases import cases, texts
from tests.settings.complete import COMPLETE

SECRET = "seldom-told-secret-value"

tellable = texts.map(lambda text: text.replace("\0", "")).map(lambda text: text.encode("utf-8", "replace").decode())
likely_values = st.sampled_from(
    ("true", "0", "-1", "1.5", "1e400", "nan", "9" * 40, "[]", '["a"', "http://u:p@h/", "https://[::1", "http://\x1b/",
     "file:///etc/passwd", "Europe/Lisbon", "../..", "~nobody-here/x", "hybrid", "fixed", "{}", '{"*": 1}', " ", '"x"')
)  # fmt: skip
odd = st.one_of(tellable, likely_values, st.integers().map(str))
environments = st.dictionaries(st.sampled_from(sorted(known_names())), odd, min_size=1, max_size=5)


def assert_tells(error: ConfigurationError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.isprintable()
        assert SECRET not in problem


def load(environ: dict[str, str]) -> None:
    """Settings, or a list of what is wrong with them, a line each, without a secret in it."""
    secret = {name: SECRET + "\n\x07" for name in SECRETS if name not in environ}
    try:
        settings = load_settings({**COMPLETE, **secret, **environ})
    except ConfigurationError as error:
        assert_tells(error)
        return
    assert all(warning.isprintable() for warning in settings.warnings)
    assert SECRET not in repr(settings)
    assert settings.rate_limit_storage_path.is_absolute()
    assert settings.rate_limits.keys() <= {"minute", "hour", "day", "week", "month"}


@cases(8_000)
@given(environments)
def test_any_environment_gives_settings_or_says_what_is_wrong(environ: dict[str, str]) -> None:
    load({"AITP_ENV_FILE": "", **environ})


@cases(2_000)
@given(st.sampled_from(sorted(FIELDS)), odd)
def test_any_value_of_any_setting_alone(name: str, value: str) -> None:
    load({"AITP_ENV_FILE": "", name: value})


lines = st.one_of(
    st.tuples(st.sampled_from(sorted(known_names())), odd).map("=".join),
    st.tuples(st.sampled_from(sorted(known_names())), odd).map('="'.join),
    texts,
)


@cases(4_000)
@given(content=st.one_of(st.binary(max_size=300), st.lists(lines, max_size=6).map("\n".join).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)))  # fmt: skip
def test_any_settings_file_is_read_or_refused_by_name(folder: Path, content: bytes) -> None:
    file = folder / "settings.env"
    file.write_bytes(content)

    load({"AITP_ENV_FILE": str(file)})


@cases(1_000)
@given(content=st.binary(max_size=100), name=st.sampled_from(SECRETS))
def test_any_secret_file_is_read_or_refused_without_being_shown(folder: Path, content: bytes, name: str) -> None:
    file = folder / "secret"
    file.write_bytes(SECRET.encode() + content)

    load({"AITP_ENV_FILE": "", f"{name}_FILE": str(file)})
