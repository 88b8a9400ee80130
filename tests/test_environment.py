"""What people are shown of settings: what they recognise, and no secret."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import environment
from environment import SettingReport


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (".run/gateway.sqlite3", ".run/gateway.sqlite3"),
        ("redis://db", "redis://db"),
        ("redis://db:1/0", "redis://db:1/0"),
        ("rediss://user:CANARY@db:1/0", "rediss://db:1/0"),
        ("redis://:CANARY@[::1]:1/0", "redis://[::1]:1/0"),
        ("redis://:p@ss-CANARY@db:1/0", "redis://db:1/0"),
        ("redis://db:1/0?password=CANARY", "redis://db:1/0"),
        ("redis://db:1/0#CANARY", "redis://db:1/0"),
        ("redis://:ab/cd-CANARY@db/0", "***"),
        ("redis://user:12/CANARY@db/0", "***"),
        ("redis://user:12/CANARY", "***"),
        ("redis://user:12?CANARY@db/0", "***"),
        ("redis://user:12#CANARY@db/0", "***"),
        ("redis://[CANARY@db/0", "***"),
        ("redis:/:CANARY@db/0", "***"),
        ("redis://", "***"),
    ],
)
def test_a_store_is_shown_without_what_may_be_a_password(location: str, expected: str) -> None:
    assert environment.redact_store(location) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.example/v1", "https://api.example/v1"),
        ("https://a.example,https://b.example", "https://a.example,https://b.example"),
        ("https://user:p@ss/w@api.example/v1", "https://***@api.example/v1"),
        ("https://api.example/keys?token=CANARY\n&x=y", "https://api.example/keys?***"),
        ("100/minute", "100/minute"),
    ],
)
def test_a_url_is_shown_without_user_and_query(text: str, expected: str) -> None:
    assert environment.redact_url(text) == expected


def test_what_is_no_path_may_be_a_secret_in_the_wrong_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").touch()
    monkeypatch.chdir(tmp_path)
    assert [
        environment.redact_path(text) for text in ("key", "/run/none", "sk-CANARY", "x" * 300)
    ] == [
        "key",
        "/run/none",
        "9 characters, not shown",
        "300 characters, not shown",
    ]


def test_a_row_tells_value_and_source_of_a_setting_and_of_a_secret_its_length() -> None:
    @dataclass
    class Settings:
        names: tuple[str, ...] = field(default=("a", "b"), metadata={"env": "X_NAMES"})
        wait: float = field(default=5.0, metadata={"env": "X_WAIT"})
        on: bool = field(default=True, metadata={"env": "X_ON"})
        token: str = field(default="", metadata={"env": "X_TOKEN"}, repr=False)
        store: str = field(default="", metadata={"env": "X_STORE"}, repr=False)
        made: Any = None

    environ = {"X_TOKEN": "CANARY", "X_STORE": "redis://:CANARY@db", "X_WAIT": " "}
    assert environment.report(Settings, environ, {"X_STORE": environment.redact_store}) == [
        SettingReport("X_NAMES", "a, b", "default"),
        SettingReport("X_WAIT", "5", "default"),
        SettingReport("X_ON", "on", "default"),
        SettingReport("X_TOKEN", "6 characters, not shown", "environment"),
        SettingReport("X_STORE", "redis://db", "environment"),
    ]
