"""docker-compose.yml: confined, pinned, and of one mind with the settings, the image, Prometheus and Grafana."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aitp.settings import PROJECT_ROOT, load_settings
from aitp.tasks import Fleet

FILE = PROJECT_ROOT / "docker-compose.yml"
STACK: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
PROCESSOR = SERVICES["ai-task-processor"]
EVERY_SERVICE = pytest.mark.parametrize("name", SERVICES)


# As its head says how to make them: whole files.
UNCHANGED = FILE.read_text()
WITHOUT_OPENAI = re.sub(r"^ .*openai_api_key.*\n", "", UNCHANGED, flags=re.MULTILINE)
WITH_TOKEN = re.sub(r"^( +)# (.*metrics_token.*\n)", r"\1\2", UNCHANGED, flags=re.MULTILINE)
EVERY_STACK = pytest.mark.parametrize(
    "stack", [UNCHANGED, WITHOUT_OPENAI, WITH_TOKEN], ids=["as it is", "without OpenAI", "with METRICS_TOKEN"]
)


def resolved(text: str) -> str:
    """With every ${NAME:-default} at its default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def mounts(name: str) -> dict[str, str]:
    """Source of each mount of a service, by the place where it appears."""
    parts = [resolved(volume).split(":") for volume in SERVICES[name].get("volumes", ())]
    return {part[1]: part[0] for part in parts}


def has_compose() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


def test_the_four_services_have_the_ports_that_they_always_had() -> None:
    ports = {
        name: [resolved(port) for port in service["ports"]]
        for name, service in SERVICES.items()
        if "profiles" not in service
    }

    # On this machine alone, unless somebody asks for more.
    assert ports == {
        "ai-task-processor": ["127.0.0.1:8001:8001"],
        "ollama": ["127.0.0.1:11434:11434"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3001:3000"],
    }


@EVERY_SERVICE
def test_each_service_can_write_to_its_volumes_alone_and_gain_nothing(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]


@EVERY_SERVICE
def test_each_service_is_one_exact_version_with_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if service.get("build"):
        assert "\nHEALTHCHECK " in (PROJECT_ROOT / "Dockerfile").read_text()
        return

    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(@sha256:[0-9a-f]{64})?", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"


@EVERY_SERVICE
def test_each_place_that_a_service_mounts_is_in_the_project_or_a_volume_of_the_stack(name: str) -> None:
    for source in mounts(name).values():
        if source.startswith("./"):
            assert source == "./data" or (PROJECT_ROOT / source).exists(), source
        else:
            assert source in STACK["volumes"], source


def test_what_must_survive_lies_where_it_always_lay() -> None:
    assert mounts("ai-task-processor")["/app/data"] == "./data"
    assert "ollama_data" in mounts("ollama").values()
    assert mounts("grafana")["/var/lib/grafana"] == "grafana_data"
    assert mounts("prometheus")["/prometheus"] == "prometheus_data"


def test_the_settings_of_the_stack_are_valid_and_point_to_what_may_be_written(tmp_path: Path) -> None:
    environment = dict(PROCESSOR["environment"])
    assert environment["AITP_ENV_FILE"] == "/etc/aitp/aitp.env"
    assert mounts("ai-task-processor")["/etc/aitp"] == "./docker/settings"
    environment["AITP_ENV_FILE"] = str(PROJECT_ROOT / "docker/settings/aitp.env.example")
    for secret in PROCESSOR["secrets"]:
        assert environment[f"{secret.upper()}_FILE"] == f"/run/secrets/{secret}"
        (tmp_path / secret).write_text(f"the-{secret}\n")
        environment[f"{secret.upper()}_FILE"] = str(tmp_path / secret)

    settings = load_settings(environment)

    assert settings.oauth2_client_secret.get_secret_value() == "the-oauth2_client_secret"
    assert settings.rate_limit_storage_path == Path("/app/data/rate_limits.db")
    temporary = [resolved(place).split(":")[0] for place in PROCESSOR["tmpfs"]]
    assert str(settings.runtime_dir) in temporary
    assert settings.metrics_port == 8001
    assert all("still has the example's value" in warning for warning in settings.warnings)


def test_no_secret_stands_in_the_environment_or_in_the_project() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("SECRET|KEY|PASSWORD|TOKEN", name):
                assert name.endswith("_FILE")
                assert str(value).startswith("/run/secrets/")
    for secret in STACK["secrets"].values():
        path = secret["file"]
        assert Path(path).parent == Path("docker/secrets")
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=PROJECT_ROOT, check=False)
        assert ignored.returncode in (0, 128), path  # 128: not a clone


