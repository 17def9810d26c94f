"""A client for the demo's servers as plain as can be: `requests` without retries, redirects or proxies."""

from __future__ import annotations

import base64
from urllib.parse import quote_plus

import requests

from aitp.demo.authorization import AuthorizationServer
from aitp.demo.task_api import TaskApi


def session(token: str = "") -> requests.Session:
    """A session with keep-alive; bearer of `token` if one is given."""
    talker = requests.Session()
    talker.trust_env = False
    if token:
        talker.headers["Authorization"] = f"Bearer {token}"
    return talker


def basic(client_id: str, secret: str) -> dict[str, str]:
    """The Authorization header of RFC 6749 §2.3.1."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def ask_token(server: AuthorizationServer, **form: str) -> requests.Response:
    """Ask for a token as a client should."""
    fields = {"grant_type": "client_credentials", "scope": "read write"} | form
    return session().post(server.token_url, data=fields, headers=basic(server.client_id, server.client_secret))


def pending(api: TaskApi, token: str, limit: int = 10) -> requests.Response:
    """The list."""
    return session(token).get(f"{api.url}/api/ai-tasks/pending", params={"limit": limit})


def patch(api: TaskApi, token: str, task_id: str, state: str, result: object = None) -> requests.Response:
    """One PATCH; redirects are not followed."""
    body = {"state": state, "result": result}
    return session(token).patch(f"{api.url}/api/ai-tasks/{task_id}", json=body, allow_redirects=False)
