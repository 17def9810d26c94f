"""TLS to every service: verified always, with an authority of the operator's own if he names one, and never without."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.ollama_api import OllamaApi
from aitp.demo.openai_api import OpenAIApi
from aitp.demo.task_api import TaskApi
from aitp.demo.wikidata_api import WikidataApi
from aitp.errors import ConfigurationError, ServiceFault
from aitp.knowledge.wikidata import Api
from aitp.providers import build, ollama_models
from aitp.settings import PROJECT_ROOT, Settings, load_settings
from aitp.taskapi.client import TaskApi as TaskApiClient
from aitp.taskapi.token import Tokens
from tests.end_to_end.running import Service
from tests.security.tls import OPENSSL, Authority, TlsFront
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")

MODEL = "nomic-embed-text"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def certified(authority: Authority) -> Any:
    return authority.issue("IP:127.0.0.1", "DNS:localhost")


@pytest.fixture(scope="module")
def of_another(authority: Authority) -> Any:
    """A good certificate of the same authority, but somebody else's."""
    return authority.issue("DNS:elsewhere.example", "IP:127.0.0.9")


class Everything:
    """All five services, plain, and what each call to them needs."""

    def __init__(self, directory: Path, authorization: AuthorizationServer, task_api: TaskApi) -> None:
        self.directory = directory
        self.authorization, self.task_api = authorization, task_api
        self.openai, self.ollama, self.wikidata = OpenAIApi(), OllamaApi(), WikidataApi()
        self.plain = {
            "API_BASE_URL": task_api.url,
            "OAUTH2_TOKEN_URL": authorization.token_url,
            "OPENAI_BASE_URL": self.openai.base_url,
            "OLLAMA_BASE_URL": self.ollama.url,
            "WIKIDATA_BASE_URL": self.wikidata.url,
        }

    def settings(self, **more: str) -> Settings:
        return load_settings(
            {
                **self.plain,
                "OAUTH2_CLIENT_ID": self.authorization.client_id,
                "OAUTH2_CLIENT_SECRET": self.authorization.client_secret,
                "OPENAI_API_KEY": self.openai.key,
                "RUNTIME_DIR": str(self.directory),
                "REQUEST_TIMEOUT": "5",
                **more,
            }
        )


def list_tasks(settings: Settings) -> None:
    client = TaskApiClient(settings, Tokens(settings, lambda success: None), lambda *facts: None)
    client.pending(1).close()
    client.close()


def get_token(settings: Settings) -> None:
    Tokens(settings, lambda success: None).current()


def embed_by(provider: str) -> Callable[[Settings], None]:
    def embed(settings: Settings) -> None:
        made = build(settings)[provider]
        made.embed(["one text"], MODEL if provider == "ollama" else "text-embedding-3-small")
        made.close()

    return embed


def list_models(settings: Settings) -> None:
    ollama_models.missing(settings, [MODEL])


def pull_model(settings: Settings) -> None:
    ollama_models.pull(settings, MODEL, lambda progress: None, stall_seconds=5.0, pause_seconds=0.0)


def look_up(settings: Settings) -> None:
    api = Api(settings, nullcontext, lambda seconds: nullcontext())
    api.query(orjson.loads, action="query", meta="siteinfo")
    api.close()


CALLS: list[tuple[str, Callable[[Settings], None]]] = [
    ("API_BASE_URL", list_tasks),
    ("OAUTH2_TOKEN_URL", get_token),
    ("OPENAI_BASE_URL", embed_by("openai")),
    ("OLLAMA_BASE_URL", embed_by("ollama")),
    ("OLLAMA_BASE_URL", list_models),
    ("OLLAMA_BASE_URL", pull_model),
    ("WIKIDATA_BASE_URL", look_up),
]
each_service = pytest.mark.parametrize(("name", "call"), CALLS)


@pytest.fixture
def everything(tmp_path: Path, authorization: AuthorizationServer, task_api: TaskApi) -> Iterator[Everything]:
    everything = Everything(tmp_path, authorization, task_api)
    with everything.openai, everything.ollama, everything.wikidata:
        yield everything


@each_service
def test_an_authority_of_ones_own_is_believed(
    everything: Everything, authority: Authority, certified: Any, name: str, call: Callable[[Settings], None]
) -> None:
    with TlsFront(everything.plain[name], certified) as front:
        call(everything.settings(**{name: front.url}, TLS_CA_FILE=str(authority.certificate)))

        assert (front.served, front.refused) == (1, 0)


