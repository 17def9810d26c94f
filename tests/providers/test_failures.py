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
    ModelGone,
    RequestRefused,
    RetryableError,
    ServiceFault,
)
from aitp.http import Whole
from aitp.providers.failures import ROWS as TABLE
from aitp.providers.failures import Refusal, error_of, refusal_of
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
PAGE = b"<!DOCTYPE html><html><title>Attention</title>Access to this api key, credential and model is denied</html>"
FASTAPI = {"detail": [{"type": "extra_forbidden", "loc": ["body", "encoding_format"], "msg": "No.", "input": TEXT}]}
ERROR_INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
GEMINI = [
    {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": [ERROR_INFO]}}
]
ROWS: list[tuple[str, Answer, type[AitpError], str]] = [
    ("400", reply(400, error()), RequestRefused, "400 (invalid_request_error)"),
    ("400 no words", reply(400, b""), RequestRefused, "400: it refuses the request"),
    ("400 in words of its own", reply(400, {"oops": ["cette demande ne me plaît pas"]}), RequestRefused, "400"),
    ("400 the text, beside the model", reply(400, {"detail": f"this language is not supported by {SMALL}"}),
     RequestRefused, "does not name"),
    ("400 page", reply(400, PAGE), RequestRefused, "something in front of the provider refuses it"),
    ("413", reply(413, b"<html>too large</html>"), RequestRefused, "413"),
    ("415", reply(415, b""), RequestRefused, "415"),
    ("418", reply(418, b""), RequestRefused, "418"),
    ("422", reply(422, error("unprocessable")), RequestRefused, "422 (unprocessable"),
    ("400 the input, by param", reply(400, error(param="input[1]")), InputRefused, "refuses the input"),
    ("400 the input, by policy", reply(400, {"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
     InputRefused, "refuses the input"),
    ("422 the input, FastAPI", reply(422, {"detail": [{"loc": ["body", "input", 1], "msg": "odd"}]}), InputRefused,
     "refuses the input"),
    ("400, over the context", reply(400, error(message=CONTEXT)), InputTooLong, f"longer than what {SMALL} reads"),
    ("400, over the context, by code", reply(400, error("context_length_exceeded")), InputTooLong, "longer than"),
    ("400, over the context, no numbers", reply(400, error(message="Invalid 'input[1]': maximum context length is 8192"
     " tokens.")), InputTooLong, "longer than"),
    ("400, over the context, newer words", reply(400, error(message="Invalid 'input[1]': an element may have at most"
     " 8192 tokens.")), InputTooLong, "longer than"),
    ("400, over the context, text", reply(400, b"the sequence is too long for this encoder"), InputTooLong, "longer"),
    ("500, over the batch, llama.cpp", reply(500, {"error": {"code": 500, "message": "input (812 tokens) is too large"
     " to process. increase the physical batch size (current batch size: 512)", "type": "server_error"}}), InputTooLong,
     "longer"),
    ("422, over the context, by how much", reply(422, {"error": "`inputs` must have less than 512 tokens. Given: 1324",
     "error_type": "Validation"}), InputTooLong, "longer"),
    ("422, over the context, in characters", reply(422, {"error": "`inputs` must have less than 32000 characters. Give"
     "n: 67337"}), InputTooLong, "longer"),
    ("422, over the context, TGI", reply(422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens`"
     " must be <= 4096. Given: 5000 `inputs` tokens and 512 `max_new_tokens`"}), InputTooLong, "longer"),
    ("400, over the context, LM Studio", reply(400, {"error": "Cannot truncate prompt with n_keep (9000) >= n_ctx (4096"
     ")"}), InputTooLong, "longer"),
    ("500 a throttle, Bedrock", reply(500, {"message": "ThrottlingException: Too many tokens, please wait before trying"
     " again."}), ServiceFault, "500"),
    ("400 a throttle, Bedrock", reply(400, {"message": "Too many tokens, please wait before trying again."}),
     RequestRefused, "400"),
    ("400 a bound of the schema", reply(400, error(message="Invalid schema for response_format: 'max_length' is not"
     " permitted.")), RequestRefused, "400"),
    ("400 the budget, LiteLLM", reply(400, error("400", "budget_exceeded", message="Budget has been exceeded!"
     " Current cost: 1.2, Max budget: 1.0")), CooldownRequired, "credit"),
    ("403 key, beside the model", reply(403, {"message": "API key not valid for this model"}), CredentialsRefused,
     "_KEY"),
    ("403 key, not permitted", reply(403, {"message": "This API key is not permitted to use the model"}),
     CredentialsRefused, "_KEY"),
    ("400 the answer, beside the model", reply(400, {"message": "Failed to validate JSON. The model's output is not"
     " valid."}), RequestRefused, "400"),
    ("500 of a gateway", reply(500, {"message": "upstream does not support keepalive; chat backend failed"}),
     ServiceFault, "500"),
    ("400, over the request's tokens", reply(400, error("max_tokens_per_request", message="Requested 300001 tokens, max"
     " 300000 tokens per request")), RequestRefused, "400 (max_tokens_per_request"),
    ("401", reply(401, error("invalid_api_key")), CredentialsRefused, "(invalid_api_key, invalid_request_error)"),
    ("401 page", reply(401, PAGE), CredentialsRefused, "something in front of the provider refuses it"),
    ("403", reply(403, error("unsupported_country")), CredentialsRefused, "OPENAI_API_KEY"),
    ("403 page", reply(403, PAGE), CredentialsRefused, "something in front of the provider refuses it"),
    ("400 key, in a list", reply(400, GEMINI), CredentialsRefused, "OPENAI_API_KEY"),
    ("400 key, a string", reply(400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provi"
     "ded: xa***"}), CredentialsRefused, "OPENAI_API_KEY"),
    ("422 key, own words", reply(422, {"fault": {"what": "your credentials have lapsed"}}), CredentialsRefused, "_KEY"),
    ("403 chat model", reply(403, error(message="Not allowed to generate embeddings from this model")), ModelGone,
     SMALL),
    ("403 model", reply(403, error("model_not_found")), ModelGone, SMALL),
    ("404 model", reply(404, error("model_not_found")), ModelGone, SMALL),
    ("404 model, vLLM", reply(404, error(404, "NotFoundError")), ModelGone, SMALL),
    ("404 model, by name only", reply(404, error(message=f"model '{SMALL}' not found")), ModelGone, SMALL),
    ("404 model, a string", reply(404, {"detail": f"{SMALL} is not here"}), ModelGone, SMALL),
    ("410 model", reply(410, error(message=f"{SMALL} was retired on 1 May")), ModelGone, SMALL),
    ("400 model", reply(400, error("model_decommissioned")), ModelGone, SMALL),
    ("400 model, by param", reply(400, error(param="model")), ModelGone, SMALL),
    ("400 model, in words", reply(400, {"message": f"The model {SMALL} is deprecated; choose"}), ModelGone, SMALL),
    ("400 model, not valid", reply(400, {"error": {"message": f"{SMALL} is not a valid model ID"}}), ModelGone, SMALL),
    ("400 model, disabled", reply(400, {"message": f"{SMALL} has been disabled for this project"}), ModelGone, SMALL),
    ("404 other API", reply(404, error(message="This is not a chat model", param="model")), ModelGone, SMALL),
    ("400 other API", reply(400, error(message="This model is only supported in v1/responses.")), ModelGone, SMALL),
    ("404 address", reply(404, {"detail": "Not Found"}), ServiceFault, "OPENAI_BASE_URL"),
    ("404 address, a page", reply(404, PAGE), ServiceFault, "OPENAI_BASE_URL"),
    ("404 address, OpenAI", reply(404, error(message="Invalid URL (POST /v2/embeddings)")), ServiceFault,
     "OPENAI_BASE_URL"),
    ("410 address", reply(410, b""), ServiceFault, "OPENAI_BASE_URL"),
    ("405", reply(405), ServiceFault, "OPENAI_BASE_URL"),
    ("407", reply(407), ServiceFault, "407"),
    ("408", reply(408), ServiceFault, "408"),
    ("409", reply(409, error("conflict")), ServiceFault, "409"),
    ("500", reply(500, error(None, "server_error")), ServiceFault, "500 (server_error)"),
    ("502 html", reply(502, b"<html><body>Bad Gateway</body></html>"), ServiceFault, "502"),
    ("503", reply(503, error("slow_down")), ServiceFault, "503 (slow_down"),
    ("599", reply(599), ServiceFault, "599"),
    # Of the account, in other words.
    ("400 arrears", reply(400, error("Arrearage", "Arrearage", "Access denied, make sure your account is in good stand"
     "ing.")), CooldownRequired, "credit"),
    ("401 credits", reply(401, {"type": "CreditsError", "message": "Insufficient balance. Manage your billing here"}),
     CooldownRequired, "credit"),
    ("403 balance", reply(403, {"code": 30011, "message": "Your paid balance is insufficient"}), CooldownRequired,
     "credit"),
    ("403 not enough", reply(403, {"reason": "NOT_ENOUGH_BALANCE", "message": "not enough balance"}), CooldownRequired,
     "credit"),
    ("403 no credits yet", reply(403, {"error": "Your newly created team doesn't have any credits yet."}),
     CooldownRequired, "credit"),
    ("400 credits, a reset", reply(400, {"message": "Your credit balance is too low"}, x_ratelimit_reset="34"),
     CooldownRequired, "credit"),
    ("429 credits, a reset", reply(429, {"message": "You exceeded your current quota, check your plan and billing"},
     ratelimit_reset="34"), CooldownRequired, "credit"),
    ("500 balance", reply(500, {"message": "insufficient balance (1008)"}), CooldownRequired, "credit"),
    ("400 billing", reply(400, {"message": "The API's free tier is not available here. Please enable billing on your pr"
     "oject"}), CooldownRequired, "credit"),
    ("429 depleted", reply(429, {"message": "Your prepayment credits are depleted."}), CooldownRequired, "credit"),
    ("412 a key's budget", reply(412, {"message": "Usage limit exceeded. Virtual key budget exhausted"}),
     CooldownRequired, "credit"),
    ("400 over the budget of tokens", reply(400, {"message": "Prompt is over budget: 5000 tokens, model max length 4096"
     }), InputTooLong, "longer"),
    ("401 key, with an address", reply(401, {"message": "Invalid API key. Get one at https://example.com/billing"}),
     CredentialsRefused, "_KEY"),
    ("403 a policy on cards", reply(403, {"message": "Guardrail intervened: credit card number detected in prompt"}),
     InputRefused, "refuses the input"),
    ("400 a policy, beside the model", reply(400, {"message": "The model's answer was restricted by safety policy"}),
     InputRefused, "refuses the input"),
    ("400 a policy, beside the schema", reply(400, {"message": "The prompt was flagged; the schema was fine"}),
     InputRefused, "refuses the input"),
    ("403 restricted", reply(403, {"message": "Access to this model is restricted"}), ModelGone, SMALL),
    ("400 unrecognized", reply(400, {"message": "Unrecognized model: x"}), ModelGone, SMALL),
    ("404 address, its parameters", reply(404, {"message": "missing path parameters"}), ServiceFault, "BASE_URL"),
    ("400 unable to fit", reply(400, {"message": "Unable to fit entire input into the context"}), InputTooLong,
     "longer"),
    ("403 a card", reply(403, error(None, "customer_verification_required", "requires a valid credit card on file")),
     CooldownRequired, "credit"),
    ("403 overdue", reply(403, error("AccountOverdueError", "Forbidden", "your account has an overdue balance")),
     CooldownRequired, "credit"),
    ("403 in Chinese", reply(403, error("insufficient_user_quota", "new_api_error", "用户额度不足")), CooldownRequired,
     "credit"),
    ("412 spent", reply(412, error("PRECONDITION_FAILED", message="Account is suspended, possibly due to reaching the m"
     "onthly spending limit")), CooldownRequired, "credit"),
    ("429 in Chinese", reply(429, error("1113", None, "余额不足或无可用资源包")), CooldownRequired, "credit"),
    ("429 no more for free", reply(429, {"errors": [{"code": 4006, "message": "you have used up your daily free allocat"
     "ion of 10,000 neurons"}]}), CooldownRequired, "credit"),
    ("500 balance", reply(500, error(None, "api_error", "insufficient balance (1008)")), CooldownRequired, "credit"),
    ("503 billing", reply(503, {"message": "the billing service is out of order"}), ServiceFault, "503"),
    ("403 nothing was charged", reply(403, {"error": {"message": "Your input was flagged. No credits were charged.",
     "metadata": {"flagged_input": "my api key"}}}), InputRefused, "refuses the input"),
    ("400 restricted", reply(400, error("organization_restricted", message="Organization has been restricted.")),
     CredentialsRefused, "_KEY"),
    ("400 where we are", reply(400, {"message": "User location is not supported for the API use."}), CredentialsRefused,
     "_KEY"),
    # Of the model.
    ("400 not for us", reply(400, error(1369, None, "Request denied by upstream policy. This model is restricted to aut"
     "horized applications.")), ModelGone, SMALL),
    ("500 not for this", reply(500, {"message": "endpoint disabled for this model by API configuration"}), ModelGone,
     SMALL),
    ("400 an operation", reply(400, error("OperationNotSupported", message="The embeddings operation does not work with"
     f" the specified model, {SMALL}.")), ModelGone, SMALL),
    ("400 not open to us", reply(400, {"message": f"Unable to access non-serverless model {SMALL}."}), ModelGone,
     SMALL),
    ("400 none loaded", reply(400, {"error": "No models loaded. Please load a model."}), ModelGone, SMALL),
    ("400 isn’t", reply(400, {"detail": f"Invocation of model ID {SMALL} with on-demand throughput isn’t supported."}),
     ModelGone, SMALL),
    ("400 its life", reply(400, {"detail": "This model version has reached the end of its life."}), ModelGone, SMALL),
    ("400 no kind", reply(400, {"message": "This model does not appear to be an embedding model by default."}),
     ModelGone, SMALL),
    ("400 in Chinese", reply(400, error("1211", None, "模型不存在，请检查模型代码。")), ModelGone, SMALL),
    ("401 a key without it", reply(401, error("401", "key_model_access_denied", "key not allowed to access model",
     "model")), ModelGone, SMALL),
    ("401 key, beside the model", reply(401, {"message": f"Invalid API key for model {SMALL}"}), CredentialsRefused,
     "_KEY"),
    ("403 don't have", reply(403, {"message": "You don't have access to the model with the specified model ID."}),
     ModelGone, SMALL),
    ("403 a model that was free", reply(403, error("AllocationQuota.FreeTierOnly", None, "The free tier of the model ha"
     "s been exhausted.")), ModelGone, SMALL),
    ("404 a function", reply(404, {"detail": "Function 'e5a2': Not found for account 'abc'"}), ModelGone, SMALL),
    ("404 no endpoints", reply(404, error(404, None, "No endpoints found matching your data policy.")), ModelGone,
     SMALL),
    ("404 no endpoints for parameters", reply(404, error(404, None, "No endpoints found that can handle the requested p"
     "arameters.")), RequestRefused, "404"),
    ("500 not found, behind a gateway", reply(500, error("500", None, "OllamaException: model 'llama3.2:1b' not found"
     )), ModelGone, SMALL),
    ("503 no channel", reply(503, error("model_not_found", "new_api_error", f"No available channel for model {SMALL}")),
     ModelGone, SMALL),
    # Of the text.
    ("400, over the context, NIM", reply(400, {"message": "Input length 1040 exceeds maximum allowed token size 512"}),
     InputTooLong, "longer"),
    ("400, over the context, LMDeploy", reply(400, {"message": "The input messages length 5000 exceeds the session_len "
     "4096"}), InputTooLong, "longer"),
    ("400, over the context, a range", reply(400, error("InvalidParameter", message="Range of input length should be [1"
     ", 8192]")), InputTooLong, "longer"),
    ("400, over the context, seq_len", reply(400, {"message": "length of prompt_tokens (68957) must be less than max_se"
     "q_len (65536)."}), InputTooLong, "longer"),
    ("400, over the context, beside max_tokens", reply(400, error(message="The maximum context length is 4096. Reduce t"
     "he messages or the specified max_completion_tokens.")), InputTooLong, "longer"),
    ("400, over the context, Moonshot", reply(400, error(message="Invalid request: Your request exceeded model token li"
     "mit: 131072 (requested: 140000)")), InputTooLong, "longer"),
    ("500, over the cache, llama.cpp", reply(500, {"message": "Input prompt is too big compared to KV size."}),
     InputTooLong, "longer"),
    ("400 an empty text", reply(400, {"message": "Input text length must be greater than 0"}), RequestRefused, "400"),
    ("400 a risk", reply(400, error(message="Content Exists Risk")), InputRefused, "refuses the input"),
    ("400 sensitive", reply(400, error("InputTextSensitiveContentDetected", message="may contain sensitive information"
     )), InputRefused, "refuses the input"),
    ("400 sensitive, in Chinese", reply(400, error("1301", None, "可能包含不安全或敏感内容")), InputRefused,
     "refuses the input"),
    ("400 a guardrail", reply(400, {"error": "Violated guardrail policy"}), InputRefused, "refuses the input"),
    # Of the process that runs the model.
    ("400 crashed", reply(400, {"error": "The model has crashed without additional information. (Exit code: 6)"}),
     ServiceFault, "process that runs"),
    ("400 unloaded", reply(400, {"error": "Model unloaded."}), ServiceFault, "process that runs"),
    ("424", reply(424, {"error": "Request failed during generation: Server error", "error_type": "generation"}),
     ServiceFault, "424"),
    ("301", reply(301, location="http://127.0.0.1:1/"), ServiceFault, "301"),
    ("307", reply(307, location="/v1/embeddings"), ServiceFault, "307"),
    ("304", reply(304), ServiceFault, "304"),
    ("429, request above the minute's tokens", reply(429, error("rate_limit_exceeded", "tokens",
     "Request too large for text-embedding-3-small in organization org-1 on tokens per min (TPM): Limit 40000.")),
     RequestRefused, "429 (rate_limit_exceeded, tokens)"),
    ("429, a batch that has to wait for a day", reply(429, {"error": {"code": "429", "message": "Too busy."}},
     retry_after="86400"), RequestRefused, "429"),
    ("200 garbage", reply(200, b"<html>"), ServiceFault, "no JSON"),
    ("200 cut JSON", reply(200, b'{"data": [{"ind'), ServiceFault, "no JSON"),
    ("200 not UTF-8", reply(200, b'{"data": "\xff\xfe"}'), ServiceFault, "no JSON"),
    ("200 empty", reply(200, b""), ServiceFault, "no JSON"),
    ("204", reply(204, b""), ServiceFault, "no JSON"),
    ("200 list", reply(200, []), ServiceFault, "without a list of embeddings"),
    ("200 error inside", reply(200, error("server_error")), ServiceFault, "without a list of embeddings"),
    ("200 no vectors", reply(200, {"data": []}), ServiceFault, "no vector"),
    ("hung up before headers", raw(b""), ServiceFault, "gave no whole answer"),
    ("hung up within headers", raw(b"HTTP/1.1 200 OK\r\nConte"), ServiceFault, "gave no whole answer"),
    ("hung up within the body", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":"), ServiceFault,
     "gave no whole answer"),
    ("no HTTP", raw(f"220 mail {KEY} {TEXT}\r\n\r\n".encode()), ServiceFault, "gave no whole answer"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_failed_call_means_what_the_table_says(answer: Answer, kind: type[AitpError], said: str) -> None:
    failure = failure_of(answer)

    assert type(failure) is kind
    assert said in str(failure)
    if isinstance(failure, ServiceFault):
        assert failure.service == "openai"


NAMED: list[tuple[str, Answer, str]] = [
    ("param", reply(400, error("unsupported_value", param="dimensions")), "dimensions"),
    ("param elsewhere", reply(422, FASTAPI), "encoding_format"),
    ("its value", reply(400, {"errors": [{"title": "base64 is a form that we don't print"}]}), "encoding_format"),
    ("vLLM", reply(400, {"object": "error", "message": f'Model "{SMALL}" does not support matryoshka representation,'
     ' changing output dimensions will lead to poor results.', "type": "BadRequestError", "param": None, "code": 400}),
     "dimensions"),
    ("text", reply(400, b"unknown field: encoding-format"), "encoding_format"),
    ("nothing", reply(400, error()), ""),
    ("what was not sent", reply(400, error("unsupported_value", param="temperature")), ""),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "name"), [row[1:] for row in NAMED], ids=[row[0] for row in NAMED])
def test_a_parameter_that_the_server_names_is_told(answer: Answer, name: str) -> None:
    with scripted(answer) as server, pytest.raises(RequestRefused) as raised:
        provider_at(server.url, embedding_dimensions=8).embed(["um", "dois"], SMALL)

    assert type(raised.value) is RequestRefused
    assert raised.value.parameter == name


def test_a_text_that_is_quoted_says_nothing() -> None:
    text = "My API key is not valid; the model does not exist; base64 and dimensions"
    refusal = reply(400, {"error": {"message": f"I will not embed {text!r}"}})
    with scripted(refusal) as server, pytest.raises(RequestRefused) as raised:
        provider_at(server.url, embedding_dimensions=8).embed([text], SMALL)

    assert (type(raised.value), raised.value.parameter) == (RequestRefused, "")


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (reply(401, error("invalid_api_key")), True),
        (reply(401, {}), True),
        (reply(400, GEMINI), True),
        (reply(403, {"message": "User is not authenticated"}), True),
        (reply(401, PAGE), False),
        (reply(403, PAGE), False),
        (reply(403, b""), False),
        (reply(403, error("unsupported_country")), False),
    ],
)
def test_credentials_are_named_by_the_service_itself_or_only_presumed(answer: Answer, named: bool) -> None:
    failure = failure_of(answer)

    assert isinstance(failure, CredentialsRefused)
    assert failure.named is named


@pytest.mark.parametrize(
    ("status", "nothing"), [(400, True), (429, True), (500, True), (503, True), (502, False), (504, False)]
)
def test_what_a_gateway_says_of_a_request_that_it_handed_on_may_have_been_bought(status: int, nothing: bool) -> None:
    assert failure_of(reply(status)).bought_nothing is nothing


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        (CONTEXT, (9093, 8192)),
        ({"code": 400, "message": "you requested 600 tokens, and 512 are the maximum length"}, (600, 512)),
        ({"code": 20042, "message": "input must have less than 512 tokens"}, None),
        ({"error": "400 Bad Request: Max input tokens: 8192, request input token count: 9300"}, (9300, 8192)),
        ({"type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}, (9000, 4096)),
        ("too many tokens: size limit exceeded by 1234 tokens. The limit for this model is 8192 tokens.", None),
        ("This model's maximum context length is 8,192 tokens, you requested 10,000.", (10_000, 8192)),
        ("request (900 tokens) exceeds the available context size (512 tokens)", (900, 512)),
        ("Invalid 'input[17]': maximum input length is 8192 tokens.", None),
        ("too long for this model", None),
    ],
)
def test_how_many_tokens_there_were_is_told_where_it_is_known(said: object, tokens: object) -> None:
    failure = failure_of(reply(400, {"message": said} if isinstance(said, str) else said))

    assert isinstance(failure, InputTooLong)
    assert failure.tokens == tokens


# What is said in passing: none of it may pause a provider or a model for long, open the breaker or cut a text.
IN_PASSING: list[tuple[int, str]] = [
    (400, "Request blocked: credit card number detected in the prompt"),
    (400, "PII detected: CREDIT CARD. Request blocked by guardrail"),
    (400, "We do not process text about gambling. No credits have been charged for this request."),
    (400, "Invoice text is overdue"),
    (400, "Possible leak of an API key found; this input was not processed"),
    (400, "Your prompt seems to contain credentials. Remove them and send it again."),
    (400, "Documents about bearer bonds are outside of what we summarise"),
    (400, "Blocked by organization policy: restricted term found in prompt"),
    (400, "The account of the murder in this text is banned content"),
    (400, "This text says that a project was terminated, which our policy forbids"),
    (400, "The model is restricted from answering questions of this kind"),
    (400, "The model's response was restricted by safety policy"),
    (400, "The model declined: unsupported claims about health in the text"),
    (400, "The model was not able to answer"),
    (400, "The model returned an invalid response"),
    (400, "The model does not work with images"),
    (400, "Unable to access model storage"),
    (400, "An unknown error occurred while the model was running"),
    (400, "Invalid question for this kind of model"),
    (400, "The model's answer was no longer than one word"),
    (400, "This topic is not supported by our models"),
    (400, "Text must not be less than 10 characters"),
    (400, "The input has at most one token: send a longer one"),
    (400, "Numbers above a limit of one token per character cannot be read"),
    (400, "This text mentions a maximum; nothing was found"),
    (400, "Your story on how the plane crashed has no personalities"),
    (400, "Image quality degraded; bad input"),
    (400, "Request body failed validation"),
    (400, "The schema of the story was fine, its content is flagged"),
    (400, "Rate of requests exceeded for this access token"),
    (400, "You have exceeded the number of requests allowed for this token"),
    (400, "Thinking budget must be enough for the answer"),
    (400, "Invalid API token: it has exceeded the life span of a token"),
    (400, "overdue: field 'due' must be a date"),
    (400, "Trial requests have no credit line in their footer"),
    (400, "insufficient context balance"),
    (400, "Your balance of good and bad words is odd"),
    (400, "n must be at most 8"),
    (400, "the hard limit on stop sequences is 4"),
    (400, "exhausted all parsers"),
    (400, "Invalid value: 'crashed' is not one of the severities"),
    (400, "Trial accounts may not ask about accounts that were suspended in this text"),
    (400, "the model's quota has been exhausted"),
    (400, "This model is restricted to 2048 words"),
    (400, "The document is about a model that no longer exists"),
    (400, "Access token pattern matched by DLP rule 4"),
    (400, "Leaked credentials matched rule 17"),
    (400, "Unable to process: the article discusses bankruptcy and overdue payments"),
    (400, "unsupported image size for model"),
    (400, "The model is not allowed to discuss this"),
    (403, "Secret scanner: an access token was detected in your text"),
    (403, "Your project has rules on this; a banned topic was found"),
    (403, "A text on the Manhattan Project was terminated by our filter"),
    (403, "Request blocked by your organization's policy on restricted topics"),
    (403, "your plan's schema of rights does not allow this"),
    (403, "The word 'password' and other credentials are not allowed in a prompt"),
    (403, "Model owners were informed of this prompt"),
    (404, "missing path parameters"),
    (404, "no route matches the API schema"),
    (404, "The account service has no such page"),
    (412, "Precondition: retry budget exhausted"),
    (413, "Request Entity Too Large; add a credit to nobody"),
    (415, "media type not allowed for this project"),
    (422, "Please remove all billing details from your document"),
    (422, "billing address in the text is invalid"),
    (422, "Consumer complaint text is restricted"),
    (422, "The prompt needs no less than 5 words"),
    (422, "The reasoning budget is insufficient"),
    (422, "valid credit card detected: remove it"),
    (422, "We found 3 credit cards"),
    (429, "Quota of concurrent requests exhausted"),
    (429, "Your request budget for this minute is exhausted"),
    (429, "Insufficient TPM quota, slow down"),
    (429, "CPU credits exhausted"),
    (429, "You don't have enough concurrency credits right now"),
    (429, "no burst credits left"),
    (429, "You have used your 20 free requests for this minute"),
    (429, "Spending limit per minute hit"),
    (429, "Too many requests. To increase your limits, visit the billing page"),
    (429, "Rate limit exceeded. See https://x.example/docs/billing for how to raise limits"),
    (429, "The requests-per-second balance is exhausted"),
    (429, "Not enough capacity; credits not charged"),
    (429, "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"),
    (429, "insufficient_concurrency_quota"),
    (429, "Calls of your API key come too fast"),
    (429, "Model is not available right now: too many requests"),
    (429, "Token bucket: not enough credits"),
    (429, "You exceeded your current quota of 3 parallel calls"),
    (429, "insufficient quota of requests, wait"),
    (500, "retry budget exhausted"),
    (500, "quota of threads used up"),
    (500, "billing service unavailable"),
    (500, "insufficient GPU quota on node"),
    (500, "insufficient memory balance"),
    (500, "Failed to parse the answer: field billing is missing"),
    (500, "Retry budget has been exceeded upstream"),
    (500, "credit card processor timed out"),
    (500, "could not verify API key: auth backend down"),
    (500, "the account service was terminated"),
    (500, "model worker not found"),
    (500, "model cache does not exist"),
    (500, "Failed to load model: file not found"),
    (500, "KeyError: model layer not found"),
    (500, "The model does not exist in memory: it is being loaded"),
    (500, "unable to fit model in GPU memory"),
    (500, "worker exceeded the memory reserved per token"),
    (500, "Queue max length exceeded"),
    (500, "upstream: maximum length of queue reached"),
    (500, "database schema is out of date"),
    (500, "Failed to validate JSON response from upstream"),
    (500, 'relation "keys" does not exist in schema public'),
    (500, "credits table is locked: no free credit slot"),
    (500, "db: insufficient balance of connections"),
    (500, "model registry: model not found in shard"),
    (500, "deployment does not exist yet"),
    (500, "upstream said: invalid api key"),
    (501, "no such endpoint here; the model is fine"),
    (502, "no healthy upstream for model: not found"),
    (502, "model not found"),
    (503, "model not found: warming up"),
    (503, "The model is not found on any healthy backend at the moment"),
    (503, "deployment not found in cache, retry"),
    (503, "This model does not support chat until it has been loaded"),
    (503, "model not found"),
    (503, "insufficient credits"),
]


@pytest.mark.parametrize(("status", "said"), IN_PASSING)
def test_words_in_passing_are_no_verdict(status: int, said: str) -> None:
    sent = ("temperature", "json_schema", "json_object")
    failure = error_of(refusal_of("openai", Whole(status, {}, json.dumps({"message": said}).encode()), SMALL, (), sent))

    match failure:
        case CooldownRequired():
            assert (failure.model, failure.seconds) == (SMALL, 5.0)
        case CredentialsRefused():
            assert not failure.named
        case RequestRefused():
            assert status < 500
        case _:
            assert type(failure) in (InputRefused, ServiceFault)


LIMIT = error("rate_limit_exceeded", "tokens")
PAUSES: list[tuple[str, dict[str, str], float]] = [
    ("nothing said", {}, 5.0),
    ("seconds", {"retry_after": "7"}, 7.0),
    ("milliseconds", {"retry_after_ms": "1250"}, 1.25),
    ("milliseconds are finer than seconds", {"retry_after_ms": "300", "retry_after": "1"}, 0.3),
    ("an hour", {"retry_after": "3600"}, 3600.0),
    ("no hot loop", {"retry_after_ms": "0"}, 0.1),
    ("reset", {"x_ratelimit_reset_tokens": "6m0s"}, 360.0),
    ("reset in ms", {"x_ratelimit_reset_tokens": "220ms"}, 0.22),
    ("the limit that the error names", {"x_ratelimit_reset_requests": "8.64s", "x_ratelimit_reset_tokens": "1s"}, 1.0),
    ("the other one, if alone", {"x_ratelimit_reset_requests": "8.64s"}, 8.64),
    ("a reset of no kind", {"x_ratelimit_reset": "12"}, 12.0),
    ("a reset behind the words for it", {"retry_after": "7", "x_ratelimit_reset": "86000"}, 7.0),
    ("an instant that is over", {"x_ratelimit_reset": "1748822400000"}, 5.0),
    ("an instant of the limit's that is over", {"x_ratelimit_reset_tokens": "1748822400000"}, 0.1),
    ("its own word before resets", {"retry_after": "2", "x_ratelimit_reset_tokens": "6m0s"}, 2.0),
    ("nonsense", {"retry_after": "soon", "retry_after_ms": "x", "x_ratelimit_reset_tokens": "1x"}, 5.0),
]


@pytest.mark.parametrize(("headers", "seconds"), [row[1:] for row in PAUSES], ids=[row[0] for row in PAUSES])
def test_a_rate_limit_pauses_the_model_for_as_long_as_the_server_asks(headers: dict[str, str], seconds: float) -> None:
    failure = failure_of(reply(429, LIMIT, **headers), model=OTHER)

    assert isinstance(failure, CooldownRequired)
    assert failure.model == OTHER
    assert failure.seconds == pytest.approx(seconds, abs=0.001)


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20s"}
TOLD: list[tuple[str, object, float]] = [
    ("Gemini", [{"error": {"code": 429, "message": "You exceeded your current quota, look at billing.",
      "status": "RESOURCE_EXHAUSTED", "details": [RETRY_INFO]}}], 20.0),
    ("in words", {"message": "Rate limit reached. Please try again in 1m2.5s."}, 62.5),
    ("in words, spelt out", {"detail": "Please wait for 2 minutes"}, 120.0),
    ("a number", {"error": {"retry_after": 7}}, 7.0),
    ("milliseconds", {"error": {"retryAfterMs": 1500}}, 1.5),
    ("a header of another", {"error": {"metadata": {"headers": {"X-RateLimit-Reset": "30"}}}}, 30.0),
    ("a reset", {"error": {"type": "usage_limit_reached", "resets_in_seconds": 90}}, 90.0),
]  # fmt: skip


@pytest.mark.parametrize(("body", "seconds"), [row[1:] for row in TOLD], ids=[row[0] for row in TOLD])
def test_a_delay_is_heeded_where_the_body_has_it(body: object, seconds: float) -> None:
    failure = failure_of(reply(429, body), model=OTHER)

    assert isinstance(failure, CooldownRequired)
    assert (failure.model, failure.seconds) == (OTHER, seconds)


def test_one_text_that_has_to_wait_for_a_day_pauses_its_model_for_an_hour() -> None:
    with scripted(reply(429, LIMIT, retry_after="86400")) as server, pytest.raises(CooldownRequired) as raised:
        provider_at(server.url).embed([TEXT], SMALL)

    assert (raised.value.model, raised.value.seconds) == (SMALL, 3600.0)


def test_a_reset_far_away_says_nothing_against_a_batch() -> None:
    said = {"message": "Rate limit reached. Please try again in 7s."}
    for answer, seconds in (
        (reply(429, said, x_ratelimit_reset="86000"), 7.0),
        (reply(429, LIMIT, x_ratelimit_reset="86000"), 3600.0),
        (reply(429, {"metadata": {"headers": {"X-RateLimit-Reset": "86000"}}}), 3600.0),
    ):
        failure = failure_of(answer)
        assert isinstance(failure, CooldownRequired)
        assert failure.seconds == seconds


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (reply(404, error("model_not_found")), True),
        (reply(500, {"message": f"OllamaException: model '{SMALL}' not found"}), False),
        (reply(501, error("model_not_found")), False),
        (reply(503, error("model_not_found")), False),
    ],
)
def test_that_a_model_is_gone_is_only_presumed_of_a_server_that_fails(answer: Answer, named: bool) -> None:
    failure = failure_of(answer)

    assert isinstance(failure, ModelGone)
    assert failure.named is named


def test_one_text_that_is_above_the_limit_by_itself_is_not_waited_for() -> None:
    answer = reply(429, {"message": "Request too large for the deployment, on tokens per min: limit 10, requested 90"})
    with scripted(answer) as server, pytest.raises(RequestRefused):
        provider_at(server.url).embed([TEXT], SMALL)


@pytest.mark.parametrize("form", ["date", "seconds", "milliseconds"])
def test_a_rate_limit_may_name_an_instant(form: str) -> None:
    then = time.time() + 120
    headers = {
        "date": {"retry_after": formatdate(then, usegmt=True)},
        "seconds": {"ratelimit_reset": f"{then:.0f}"},
        "milliseconds": {"x_ratelimit_reset": f"{then * 1_000:.0f}"},
    }
    failure = failure_of(reply(429, LIMIT, **headers[form]), model=OTHER)

    assert isinstance(failure, CooldownRequired)
    assert failure.seconds == pytest.approx(120, abs=10)


@pytest.mark.parametrize(
    "answer",
    [
        reply(429, error("insufficient_quota", "insufficient_quota"), retry_after="1"),
        reply(429, error(None, "insufficient_quota")),
        reply(429, error("billing_not_active", "billing_not_active")),
        reply(403, {"error": "Your team has used all available credits"}),
        reply(402, {"detail": "top up, please"}),
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


def test_a_model_that_the_project_may_not_use_is_gone_for_us() -> None:
    failure = failure_of(reply(403, error("model_not_found")), model=OTHER)

    assert isinstance(failure, ModelGone)
    assert (failure.service, failure.model) == ("openai", OTHER)


def test_a_refused_port_is_the_services_fault() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        provider = provider_at(f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
        with pytest.raises(
            ServiceFault, match=r"could not be connected to \(Connection refused\): look at \w+_BASE_URL"
        ):
            provider.embed([TEXT], SMALL)


def test_an_unknown_host_is_the_services_fault() -> None:
    provider = provider_at("http://no-such-host.invalid/v1")
    with pytest.raises(ServiceFault, match="name does not resolve: look at OPENAI_BASE_URL"):
        provider.embed([TEXT], SMALL)


def test_silence_is_a_time_out_that_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = provider_at(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=0.1)
        with pytest.raises(ServiceFault, match=r"did not answer within OPENAI_TIMEOUT"):
            provider.embed([TEXT], SMALL)


@pytest.mark.parametrize("code", [KEY, TEXT, "x" * 80, 17, ["a"], "a\nb", {"a": {"b": []}}, None, True])
def test_a_code_that_is_no_plain_name_is_not_passed_on(code: object) -> None:
    failure = failure_of(reply(500, {"error": {"code": code, "type": code, "message": "m"}}))

    assert str(failure) in ("openai answered 500", "openai answered 500 (a, a)")


def test_no_status_fails_a_task_for_good() -> None:
    for status in (301, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 418, 422, 429, 500, 503, 529):
        assert isinstance(failure_of(reply(status)), RetryableError), status


def example(status: int, message: str = "", *, service: str = "openai", **facts: Any) -> Refusal:
    return Refusal(service, status, SMALL, message=message, sent=("format",), **facts)


EXAMPLES = [
    example(429, "usage limit", service="ollama"),
    example(402, "subscription", service="ollama"),
    example(402, is_json=True),
    example(429, "no capacity", tier="flex"),
    example(429, "request too large"),
    example(429),
    example(400, "the input length exceeds the context length"),
    example(500, "invalid json schema in format"),
    example(400, 'option "num_ctx" must be of type integer', service="ollama"),
    example(500, "failed to encode response: json: unsupported value: nan"),
    example(400, 'do embedding request: post "http://127.0.0.1:40213/embedding": eof'),
    example(500, "this model does not support embeddings"),
    example(404, "model 'model' not found", service="ollama"),
    example(404, "model 'model' not found"),
    example(400, param="input"),
    example(403, "bearer"),
    example(403, page=True),
    example(403),
    example(404),
    example(400, "no words of ours"),
    example(500),
]


def test_no_row_stands_behind_one_that_takes_its_place() -> None:
    reached = [next(row.name for row in TABLE if row.fits(example)) for example in EXAMPLES]

    assert reached == [row.name for row in TABLE]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("failed to encode response: json: unsupported value: NaN", InputRefused),
        ("Out of range float values are not JSON compliant", InputRefused),
        ("this model does not support embeddings", ModelGone),
        ("The model is overloaded, try again", ServiceFault),
        ("litellm.InternalServerError: nothing that anybody knows", ServiceFault),
    ],
)
def test_what_a_server_behind_a_gateway_says_is_understood_whatever_it_is(message: str, kind: type[AitpError]) -> None:
    assert type(failure_of(reply(500, error(message=message)))) is kind


def test_a_model_s_name_says_nothing_of_the_request() -> None:
    answer = reply(400, {"detail": "base64-dimensions:v1 is out of sorts"})
    with scripted(answer) as server, pytest.raises(RequestRefused) as raised:
        provider_at(server.url, embedding_dimensions=8).embed([TEXT], "base64-dimensions:v1")

    assert raised.value.parameter == ""
