"""Every row of Ollama's table of failures, against a server that really answers so, or really does not answer."""

from __future__ import annotations

import socket
import traceback

import pytest

from aitp.errors import (
    AitpError,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    InputTooLong,
    ModelGone,
    ModelMissing,
    RequestRefused,
    RetryableError,
    ServiceFault,
    SettingRefused,
)
from tests.providers.ollama_answers import CHAT, NOMIC, QUESTION, TEXT, provider_at
from tests.providers.scripted import Answer, flood, raw, reply, scripted


def error(message: str) -> dict[str, str]:
    """A body as Ollama writes it; it quotes what must not be passed on."""
    return {"error": f"{message} (you said {TEXT!r})"}


def failure_of(answer: Answer, model: str = CHAT) -> AitpError:
    """Of a chat: one request, whatever comes of it."""
    with scripted(answer) as server:
        provider = provider_at(server)
        with pytest.raises(AitpError) as raised:
            provider.ask(QUESTION, model)
        provider.close()
        assert len(server.requests) == 1, "a failed request must not be repeated by the client"
    story = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert TEXT not in story
    assert raised.value.__context__ is None, "the client's exception holds the request: the texts"
    return raised.value


MISSING = f'model "{CHAT}" not found, try pulling it first'
MEMORY = "model requires more system memory (5.6 GiB) than is available (1.9 GiB)"
ANSWERS: list[tuple[str, Answer, type[AitpError], str]] = [
    ("400 too long", reply(400, error("the input length exceeds the context length")), InputTooLong, "longer than"),
    ("413 too long", reply(413, error("the input length exceeds the context length")), InputTooLong, "longer than"),
    ("500 too long", reply(500, error("the input length exceeds the context length")), InputTooLong, "longer than"),
    ("400 cannot be cut", reply(400, error("input exceeds maximum context length and cannot be truncated further")),
     InputTooLong, "longer than"),
    ("400 other kind", reply(400, error(f'"{CHAT}" does not support chat')), ModelGone, f"no model {CHAT} for"),
    ("501 other kind", reply(501, error("this model does not support embeddings")), ModelGone, "no model"),
    ("404 model", reply(404, error(MISSING)), ModelMissing, CHAT),
    ("404 model, newer words", reply(404, error(f"model '{CHAT}' not found")), ModelMissing, CHAT),
    ("404 path", reply(404, b"404 page not found"), ServiceFault, "OLLAMA_BASE_URL"),
    ("404 proxy", reply(404, b"<html>model not found</html>"), ServiceFault, "OLLAMA_BASE_URL"),
    ("404 other words", reply(404, {"detail": "model not found"}), ModelMissing, CHAT),
    ("404 other words, no model", reply(404, {"detail": "nothing here"}), ServiceFault, "OLLAMA_BASE_URL"),
    ("404 no such model", reply(404, {"error": "no such model here"}), ModelMissing, CHAT),
    ("400 key, of a gateway", reply(400, {"error": "Incorrect API key"}), CredentialsRefused, "OLLAMA_API_KEY"),
    ("400 policy, of a gateway", reply(400, {"error": {"code": "content_filter"}}), InputRefused, "refuses the input"),
    ("402 credit, of a gateway", reply(402, {"error": "top up, please"}), CooldownRequired, "no credit left"),
    ("400 retired", reply(400, {"error": f"The model {CHAT} has been retired"}), ModelGone, f"no model {CHAT}"),
    ("500 NaN, in Python", reply(500, {"detail": "Out of range float values are not JSON compliant"}), InputRefused,
     "500"),
    ("401", reply(401, b"<html>"), CredentialsRefused, "something in front of the provider"),
    ("401 key", reply(401, error("unauthorized")), CredentialsRefused, "OLLAMA_API_KEY"),
    ("403", reply(403, b""), CredentialsRefused, "OLLAMA_BASE_URL"),
    ("400 option", reply(400, error('option "num_ctx" must be of type integer')), SettingRefused, "OLLAMA_OPTIONS"),
    ("500 option", reply(500, error('option "num_ctx" must be of type integer')), SettingRefused, "OLLAMA_OPTIONS"),
    ("400 name", reply(400, error("invalid model name")), ModelGone, "is its name right"),
    ("500 name", reply(500, error("unqualified name: registry.ollama.ai/library/a b:latest")), ModelGone,
     "is its name right"),
    ("500 schema", reply(500, error("invalid JSON schema in format")), RequestRefused, "takes no format"),
    ("400 schema", reply(400, error("failed to parse grammar")), RequestRefused, "takes no format"),
    ("500 schema, other words", reply(500, error("failed to load model vocabulary required for format")),
     RequestRefused, "takes no format"),
    ("500 too long for its batch", reply(500, error("caching disabled but unable to fit entire input in a batch")),
     InputTooLong, "longer than"),
    ("410 retired", reply(410, error("kimi-k2:1t was retired on 2026-05-01")), ModelGone, "has it been retired"),
    ("400 runner", reply(400, error('do embedding request: Post "http://127.0.0.1:40213/embedding": EOF')),
     ServiceFault, f"the process that runs {CHAT} died"),
    ("400 runner, at its start", reply(400, error("llama runner process no longer running: -1 ")), ServiceFault,
     "died"),
    ("500 runner", reply(500, error("an error was encountered while running the model: unexpected EOF")), ServiceFault,
     "died"),
    ("400 keep_alive", reply(400, error('time: missing unit in duration "5"')), SettingRefused, "OLLAMA_KEEP_ALIVE"),
    ("500 NaN", reply(500, error("failed to encode response: json: unsupported value: NaN")), InputRefused, "500"),
    ("500 NaN, too", reply(500, error("embedding contains NaN or Inf values")), InputRefused, "500"),
    ("400 NaN", reply(400, error("embedding contains NaN or Inf values")), InputRefused, "400"),
    ("400 no words", reply(400, b""), RequestRefused, "400"),
    ("413", reply(413, b"<html>"), RequestRefused, "413"),
    ("422", reply(422, error("x")), RequestRefused, "422"),
    ("503", reply(503, error("server busy, please try again")), ServiceFault, "503"),
    ("500 memory", reply(500, error(MEMORY)), ServiceFault, "memory"),
    ("500", reply(500, error("llama runner process has terminated: signal: killed")), ServiceFault, "died"),
    ("500, other words", reply(500, error("something else")), ServiceFault, "answered 500"),
    ("499", reply(499, error("request canceled")), ServiceFault, "499"),
    ("408", reply(408), ServiceFault, "408"),
    ("502 html", reply(502, b"<html>Bad Gateway</html>"), ServiceFault, "502"),
    ("301", reply(301, location="http://127.0.0.1:1/"), ServiceFault, "301"),
    ("error that is no sentence", reply(500, {"error": {"message": TEXT}}), ServiceFault, "answered 500"),
    ("200 garbage", reply(200, b"<html>"), ServiceFault, "no JSON"),
    ("200 empty", reply(200, b""), ServiceFault, "no JSON"),
    ("200 without end", flood(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65_536, 100), ServiceFault, "more than 1048576 bytes"),
    ("500 without end", flood(b"HTTP/1.1 500 No\r\n\r\n", b" " * 65_536, 100), ServiceFault, "more than 1048576 bytes"),
    ("hung up before headers", raw(b""), ServiceFault, "gave no whole answer"),
    ("hung up within the body", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), ServiceFault,
     "gave no whole answer"),
    ("no HTTP", raw(f"220 mail {TEXT}\r\n\r\n".encode()), ServiceFault, "gave no whole answer"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "said"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_a_failed_call_means_what_the_table_says(answer: Answer, kind: type[AitpError], said: str) -> None:
    failure = failure_of(answer)

    assert type(failure) is kind
    assert said in str(failure)
    if isinstance(failure, ServiceFault | CooldownRequired):
        assert failure.service == "ollama"


CLOUD = "gpt-oss:120b-cloud"
WORDS = error("you have reached your weekly usage limit, upgrade for more")


@pytest.mark.parametrize(
    ("status", "kind"), [(429, CooldownRequired), (401, ModelGone), (402, ModelGone), (403, ModelGone)]
)
@pytest.mark.parametrize("body", [b"", {"error": "no"}, WORDS])
def test_what_is_refused_of_a_cloud_model_concerns_that_one_alone(status: int, kind: type, body: object) -> None:
    with scripted(reply(status, body)) as server, pytest.raises(AitpError) as raised:
        provider_at(server, models=[CLOUD]).ask(QUESTION, CLOUD)

    assert isinstance(raised.value, CooldownRequired | ModelGone)
    assert type(raised.value) is kind
    assert raised.value.model == CLOUD
    if isinstance(raised.value, CooldownRequired):
        assert raised.value.seconds == 600.0


@pytest.mark.parametrize(("status", "kind"), [(429, CooldownRequired), (403, ModelGone)])
def test_its_words_tell_a_cloud_model_whose_name_does_not(status: int, kind: type[AitpError]) -> None:
    failure = failure_of(reply(status, WORDS))

    assert isinstance(failure, CooldownRequired | ModelGone)
    assert (type(failure), failure.model) == (kind, CHAT)


def test_a_missing_model_pauses_alone_and_shortly() -> None:
    failure = failure_of(reply(404, error(MISSING)))

    assert isinstance(failure, CooldownRequired)
    assert (failure.model, failure.seconds) == (CHAT, 10.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 5.0), ({"retry_after": "7"}, 7.0), ({"retry_after": "604800"}, 3600.0), ({"retry_after": "soon"}, 5.0)],
)
def test_a_proxy_that_wants_fewer_requests_pauses_the_whole_provider(headers: dict[str, str], seconds: float) -> None:
    failure = failure_of(reply(429, b"", **headers))

    assert isinstance(failure, CooldownRequired)
    assert (failure.model, failure.seconds) == (None, seconds)


