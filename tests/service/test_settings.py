"""Settings: what is refused at start, and that no message shows a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from environment import SettingsError
from service.config import Settings
from tests.support.api import JOBS, changed_document, credentials

KEY = "sk-CANARY-abcdef"


def load(**environ: str) -> Settings:
    return Settings.from_env({"MISTRAL_AI_API_KEY": KEY, **environ})


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**environ)
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_the_capability_gives_port_and_upstream() -> None:
    settings = load()
    assert (settings.port, {*settings.base_urls.values()}) == (8080, {"https://api.mistral.ai/v1"})


def test_a_missing_key_is_refused_with_its_name_and_the_way_without_one() -> None:
    with pytest.raises(SettingsError, match=r"MISTRAL_AI_API_KEY is not set.*make run"):
        Settings.from_env({})


RECOVERIES = [
    ({"kind": "guess", "operation": "listbatchjobs"}, "createbatchjob: there is no kind 'guess'"),
    (
        {"kind": "batch-job", "operation": "listjobs"},
        "createbatchjob: there is no operation 'listjobs'",
    ),
    ({"kind": "batch-job"}, "operation"),
]


@pytest.mark.parametrize(("recovery", "said"), RECOVERIES, ids=lambda value: str(value))
def test_a_recovery_of_what_is_not_there_is_refused_by_name(
    recovery: dict[str, str], said: str, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["paths"][JOBS]["post"]["x-recovery"] = recovery

    document = changed_document(tmp_path, change)
    refused = refusal(GATEWAY_OPENAPI=str(document))
    assert refused.startswith(str(document)) and said in refused
    assert len(refused.splitlines()) == 1


@pytest.mark.parametrize("name", ["MISTRAL_AI_API_KEY", "MISTRAL_API_KEY"])
def test_the_key_is_found_under_either_name(name: str) -> None:
    assert credentials(Settings.from_env({name: KEY})) == {"token": KEY}


def test_the_capabilitys_name_wins() -> None:
    assert credentials(load(MISTRAL_API_KEY="other")) == {"token": KEY}


def test_the_key_is_read_from_a_file_with_a_line_end(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert credentials(Settings.from_env({"MISTRAL_AI_API_KEY_FILE": str(file)})) == {"token": KEY}


def test_a_key_and_a_key_file_are_not_both_taken() -> None:
    assert "both set" in refusal(MISTRAL_AI_API_KEY_FILE="/nowhere")


def test_a_key_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SettingsError, match=r"MISTRAL_AI_API_KEY_FILE \(/nowhere\) cannot be read"):
        Settings.from_env({"MISTRAL_AI_API_KEY_FILE": "/nowhere"})


def test_a_key_in_the_place_of_its_file_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"MISTRAL_AI_API_KEY_FILE": KEY})
    assert f"({len(KEY)} characters, not shown) cannot be read" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "form",
    [
        f"Bearer {KEY}",
        f"bearer {KEY}",
        f" {KEY}",
        f"{KEY}\n",
        f'"{KEY}"',
        f"'{KEY}'",
        f"{KEY}\r\nX: 1",
        f"{KEY}é",
        "sk a",
    ],
)
def test_a_key_in_a_wrong_form_is_refused_without_showing_it(form: str) -> None:
    assert "characters, not shown" in refusal(MISTRAL_AI_API_KEY=form)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "https://user:pass@host",
        "https://",
        "https://host/?a=b",
        "http://api.example.org/v1",
        "https://{site}/v1",
        "https://[::1",
        "https://host:99999",
        "https://a host",
        "https://host/\r\nX: 1",
        "nonsense",
    ],
)
def test_an_upstream_that_cannot_be_used_is_refused(url: str) -> None:
    assert "GATEWAY_UPSTREAM_URL" in refusal(GATEWAY_UPSTREAM_URL=url)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8081/v1", "http://localhost:1/v1/", "http://[::1]:1", "https://example.org"],
)
def test_loopback_may_be_plain_and_the_rest_must_be_encrypted(url: str) -> None:
    assert {*load(GATEWAY_UPSTREAM_URL=url).base_urls.values()} == {url.rstrip("/")}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_THREADS", "many"),
        ("GATEWAY_THREADS", "0"),
        ("GATEWAY_ROOT_PATH", "batch"),
        ("GATEWAY_ROOT_PATH", "/batch/"),
        ("GATEWAY_ROOT_PATH", "/a/../b"),
        ("GATEWAY_ROOT_PATH", "https://example.org/batch"),
        ("GATEWAY_PORT", "65536"),
        ("GATEWAY_TIMEOUT", "nan"),
        ("GATEWAY_TIMEOUT", "-1"),
        ("GATEWAY_READ_TIMEOUT", "46"),
        ("GATEWAY_SETTLE", "1"),
        ("GATEWAY_WAIT_LIMIT", "51"),
        ("GATEWAY_WAIT_LIMIT", "-1"),
        ("GATEWAY_WAIT_LIMIT", "2.5"),
        ("GATEWAY_WAITERS", "-1"),
        ("GATEWAY_WAITERS", "0"),
        ("GATEWAY_TRACE_UPSTREAM", "maybe"),
        ("GATEWAY_MAX_BODY", "1e9"),
        ("GATEWAY_STORE", "/tmp"),
        ("GATEWAY_STORE", "postgres://db/keys"),
        ("GATEWAY_STORE", "redis://db:port/0"),
        ("GATEWAY_KEY_EXPIRY", "1e9"),
        ("GATEWAY_LOG_LEVEL", "loud"),
        ("GATEWAY_LOG_FORMAT", "xml"),
        ("GATEWAY_DOCS", "perhaps"),
        ("GATEWAY_CA_FILE", "/nowhere.pem"),
        ("GATEWAY_CA_FILE", __file__),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name: str, value: str) -> None:
    assert name in refusal(**{name: value})


def test_no_secret_is_in_the_representation() -> None:
    assert KEY not in repr(load())
    assert "hunter2" not in repr(load(GATEWAY_STORE="redis://:hunter2@db/0"))


def test_no_part_of_a_password_is_told_when_a_store_s_url_cannot_be_read() -> None:
    assert "ter2" not in refusal(GATEWAY_STORE="redis://:hun/ter2@db/0")


@pytest.mark.parametrize("level", ["WARNING", "Warning", "warning"])
def test_a_word_may_be_written_in_any_case(level: str) -> None:
    assert load(GATEWAY_LOG_LEVEL=level).log_level == "warning"


def test_a_document_that_was_not_derived_is_refused(tmp_path: Path) -> None:
    document = tmp_path / "openapi.yaml"
    document.write_text("openapi: 3.0.3\n")
    assert "not a document derived from a capability" in refusal(GATEWAY_OPENAPI=str(document))
