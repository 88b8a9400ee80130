"""Settings of every process: how they are read, and that a report shows what people recognise, and no secret."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import environment
from environment import SettingReport, SettingsError, read_settings, setting


@dataclass(frozen=True)
class Example:
    """A setting of each kind."""

    names: tuple[str, ...] = setting("X_NAMES", ("a", "b"), "")
    wait: float = setting("X_WAIT", 5.0, "")
    count: int = setting("X_COUNT", 3, "")
    seed: int = setting("X_SEED", -1, "")
    on: bool = setting("X_ON", True, "")
    level: str = setting("X_LEVEL", "info", "", choices=("info", "warning"))
    status: int = setting("X_STATUS", 404, "", choices=(404, 422))
    token: str = setting("X_TOKEN", "", "", secret=True)
    store: str = setting("X_STORE", "", "", secret=True)
    made: Any = None


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("X_NAMES", "c, d,,", {"names": ("c", "d")}),
        ("X_WAIT", "0.5", {"wait": 0.5}),
        ("X_COUNT", " 0 ", {"count": 0}),
        ("X_SEED", "-1", {"seed": -1}),
        ("X_ON", "off", {"on": False}),
        ("X_ON", "YES", {"on": True}),
        ("X_LEVEL", "Warning", {"level": "warning"}),
        ("X_STATUS", "422", {"status": 422}),
        ("X_TOKEN", " ", {}),
        ("X_OTHER", "x", {}),
    ],
)
def test_a_variable_is_read_in_the_type_of_its_default(
    variable: str, text: str, expected: dict[str, object]
) -> None:
    assert read_settings(Example, {variable: text}) == expected


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("X_WAIT", "soon"),
        ("X_WAIT", "nan"),
        ("X_WAIT", "inf"),
        ("X_COUNT", "1.5"),
        ("X_COUNT", "-1"),
        ("X_SEED", "-2"),
        ("X_ON", "maybe"),
        ("X_LEVEL", "loud"),
        ("X_STATUS", "500"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_its_variable_s_name(
    variable: str, text: str
) -> None:
    with pytest.raises(SettingsError, match=variable):
        read_settings(Example, {variable: text})


def test_the_process_s_environment_is_read_when_no_other_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("X_COUNT", "7")
    assert read_settings(Example) == {"count": 7}


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
        ("https://api.example/keys#token=CANARY", "https://api.example/keys#***"),
        ("https://user:CANARY\n@api.example", "https://***@api.example"),
        ("https:user:CANARY@api.example", "***@api.example"),
        ("https:/user:CANARY@api.example", "***@api.example"),
        ("https:\\\\user:CANARY@api.example", "https:\\\\***@api.example"),
        ("user:CANARY@api.example", "***@api.example"),
        ("/run/tokens@host", "/run/tokens@host"),
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


def test_a_report_has_value_and_source_of_a_setting_and_of_a_secret_its_length() -> None:
    environ = {"X_TOKEN": "CANARY", "X_STORE": "redis://:CANARY@db", "X_WAIT": " "}
    reports = environment.report(Example, environ, {"X_STORE": environment.redact_store})
    assert [row for row in reports if row.name not in ("X_COUNT", "X_SEED")] == [
        SettingReport("X_NAMES", "a, b", "default"),
        SettingReport("X_WAIT", "5", "default"),
        SettingReport("X_ON", "on", "default"),
        SettingReport("X_LEVEL", "info", "default"),
        SettingReport("X_STATUS", "404", "default"),
        SettingReport("X_TOKEN", "6 characters, not shown", "environment"),
        SettingReport("X_STORE", "redis://db", "environment"),
    ]
