"""The ollama package's client, over the HTTP client that the OpenAI client is made of.

One HTTP stack in a process: one to bound, to warm up, and to judge the errors of. The package's own constructor would
also follow redirects, wait for ever, and read OLLAMA_HOST and OLLAMA_API_KEY behind the settings' back. Importing the
package makes such a client, which opens no socket and is never used.
"""

from __future__ import annotations

from typing import Any

import httpx2
import ollama
import orjson
from pydantic import SecretStr

from aitp.providers.client import BodyBound, http_client
from aitp.tls import Trust


class OllamaClient(ollama.Client):
    """Its errors are those of httpx2, but for `ollama.ResponseError`: an error inside a 200 stream."""

    def __init__(
        self,
        base_url: str,
        bound: BodyBound,
        timeout_seconds: float,
        trust: Trust,
        api_key: SecretStr | None = None,
    ) -> None:
        # Deliberately not super(): see above. This is all that it would set.
        self._client = self._http = http_client(bound, timeout_seconds, trust)
        self._http.base_url = httpx2.URL(base_url)
        self._http.headers["Accept-Encoding"] = "identity"
        if api_key is not None:
            self._http.headers["Authorization"] = f"Bearer {api_key.get_secret_value()}"
        self._http.event_hooks = {"response": [bound, _read_error]}

    def post(self, path: str, request: dict[str, Any]) -> object:
        """The answer's JSON. The package would build a model of each number's list, at five times the CPU."""
        response = self._http.post(path, content=orjson.dumps(request), headers={"Content-Type": "application/json"})
        return orjson.loads(response.raise_for_status().content)

    def hang_up(self) -> None:
        """Close its connections."""
        self._http.close()


def _read_error(response: httpx2.Response) -> None:
    """A streamed error's body is gone once the stream is closed, and its words decide what it means."""
    if not response.is_success:
        response.read()
