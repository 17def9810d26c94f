"""What relays and workers count is what a scrape says, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from aitp.metrics import (
    BUCKETS,
    CHILD_EXITS,
    DELIVERIES,
    LATE_ANSWERS,
    LIMIT_EXCEEDED,
    TASK_ATTEMPTS,
    CallStatus,
    Metrics,
    known_models,
    open_metrics,
    prepare_directory,
)
from aitp.tasks import Ending, TaskStatus, TaskType
from tests.metrics.reading import scrape, value

MODEL = "text-embedding-3-small"


def count_everything_once(metrics: Metrics) -> None:
    metrics.task_ended(TaskType.TEXT_EMBEDDING, TaskStatus.SUCCEEDED, 0.3)
    metrics.count(TASK_ATTEMPTS, TaskType.TEXT_EMBEDDING, Ending.RETRY)
    metrics.api_request("/api/ai-tasks/pending", "GET", 200, 0.02)
    metrics.api_request("/api/ai-tasks/:id", "PATCH", None, 30)
    metrics.count(DELIVERIES, "delivered")
    metrics.auth(success=True)
    metrics.provider_request("openai", MODEL, CallStatus.SUCCESS, 0.4)
    metrics.tokens("openai", MODEL, "prompt_tokens", 17)
    metrics.provider_request("ollama", "nomic-embed-text", CallStatus.ERROR, 5)
    metrics.tokens("ollama", "nomic-embed-text", "total_tokens", 5)
    metrics.count(LIMIT_EXCEEDED, "day")
    metrics.count(CHILD_EXITS, "worker", "deadline")
    metrics.ledger_waited(0.25)
    metrics.ledger_lost()
    metrics.count(LATE_ANSWERS, amount=3)


def test_each_call_moves_its_series_and_labels_are_plain_words(tmp_path: Path) -> None:
    count_everything_once(open_metrics(tmp_path, 101))

    series = scrape(tmp_path)

    assert value(series, "ai_tasks_processed_total", task_type="text_embedding", status="succeeded") == 1
    assert value(series, "ai_task_processing_duration_seconds_count", task_type="text_embedding") == 1
    assert value(series, "aitp_task_attempts_total", task_type="text_embedding", ending="retry") == 1
    get = {"endpoint": "/api/ai-tasks/pending", "method": "GET"}
    patch = {"endpoint": "/api/ai-tasks/:id", "method": "PATCH"}
    assert value(series, "api_requests_total", **get, status_code="200") == 1
    assert value(series, "api_requests_total", **patch, status_code="none") == 1
    assert value(series, "api_request_duration_seconds_sum", **patch) == 30
    assert value(series, "aitp_deliveries_total", outcome="delivered") == 1
    assert value(series, "oauth_token_requests_total", status="success") == 1
    assert value(series, "openai_requests_total", model=MODEL, status="success") == 1
    assert value(series, "openai_tokens_used_total", model=MODEL, type="prompt_tokens") == 17
    assert value(series, "openai_request_duration_seconds_sum", model=MODEL) == 0.4
    assert value(series, "ollama_requests_total", model="nomic-embed-text", status="error") == 1
    assert value(series, "ollama_tokens_used_total", model="nomic-embed-text", type="total_tokens") == 5
    assert value(series, "rate_limit_exceeded_total", period="day") == 1
    assert value(series, "aitp_child_exits_total", role="worker", cause="deadline") == 1
    assert value(series, "aitp_ledger_queue_seconds_bucket", le="0.25") == 1
    assert value(series, "aitp_ledger_lost_total") == 1
    assert value(series, "aitp_late_answers_total") == 3


def test_a_duration_falls_into_its_bucket_and_all_above(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path, 101)
    for seconds in (0.01, 0.3, 90, 1000, -5):  # on a bound, inside, last but one, beyond all, a clock that stepped back
        metrics.task_ended("text_embedding", TaskStatus.SUCCEEDED, seconds)

    series = scrape(tmp_path)

    def upto(bound: str) -> float | None:
        name = "ai_task_processing_duration_seconds_bucket"
        return value(series, name, task_type="text_embedding", le=bound)

    assert [upto(b) for b in ("0.01", "0.25", "0.5", "60.0", "120.0", "+Inf")] == [2, 2, 3, 3, 4, 5]
    assert value(series, "ai_task_processing_duration_seconds_sum", task_type="text_embedding") == pytest.approx(
        1090.31
    )


def test_a_histogram_shows_every_bucket_from_its_first_value_on(tmp_path: Path) -> None:
    open_metrics(tmp_path, 101).task_ended("text_embedding", TaskStatus.SUCCEEDED, 100)

    bounds = [labels for name, labels in scrape(tmp_path) if name == "ai_task_processing_duration_seconds_bucket"]

    assert len(bounds) == len(BUCKETS)


def test_slots_are_summed(tmp_path: Path) -> None:
    for slot in (1, 101, 102):
        open_metrics(tmp_path, slot).auth(success=False)

    assert value(scrape(tmp_path), "oauth_token_requests_total", status="failure") == 3


def test_a_restarted_slot_counts_on_and_a_thousand_restarts_add_no_file(tmp_path: Path) -> None:
    for _ in range(1000):
        metrics = open_metrics(tmp_path, 101)
        metrics.task_ended("text_embedding", TaskStatus.SUCCEEDED, 1)
        metrics.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter_101.db", "histogram_101.db"]
    series = scrape(tmp_path)
    assert value(series, "ai_tasks_processed_total", task_type="text_embedding", status="succeeded") == 1000
    assert value(series, "ai_task_processing_duration_seconds_count", task_type="text_embedding") == 1000


def test_what_a_killed_process_has_counted_stays(tmp_path: Path) -> None:
    for _ in range(10):
        child = os.fork()
        if child == 0:
            count_everything_once(open_metrics(tmp_path, 101))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)

    assert value(scrape(tmp_path), "oauth_token_requests_total", status="success") == 10
    assert len(list(tmp_path.iterdir())) == 2


def test_two_slots_open_in_one_process_do_not_mix(tmp_path: Path) -> None:
    first, second = open_metrics(tmp_path / "..", 1), open_metrics(tmp_path, 2)
    first.close()
    (tmp_path / ".." / "counter_1.db").unlink()
    (tmp_path / ".." / "histogram_1.db").unlink()

    second.auth(success=True)
    first.auth(success=True)

    assert value(scrape(tmp_path), "oauth_token_requests_total", status="success") == 1


def test_unknown_values_share_one_label(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path, 101, models=("mine",))
    for n in range(50):
        metrics.provider_request("openai", f"model-{n}", CallStatus.SUCCESS, 1)
        metrics.tokens("openai", "mine", f"type-{n}", 1)
        metrics.api_request(f"/api/ai-tasks/{n:024x}", "PATCH", 200, 1)
        metrics.api_request("/api/ai-tasks/pending", "GET", 1000 + n, 1)

    series = scrape(tmp_path)

    assert value(series, "openai_requests_total", model="other", status="success") == 50
    assert value(series, "openai_tokens_used_total", model="mine", type="other") == 50
    assert value(series, "api_requests_total", endpoint="other", method="other", status_code="200") == 50
    assert sum(name == "api_requests_total" for name, _ in series) == 2


def test_the_mock_counts_as_openai_and_a_stranger_not_at_all(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path, 101)
    metrics.provider_request("mock", MODEL, CallStatus.SUCCESS, 1)
    metrics.provider_request("elsewhere", MODEL, CallStatus.SUCCESS, 1)
    metrics.tokens("elsewhere", MODEL, "prompt_tokens", 1)

    assert [key for key in scrape(tmp_path) if key[0] == "openai_requests_total"] == [
        ("openai_requests_total", frozenset({("model", MODEL), ("status", "success")}))
    ]


def test_an_unusable_directory_costs_counts_and_nothing_else(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path / "missing", 101)

    count_everything_once(metrics)
    metrics.close()

    assert list(tmp_path.iterdir()) == []


def test_counting_after_close_is_ignored(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path, 101)
    metrics.close()

    count_everything_once(metrics)
    metrics.close()


def test_all_known_label_sets_are_there_with_zero_before_anything_happens(tmp_path: Path) -> None:
    prepare_directory(tmp_path / "metrics", known_models(["mine", MODEL]))

    series = scrape(tmp_path / "metrics")

    assert set(series.values()) == {0}
    for status in TaskStatus:
        assert value(series, "ai_tasks_processed_total", task_type="text_embedding", status=status.value) == 0
    for period in ("minute", "hour", "day", "week", "month"):
        assert value(series, "rate_limit_exceeded_total", period=period) == 0
    for model in ("mine", MODEL, "other"):
        for call in CallStatus:
            assert value(series, "openai_requests_total", model=model, status=call.value) == 0
            assert value(series, "ollama_requests_total", model=model, status=call.value) == 0
    for code in ("200", "403", "429", "503", "none"):
        assert value(series, "api_requests_total", endpoint="/api/ai-tasks/:id", method="PATCH", status_code=code) == 0


def test_no_series_appears_late(tmp_path: Path) -> None:
    prepare_directory(tmp_path)
    before = scrape(tmp_path).keys()

    count_everything_once(open_metrics(tmp_path, 101))

    assert scrape(tmp_path).keys() == before


def test_preparing_again_beside_a_live_process_loses_nothing(tmp_path: Path) -> None:
    prepare_directory(tmp_path)
    metrics = open_metrics(tmp_path, 101)
    metrics.auth(success=True)

    prepare_directory(tmp_path, models=("a new one",))
    metrics.auth(success=True)

    series = scrape(tmp_path)
    assert value(series, "oauth_token_requests_total", status="success") == 2
    assert value(series, "openai_requests_total", model="a new one", status="success") == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_the_directory_is_the_owners_alone(tmp_path: Path) -> None:
    prepare_directory(tmp_path / "run" / "metrics")
    open_metrics(tmp_path / "run" / "metrics", 101)

    assert (tmp_path / "run" / "metrics").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "run" / "metrics").iterdir())
