"""OpenAI's errors and headers, as the demo's provider answers them."""

from __future__ import annotations

from aitp.demo.wire import Response, json_response

HEADERS = (
    ("openai-version", "2020-10-01"),
    ("openai-processing-ms", "5"),
    ("x-ratelimit-limit-requests", "5000"),
    ("x-ratelimit-limit-tokens", "5000000"),
    ("x-ratelimit-remaining-requests", "4999"),
    ("x-ratelimit-remaining-tokens", "4999000"),
    ("x-ratelimit-reset-requests", "12ms"),
    ("x-ratelimit-reset-tokens", "1ms"),
)
ERRORS = {  # status: (type, code, message)
    400: ("invalid_request_error", None, "Bad request."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided. You can find your API key online."),
    403: (
        "invalid_request_error",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    404: ("invalid_request_error", "unknown_url", "Unknown request URL. Please check the URL for typos."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again later."),
    503: ("server_error", "overloaded", "The engine is currently overloaded, please try again later"),
}
QUOTA = ("insufficient_quota", "insufficient_quota", "You exceeded your current quota, please check your plan.")


class Refusal(Exception):
    """A request that is answered with an error of its own."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def response(self) -> Response:
        """The answer."""
        return error_response(self.status, "invalid_request_error", self.code, str(self), self.param)


def error_response(
    status: int,
    kind: str,
    code: str | None,
    message: str,
    param: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return json_response(status, body, (*HEADERS, *headers))
