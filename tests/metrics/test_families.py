"""The names, types and labels that dashboards and alerts are built on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aitp.errors import (
    CooldownRequired,
    CredentialsRefused,
    DeadlineExceeded,
    InputRefused,
    ModelGone,
    ModelRefused,
    RequestRefused,
    ServiceFault,
    UselessAnswer,
)
from aitp.metrics import FAMILIES, CallStatus

# To the letter: other people's dashboards depend on these.
SEED = {
    "ai_tasks_processed_total": ("counter", ("task_type", "status")),
    "ai_task_processing_duration_seconds": ("histogram", ("task_type",)),
    "ai_tasks_in_flight": ("gauge", ()),
    "api_requests_total": ("counter", ("endpoint", "method", "status_code")),
    "api_request_duration_seconds": ("histogram", ("endpoint", "method")),
    "openai_requests_total": ("counter", ("model", "status")),
    "openai_tokens_used_total": ("counter", ("model", "type")),
    "ollama_requests_total": ("counter", ("model", "status")),
    "ollama_tokens_used_total": ("counter", ("model", "type")),
    "rate_limit_current_usage": ("gauge", ("period",)),
    "rate_limit_max_allowed": ("gauge", ("period",)),
    "rate_limit_remaining": ("gauge", ("period",)),
    "ai_provider_fallbacks_total": ("counter", ("from", "to", "reason")),
    "rate_limit_exceeded_total": ("counter", ("period",)),
    "circuit_breaker_state": ("gauge", ("service",)),
}
ADDED = {
    "rate_limit_room_timestamp_seconds": ("gauge", ("period",)),
    "rate_limit_window_end_timestamp_seconds": ("gauge", ("period",)),
    "aitp_cost_total": ("counter", ("provider", "model", "currency")),
    "aitp_budget_exceeded_total": ("counter", ("period",)),
    "aitp_budget_spent": ("gauge", ("period", "currency")),
    "aitp_budget_reserved": ("gauge", ("period", "currency")),
    "aitp_budget_max": ("gauge", ("period", "currency")),
    "aitp_budget_remaining": ("gauge", ("period", "currency")),
    "aitp_budget_room_timestamp_seconds": ("gauge", ("period", "currency")),
    "aitp_budget_window_end_timestamp_seconds": ("gauge", ("period", "currency")),
    "aitp_unpriced_models": ("gauge", ()),
    "aitp_ready": ("gauge", ()),
    "aitp_polling_interval_seconds": ("gauge", ()),
    "aitp_task_attempts_total": ("counter", ("task_type", "ending")),
    "ai_results_reused_total": ("counter", ("task_type",)),
    "aitp_deliveries_total": ("counter", ("outcome",)),
    "oauth_token_requests_total": ("counter", ("status",)),
    "aitp_child_exits_total": ("counter", ("role", "cause")),
    "aitp_ledger_queue_seconds": ("histogram", ()),
    "aitp_ledger_lost_total": ("counter", ()),
    "aitp_late_answers_total": ("counter", ()),
    "openai_request_duration_seconds": ("histogram", ("model",)),
    "ollama_request_duration_seconds": ("histogram", ("model",)),
    "aitp_breaker_failures": ("gauge", ("service",)),
    "aitp_cooldowns": ("gauge", ("service",)),
    "aitp_quarantines": ("gauge", ("service",)),
    "aitp_queue_tasks": ("gauge", ("state",)),
    "aitp_queue_oldest_age_seconds": ("gauge", ()),
    "aitp_outbox_results": ("gauge", ()),
    "aitp_outbox_oldest_age_seconds": ("gauge", ()),
    "aitp_dead_letters": ("gauge", ()),
    "aitp_unreadable_documents": ("gauge", ()),
    "aitp_last_poll_timestamp_seconds": ("gauge", ()),
    "aitp_disk_free_bytes": ("gauge", ()),
    "aitp_paused": ("gauge", ()),
    "aitp_hosts": ("gauge", ("state",)),
    "aitp_host_info": ("gauge", ("host", "number", "version")),
    "aitp_paused_processors": ("gauge", ()),
    "aitp_ledger_readable": ("gauge", ()),
    "ollama_model_present": ("gauge", ("model",)),
    "ollama_model_pull_bytes": ("gauge", ("model", "kind")),
    "aitp_model_shutdown_timestamp_seconds": ("gauge", ("model",)),
    "aitp_processes": ("gauge", ("role", "state")),
    "aitp_master_running": ("gauge", ()),
    "aitp_deadlines_overrun": ("gauge", ()),
    "aitp_mock": ("gauge", ()),
    "aitp_build_info": ("gauge", ("version", "revision", "python")),
    "aitp_scrape_failures_total": ("counter", ()),
}


def test_every_metric_has_exactly_the_name_type_and_labels_listed_here() -> None:
    declared = {family.name: (family.type, family.labels) for family in FAMILIES.values()}

    assert declared == SEED | ADDED


def test_every_metric_has_a_help_text_that_is_a_sentence() -> None:
    assert [family.name for family in FAMILIES.values() if not family.help.endswith(".")] == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "success"),
        (InputRefused("400"), "refused"),
        (RequestRefused("400"), "refused"),
        (ModelGone("openai", "404", model="m"), "refused"),
        (ModelRefused("declined"), "refused"),
        (UselessAnswer("empty"), "error"),
        (CredentialsRefused("openai", "401"), "unauthorized"),
        (CooldownRequired("openai", "429", seconds=1, model=None), "rate_limited"),
        (DeadlineExceeded("openai", "60 s are over"), "timeout"),
        (ServiceFault("openai", "503"), "error"),
        (ZeroDivisionError(), "error"),
    ],
)
def test_what_a_call_raised_decides_its_status(error: BaseException | None, status: str) -> None:
    assert CallStatus.of(error).value == status


def test_importing_the_module_opens_no_file_and_starts_no_thread() -> None:
    program = """
import os, sys
def seen(): return (sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")))
before = seen()
import aitp.metrics
assert seen() == before, (before, seen())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