def test_an_input_that_is_refused_in_a_batch_is_left_to_the_worker_to_find() -> None:
    with scripted(reply(400, error("embedding contains NaN or Inf values"))) as server:
        with pytest.raises(InputRefused):
            provider_at(server).embed([TEXT, "dois"], NOMIC)

        assert len(server.requests) == 1


def test_a_refused_port_is_the_services_fault() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        provider = provider_at(f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(
            ServiceFault, match=r"could not be connected to \(Connection refused\): look at \w+_BASE_URL"
        ):
            provider.embed([TEXT], NOMIC)


def test_silence_is_a_time_out_that_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = provider_at(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
        with pytest.raises(ServiceFault, match=r"did not answer within OLLAMA_TIMEOUT"):
            provider.embed([TEXT], NOMIC)


def test_all_failures_but_refusals_leave_the_task_pending() -> None:
    for status in (301, 401, 403, 404, 405, 408, 409, 429, 499, 500, 502, 503, 504):
        assert isinstance(failure_of(reply(status)), RetryableError), status


def test_a_model_whose_name_speaks_of_thinking_is_not_taken_for_a_refusal_of_it() -> None:
    name = "kimi-k2-thinking"
    with (
        scripted(reply(400, {"error": f'"{name}" does not support chat'})) as server,
        pytest.raises(ModelGone),
    ):
        provider_at(server, models=[name], think=True).ask(QUESTION, name)
