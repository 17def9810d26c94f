"""One call to Jev: what is sent, and what each answer becomes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aitp_jev.answers import Choice, Decision, Noul, Question, Score
from aitp_jev.provider import JevProvider, look
from aitp_jev.settings import QUESTIONS, questions, rules, settings_of
from jev_stub import KEY, Jev

from aitp import errors
from aitp.providers import build
from aitp.settings import Settings, load_settings

MODEL = "jev-1.13.0"
SETTINGS = {
    "API_BASE_URL": "http://127.0.0.1:1",
    "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/token",
    "OAUTH2_CLIENT_ID": "aitp",
    "OAUTH2_CLIENT_SECRET": "secret",
    "PROCESSING_MODE": "ollama",
    "AITP_ENV_FILE": "",
}
AREA: Mapping[str, Question] = {"area": Choice("Which?", ("Saúde", "Política"))}
HARM: Mapping[str, Question] = {
    "harm": Score("How much?", ("none", "some", "more", "most")),
    "contestable": Noul("Is it?"),
    "checkable": Noul("Can it?"),
}
SHARES = {"0": 0.1, "1": 0.1, "2": 0.8, "3": 0.0}


def settings(**more: str) -> Settings:
    return load_settings({**SETTINGS, "TYPESAFE_API_KEY": KEY, **more})


def decide(jev: Jev, questions: Mapping[str, Question] = AREA, model: str = MODEL, **more: str) -> Decision:
    return JevProvider(settings(JEV_BASE_URL=jev.url, **more)).decide({"text": "Que dia!"}, questions, model=model)


def refusal(jev: Jev, questions: Mapping[str, Question] = AREA, model: str = MODEL, **more: str) -> errors.AitpError:
    with pytest.raises(errors.AitpError) as caught:
        decide(jev, questions, model, **more)
    assert "Que dia" not in str(caught.value)
    assert KEY not in str(caught.value)
    return caught.value


# What is sent


def test_a_choice_is_a_map_of_options_and_a_score_a_list_of_levels(jev: Jev) -> None:
    decide(jev, AREA)
    decide(jev, HARM)

    first, second = jev.requests
    assert first.body == {
        "state": {"text": "Que dia!"},
        "model": MODEL,
        "questions": {
            "area": {"type": "choice", "instructions": "Which?", "criteria": {"Saúde": None, "Política": None}}
        },
    }
    assert {name: question["type"] for name, question in second.body["questions"].items()} == {
        "harm": "score",
        "contestable": "noul",
        "checkable": "noul",
    }
    assert first.headers["Authorization"] == f"Bearer {KEY}"
    assert first.headers["User-Agent"].startswith("aitp/")


def test_an_answer_has_choice_shares_usage_and_the_model_that_answered(jev: Jev) -> None:
    area = decide(jev, AREA, "jev-latest")
    harm = decide(jev, HARM)

    assert (area.answers["area"].choice, area.model, area.usage.total_tokens) == ("Saúde", MODEL, 132)
    assert harm.answers["harm"].shares == (0.05, 0.10, 0.80, 0.05)
    assert (harm.answers["contestable"].yes, harm.answers["checkable"].yes, harm.mock) == (0.7, 0.9, False)


# What an answer becomes


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 529, 599])
def test_what_passes_is_the_services_fault(jev: Jev, status: int) -> None:
    jev.order(status=status, headers={"Retry-After": "17"})
    found = refusal(jev)

    assert type(found) is errors.ServiceFault
    assert found.wait == 17.0


def test_so_is_an_answer_that_does_not_come(jev: Jev) -> None:
    jev.order(delay=1.5)
    assert isinstance(refusal(jev, JEV_TIMEOUT="0.3"), errors.ServiceFault)
    jev.order(trickle=True)
    assert isinstance(refusal(jev, JEV_TIMEOUT="0.4"), errors.ServiceFault)
    jev.order(cut=True)
    assert isinstance(refusal(jev), errors.ServiceFault)


def test_and_nobody_who_answers() -> None:
    with pytest.raises(errors.NotConnected, match="jev could not be connected to"):
        JevProvider(settings(JEV_BASE_URL="http://127.0.0.1:1")).decide({"text": "x"}, AREA, model=MODEL)


@pytest.mark.parametrize(
    ("headers", "seconds", "told"),
    [
        ({}, 5.0, False),
        ({"Retry-After": "20"}, 20.0, True),
        ({"Retry-After": "20", "retry-after-ms": "1500"}, 1.5, True),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2.0, True),
        ({"Retry-After": "999999"}, 3600.0, True),
    ],
)
def test_429_is_a_pause_of_the_whole_provider(jev: Jev, headers: dict[str, str], seconds: float, told: bool) -> None:
    jev.order(status=429, headers=headers)
    found = refusal(jev)

    assert isinstance(found, errors.CooldownRequired)
    assert (found.seconds, found.model, found.told) == (seconds, None, told)


def test_a_retry_after_may_be_a_date(jev: Jev) -> None:
    jev.order(status=429, headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)})
    found = refusal(jev)

    assert isinstance(found, errors.CooldownRequired)
    assert 25 < found.seconds <= 31


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_its_setting(jev: Jev, status: int) -> None:
    jev.order(status=status)
    found = refusal(jev)

    assert isinstance(found, errors.CredentialsRefused)
    assert "TYPESAFE_API_KEY" in str(found)


def listed(*places: list[Any], message: str = "Que dia!") -> dict[str, Any]:
    return {"detail": [{"loc": place, "msg": message, "type": "value_error"} for place in places]}


GONE, WAITS, FAILED = errors.ModelGone, errors.CredentialsRefused, errors.NonRetryableError


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"detail": "Not Found"}, GONE),
        (400, {"error": f"model {MODEL} was retired"}, GONE),
        (400, {"error": {"message": "unknown Model: JEV-1.13.0"}}, GONE),
        (400, {"message": "this model does not exist"}, GONE),
        (422, listed(["body", "model"]), GONE),
        (422, listed(["body", "state", "text"]), FAILED),
        (422, listed(["body", "state"], ["body", "questions", "area", "criteria", "Que dia!"]), FAILED),
        (422, listed(["body", "state"], ["body", "questions", "harm", "type"]), WAITS),
        (422, listed(["body", "questions", "harm", "criteria"]), WAITS),
        (422, listed(["body", "questions"]), WAITS),
        (400, {"error": "the state is too long"}, FAILED),
        (400, {"detail": {"message": "state exceeds 6000 characters"}}, FAILED),
        (422, {"detail": "maximum input length is 8192 tokens"}, FAILED),
        (400, {"error": "bad request"}, WAITS),
        (400, None, WAITS),
        (402, {"error": "no credit"}, WAITS),
        (302, {"error": "elsewhere"}, WAITS),
    ],
)
def test_what_a_refusal_means(jev: Jev, status: int, body: Any, kind: type[errors.AitpError]) -> None:
    jev.order(status=status, body=body if body is not None else b"<html>")
    found = refusal(jev)

    assert type(found) is kind
    if isinstance(found, errors.ModelGone):
        assert MODEL in str(found)


def test_the_places_that_a_refusal_of_all_requests_names_are_told_without_a_word_of_a_task(jev: Jev) -> None:
    jev.order(status=422, body=listed(["body", "questions", "harm", "type"], ["body", "Que dia!"]))

    assert "(body.questions.harm.type, unnamed)" in str(refusal(jev))


def test_a_model_that_is_not_known_is_gone(jev: Jev) -> None:
    assert isinstance(refusal(jev, model="jev-0.1"), errors.ModelGone)


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        (AREA, {"area": None}),
        (AREA, {"area": {"type": "noul", "noul": 1.0}}),
        (AREA, {"area": {"type": "choice", "choice": "Esporte"}}),
        (AREA, {"area": {"type": "choice", "choice": ["Saúde"]}}),
        (AREA, {"area": {"type": "choice", "choice": "Saúde", "probabilities": {"Saúde": 1.5}}}),
        (HARM, {"checkable": {"type": "noul", "noul": 1.2}}),
        (HARM, {"checkable": {"type": "noul", "noul": -0.1}}),
        (HARM, {"checkable": {"type": "noul", "noul": True}}),
        (HARM, {"checkable": {"type": "noul"}}),
        (HARM, {"harm": {"type": "score", "score": 1, "probabilities": {"0": 1.0, "1": 0.0, "2": 0.0}}}),
        (HARM, {"harm": {"type": "score", "score": 1, "probabilities": dict.fromkeys("0123", 0.0)}}),
        (HARM, {"harm": {"type": "score", "score": 1, "probabilities": {**SHARES, "3": "much"}}}),
        (HARM, {"harm": {"type": "score", "score": 1}}),
        (HARM, {"harm": {"type": "score", "score": 1, "probabilities": {**SHARES, "1": float("nan")}}}),
        (HARM, {"harm": {"type": "score", "score": 1, "probabilities": {**SHARES, "1": float("inf")}}}),
    ],
)
def test_an_answer_that_is_none_is_useless_and_the_service_well(
    jev: Jev, asked: Mapping[str, Question], answers: dict[str, Any]
) -> None:
    jev.order(answers=answers)

    assert isinstance(refusal(jev, asked), errors.UselessAnswer)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"answers": []}', b"{}", b'{"answers": {"area": 7}}']
)
def test_so_is_what_is_no_answer_at_all(jev: Jev, body: bytes) -> None:
    jev.order(body=body)

    assert isinstance(refusal(jev), errors.UselessAnswer)


def test_further_fields_and_answers_of_other_types_are_passed_over(jev: Jev) -> None:
    jev.order(
        answers={"mood": {"type": "vector", "vector": [1, 2]}, "area": {"type": "choice", "choice": "Política", "x": 1}}
    )

    assert decide(jev).answers["area"].choice == "Política"


# What check asks


def test_check_asks_for_the_models_which_costs_nothing(jev: Jev) -> None:
    fine = look(settings(JEV_BASE_URL=jev.url), 5.0)
    refused = look(settings(JEV_BASE_URL=jev.url, TYPESAFE_API_KEY="another"), 5.0)
    away = look(settings(JEV_BASE_URL="http://127.0.0.1:1"), 5.0)
    unset = look(load_settings(SETTINGS), 5.0)

    assert (fine.severity, fine.sentence) == ("ok", f"{jev.url} takes the key, and has jev-1.13.0, jev-latest")
    assert [each.severity for each in (refused, away, unset)] == ["fault", "fault", "note"]
    assert "TYPESAFE_API_KEY" in refused.advice
    assert jev.requests == []


# What it is not for


def test_open_questions_and_vectors_are_refused_for_good() -> None:
    provider = JevProvider(settings())

    with pytest.raises(errors.NonRetryableError, match="jev-x answers closed questions only"):
        provider.ask(None, "jev-x")  # type: ignore[arg-type]
    with pytest.raises(errors.NonRetryableError, match="closed questions only"):
        provider.embed(["x"], "jev-x")


# Mock


def test_behind_the_placeholder_answers_are_invented_the_same_every_time() -> None:
    provider = JevProvider(settings(TYPESAFE_API_KEY="your_typesafe_api_key_here"))
    first, again = (provider.decide({"text": "x"}, HARM, model=MODEL) for _ in range(2))
    other = provider.decide({"text": "y"}, HARM, model=MODEL)

    assert dataclasses.astuple(first) == dataclasses.astuple(again)
    assert first.answers != other.answers
    assert (first.model, first.mock) == ("jev-mock", True)
    assert sum(first.answers["harm"].shares) == pytest.approx(1.0)
    assert provider.decide({"text": "x"}, AREA, model=MODEL).answers["area"].choice in ("Saúde", "Política")


# Settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"JEV_FALLBACK_MODEL": "Jev-2"}, "JEV_FALLBACK_MODEL=Jev-2: Jev cannot stand in for itself"),
        ({"JEV_BASE_URL": "http://jev.example.org"}, "JEV_BASE_URL=http://jev.example.org: "),
        ({"JEV_BACKOFF_SECONDS": "soon"}, "JEV_BACKOFF_SECONDS=soon: "),
        ({"JEV_BACKOFF_SECONDS": "[]"}, "JEV_BACKOFF_SECONDS=[]: "),
        ({"JEV_TIMEOUT": "0"}, "JEV_TIMEOUT=0: "),
        ({"JEV_FALLBACK_MAX_PER_DAY": "-1"}, "JEV_FALLBACK_MAX_PER_DAY=-1: "),
        ({"JEV_REACH_THRESHOLDS": "[[10, 2]]"}, "JEV_REACH_THRESHOLDS=[[10, 2]]: "),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        rules(settings(**wrong))

    assert said in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_rules_are_what_the_settings_say(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(KEY)
    by_file = {**SETTINGS, "TYPESAFE_API_KEY_FILE": str(secret)}
    usual, unset = rules(load_settings(by_file)), rules(load_settings(SETTINGS))

    assert usual.waits == (5, 10, 20, 40, 60)
    assert (usual.lacks, usual.most_per_day, usual.timeout) == ("", 50, 30.0)
    assert usual.stand_in == load_settings(SETTINGS).default_chat_model
    assert unset.lacks == "TYPESAFE_API_KEY is not set"
    assert rules(settings(JEV_BASE_URL="https://other.example")).scope != usual.scope
    assert settings_of(settings(JEV_REACH_THRESHOLDS="[[5, 1], [0, -1]]")).jev_reach_thresholds == ((5, 1), (0, -1))


def test_the_key_is_kept_from_whoever_needs_it_not() -> None:
    whole = settings(OPENAI_API_KEY="sk-1")

    def key_of(of: Settings) -> str:
        return settings_of(of).typesafe_api_key.get_secret_value()  # type: ignore[union-attr]

    assert key_of(whole.keeping(others=True)) == KEY  # workers
    assert key_of(whole.keeping("LEDGER_URL")) == "withheld-from-this-process"
    assert KEY not in whole.given.values()
    for text in (repr(whole), str(whole), whole.model_dump_json()):
        assert KEY not in text
    assert whole.fingerprint("jev") != settings(TYPESAFE_API_KEY="another").fingerprint("jev")
    assert KEY not in whole.fingerprint("jev")


def test_a_placeholder_is_no_secret_and_tells_everybody_that_answers_are_invented() -> None:
    mocked = settings(TYPESAFE_API_KEY="your_typesafe_api_key_here")

    for seen in (mocked, mocked.keeping(), mocked.keeping(others=True)):
        assert seen.mocks == ("TYPESAFE_API_KEY",)
    assert rules(mocked).stand_in == ""  # what is invented never fails


def test_openai_is_there_to_stand_in_whatever_the_mode_is() -> None:
    assert sorted(build(settings(OPENAI_API_KEY="sk-1"))) == ["jev", "ollama", "openai"]
    assert sorted(build(settings(OPENAI_API_KEY="sk-1", JEV_FALLBACK_MAX_PER_DAY="0"))) == ["jev", "ollama"]
    assert sorted(build(settings(OPENAI_API_KEY="your_openai_api_key_here"))) == ["jev", "ollama"]


def test_questions_may_be_an_operators_own_and_are_another_scope_then(tmp_path: Path) -> None:
    own = questions(None)
    text = QUESTIONS.read_text()
    (tmp_path / "jev.json").write_text(text.replace('"version": "1"', '"version": "1a"'))
    theirs = questions(tmp_path)

    assert (own.version, theirs.version) == ("1", "1a")
    assert own.digest != theirs.digest
    (tmp_path / "jev.json").write_text("{}")
    with pytest.raises(errors.ConfigurationError, match=r"jev\.json: cannot be used for Jev's questions"):
        questions(tmp_path)
