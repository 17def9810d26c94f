"""The world: three servers wired together, in this process or in one of their own; and what it is filled with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import requests

from aitp.demo.control import summary
from aitp.demo.faults import Fault, FaultKind
from aitp.demo.sentences import ENGLISH, PORTUGUESE, SENTENCES, tasks, text_of
from aitp.demo.world import World
from aitp.demo.world_process import WorldProcess
from tests.demo.talking import ask_token, basic, patch, session
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def world() -> Iterator[WorldProcess]:
    """A world of ten tasks in another process."""
    with WorldProcess({"tasks": 10}) as other:
        yield other


def token_of(world: WorldProcess) -> str:
    settings = world.environment
    headers = basic(settings["OAUTH2_CLIENT_ID"], settings["OAUTH2_CLIENT_SECRET"])
    form = {"grant_type": "client_credentials", "scope": "read write"}
    return str(session().post(settings["OAUTH2_TOKEN_URL"], data=form, headers=headers).json()["access_token"])


def embed(settings: dict[str, str], text: str) -> list[float]:
    with openai.OpenAI(
        api_key=settings["OPENAI_API_KEY"], base_url=settings["OPENAI_BASE_URL"], max_retries=0
    ) as client:
        answer = client.embeddings.create(input=[text], model="text-embedding-3-small", dimensions=1024)
        return answer.data[0].embedding


def test_a_task_can_be_worked_through_all_three_servers(world: WorldProcess) -> None:
    token, settings = token_of(world), world.environment
    [task_id] = world.add_tasks(1)
    listed = session(token).get(settings["API_BASE_URL"] + "/api/ai-tasks/pending").json()
    task = next(each for each in listed if each["_id"] == task_id)
    body = {"state": "succeeded", "result": embed(settings, text_of(task))}
    session(token).patch(f"{settings['API_BASE_URL']}/api/ai-tasks/{task_id}", json=body)
    wait_until(lambda: world.deliveries())
    seen = world.summary()

    assert world.states() == seen.states
    assert seen.states["succeeded"] == 1
    assert (seen.texts_bought, seen.bought_again, seen.wrong_results) == (1, 0, 0)
    assert [delivery.task_id for delivery in world.deliveries()] == [task_id]
    assert [purchase.text for purchase in world.purchases()] == [text_of(task)]
    assert world.issues()[-1].scope == "read write"


def test_orders_reach_the_servers() -> None:
    with WorldProcess({"tasks": 10}) as world:
        token, url = token_of(world), world.environment["API_BASE_URL"] + "/api/ai-tasks/pending"
        world.add_fault("task_api", Fault(status=502, times=1))
        assert session(token).get(url).status_code == 502
        world.add_fault("task_api", Fault(kind=FaultKind.DROP))
        with pytest.raises(requests.ConnectionError):
            session(token).get(url)
        world.clear_faults()
        world.set("task_api", honour_limit=True)
        assert len(session(token).get(url + "?limit=3").json()) == 3
        world.revoke_tokens()
        assert session(token).get(url).status_code == 403
        world.down("task_api", 0.2)
        with pytest.raises(requests.ConnectionError):
            session(token).get(url)
        wait_until(lambda: world.exchanges("task_api"))


def test_an_order_that_cannot_be_read_is_refused_with_its_reason(world: WorldProcess) -> None:
    with pytest.raises(ValueError, match="latency_minutes"):
        world.set("task_api", latency_minutes=3)


def test_a_world_ends_with_the_process_that_started_it() -> None:
    script = "import aitp.demo.world_process as w, time; p = w.WorldProcess(); print(p.pid, flush=True); time.sleep(60)"
    project = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=project) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes())


def test_a_wrong_result_and_a_second_payment_are_seen() -> None:
    with World({"tasks": 2}) as world:
        token = ask_token(world.authorization).json()["access_token"]
        first, second = world.task_api.ids()
        text = text_of(world.task_api.document(first))
        vector = embed(world.environment(), text)
        patch(world.task_api, token, first, "succeeded", vector)
        patch(world.task_api, token, second, "succeeded", vector)
        wait_until(lambda: len(world.task_api.deliveries) == 2)
        embed(world.environment(), text)
        wait_until(lambda: len(world.openai_api.purchases) == 2)
        seen = summary(world)

    assert seen.wrong_results == 1
    assert (seen.texts_bought, seen.bought_again) == (1, 1)
    assert (seen.bought_after_answer, seen.bought_after_delivery) == (1, 1)


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ["a", "list"]}, {"content": {"text": None}}])
@pytest.mark.parametrize("state", ["failed", "succeeded"])
def test_a_task_without_a_text_is_counted_like_others(state: str, content: dict[str, object]) -> None:
    with World() as world:
        token = ask_token(world.authorization).json()["access_token"]
        [task_id] = world.task_api.add([{"type": "text_embedding", **content}])
        patch(world.task_api, token, task_id, state, [0.5, 0.5])
        wait_until(lambda: world.task_api.deliveries)
        seen = summary(world)

    assert seen.states == {state: 1}
    assert seen.wrong_results == (state == "succeeded")


def test_the_sentences_are_two_hundred_in_two_languages() -> None:
    assert len(PORTUGUESE) == len(ENGLISH) == 100
    assert len(set(SENTENCES)) == 200
    assert all(sentence.endswith(".") and len(sentence) > 20 for sentence in SENTENCES)


def test_tasks_differ_in_text_and_id_and_repeat_with_their_seed() -> None:
    some = list(tasks(1000, seed=7))

    assert some == list(tasks(1000, seed=7)) != list(tasks(1000, seed=8))
    assert len({text_of(task) for task in some}) == len({task["_id"] for task in some}) == 1000
    assert {type(task["content"]) for task in some} == {str, dict}
    assert text_of(next(tasks(1, start=1000))) not in {text_of(task) for task in some}
