"""Every environment variable of aitp, once: its name, type, default, bounds and meaning.

`load_settings` reads the environment, the env file and the secrets' files, and either returns one frozen `Settings`
or raises ConfigurationError with *all* that is wrong, one line each. An attribute has its variable's name in lower
case. A variable that is set but empty counts as unset, except those of MAY_BE_EMPTY. This is the only module that
touches the process's environment; .env.example is checked against it by a test."""

import ast
import json
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

# It would look for plugins of its own in the metadata of all packages, in each program.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"

from pydantic import BaseModel, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from aitp import validators as v
from aitp.errors import ConfigurationError, printable
from aitp.extensions import foreign_settings
from aitp.hardening import blot_out, replace_file
from aitp.policy.costs import nano
from aitp.policy.routing import Routing
from aitp.sources import PROJECT_ROOT as PROJECT_ROOT
from aitp.sources import PUBLISHED, SECRETS, InForce, beside, misspelt, read_sources, secret_names, told
from aitp.tasks import Fleet, Period, Place

PLACEHOLDER_KEY = "your_openai_api_key_here"
PLACEHOLDER = re.compile("your_[a-z_]+_here")  # of other packages' keys, by the same custom
WITHHELD = "withheld-from-this-process"  # stands where a secret is that a process does not need
# The models of tasks that name none, unless the settings say otherwise. OpenAI announces no end of either.
EMBEDDING_MODEL, CHAT_MODEL = "text-embedding-3-small", "gpt-6.1-terra"
# Humans, public companies, online newspapers, governments.
PERSONALITY_CLASSES = ("Q5", "Q891723", "Q1153191", "Q7188")


