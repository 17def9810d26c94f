"""What values settings take, what they become, and how a wrong one is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.errors import ConfigurationError
from aitp.settings import FIELDS, PROJECT_ROOT, load_settings
from tests.settings.complete import COMPLETE

SEED_DEFAULTS = {
    "oauth2_scope": "read write",
    "polling_interval_seconds": 30,
    "concurrency_limit": 5,
    "processing_mode": "hybrid",
    "supported_models": ("nomic-embed-text",),
    "ollama_base_url": "http://localhost:11434",
    "ollama_timeout": 120,
    "ollama_model_download_timeout": 600,
    "rate_limit_enabled": True,
    "rate_limit_strategy": "rolling",
    "rate_limit_per_minute": 20,
    "rate_limit_per_hour": 100,
    "rate_limit_per_day": 500,
    "rate_limit_per_week": 2000,
    "rate_limit_per_month": 7500,
    "rate_limit_storage_path": PROJECT_ROOT / "data/rate_limits.db",
    "max_retries": 3,
    "retry_backoff_factor": 2.0,
    "circuit_breaker_threshold": 5,
    "request_timeout": 30,
    "openai_timeout": 60,
    "metrics_port": 8001,
    "log_level": "INFO",
}
DEFAULTS_BEYOND_THE_SEED = {
    "metrics_host": "0.0.0.0",
    "runtime_dir": PROJECT_ROOT / "run",
    "relay_processes": 2,
    "shutdown_grace_seconds": 30,
    "circuit_breaker_recovery_seconds": 60,
    "embedding_batch_size": 32,
    "embedding_dimensions": 1024,
    "hybrid_fallback": True,
    "default_embedding_model": "text-embedding-3-small",
    "personality_classes": ("Q5", "Q891723", "Q1153191", "Q7188"),
    "inbox_limit": 5000,
    "max_task_crashes": 3,
    "worker_max_tasks": 0,
    "result_reuse_seconds": 86400,
    "rate_limit_timezone": "UTC",
    "result_language": "pt",
    "allow_insecure_http": False,
    "log_format": "auto",
}


def problems_of(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ)
    return caught.value.problems


@pytest.mark.parametrize(("name", "default"), [*SEED_DEFAULTS.items(), *DEFAULTS_BEYOND_THE_SEED.items()])
def test_every_setting_has_its_documented_default(name: str, default: object) -> None:
    assert getattr(load_settings(COMPLETE), name) == default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SUPPORTED_MODELS", '["nomic-embed-text", "a/b:Q8_0"]', ("nomic-embed-text", "a/b:Q8_0")),
        ("SUPPORTED_MODELS", "nomic-embed-text, a/b:Q8_0", ("nomic-embed-text", "a/b:Q8_0")),
        ("SUPPORTED_MODELS", "[]", ()),
        ("FALLBACK_MODELS", '{"*": "text-embedding-3-large"}', {"*": "text-embedding-3-large"}),
        ("MODEL_ALIASES", '{"o3": "gpt-6.1-sol"}', {"o3": "gpt-6.1-sol"}),
        ("DEFAULT_CHAT_MODEL", "llama3.2", "llama3.2"),
        ("PERSONALITY_CLASSES", "Q5, Q7188,Q5", ("Q5", "Q7188")),
        ("PERSONALITY_CLASSES", '["Q5"]', ("Q5",)),
        ("OLLAMA_KEEP_ALIVE", "", None),
        ("OLLAMA_KEEP_ALIVE", "1h30m", "1h30m"),
        ("OLLAMA_KEEP_ALIVE", "-1", -1),
        ("OLLAMA_OPTIONS", '{"num_ctx": 16384, "stop": ["x"]}', {"num_ctx": 16384, "stop": ["x"]}),
        ("EMBEDDING_DIMENSIONS", "", None),
        ("OAUTH2_SCOPE", "", ""),
        ("OAUTH2_SCOPE", "None", ""),
        ("OAUTH2_SCOPE", " read  write", "read write"),
        ("OAUTH2_CLIENT_AUTH", "Post", "post"),
        ("EMBEDDING_DIMENSIONS", "512", 512),
        ("CONCURRENCY_LIMIT", "", 5),
        ("RATE_LIMIT_ENABLED", "no", False),
        ("PROCESSING_MODE", "OpenAI", "openai"),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("POLLING_INTERVAL_SECONDS", "0.5", 0.5),
        ("API_BASE_URL", "https://api.example.org/base/", "https://api.example.org/base"),
        ("RATE_LIMIT_STORAGE_PATH", "/var/lib/aitp/rate_limits.db", Path("/var/lib/aitp/rate_limits.db")),
        ("RATE_LIMIT_STORAGE_PATH", "../elsewhere/limits.db", PROJECT_ROOT.parent / "elsewhere/limits.db"),
        ("RATE_LIMIT_TIMEZONE", "America/Sao_Paulo", "America/Sao_Paulo"),
    ],
)
def test_text_becomes_a_value(name: str, text: str, value: object) -> None:
    assert getattr(load_settings({**COMPLETE, name: text}), name.lower()) == value


def test_a_link_to_the_ledger_stands_for_the_file_beside_which_its_log_and_its_locks_are(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "disk" / "ledger.db")
    settings = load_settings({**COMPLETE, "RATE_LIMIT_STORAGE_PATH": str(tmp_path / "link.db")})

    assert settings.rate_limit_storage_path == tmp_path.resolve() / "disk" / "ledger.db"


def test_the_runtime_directory_stands_beside_the_folder_of_the_ledger() -> None:
    assert load_settings({**COMPLETE, "RATE_LIMIT_STORAGE_PATH": "/srv/aitp/data/x.db"}).runtime_dir == Path(
        "/srv/aitp/run"
    )


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("CONCURRENCY_LIMIT", "0", "a whole number from 1 to 1,000"),
        ("CONCURRENCY_LIMIT", "1001", "a whole number from 1 to 1,000"),
        ("CONCURRENCY_LIMIT", "2.5", "a whole number from 1 to 1,000"),
        ("RELAY_PROCESSES", "100", "a whole number from 1 to 99"),
        ("SHUTDOWN_GRACE_SECONDS", "35", "a number from 0 to 34"),
        ("POLLING_INTERVAL_SECONDS", "nan", "a number from 0.05 to 86,400"),
        ("OPENAI_TIMEOUT", "inf", "a number from 0.001 to 86,400"),
        ("RATE_LIMIT_PER_MINUTE", "-1", "a whole number from 0 to 1,000,000,000"),
        ("RATE_LIMIT_STRATEGY", "sliding", "one of rolling, fixed"),
        ("PROCESSING_MODE", "azure", "one of openai, ollama, hybrid"),
        ("HYBRID_FALLBACK", "perhaps", "true or false"),
        ("EMBEDDING_DIMENSIONS", "many", "a whole number from 1 to 65,536"),
        ("RATE_LIMIT_TIMEZONE", "Mars/Olympus", "time zone"),
        ("RATE_LIMIT_TIMEZONE", "../../etc/passwd", "time zone"),
        ("SUPPORTED_MODELS", '["a", 3]', "a JSON array"),
        ("SUPPORTED_MODELS", '["a"', "a JSON array"),
        ("SUPPORTED_MODELS", "[" * 100_000, "a JSON array"),
        ("FALLBACK_MODELS", "a=b", "a JSON object"),
        ("MODEL_ALIASES", '{"o3": ""}', "a JSON object from model to model"),
        ("DEFAULT_CHAT_MODEL", "two words", "without spaces"),
        ("PERSONALITY_CLASSES", "human", "Wikidata's ids"),
        ("OLLAMA_OPTIONS", '["num_ctx"]', "a JSON object"),
        ("OLLAMA_OPTIONS", "num_ctx=8192", "a JSON object"),
        ("OLLAMA_KEEP_ALIVE", "five minutes", "a duration like 5m"),
        ("ORY_PROJECT_SLUG", "https://slug.projects.oryapis.com", "slug alone"),
        ("METRICS_PORT", "65536", "a whole number from 1 to 65,535"),
        ("PROMPTS_DIR", "~nobody-here-by-that-name/prompts", "a path"),
        ("PROMPTS_DIR", "/none", "a directory, and one that is there"),
        ("PROMPTS_DIR", __file__, "a directory"),
        ("METRICS_HOST", "not a host", "an address of this machine"),
        ("METRICS_HOST", "0.0.0.0:8001", "no port"),
        ("METRICS_HOST", "http://localhost", "an address of this machine"),
        ("RESULT_LANGUAGE", "português", "a language code"),
        ("RESULT_COUNTRY", "x" * 101, "100 at most"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    (problem,) = problems_of({**COMPLETE, name: text})

    assert problem.startswith(f"{name}={text[:100]}")
    assert allowed in problem
    assert len(problem) < 400


@pytest.mark.parametrize(
    "host", ["*", "::", "[::1]", "fe80::1%eth0", "0.0.0.0", "localhost", "my_host.example.", "127.1"]
)
def test_what_may_be_listened_on_is_judged_by_its_form_alone(host: str) -> None:
    assert load_settings({**COMPLETE, "METRICS_HOST": host}).metrics_host == host


def test_all_problems_are_listed_at_once() -> None:
    problems = problems_of({"CONCURRENCY_LIMIT": "many", "METRICS_PORT": "0", "PROCESSING_MODE": "openai"})

    named = [problem.split("=")[0].split(":")[0] for problem in problems]
    assert named == [
        *("API_BASE_URL", "OAUTH2_TOKEN_URL", "OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET", "OPENAI_API_KEY"),
        *("CONCURRENCY_LIMIT", "METRICS_PORT"),
    ]


def test_a_wrong_value_of_every_setting_is_one_line_without_control_characters() -> None:
    problems = problems_of(dict.fromkeys(FIELDS, "\x1b]0;no\x07\n{") | {"AITP_ENV_FILE": ""})

    assert len(problems) > 30
    assert all(problem.isprintable() for problem in problems)


def test_secrets_are_masked_in_problems() -> None:
    problems = problems_of(
        {**COMPLETE, "OPENAI_API_KEY": "sk two words", "API_BASE_URL": "https://me:hunter22@api.example.org"}
    )

    assert problems[0] == "API_BASE_URL=https://***@api.example.org: must not carry a user name or password"
    assert problems[1].startswith("OPENAI_API_KEY=***:")
    assert not any("two words" in problem or "hunter22" in problem for problem in problems)


def test_secrets_are_masked_in_what_settings_print() -> None:
    settings = load_settings(COMPLETE)

    assert COMPLETE["OPENAI_API_KEY"] not in f"{settings!r} {settings}"
    assert COMPLETE["OAUTH2_CLIENT_SECRET"] not in f"{settings!r} {settings}"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(COMPLETE).concurrency_limit = 7  # type: ignore[misc]


@pytest.mark.parametrize("contact", ["see (us)", "Zoë", "a\nb", "x" * 201])
def test_a_contact_fits_into_a_user_agent(contact: str) -> None:
    (problem,) = problems_of({**COMPLETE, "WIKIDATA_CONTACT": contact})
    assert problem.startswith("WIKIDATA_CONTACT=")
    fine = load_settings({**COMPLETE, "WIKIDATA_CONTACT": "https://example.org/bot; bot@example.org"})
    assert fine.wikidata_contact == "https://example.org/bot; bot@example.org"


@pytest.mark.parametrize("name", ["RATE_LIMIT_STORAGE_PATH", "RUNTIME_DIR"])
def test_a_home_directory_that_nobody_has_is_a_problem(name: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_settings({**COMPLETE, name: "~nobody-here/data/ledger.db"})

    assert refusal.value.problems == (
        f"{name}=~nobody-here/data/ledger.db: must be a path; nobody here has that home directory",
    )


def test_a_time_zone_of_a_thousand_parts_is_none() -> None:
    with pytest.raises(ConfigurationError, match="must be the name of a time zone"):
        load_settings({**COMPLETE, "RATE_LIMIT_TIMEZONE": "0/" * 1_000})


def test_a_path_that_no_system_can_look_for_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"PROMPTS_DIR=.*must be a directory"):
        load_settings({**COMPLETE, "PROMPTS_DIR": "p" * 300})


def test_what_a_secret_looks_like_is_never_told() -> None:
    settings = load_settings({**COMPLETE, "OAUTH2_CLIENT_SECRET": "your-horse-battery"})

    assert any("OAUTH2_CLIENT_SECRET" in warning for warning in settings.warnings)
    assert not any("horse" in warning for warning in settings.warnings)


def test_a_relative_path_that_is_wrong_is_told_with_where_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"PROMPTS_DIR": "no/prompts", "PRICES": "no/prices.toml", "TLS_CA_FILE": str(tmp_path / "none.pem")}
    environ = {name: value for name, value in COMPLETE.items() if name != "OPENAI_API_KEY"}

    with pytest.raises(ConfigurationError) as refusal:
        load_settings({**environ, **given, "OPENAI_API_KEY_FILE": "key"})

    told = {problem.partition("=")[0]: problem for problem in refusal.value.problems}
    assert told["PROMPTS_DIR"].startswith(f"PROMPTS_DIR=no/prompts ({PROJECT_ROOT}/no/prompts): ")
    assert told["PRICES"].startswith(f"PRICES=no/prices.toml ({PROJECT_ROOT}/no/prices.toml): ")
    assert told["TLS_CA_FILE"].startswith(f"TLS_CA_FILE={tmp_path}/none.pem: ")
    # What no setting's type is, counts from the current directory.
    assert told["OPENAI_API_KEY_FILE"].startswith(f"OPENAI_API_KEY_FILE={tmp_path}/key: ")