@each_service
def test_without_it_nothing_is_sent(
    everything: Everything, certified: Any, name: str, call: Callable[[Settings], None]
) -> None:
    with TlsFront(everything.plain[name], certified) as front:
        with pytest.raises(ServiceFault, match=r"certificate|TLS|connected"):
            call(everything.settings(**{name: front.url}, ALLOW_INSECURE_HTTP="true"))

        wait_until(lambda: front.refused == 1)
        assert front.served == 0


@each_service
def test_a_certificate_for_another_name_is_refused_whoever_signed_it(
    everything: Everything, authority: Authority, of_another: Any, name: str, call: Callable[[Settings], None]
) -> None:
    with TlsFront(everything.plain[name], of_another) as front:
        with pytest.raises(ServiceFault, match=r"certificate|TLS|connected"):
            call(everything.settings(**{name: front.url}, TLS_CA_FILE=str(authority.certificate)))

        wait_until(lambda: front.refused == 1)
        assert front.served == 0


def test_the_public_authorities_stay_trusted_beside_it(authority: Authority) -> None:
    """One setting for all services: OpenAI's certificate is a public one, the task API's may be the house's own."""
    from aitp.http import tls_context
    from aitp.validators import Trust

    alone = tls_context(Trust())
    both = tls_context(Trust(certificates=authority.certificate.read_text()))

    assert both.cert_store_stats()["x509_ca"] == alone.cert_store_stats()["x509_ca"] + 1
    assert both.check_hostname


def test_no_line_of_ours_switches_the_check_off() -> None:
    off = re.compile(r"verify\s*=\s*False|CERT_NONE|_create_unverified|check_hostname\s*=\s*False|disable_warnings")
    sources = [path for path in (PROJECT_ROOT / "aitp").rglob("*.py") if "demo" not in path.parts]

    assert not [path.name for path in sources if off.search(path.read_text())]


def test_a_file_that_is_no_such_file_is_bad_configuration_that_names_the_setting(
    tmp_path: Path, everything: Everything, authority: Authority
) -> None:
    key = (authority.directory / "ca.key").read_text()
    whole = authority.certificate.read_text()
    for content, reason in {
        None: "No such file or directory",
        "": "no PEM certificate",
        key: "no PEM certificate",
        whole.replace("MII", "AAA"): "cannot be read",
        whole + whole[:200].replace("MII", "!!!") + "-----END CERTIFICATE-----": "cannot be read",
    }.items():
        file = tmp_path / "ca.pem"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)

        with pytest.raises(ConfigurationError) as refused:
            everything.settings(TLS_CA_FILE=str(file))

        (problem,) = refused.value.problems
        assert problem.startswith(f"TLS_CA_FILE={file}: ")
        assert reason in problem
        assert "PRIVATE KEY" not in problem


def test_a_directory_is_refused_in_words(tmp_path: Path, everything: Everything) -> None:
    with pytest.raises(ConfigurationError, match=r"^TLS_CA_FILE=.*Is a directory"):
        everything.settings(TLS_CA_FILE=str(tmp_path))


def test_a_key_in_the_same_file_is_not_kept(tmp_path: Path, everything: Everything, authority: Authority) -> None:
    both = tmp_path / "both.pem"
    both.write_text((authority.directory / "ca.key").read_text() + authority.certificate.read_text())

    settings = everything.settings(TLS_CA_FILE=str(both))

    assert settings.tls_ca_file is not None
    assert "PRIVATE KEY" not in settings.tls_ca_file.certificates
    assert settings.trust.certificates in authority.certificate.read_text()


def test_the_running_service_learns_of_a_new_authority_at_a_reload(
    service: Service, authority: Authority, certified: Any
) -> None:
    world = service.open_world(3)
    ca = service.directory / "ca.pem"
    assert service.run("check", TLS_CA_FILE=ca) == 78
    assert "TLS_CA_FILE" in service.log()
    with TlsFront(world.environment["API_BASE_URL"], certified) as front:
        service.start(API_BASE_URL=front.url, TLS_CA_FILE="", CIRCUIT_BREAKER_RECOVERY_SECONDS=0.2)
        service.wait(lambda: service.said("Circuit breaker is open", service="api"), what="no breaker is open")
        assert world.states() == {"pending": 3}

        ca.write_text(authority.certificate.read_text())
        service.configure(TLS_CA_FILE=ca)
        service.signal(signal.SIGHUP)

        service.await_states(succeeded=3)
        # Read with the settings: what becomes of the file later is nothing until the next reload, which is refused.
        ca.write_text("nonsense")
        service.signal(signal.SIGHUP)
        service.wait(lambda: "TLS_CA_FILE" in service.log()[-4000:], what="the reload is not refused")
        world.add_tasks(2)
        service.await_states(succeeded=5)