class Settings(BaseModel, frozen=True, validate_default=True, hide_input_in_errors=True):
    """What the service was told. `warnings` are lines for the log; `env_file` is the file that took part, if any;
    `origins` tells by a setting's name where its value is from, unless it is the default; `given` are the values that
    were set, as they were written, without secrets. `extensions`: settings of other packages, as they were written.

    A setting's docstring is what messages and SETTINGS.md say of it.
    """

    # Not pydantic's use_attribute_docstrings: see `described`. Nor are annotations put off (`from __future__`) here:
    # pydantic would compile the text of each a dozen times, in each program.
    warnings: tuple[str, ...] = ()
    env_file: Path | None = None
    origins: Mapping[str, str] = {}
    given: Mapping[str, str] = Field({}, repr=False)
    extensions: Mapping[str, str | SecretStr] = {}

    # The task API and its authorization server
    allow_insecure_http: bool = False
    """Accept plain http:// for API_BASE_URL, OAUTH2_TOKEN_URL, OPENAI_BASE_URL, with OLLAMA_API_KEY for
    OLLAMA_BASE_URL, and with WIKIDATA_TOKEN for WIKIDATA_BASE_URL, on any host. Without it only loopback, private
    addresses and names of a single label may be reached without TLS.
    """
    api_base_url: v.Url
    """Required. Address of the task API, without /api, like http://nestjs-api:3000."""
    ory_project_slug: v.Slug | None = None
    """The Ory project: tokens come from https://SLUG.projects.oryapis.com/oauth2/token. Required unless
    OAUTH2_TOKEN_URL is set.
    """
    oauth2_token_url: v.Url | None = None
    """The token endpoint's whole address, for a self-hosted server. Overrides ORY_PROJECT_SLUG."""
    oauth2_client_id: str
    """Required. The OAuth2 client that aitp is to the task API."""
    oauth2_client_secret: SecretStr
    """Required. That client's secret, or OAUTH2_CLIENT_SECRET_FILE=path of a file that holds it."""
    oauth2_client_auth: Annotated[Literal["basic", "post"], v.LOWER] = "basic"
    """How the client shows who it is: basic (client_secret_basic, in a header) or post (client_secret_post, in the
    form).
    """
    oauth2_scope: v.Scopes = "read write"
    """The scopes asked for, separated by spaces. Empty, or none: no scope is asked for."""
    oauth2_audience: str = ""
    """The audience asked for, where the authorization server wants one named (Auth0, Ory)."""
    request_timeout: v.Seconds = 30.0
    """Seconds that a call to the task API or for a token may take."""
    http_trust_env: bool = False
    """Take proxies and certificate bundles from the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, …). A SOCKS
    proxy, or a bundle that cannot be read, is refused then.
    """
    tls_ca_file: v.AuthoritiesFile | None = None
    """A file of PEM certificates: authorities of your own, trusted beside the public ones by whatever speaks TLS
    here (task API, token endpoint, OpenAI, Ollama, Wikidata). Certificates are always verified.
    """

    # Models and providers
    processing_mode: Annotated[Literal["openai", "ollama", "hybrid"], v.LOWER] = "hybrid"
    """Who runs the tasks: openai, ollama, or hybrid (Ollama first, OpenAI as its fallback)."""
    supported_models: v.Models = ("nomic-embed-text",)
    """Ollama's models: a JSON array (or names separated by commas)."""
    openai_api_key: v.Key | None = None
    """The OpenAI key, or OPENAI_API_KEY_FILE=path of a file that holds it. Required in mode openai; unset in mode
    hybrid means no fallback. your_openai_api_key_here means mock mode: invented results, no calls.
    """
    openai_base_url: v.Url | None = None
    """Another server that speaks OpenAI's protocol."""
    openai_reasoning_effort: v.Word = ""
    """How much OpenAI's models that reason are to do of it: minimal, low, medium, high, or what else yours takes.
    Empty: not said.
    """
    openai_service_tier: v.Tier = "default"
    """By which terms chats are bought: flex is cheaper and slow, and falls back to the standard tier while it has no
    room; auto is what the project is set to. default is told OpenAI alone, empty: not said.
    """
    openai_timeout: v.Seconds = 60.0
    """Seconds that a call to OpenAI may take."""
    ollama_base_url: v.Url = "http://localhost:11434"
    """Address of the Ollama server."""
    ollama_api_key: v.Key | None = None
    """A key for an Ollama server that asks for one (https://ollama.com, or a proxy), or OLLAMA_API_KEY_FILE=path of
    a file that holds it. Never sent in the open: see ALLOW_INSECURE_HTTP.
    """
    ollama_think: v.Thinking | None = None
    """Whether Ollama's models that reason are to do it: true, false, or low, medium, high. Empty: as they like."""
    ollama_timeout: v.Seconds = 120.0
    """Seconds that a call to Ollama may take, loading the model included."""
    ollama_model_download_timeout: v.Seconds = 600.0
    """Seconds that the download of a model may take in total, and ten times what it may go without progress. One
    that takes longer is put off, and goes on later where it was.
    """
    ollama_keep_alive: v.KeepAlive | None = None
    """How long Ollama keeps a model loaded after a call: 5m, seconds, -1 for ever. Empty: as it likes."""
    ollama_options: v.Options = {}
    """Options for Ollama's models: a JSON object like {"num_ctx": 16384}. Chats have num_ctx 8192, num_predict 4096
    and temperature 0 unless it says otherwise.
    """
    hybrid_fallback: bool = True
    """In mode hybrid, let OpenAI answer for Ollama. false: such tasks wait for Ollama instead."""
    fallback_models: v.ModelMap = {}
    """Which OpenAI model answers for which Ollama model: a JSON object from name to name, * for all others. Where it
    names none: DEFAULT_EMBEDDING_MODEL for embeddings, DEFAULT_CHAT_MODEL for the rest.
    """
    default_embedding_model: v.Model = EMBEDDING_MODEL
    """The model of embeddings whose tasks name none."""
    default_chat_model: v.Model = CHAT_MODEL
    """The model of all other tasks that name none."""
    model_aliases: v.ModelMap = {}
    """Which model is asked for instead of the one that a task names, as one that was retired: a JSON object from
    name to name like {"o3": "gpt-6.1-sol"}. An alias of an alias is not followed.
    """
    embedding_batch_size: int = Field(32, ge=1, le=2048)
    """Texts in one embedding call, at most."""
    embedding_dimensions: Annotated[Annotated[int, Field(ge=1, le=65_536)] | None, v.OR_NONE] = 1024
    """Numbers asked for in an embedding, of models that let us ask. Empty: the model's own length."""
    embedding_overflow: Annotated[Literal["truncate", "fail"], v.LOWER] = "truncate"
    """A text too long for its model, in embeddings and chats: truncate (logged) or fail."""
    result_language: v.Language = "pt"
    """Language of the names and descriptions in results."""
    result_country: v.Words = "Brazil"
    """Country whose readers results are for: what is severe, and whom a name means, depend on it."""
    prompts_dir: v.Directory | None = None
    """A directory whose prompts replace the built-in ones."""
    wikidata_enabled: bool = True
    """Look people, topics and impact areas up in Wikidata."""
    wikidata_base_url: v.Url = "https://www.wikidata.org"
    """Address of Wikidata."""
    personality_classes: v.ItemIds = PERSONALITY_CLASSES
    """What may be a personality: the Wikidata classes that it is a direct instance of. Humans, public companies,
    online newspapers and governments unless it says otherwise. A JSON array, or ids separated by commas.
    """
    wikidata_contact: v.Contact = ""
    """Where Wikimedia can reach you, as its User-Agent policy asks of all who call it by machine: an address of a
    page or of mail.
    """
    wikidata_token: v.Key | None = None
    """An access token of an account at Wikimedia (OAuth 2, "owner-only"), whose limits are higher than those of callers
    that it does not know, or WIKIDATA_TOKEN_FILE=path of a file that holds it. Never sent in the open: see
    ALLOW_INSECURE_HTTP.
    """

    # Polling and processes
    polling_interval_seconds: Annotated[float, Field(ge=0.05, le=86_400, allow_inf_nan=False)] = 30.0
    """Seconds between two polls while nothing else asks for one."""
    concurrency_limit: int = Field(5, ge=1, le=1000)
    """Worker processes: provider calls at one time."""
    relay_processes: int = Field(2, ge=1, le=99)
    """Processes that poll the task API and deliver results."""
    inbox_limit: int = Field(5000, ge=1, le=1_000_000)
    """Tasks held in the ledger, at most."""
    worker_max_tasks: int = Field(0, ge=0, le=1_000_000_000)
    """Replace a worker after about that many tasks. 0: never."""
    shutdown_grace_seconds: float = Field(30.0, ge=0, le=34, allow_inf_nan=False)
    """Seconds that calls in flight may go on after a stop was asked for. At most 34: supervisord kills after 40
    (stopwaitsecs), systemd and Docker after 50.
    """
    runtime_dir: v.Place = Path("run")
    """Directory (0700) of token, scoreboard, metrics files and socket. Default: run/ beside the ledger's folder."""
    aitp_env_file: Path | None = None
    """File that holds settings; read again at a reload (HUP). Unset: .env in the current directory, if there is one.
    Empty: none. The real environment, which alone can name it, wins over it.
    """

    # Rate limits
    rate_limit_enabled: bool = True
    """false switches all five limits off."""
    rate_limit_strategy: Annotated[Literal["rolling", "fixed"], v.LOWER] = "rolling"
    """rolling: the last 60 seconds, …; fixed: calendar minutes, hours, days, weeks, months."""
    rate_limit_per_minute: v.Limit = 20
    """Tasks sent to providers in a minute. 0: no such limit."""
    rate_limit_per_hour: v.Limit = 100
    """Tasks sent to providers in an hour. 0: no such limit."""
    rate_limit_per_day: v.Limit = 500
    """Tasks sent to providers in a day. 0: no such limit."""
    rate_limit_per_week: v.Limit = 2000
    """Tasks sent to providers in a week. 0: no such limit."""
    rate_limit_per_month: v.Limit = 7500
    """Tasks sent to providers in a month (30 days if rolling). 0: no such limit."""
    rate_limit_timezone: v.Zone = "UTC"
    """Time zone of the fixed windows."""
    rate_limit_storage_path: v.LedgerFile = Path("data/rate_limits.db")
    """The ledger, one file on a local disk: limits, tasks in hand, results not yet delivered. A relative path counts
    from the project's root (/app in the container).
    """

    # A fleet: several hosts on one ledger
    ledger_url: v.PostgreSQLUrl | None = None
    """Address of the PostgreSQL database that holds the ledger of several hosts, in place of a file of this one's:
    postgresql://user:password@host/database, with libpq's options behind it; or LEDGER_URL_FILE=path of a file that
    holds it. See docs/FLEET.md.
    """
    ledger_schema: v.SchemaName = "aitp"
    """The schema in it that holds the ledger, made at the first start if it may be."""
    host_name: v.HostName = ""
    """This host's name in the fleet, unlike all others'. Empty: what the machine calls itself."""
    host_grace_seconds: float = Field(60.0, ge=20, le=3600, allow_inf_nan=False)
    """Seconds that another host may be away before what it has in hand is anyone's."""

    # Budgets
    prices: v.PriceList | None = None
    """A TOML file of what models cost, as etc/prices.example.toml; read again at a reload (HUP)."""
    budget_per_day: v.Money = Decimal(0)
    """What may be spent on a calendar day, in the currency of PRICES. 0: no such budget."""
    budget_per_month: v.Money = Decimal(0)
    """What may be spent in a calendar month of RATE_LIMIT_TIMEZONE. 0: no such budget."""

    # Resilience
    max_retries: int = Field(3, ge=0, le=100)
    """How often a task is tried again, alone, before evidence may fail it."""
    retry_backoff_factor: float = Field(2.0, ge=1, le=10, allow_inf_nan=False)
    """Waits between tries: factor, factor², factor³ … seconds."""
    max_task_crashes: int = Field(3, ge=1, le=100)
    """A task whose process died that often is poison: it is failed."""
    circuit_breaker_threshold: int = Field(5, ge=1, le=1000)
    """Failures of a service in a row that open its circuit breaker."""
    circuit_breaker_recovery_seconds: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 60.0
    """Seconds before an open breaker lets one probe through."""
    result_reuse_seconds: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] = 86_400.0
    """How long a result is used again for the same type, model and text. 0: never."""

    # Monitoring
    metrics_host: v.Host = "0.0.0.0"
    """Address that /metrics, /health, /ready and the page listen on."""
    metrics_port: int = Field(8001, ge=1, le=65_535)
    """Port that /metrics, /health, /ready and the page listen on."""
    metrics_token: v.Password | None = None
    """Ask for this bearer token (or password, in a browser) before /metrics and the page are shown; /health and
    /ready then tell others their status alone. Or METRICS_TOKEN_FILE=path of a file that holds it.
    """
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], v.UPPER] = "INFO"
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    log_format: Annotated[Literal["auto", "json", "console"], v.LOWER] = "auto"
    """json, console, or auto: console on a terminal, else json."""

    @field_validator("api_base_url", "oauth2_token_url", "openai_base_url", "ollama_api_key", "wikidata_token")
    @classmethod
    def _keep_secrets_off_the_wire(cls, value: Any, info: ValidationInfo) -> Any:
        """An address that secrets go to in any case; a key that goes to an address if there is one."""
        name = {"ollama_api_key": "ollama_base_url", "wikidata_token": "wikidata_base_url"}.get(str(info.field_name))
        url = info.data.get(name) if name else value
        # With a wrong address or ALLOW_INSECURE_HTTP, that alone is the problem to report.
        if value is not None and url is not None and not info.data.get("allow_insecure_http", True):
            v.refuse_open_secrets(url, f"cannot be sent to {name.upper()}: " if name else "")
        return value

    @field_validator("oauth2_token_url", "openai_api_key", "budget_per_day", "budget_per_month")
    @classmethod
    def _is_not_without_another(cls, value: Any, info: ValidationInfo) -> Any:
        """What others before it make necessary, or have to go with. Those that are wrong are told alone."""
        needed = {"ory_project_slug": "", "processing_mode": "", "prices": ""} | info.data
        match info.field_name:
            case "oauth2_token_url" if value is needed["ory_project_slug"] is None:
                raise ValueError(
                    "neither it nor ORY_PROJECT_SLUG is set; set one: the token endpoint, or the Ory project"
                )
            case "openai_api_key" if value is None and needed["processing_mode"] == "openai":
                raise ValueError(
                    f"not set; PROCESSING_MODE=openai needs a key, or the placeholder {PLACEHOLDER_KEY} for mock mode "
                    "(invented results, no calls)"
                )
            case "budget_per_day" | "budget_per_month" if value and needed["prices"] is None:
                raise ValueError("PRICES is not set, and no budget is kept without (copy etc/prices.example.toml)")
        return value

    @property
    def ledger(self) -> Place:
        """Where the ledger is: a file of this host's, or a fleet's database."""
        if self.ledger_url is None:
            return self.rate_limit_storage_path
        name = self.host_name or socket.gethostname()
        lock_file = self.runtime_dir / "fleet"
        shown = v.server_in(self.ledger_url.get_secret_value()) + f", schema {self.ledger_schema}"
        return Fleet(self.ledger_url, self.ledger_schema, name, self.host_grace_seconds, lock_file, shown)

    @property
    def token_url(self) -> str:
        return self.oauth2_token_url or f"https://{self.ory_project_slug}.projects.oryapis.com/oauth2/token"

    @property
    def trust(self) -> v.Trust:
        """Whom to believe on the wire."""
        return v.Trust(self.http_trust_env, self.tls_ca_file.certificates if self.tls_ca_file else "")

    @property
    def mock(self) -> bool:
        """Whether OpenAI's results are invented: the key is the placeholder, and the mode would use it."""
        return self.has_openai_key and not self.has_real_openai and self.processing_mode != "ollama"

    @property
    def rate_limits(self) -> dict[str, int]:
        """The limits in force, by period, shortest first."""
        limits = {period.value: int(getattr(self, f"rate_limit_per_{period}")) for period in Period}
        return {period: limit for period, limit in limits.items() if limit and self.rate_limit_enabled}

    @property
    def budgets(self) -> dict[str, int]:
        """The budgets in force, by period, in nano-units of the currency of PRICES; none where all is invented."""
        budgets = {"day": self.budget_per_day, "month": self.budget_per_month}
        return {period: nano(budget) for period, budget in budgets.items() if budget and not self.buys_nothing}

    @property
    def mocks(self) -> tuple[str, ...]:
        """The keys that are placeholders, so that results are invented where they would be used."""
        others = (name for name, key in self._keys_of_others.items() if _is_placeholder(key))
        return ("OPENAI_API_KEY", *others) if self.mock else tuple(others)

    @property
    def buys_nothing(self) -> bool:
        """Whether all results are invented."""
        return self.mock and all(map(_is_placeholder, self._keys_of_others.values()))

    @property
    def _keys_of_others(self) -> dict[str, SecretStr]:
        return {name: value for name, value in self.extensions.items() if isinstance(value, SecretStr)}

    @property
    def has_openai_key(self) -> bool:
        """Whether there is a key to OpenAI, if only the mock's."""
        return self.openai_api_key is not None

    @property
    def has_real_openai(self) -> bool:
        """Whether there is a key to OpenAI that is none of the mock's, whatever the mode would use."""
        return self.openai_api_key is not None and self.openai_api_key.get_secret_value() != PLACEHOLDER_KEY

    def fingerprint(self, service: str) -> str:
        """16 hex digits over all that decides whether `service` lets us in: address, credentials, whom we trust.

        Differs if one of them does, and tells none of them. Of a service of another package all settings that such
        packages have decide. To be taken of the whole settings: children lack the others' secrets.
        """
        client = (self.oauth2_client_id, self.oauth2_client_secret, self.oauth2_client_auth)
        asked = (self.oauth2_scope, self.oauth2_audience)
        doors: dict[str, tuple[object, ...]] = {
            "api": (self.api_base_url, self.token_url, *client, *asked),
            "oauth": (self.token_url, *client, *asked),
            "openai": (self.openai_base_url, self.openai_api_key),
            "ollama": (self.ollama_base_url, self.ollama_api_key),
            "wikidata": (self.wikidata_base_url, self.wikidata_contact, self.wikidata_token),
        }
        door = doors.get(service) or chain.from_iterable(sorted(self.extensions.items()))
        parts = [service, self.trust.from_environment, self.trust.certificates, *door]
        plain = [part.get_secret_value() if isinstance(part, SecretStr) else part for part in parts]
        return blake2b(json.dumps(plain).encode(), digest_size=8, person=b"aitp service").hexdigest()

    def keeping(self, *needed: str, others: bool = False) -> Self:
        """For a process that needs these secrets alone, and those of other packages if `others`: of the rest it knows
        that there are some. Placeholders stay: they are no secrets, and tell that results are invented.
        """
        own = {name.lower(): _masked(getattr(self, name.lower())) for name in SECRETS if name not in needed}
        foreign = {name: value if others else _masked(value) for name, value in self.extensions.items()}
        return self.model_copy(update={**own, "extensions": foreign})


