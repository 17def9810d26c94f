"""Every row of the table of failures, against a server that really answers so, or really does not answer."""

from __future__ import annotations

import json
import socket
import time
import traceback
from email.utils import formatdate
from typing import Any

import pytest

from aitp import logs
from aitp.errors import (
    AitpError,
    CooldownRequired,
    CredentialsRefused,
    InputRefused,
    InputTooLong,
    NonRetryableError,
    RetryableError,
    ServiceFault,
)
from tests.providers.embeddings import KEY, OTHER, SMALL, TEXT, provider_at
from tests.providers.scripted import Answer, raw, reply, scripted


def error(code: object = None, kind: object = "invalid_request_error", message: str = "", param: object = None) -> Any:
    """A body as OpenAI writes it; its message quotes what must not be passed on."""
    said = f"{message} You said {TEXT!r} with the key {KEY}."
    return {"error": {"message": said, "type": kind, "param": param, "code": code}}


def failure_of(answer: Answer, model: str = SMALL) -> AitpError:
    with scripted(answer) as server:
        provider = provider_at(server.url)
        with pytest.raises(AitpError) as raised:
            provider.embed([TEXT, "outro"], model)
        provider.close()
        assert len(server.requests) == 1, "a failed request must not be repeated by the client"
    story = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert KEY not in story
    assert TEXT not in story
    assert raised.value.__context__ is None, "the client's exception holds the request: key and texts"
    return raised.value


