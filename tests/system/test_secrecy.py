"""A marked key goes through a gateway's life, good and bad, and is then looked for in everything that came out of it.

It may be in one place alone: the Authorization header of what goes upstream.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from tests.support.api import JOBS
from tests.support.gateway import Gateway, failed_start, gateway_environment, gateway_process
from tests.support.processes import run, sandbox_process
from tests.support.upstreams import Echo, Received, echo_upstream

MARK = "CANARYq7Zx81mW"
# With characters that URLs, JSON and base64 write differently.
KEY = f"sk-{MARK}/+=~%&"
CREATE = {"endpoint": "/v1/ocr", "model": "m", "requests": [{"body": {"text": "hello"}}]}


def forms() -> list[bytes]:
    """How the mark could be written: plainly, in hexadecimal, in base64 at each of its three alignments."""
    mark = MARK.encode()
    # The first and the last characters depend on the neighbours; what is between does not.
    aligned = [base64.b64encode(b"x" * n + mark)[4 if n else 0 : -4] for n in range(3)]
    return [mark, mark.hex().encode(), mark.hex().upper().encode(), *aligned]


def found(content: bytes | str) -> list[bytes]:
    """The forms that are in the content."""
    data = content.encode() if isinstance(content, str) else content
    return [form for form in forms() if form in data]


def spoken(answer: requests.Response) -> bytes:
    """An answer as one text: its headers and body."""
    return str(dict(answer.headers)).encode() + answer.content


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        quote(KEY),
        json.dumps({"a": f"Bearer {KEY}"}),
        KEY.encode().hex(),
        *(base64.b64encode(f"{prefix}{KEY}".encode()) for prefix in ("", "Bearer ", "u:", "ab")),
    ],
)
def test_the_search_finds_the_key_in_each_form(written: bytes | str) -> None:
    assert found(written)


# How an upstream could give our key back, by the value of the filter `echo` of the list that provokes it.
ECHOES = {
    "plain": lambda key: (400, "application/json", json.dumps({"detail": f"bad key {key}"})),
    "header": lambda key: (500, "application/json", json.dumps({"message": f"Bearer {key}"})),
    "member name": lambda key: (422, "application/json", json.dumps({"detail": [{key: key}]})),
    "refused": lambda key: (401, "application/json", json.dumps({"detail": f"not {key}"})),
    "slashes escaped": lambda key: (
        (400, "application/json", json.dumps({"detail": key}).replace("/", "\\/"))
    ),
    "characters escaped": lambda key: (400, "application/json", escaped(key)),
    "page": lambda key: (502, "text/html", f"<p>{key}</p>"),
    "broken": lambda key: (400, "application/json", f'{{"detail": "{key}'),
    "success that is none": lambda key: (200, "text/plain", key),
}


def escaped(key: str) -> str:
    """A JSON error body in which every character of the key is written by its number."""
    numbers = "".join(f"\\u{ord(character):04x}" for character in key)
    return f'{{"detail": "{numbers}"}}'


def answer_with_the_key(request: Received) -> tuple[int, str, bytes]:
    """The upstream's answer: the key, in the form that the request asks for."""
    key = request.headers["Authorization"].removeprefix("Bearer ")
    name = request.target.partition("echo=")[2].replace("%20", " ")
    status, content_type, content = ECHOES[name](key)
    return status, content_type, content.encode()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for everything that a gateway may write: its home, temporary files, store and audit log."""
    return tmp_path_factory.mktemp("home")


def chatty(home: Path) -> dict[str, str]:
    """Settings that make a gateway write as much as it can, into `home`."""
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        "GATEWAY_STORE": str(home / "store.sqlite3"),
        "GATEWAY_AUDIT_LOG": str(home / "audit.jsonl"),
        "GATEWAY_LOG_LEVEL": "debug",
    }


def assert_silent(gateway: Gateway, answers: list[requests.Response], home: Path) -> None:
    """The key is in no answer, log line, written file or command line of a gateway."""
    processes = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    group = [folder for folder in processes if in_group(int(folder.name), gateway)]
    places = {
        **{f"answer to {a.request.url}": spoken(a) for a in answers},
        **{str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()},
        **{f"{folder}/cmdline": (folder / "cmdline").read_bytes() for folder in group},
    }
    assert len(group) >= 2
    gateway.end()
    places["log"] = "".join(gateway.output).encode()
    assert {place: found(content) for place, content in places.items() if found(content)} == {}


def in_group(pid: int, gateway: Gateway) -> bool:
    try:
        return os.getpgid(pid) == gateway.process.pid
    except ProcessLookupError:
        return False


def test_the_life_of_a_job_keeps_the_key(home: Path) -> None:
    with sandbox_process(speed=100) as sandbox:
        options = {"key": KEY, "log_level": "debug", "anew": True, **chatty(home)}
        with gateway_process(f"{sandbox.url}/v1", **options) as gateway:
            created = gateway.post(JOBS, CREATE, headers={"Idempotency-Key": '"canary-1"'})
            path = f"{JOBS}/{created.json()['id']}"
            answers = [
                created,
                gateway.post(JOBS, CREATE, headers={"Idempotency-Key": '"canary-1"'}),
                gateway.get(JOBS),
                gateway.get(f"{path}?inline=true"),
                gateway.post(f"{path}/cancel"),
                gateway.post(JOBS, {"endpoint": 1, "unknown": [KEY[:2]]}),
                gateway.get("/nowhere"),
                *(gateway.get(page) for page in ("/livez", "/readyz", "/metrics", "/openapi.json")),
            ]
            assert [answer.status_code for answer in answers[:5]] == [200] * 5
            assert_silent(gateway, answers, home)
        assert found(json.dumps(sandbox.ledger())) == []
    assert found("".join(sandbox.output)) == []


def test_an_upstream_that_gives_the_key_back_does_not_spread_it(home: Path) -> None:
    with echo_upstream() as echo:
        echo.answer = answer_with_the_key
        options = {"key": KEY, "log_level": "debug", **chatty(home)}
        with gateway_process(f"http://127.0.0.1:{echo.port}/v1", **options) as gateway:
            answers = [gateway.get(f"{JOBS}?echo={quote(name)}") for name in ECHOES]
            assert all(answer.status_code >= 400 for answer in answers)
            assert_silent(gateway, answers, home)
        assert_only_in_authorization(echo)


def assert_only_in_authorization(echo: Echo) -> None:
    """The upstream got the key, and nowhere but in the one header."""
    assert echo.received
    for request in echo.received:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        others = [value for name, value in request.headers.items() if name != "Authorization"]
        assert found(f"{request.target} {others}".encode() + request.body) == []


def test_failures_of_the_connection_keep_the_key(home: Path, certificate: tuple[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with echo_upstream(context) as echo:
        untrusted = f"https://localhost:{echo.port}/v1"
        for upstream in (untrusted, "http://127.0.0.1:9/v1"):
            options = {"key": KEY, "log_level": "debug", **chatty(home)}
            with gateway_process(upstream, **options) as gateway:
                answers = [gateway.get(JOBS), gateway.post(JOBS, CREATE)]
                assert [answer.status_code for answer in answers] == [502, 502]
                assert_silent(gateway, answers, home)
        assert echo.received == []


@pytest.mark.parametrize(
    "settings",
    [
        {"MISTRAL_AI_API_KEY": f" {KEY}"},
        {"MISTRAL_AI_API_KEY": f"{KEY}\n"},
        {"MISTRAL_AI_API_KEY": f"'{KEY}'"},
        {"MISTRAL_AI_API_KEY": f'"{KEY}"'},
        {"MISTRAL_AI_API_KEY": f"{KEY}\tx"},
        {"MISTRAL_AI_API_KEY": f"Bearer {KEY}"},
        {"MISTRAL_AI_API_KEY": f"{KEY}é"},
        {"MISTRAL_AI_API_KEY": KEY, "MISTRAL_AI_API_KEY_FILE": "/nowhere"},
        {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": f"https://{MARK}@localhost/v1"},
        {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_TIMEOUT": "soon"},
        {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_OPENAPI": "/nowhere"},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_a_start_that_fails_keeps_the_key(settings: dict[str, str], home: Path) -> None:
    """One line names the variable that is wrong, and shows no key that was pasted wrongly."""
    ended = failed_start(gateway_environment(key=None, **{**chatty(home), **settings}))
    assert (ended.returncode, len(ended.stdout.splitlines())) == (2, 1)
    assert [*settings][-1] in ended.stdout or "/nowhere" in ended.stdout
    assert found(ended.stdout) == []


@pytest.mark.parametrize("command", ["config", "doctor"])
def test_the_commands_that_show_the_settings_keep_the_key(command: str, home: Path) -> None:
    environ = gateway_environment("http://127.0.0.1:9/v1", KEY, **chatty(home))
    ended = run([sys.executable, "-m", "service", command], environ)
    assert "MISTRAL_AI_API_KEY" in ended.stdout
    assert found(ended.stdout + ended.stderr) == []