def _is_placeholder(value: str | SecretStr) -> bool:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return PLACEHOLDER.fullmatch(plain) is not None


def _masked(value: str | SecretStr | None) -> str | SecretStr | None:
    return SecretStr(WITHHELD) if isinstance(value, SecretStr) and not _is_placeholder(value) else value


_ABOUT = ("warnings", "env_file", "origins", "given", "extensions")
FIELDS: Mapping[str, FieldInfo] = {
    name.upper(): field for name, field in Settings.model_fields.items() if name not in _ABOUT
}
MAY_BE_EMPTY = ("EMBEDDING_DIMENSIONS", "OAUTH2_SCOPE", "OPENAI_SERVICE_TIER")
_SET_ASIDE: dict[str, str] = {}  # SOCKS proxies of this process's environment


def known_names() -> tuple[str, ...]:
    """All environment variables that are settings."""
    return (*FIELDS, *foreign_settings(), *(f"{name}_FILE" for name in secret_names()))


@cache
def described() -> Mapping[str, FieldInfo]:
    """FIELDS with their docstrings as descriptions. Read from this file when somebody asks for them: else every program
    would pay a tenth of a second of CPU for what only documents and few messages say.
    """
    (settings,) = (node for node in ast.parse(Path(__file__).read_text()).body if isinstance(node, ast.ClassDef))
    for node, meaning in pairwise(settings.body):
        if isinstance(node, ast.AnnAssign) and isinstance(meaning, ast.Expr):
            FIELDS[ast.unparse(node.target).upper()].description = " ".join(ast.literal_eval(meaning.value).split())
    return FIELDS