CONTEXT = "This model's maximum context length is 8192 tokens, however you requested 9093 tokens (9093 in your prompt)."
ROWS: list[tuple[str, Answer, type[AitpError], str]] = [
    ("400", reply(400, error()), InputRefused, "400 (invalid_request_error)"),
    ("413", reply(413, b"<html>too large</html>"), InputRefused, "413"),
    ("422", reply(422, error("unprocessable")), InputRefused, "422 (unprocessable"),
    ("400, over the context", reply(400, error(message=CONTEXT)), InputTooLong, f"longer than what {SMALL} reads"),
    ("400, over the context, by code", reply(400, error("context_length_exceeded")), InputTooLong, "longer than"),
    ("400, over the context, no numbers", reply(400, error(message="Invalid 'input[1]': maximum context length is 8192"
     " tokens.")), InputTooLong, "longer than"),
    ("400, over the request's tokens", reply(400, error("max_tokens_per_request", message="Requested 300001 tokens, max"
     " 300000 tokens per request")), InputRefused, "400 (max_tokens_per_request"),
    ("400 dimensions", reply(400, error(param="dimensions")), ServiceFault, "EMBEDDING_DIMENSIONS"),
    ("401", reply(401, error("invalid_api_key")), CredentialsRefused, "(invalid_api_key, invalid_request_error)"),
    ("403", reply(403, error("unsupported_country")), CredentialsRefused, "OPENAI_API_KEY"),
    ("403 chat model", reply(403, error(message="Not allowed to generate embeddings from this model")),
     NonRetryableError, SMALL),
    ("404 model", reply(404, error("model_not_found")), NonRetryableError, SMALL),
    ("404 model, vLLM", reply(404, error(404, "NotFoundError")), NonRetryableError, SMALL),
    ("404 model, by name only", reply(404, error(message=f"model '{SMALL}' not found")), NonRetryableError, SMALL),
    ("404 address", reply(404, {"detail": "Not Found"}), ServiceFault, "OPENAI_BASE_URL"),
    ("404 address, OpenAI", reply(404, error(message="Invalid URL (POST /v2/embeddings)")), ServiceFault,
     "OPENAI_BASE_URL"),
    ("408", reply(408), ServiceFault, "408"),
    ("409", reply(409, error("conflict")), ServiceFault, "409"),
    ("405", reply(405), ServiceFault, "405"),
    ("500", reply(500, error(None, "server_error")), ServiceFault, "500 (server_error)"),
    ("502 html", reply(502, b"<html><body>Bad Gateway</body></html>"), ServiceFault, "502"),
    ("503", reply(503, error("slow_down")), ServiceFault, "503 (slow_down"),
    ("599", reply(599), ServiceFault, "599"),
    ("301", reply(301, location="http://127.0.0.1:1/"), ServiceFault, "301"),
    ("307", reply(307, location="/v1/embeddings"), ServiceFault, "307"),
    ("304", reply(304), ServiceFault, "304"),
    ("429, request above the minute's tokens", reply(429, error("rate_limit_exceeded", "tokens",
     "Request too large for text-embedding-3-small in organization org-1 on tokens per min (TPM): Limit 40000.")),
     InputRefused, "429 (rate_limit_exceeded, tokens)"),
    ("200 garbage", reply(200, b"<html>"), ServiceFault, "no JSON"),
    ("200 cut JSON", reply(200, b'{"data": [{"ind'), ServiceFault, "no JSON"),
    ("200 not UTF-8", reply(200, b'{"data": "\xff\xfe"}'), ServiceFault, "no JSON"),
    ("200 empty", reply(200, b""), ServiceFault, "no JSON"),
    ("204", reply(204, b""), ServiceFault, "no JSON"),
    ("200 list", reply(200, []), ServiceFault, "without a list of embeddings"),
    ("200 error inside", reply(200, error("server_error")), ServiceFault, "without a list of embeddings"),
    ("200 no vectors", reply(200, {"data": []}), ServiceFault, "no usable vector"),
    ("hung up before headers", raw(b""), ServiceFault, "RemoteProtocolError"),
    ("hung up within headers", raw(b"HTTP/1.1 200 OK\r\nConte"), ServiceFault, "RemoteProtocolError"),
    ("hung up within the body", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":"), ServiceFault,
     "RemoteProtocolError"),
    ("no HTTP", raw(f"220 mail {KEY} {TEXT}\r\n\r\n".encode()), ServiceFault, "RemoteProtocolError"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_failed_call_means_what_the_table_says(answer: Answer, kind: type[AitpError], said: str) -> None:
    failure = failure_of(answer)

    assert type(failure) is kind
    assert said in str(failure)
    if isinstance(failure, ServiceFault):
        assert failure.service == "openai"


LIMIT = error("rate_limit_exceeded", "tokens")
PAUSES: list[tuple[str, dict[str, str], float]] = [
    ("nothing said", {}, 5.0),
    ("seconds", {"retry_after": "7"}, 7.0),
    ("milliseconds", {"retry_after_ms": "1250"}, 1.25),
    ("milliseconds are finer than seconds", {"retry_after_ms": "300", "retry_after": "1"}, 0.3),
    ("a week is capped", {"retry_after": "604800"}, 3600.0),
    ("no hot loop", {"retry_after_ms": "0"}, 0.1),
    ("reset", {"x_ratelimit_reset_tokens": "6m0s"}, 360.0),
    ("reset in ms", {"x_ratelimit_reset_tokens": "220ms"}, 0.22),
    ("the limit that the error names", {"x_ratelimit_reset_requests": "8.64s", "x_ratelimit_reset_tokens": "1s"}, 1.0),
    ("the other one, if alone", {"x_ratelimit_reset_requests": "8.64s"}, 8.64),
    ("its own word before resets", {"retry_after": "2", "x_ratelimit_reset_tokens": "6m0s"}, 2.0),
    ("nonsense", {"retry_after": "soon", "retry_after_ms": "x", "x_ratelimit_reset_tokens": "1x"}, 5.0),
]


@pytest.mark.parametrize(("headers", "seconds"), [row[1:] for row in PAUSES], ids=[row[0] for row in PAUSES])
def test_a_rate_limit_pauses_the_model_for_as_long_as_the_server_asks(headers: dict[str, str], seconds: float) -> None:
    failure = failure_of(reply(429, LIMIT, **headers), model=OTHER)

    assert isinstance(failure, CooldownRequired)
    assert failure.model == OTHER
    assert failure.seconds == pytest.approx(seconds, abs=0.001)


def test_a_rate_limit_may_name_a_date() -> None:
    failure = failure_of(reply(429, LIMIT, retry_after=formatdate(time.time() + 120, usegmt=True)), model=OTHER)

    assert isinstance(failure, CooldownRequired)
    assert failure.seconds == pytest.approx(120, abs=10)


@pytest.mark.parametrize(
    "answer",
    [
        reply(429, error("insufficient_quota", "insufficient_quota"), retry_after="1"),
        reply(429, error(None, "insufficient_quota")),
        reply(429, error("billing_not_active", "billing_not_active")),
        reply(402, b""),
    ],
)
def test_an_exhausted_quota_pauses_the_whole_account_for_long(answer: Answer) -> None:
    failure = failure_of(answer)

    assert isinstance(failure, CooldownRequired)
    assert (failure.model, failure.seconds) == (None, 600.0)


def test_an_exhausted_quota_is_an_error_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", "json")
    failure_of(reply(429, error("insufficient_quota", "insufficient_quota")))

    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["level"] == "error"
    assert "billing" in json.loads(line)["reason"]


def test_a_model_that_the_project_may_not_use_pauses_alone() -> None:
    failure = failure_of(reply(403, error("model_not_found")), model=OTHER)

    assert isinstance(failure, CooldownRequired)
    assert (failure.model, failure.seconds) == (OTHER, 600.0)
    assert OTHER in str(failure)


def test_a_refused_port_is_the_services_fault() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        provider = provider_at(f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
        with pytest.raises(ServiceFault, match=r"ConnectError: .*Connection refused"):
            provider.embed([TEXT], SMALL)


def test_an_unknown_host_is_the_services_fault() -> None:
    provider = provider_at("http://no-such-host.invalid/v1")
    with pytest.raises(ServiceFault, match="ConnectError"):
        provider.embed([TEXT], SMALL)


def test_silence_is_a_time_out_that_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = provider_at(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout_seconds=0.1)
        with pytest.raises(ServiceFault, match=r"ReadTimeout.*OPENAI_TIMEOUT"):
            provider.embed([TEXT], SMALL)


@pytest.mark.parametrize("code", [KEY, TEXT, "x" * 80, 17, ["a"], "a\nb"])
def test_a_code_that_is_no_plain_name_is_not_passed_on(code: object) -> None:
    failure = failure_of(reply(500, {"error": {"code": code, "type": code, "message": "m"}}))

    assert str(failure) == "openai answered 500"


def test_all_failures_but_refusals_leave_the_task_pending() -> None:
    for status in (301, 401, 402, 403, 405, 408, 409, 418, 429, 500, 503, 529):
        assert isinstance(failure_of(reply(status)), RetryableError), status