def test_whoever_owns_the_files_runs_the_service() -> None:
    user, group = resolved(PROCESSOR["user"]).split(":")
    dockerfile = (PROJECT_ROOT / "Dockerfile").read_text()

    assert f"--uid {user}" in dockerfile
    assert f"--gid {group}" in dockerfile
    assert f"mode=0700,uid={user},gid={group}" in resolved(PROCESSOR["tmpfs"][0])
    assert f"mode=0700,uid={user},gid={group}" in dockerfile


def test_docker_waits_as_long_as_systemd() -> None:
    unit = next((PROJECT_ROOT / "systemd").rglob("aitp.service")).read_text()

    assert f"TimeoutStopSec={PROCESSOR['stop_grace_period'].removesuffix('s')}\n" in unit


def test_prometheus_scrapes_the_service_and_grafana_asks_prometheus() -> None:
    prometheus = yaml.safe_load((PROJECT_ROOT / "docker/prometheus.yml").read_text())
    (scrape,) = prometheus["scrape_configs"]
    (source,) = yaml.safe_load((PROJECT_ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((PROJECT_ROOT / "docker/grafana/provisioning/dashboards/aitp.yml").read_text())[
        "providers"
    ]

    assert scrape["job_name"] == "aitp"
    assert scrape["static_configs"][0]["targets"] == ["ai-task-processor:8001"]
    assert scrape["dns_sd_configs"][0]["names"] == [name for name in SERVICES if name.startswith("fleet-")]
    assert set(PROCESSOR["networks"]) & set(SERVICES["prometheus"]["networks"]) & set(SERVICES["grafana"]["networks"])
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert mounts("grafana")[provider["options"]["path"]] == "./docker/grafana/dashboards"
    rules = {Path(place).name for place in mounts("prometheus") if place.startswith("/etc/prometheus/")}
    assert {"prometheus.yml", *prometheus["rule_files"]} == rules


def test_without_openai_every_other_secret_is_still_there() -> None:
    stack = yaml.safe_load(WITHOUT_OPENAI)

    assert stack["services"]["ai-task-processor"]["secrets"] == ["oauth2_client_secret"]
    assert set(stack["secrets"]) == {"oauth2_client_secret", "grafana_admin_password"}
    assert "openai" not in str(stack)


def test_with_a_metrics_token_the_service_and_prometheus_have_the_same_one() -> None:
    stack = yaml.safe_load(WITH_TOKEN)
    processor, prometheus = stack["services"]["ai-task-processor"], stack["services"]["prometheus"]
    scrape = re.search(r"# +credentials_file: (\w+)", (PROJECT_ROOT / "docker/prometheus.yml").read_text())
    file = stack["secrets"]["metrics_token"]["file"]

    assert processor["environment"]["METRICS_TOKEN_FILE"] == "/run/secrets/metrics_token"
    assert "metrics_token" in processor["secrets"]
    assert scrape is not None
    assert f"{file}:/etc/prometheus/{scrape[1]}:ro" in prometheus["volumes"]


def test_a_fleet_is_two_services_with_names_of_their_own_on_a_database_that_nobody_else_reaches(
    tmp_path: Path,
) -> None:
    hosts = {name: service for name, service in SERVICES.items() if "LEDGER_URL" in service.get("environment", {})}
    assert set(hosts) == {"fleet-1", "fleet-2"}
    for name, service in hosts.items():
        environment = {**service["environment"], "AITP_ENV_FILE": str(FILE.parent / "docker/settings/aitp.env.example")}
        for secret in service["secrets"]:
            (tmp_path / secret).write_text("secret")
            environment[f"{secret.upper()}_FILE"] = str(tmp_path / secret)
        ledger = load_settings(environment).ledger
        assert isinstance(ledger, Fleet)
        assert (ledger.host, ledger.url.get_secret_value()) == (name, "postgresql://aitp@postgres/aitp")
        # Two services with ledgers of their own would buy the same tasks.
        assert service["profiles"] == ["fleet"]
        assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}

    assert hosts["fleet-1"]["ports"] == PROCESSOR["ports"]
    assert hosts["fleet-2"]["ports"] != PROCESSOR["ports"]
    assert {name for name, service in SERVICES.items() if "ledger" in service.get("networks", ())} == {
        "postgres",
        *hosts,
    }
    assert STACK["networks"]["ledger"] == {"internal": True}
    assert "ports" not in SERVICES["postgres"]


@EVERY_STACK
def test_it_follows_the_schema_of_compose_files(stack: str, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(stack)
    schema = ["--builtin-schema", "vendor.compose-spec"]

    run = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, tmp_path / "docker-compose.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr


@EVERY_STACK
@pytest.mark.skipif(not has_compose(), reason="docker compose (the client's plugin) is not installed")
def test_docker_compose_understands_it(stack: str) -> None:
    command = ["docker", "compose", "--project-directory", str(PROJECT_ROOT), "-f", "-", "config", "--quiet"]

    run = subprocess.run(command, input=stack, capture_output=True, text=True, check=False)

    assert (run.returncode, run.stderr) == (0, "")