def load_settings(environ: Mapping[str, str] | None = None, *, defaults: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process: its environment and AITP_ENV_FILE or ./.env; or of `environ` and the file it names.

    `defaults`, by attribute: for a command that needs no task API, in place of what is required for it.
    Raises ConfigurationError with everything wrong, `NAME=value: what is allowed`, secrets masked, and misspelt names.
    """
    fallback = Path(".env") if environ is None else None
    found = read_sources(os.environ if environ is None else environ, fallback, secret_names())
    given, problems = found.values, found.problems
    values = dict(defaults or {}) | {
        name.lower(): value.strip()
        for name in FIELDS
        if (value := given.get(name)) is not None and (value.strip() or name in MAY_BE_EMPTY)
    }
    derived = {}
    if "runtime_dir" not in values and "rate_limit_storage_path" in values:
        with suppress(ValueError):  # the setting that it is derived from is the problem, and is told as one
            derived["runtime_dir"] = beside(Path(values["rate_limit_storage_path"]))
    try:
        settings = Settings.model_validate({**values, **derived})
    except ValidationError as error:
        # Several of one setting, as of a list's entries, would say the same.
        wrong = (v.problem(values, described(), SECRETS, details) for details in error.errors(include_url=False))
        problems += dict.fromkeys(wrong)
    else:
        if settings.http_trust_env:
            problems += v.unusable({**_SET_ASIDE, **os.environ} if environ is None else environ)
    others = {name: value.strip() for name in foreign_settings() if (value := given.get(name, "")).strip()}
    strangers = misspelt(given, known_names())
    if problems:
        raise ConfigurationError([*map(printable, problems)], [*map(printable, found.warnings + strangers)])
    warnings = (
        *found.warnings,
        *strangers,
        *v.odd_values(values),
        *v.unreachable("RATE_LIMIT", settings.rate_limits),
        *v.unreachable("BUDGET", {"day": settings.budget_per_day, "month": settings.budget_per_month}),
    )
    taken = {**{name.upper(): value for name, value in values.items()}, **others}
    origins = {name: printable(origin) for name, origin in found.origins.items() if name in taken}
    if "runtime_dir" in derived:
        origins["RUNTIME_DIR"] = "beside RATE_LIMIT_STORAGE_PATH"
    about = {
        "warnings": tuple(map(printable, warnings)),
        "env_file": found.env_file,
        "origins": origins,
        "given": {**taken, **withheld(of=taken)},
        "extensions": {name: SecretStr(value) if foreign_settings()[name] else value for name, value in others.items()},
    }
    return settings.model_copy(update=about)


def publish(settings: Settings, routing: Routing, pid: int) -> None:
    """Say to whoever watches the service that these are in force while `pid` lives. Raises OSError."""
    env_file = None if settings.env_file is None else str(settings.env_file)
    found = {"pid": pid, "given": dict(settings.given), "origins": dict(settings.origins), "env_file": env_file}
    if isinstance(settings.ledger, Path):  # else its address is a secret, which whoever looks has to know himself
        judged = {name: getattr(settings, name) for name in InForce._fields if name != "routing"}
        found["judged"] = {**judged, "routing": asdict(routing)}
    replace_file(settings.runtime_dir / PUBLISHED, json.dumps(found, default=str).encode())


def in_force(settings: Settings) -> Settings:
    """The settings that the service of this RUNTIME_DIR has taken over, without secrets. `settings` themselves if none
    runs, or what it said cannot be read (any more: a file that one of them names may be gone). What concerns whoever
    watches alone, where to listen and whom to answer, is of `settings` as well.
    """
    try:
        if (found := told(settings.runtime_dir)) is None:
            return settings
        about = {"env_file": found["env_file"] and Path(found["env_file"]), "origins": found["origins"]}
        taken_over = load_settings({**found["given"], "AITP_ENV_FILE": ""})
    except (OSError, ValueError, LookupError, TypeError, ConfigurationError):
        return settings
    own = ("aitp_env_file", "ledger_url", "metrics_host", "metrics_port", "metrics_token")
    return taken_over.model_copy(update={**about, **{name: getattr(settings, name) for name in own}})


def prepare_environment() -> None:
    """Call first, before numpy is imported: no helper threads (we fork), and no secrets for whoever looks at this
    process's environment from outside."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = "1"
    blot_out(secret_names())
    for name, value in list(os.environ.items()):
        # `import ollama` makes a client at once, and fails for hosts and proxies that it cannot use. We use neither.
        if name == "OLLAMA_HOST":
            del os.environ[name]
        if name.lower().endswith("_proxy") and value.lower().startswith("socks"):
            _SET_ASIDE[name] = os.environ.pop(name)


def withheld(*needed: str, of: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What stands in the place of all secrets but these, for a program that needs no others. Placeholders are none."""
    others = {name: of.get(name, "").strip() for name in secret_names() if name not in needed}
    return {name: WITHHELD for name, value in others.items() if value and not _is_placeholder(value)}


def withhold(*needed: str) -> None:
    """Take all secrets but these out of this process's environment."""
    os.environ.update(withheld(*needed))


def under_supervisord() -> bool:
    """Whether supervisord started this process (it says so to its programs)."""
    return "SUPERVISOR_ENABLED" in os.environ


def keep_metrics_in(directory: Path) -> None:
    """Where prometheus_client makes the files of its multiprocess values, which it reads from the environment alone."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)


def surroundings() -> dict[str, str]:
    """The process's environment without anything that is ours: what a demo or a test adds its own settings to."""
    return {name: value for name, value in os.environ.items() if name not in known_names()}
