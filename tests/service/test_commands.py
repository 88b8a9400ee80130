"""The operator's commands, run as an operator runs them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from mcp_bridge.config import Settings as BridgeSettings
from service import config
from service.__main__ import main, moment
from service.config import Settings
from service.sqlite_store import SQLiteStore
from tests.idempotency.redis_server import redis_server
from tests.support import processes
from tests.support.gateway import command, gateway_environment
from tests.support.processes import ROOT, sandbox_process, start, stop, wait_for_line

KEY = "sk-CANARY-commands"


def run(*words: str, tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    nowhere = {"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9/v1"}
    store = {"GATEWAY_STORE": str(tmp_path / "keys.sqlite3")}
    own = {"PATH": "/usr/bin:/bin", **nowhere, **store, **environ}
    done = processes.run([sys.executable, "-m", "service", *words], own)
    assert KEY not in done.stdout + done.stderr
    return done


def test_config_names_every_setting_with_its_origin_and_no_secret(tmp_path: Path) -> None:
    environ = {
        "MISTRAL_AI_API_KEY": KEY,
        "GATEWAY_PORT": "1234",
        "GATEWAY_STORE": "redis://:hunter2@db:1/0",
    }
    done = run("config", tmp_path=tmp_path, **environ)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert lines["GATEWAY_PORT"].split()[1:] == ["1234", "(environment)"]
    assert lines["GATEWAY_TIMEOUT"].split()[1:] == ["45", "(default)"]
    assert "hunter2" not in done.stdout
    assert "not shown" in lines["MISTRAL_AI_API_KEY"]


@pytest.mark.parametrize("command", ["config", "doctor"])
@pytest.mark.parametrize(
    "environ",
    [
        {"GATEWAY_STORE": f"redis://:p@ss-{KEY}@127.0.0.1:1/0"},
        {"GATEWAY_STORE": f"redis://127.0.0.1:1/0?password={KEY}"},
        {"GATEWAY_STORE": f"redis://:ab/cd-{KEY}@127.0.0.1:1/0"},
        {"GATEWAY_UPSTREAM_URL": f"https://user:ab/{KEY}@host"},
        {"GATEWAY_JWKS_URL": f"https://host/keys?token={KEY}"},
        {"MISTRAL_AI_API_KEY": "", "MISTRAL_AI_API_KEY_FILE": KEY},
    ],
)
def test_no_command_shows_a_secret_however_it_is_written(
    command: str, environ: dict[str, str], tmp_path: Path
) -> None:
    upstream = {"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    run(
        command, tmp_path=tmp_path, **{"MISTRAL_AI_API_KEY": KEY, **upstream, **environ}
    )  # looks itself


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{KEY}@127.0.0.1:9/v1",
        f"http://127.0.0.1:9/v1?api_key={KEY}",
        f"http://127.0.0.1:9/v1#{KEY}",
        f"http://user:1/{KEY}@127.0.0.1:9/v1",
        f"user:{KEY}@127.0.0.1:9/v1",
        f"user:{KEY}=@127.0.0.1:9/v1",
        f"{KEY}=x@127.0.0.1",
        f"ftp://user:{KEY}@127.0.0.1:9/v1",
        f"https://user:{KEY}@{{tenant}}.example/v1",
    ],
)
def test_doctor_shows_nothing_of_a_url_that_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GATEWAY_UPSTREAM_URL", url)
    monkeypatch.setenv("MISTRAL_AI_API_KEY", "sk-another")
    monkeypatch.setenv("GATEWAY_STORE", str(tmp_path / "keys.sqlite3"))
    assert main(["doctor", "--ask-upstream"]) == 1
    shown = "".join(capfd.readouterr())
    assert re.search("(?m)^wrong  settings: .*GATEWAY_UPSTREAM_URL", shown)
    assert KEY not in shown


def test_doctor_finds_nothing_wrong_with_a_gateway_that_can_run(tmp_path: Path) -> None:
    with sandbox_process() as sandbox:
        environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": f"{sandbox.url}/v1"}
        done = run("doctor", "--ask-upstream", tmp_path=tmp_path, **environ)
        assert (done.returncode, "wrong" in done.stdout) == (0, False), done.stdout
        assert [entry["method"] for entry in sandbox.ledger()] == ["GET"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "MISTRAL_AI_API_KEY is not set"),
        ({"MISTRAL_AI_API_KEY": f"Bearer {KEY}"}, "starts with 'Bearer'"),
        ({"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}, "upstream"),
        (
            {
                "MISTRAL_AI_API_KEY": KEY,
                "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9",
                "GATEWAY_STORE": "/proc/keys",
            },
            "store",
        ),
    ],
)
def test_doctor_names_what_is_wrong(environ: dict[str, str], expected: str, tmp_path: Path) -> None:
    done = run("doctor", tmp_path=tmp_path, **environ)
    assert done.returncode == 1
    assert any(
        line.startswith("wrong") and expected in line
        for line in (done.stdout + done.stderr).splitlines()
    )


def test_doctor_says_that_there_is_no_key_and_looks_at_the_rest(tmp_path: Path) -> None:
    with sandbox_process() as sandbox:
        done = run("doctor", tmp_path=tmp_path, GATEWAY_UPSTREAM_URL=f"{sandbox.url}/v1")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith(("ok ", "wrong "))] == [
        "ok     settings",
        "wrong  key",
        "ok     store",
        "ok     audit log",
        "ok     upstream",
    ]
    assert done.returncode == 1
    assert any(line.split()[:3] == ["MISTRAL_AI_API_KEY", "(not", "set)"] for line in lines)
    assert f"at 127.0.0.1:8080 by {os.cpu_count()} worker" in done.stdout


def findings(output: str) -> list[str]:
    """What doctor says after the settings: `verdict  name: text`."""
    return output.partition("\n\n")[2].splitlines()


def test_doctor_names_every_fault_and_goes_on(tmp_path: Path) -> None:
    environ = {
        "GATEWAY_TOKEN_FILE": "CANARY",
        "GATEWAY_TAG_JOBS": "off",
        "GATEWAY_TIMEOUT": "soon",
        "GATEWAY_PORT": "99999",
        "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9/v1",
    }
    done = run("doctor", tmp_path=tmp_path, **environ)
    wrong = [line for line in findings(done.stdout) if line.startswith("wrong ")]
    assert [line.split(": ")[1].split()[0] for line in wrong] == [
        "GATEWAY_TAG_JOBS",
        "GATEWAY_TOKEN_FILE",
        "GATEWAY_TIMEOUT",
        "GATEWAY_PORT",
        "MISTRAL_AI_API_KEY",
        "http://127.0.0.1:9/v1",
    ]
    assert "GATEWAY_TOKENS_FILE is" in done.stdout
    assert "CANARY" not in done.stdout
    assert done.returncode == 1


def test_doctor_changes_nothing(tmp_path: Path) -> None:
    places = {"GATEWAY_STORE": "a/b/keys.sqlite3", "GATEWAY_AUDIT_LOG": "audit.log"}
    environ = {name: str(tmp_path / place) for name, place in places.items()}
    done = run("doctor", tmp_path=tmp_path, **environ)
    assert "ok     store" in done.stdout and "ok     audit log" in done.stdout
    assert list(tmp_path.iterdir()) == []
    store = SQLiteStore(Path(environ["GATEWAY_STORE"]))
    store.check()
    store._close()
    before = [(path, path.stat()) for path in sorted(tmp_path.rglob("*"))]
    assert "keys.sqlite3 can be written" in run("doctor", tmp_path=tmp_path, **environ).stdout
    after = [(path, path.stat()) for path in sorted(tmp_path.rglob("*"))]
    assert [(p, s.st_mtime_ns) for p, s in after] == [(p, s.st_mtime_ns) for p, s in before]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"not a database at all", "not a database"), (b"SQLite format 3\0" + b"\xff" * 84, "newer")],
)
def test_doctor_knows_a_store_that_the_service_would_refuse(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "keys.sqlite3").write_bytes(content)
    lines = findings(run("doctor", tmp_path=tmp_path).stdout)
    assert any(line.startswith("wrong  store:") and said in line for line in lines)


@pytest.mark.parametrize("place", ["none/audit.log", "."])
def test_doctor_knows_an_audit_log_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    path = str(tmp_path / place)
    lines = findings(run("doctor", tmp_path=tmp_path, GATEWAY_AUDIT_LOG=path).stdout)
    assert any(line.startswith(f"wrong  audit log: {path} cannot be written") for line in lines)


def test_neither_doctor_nor_a_start_waits_for_the_other_end_of_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = findings(run("doctor", tmp_path=tmp_path, GATEWAY_AUDIT_LOG=str(pipe)).stdout)
    assert any(line.startswith("wrong  audit log") and "pipe" in line for line in lines)
    environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    code = "from service import config; config.start_logging(config.Settings.from_env())"
    environment = {"PYTHONPATH": ROOT, **environ, "GATEWAY_AUDIT_LOG": str(pipe)}
    start = processes.run([sys.executable, "-c", code], environment)
    assert (start.returncode, "nobody reads" in start.stderr) == (2, True)
    for name in ("GATEWAY_CA_FILE", "GATEWAY_OPENAPI", "GATEWAY_TOKENS_FILE"):
        done = run("doctor", tmp_path=tmp_path, **environ | {name: str(pipe)})
        assert "it is no plain file" in done.stdout, name


def test_doctor_names_a_redis_that_cannot_be_reached_without_its_password(
    closed_port: int, tmp_path: Path
) -> None:
    url = f"redis://:{KEY}@127.0.0.1:{closed_port}/3"
    lines = findings(run("doctor", tmp_path=tmp_path, GATEWAY_STORE=url).stdout)
    shown = f"redis://127.0.0.1:{closed_port}/3"
    assert any(line.startswith(f"wrong  store: {shown} cannot be written") for line in lines)


def test_doctor_counts_the_tokens_and_says_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    past = {"expires": "2020-01-01T00:00:00Z"}
    for number, more in enumerate([{}, {}, {}, past]):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        entry = {"name": f"caller-{number}", "sha256": digest, "scopes": ["jobs:read"], **more}
        with file.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")
    done = run("doctor", tmp_path=tmp_path, GATEWAY_TOKENS_FILE=str(file))
    assert f"ok     tokens: 4, in {file}; 1 expired" in findings(done.stdout)


def test_doctor_names_the_file_of_a_key_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    lines = findings(
        run("doctor", tmp_path=tmp_path, MISTRAL_AI_API_KEY_FILE=str(tmp_path / "key")).stdout
    )
    assert any(f"({tmp_path}/key) is empty" in line for line in lines)


def test_doctor_doubts_a_gateway_that_asks_for_no_tokens(tmp_path: Path) -> None:
    lines = findings(run("doctor", tmp_path=tmp_path).stdout)
    assert any(line.startswith("doubt  tokens: none") for line in lines)


@pytest.mark.parametrize("path", ["", "/", "/v2", "/v1/batch", "/v1/v1"])
def test_doctor_tells_a_wrong_path_of_the_upstream_from_a_wrong_key(
    path: str, tmp_path: Path
) -> None:
    with sandbox_process() as sandbox:
        environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": f"{sandbox.url}{path}"}
        done = run("doctor", "--ask-upstream", tmp_path=tmp_path, **environ)
    lines = [line for line in findings(done.stdout) if "GATEWAY_UPSTREAM_URL" in line]
    assert [line.split(":")[0] for line in lines] == ["doubt  upstream", "wrong  upstream"]
    assert "404" in lines[1] and "key" in lines[1]
    assert done.returncode == 1


def test_doctor_says_which_upstream_refuses_the_key(tmp_path: Path) -> None:
    with sandbox_process(revoked_keys=KEY) as sandbox:
        environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": f"{sandbox.url}/v1"}
        done = run("doctor", "--ask-upstream", tmp_path=tmp_path, **environ)
    wrong = [line for line in findings(done.stdout) if line.startswith("wrong ")]
    assert len(wrong) == 1 and sandbox.url in wrong[0] and "key" in wrong[0]


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/mistral/v1"])
def test_doctor_does_not_doubt_a_path_that_ends_as_the_capability_s(
    path: str, tmp_path: Path
) -> None:
    with sandbox_process() as sandbox:
        done = run("doctor", tmp_path=tmp_path, GATEWAY_UPSTREAM_URL=f"{sandbox.url}{path}")
    assert "ok     upstream" in done.stdout and "doubt  upstream" not in done.stdout


def test_doctor_doubts_a_redis_that_may_forget(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        client = redis.Redis.from_url(url)
        with client:
            lines = findings(run("doctor", tmp_path=tmp_path, GATEWAY_STORE=url).stdout)
            assert any("appendonly is off" in line for line in lines)
            client.config_set("appendonly", "yes")
            for policy in ("allkeys-lru", "volatile-ttl", "noeviction"):
                client.config_set("maxmemory-policy", policy)
                lines = findings(run("doctor", tmp_path=tmp_path, GATEWAY_STORE=url).stdout)
                doubts = [line for line in lines if line.startswith("doubt  store")]
                assert bool(doubts) == (policy != "noeviction")
                assert all(policy in doubt for doubt in doubts)
            client.config_set("maxmemory-policy", "noeviction")
            client.acl_setuser(
                "limited", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-info"]
            )
            told = url.replace("redis://", "redis://limited:pw@")
            lines = findings(run("doctor", tmp_path=tmp_path, GATEWAY_STORE=told).stdout)
            assert any(line.startswith("doubt  store") and "INFO" in line for line in lines)
            assert client.dbsize() == 0


def test_doctor_knows_that_traces_are_asked_for_and_cannot_be_made(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None; from service.__main__ import main;"
        "main(['doctor'])"
    )
    environ = processes.environment(
        OTEL_TRACES_EXPORTER="otlp",
        GATEWAY_STORE=tmp_path / "keys",
        GATEWAY_UPSTREAM_URL="http://127.0.0.1:9/v1",
    )
    done = processes.run([sys.executable, "-c", code], environ)
    assert any(
        line.startswith("wrong  traces:") and "requirements-otel.lock" in line
        for line in findings(done.stdout)
    )
    traced = run("doctor", tmp_path=tmp_path, OTEL_TRACES_EXPORTER="otlp")
    assert "ok     traces: go to otlp" in findings(traced.stdout)


@pytest.mark.parametrize(
    "name", ["MISTRAL_KEY", "MISTRAL_AI_KEY", "mistral_api_key", "MISTRAL_API_KEY_FIEL"]
)
def test_a_misspelt_key_is_named_where_the_key_is_missing(name: str, tmp_path: Path) -> None:
    done = run("doctor", tmp_path=tmp_path, **{name: KEY})
    assert f"{name} is set, which nothing reads" in done.stdout


@pytest.mark.parametrize(
    ("command", "content"),
    [
        (("service", "config"), b"# \xe9\nexport GATEWAY_PORT=1234\n"),
        (("service", "doctor"), b"GATEWAY_PORT = 1234\r\nGATEWAY_HOST=\r\n#GATEWAY_DOCS=on"),
        (("mcp_bridge.settings",), "GATEWAY_PORT=1234\n".encode("utf-16")),
    ],
)
def test_a_dotenv_that_is_not_read_is_named_by_what_shows_the_settings(
    command: tuple[str, ...], content: bytes, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", *command]
    environ = processes.environment(PYTHONPATH=ROOT, GATEWAY_UPSTREAM_URL="http://127.0.0.1:9")

    def output() -> str:
        return subprocess.run(
            words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True, timeout=30
        ).stdout

    (tmp_path / ".env").write_bytes(content)
    assert "# .env sets GATEWAY_PORT, but only make run and make demo read it" in output()
    environ["GATEWAY_PORT"] = "1234"
    assert ".env" not in output()


@pytest.mark.parametrize(
    "words",
    [("mcp_bridge", "--stdio"), ("service.config", "missing key")],
    ids=lambda words: words[0],
)
def test_a_start_names_a_dotenv_that_it_does_not_read(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MISTRAL_API_KEY=CANARY\n")
    code = "from service.config import settings_or_exit; settings_or_exit()"
    arguments = ["-c", code] if "missing key" in words else ["-m", *words]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=processes.environment(PYTHONPATH=ROOT),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert ".env sets MISTRAL_API_KEY, but only make run" in done.stderr
    assert "CANARY" not in done.stderr


def test_doctor_says_that_an_issuer_s_keys_cannot_be_had(closed_port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port}/keys"
    issuer = {"ISSUER": "https://issuer.example", "AUDIENCE": "x"}
    environ = {f"GATEWAY_JWT_{name}": value for name, value in issuer.items()}
    lines = findings(run("doctor", tmp_path=tmp_path, GATEWAY_JWKS_URL=url, **environ).stdout)
    assert any(line.startswith("wrong  tokens:") and url in line for line in lines)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("30m", 1800),
        ("12h", 43_200),
        ("90d", 7_776_000),
        ("2w", 1_209_600),
        ("1D", 86_400),
    ],
)
def test_a_token_may_end_after_a_time_in_any_usual_unit(text: str, seconds: int) -> None:
    assert moment(text, NOW) - NOW == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "90",
        "",
        "5 years",
        "1y",
        "2027-02-30",
        "999999999d",
        "9" * 5000 + "d",
        "9999-12-31T23:59:59-23:00",
    ],
)
def test_a_time_that_is_none_is_refused_with_the_forms_that_are(text: str, tmp_path: Path) -> None:
    done = run("token", "nightly", "--scope", "jobs:read", f"--expires={text}", tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "90d, 12h, 30m or 45s" in done.stderr and "Traceback" not in done.stderr


def test_a_token_that_ends_at_once_is_not_made(tmp_path: Path) -> None:
    done = run("token", "nightly", "--scope", "jobs:read", "--expires=0d", tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is past" in done.stderr


@pytest.mark.parametrize(("timeout", "doubted"), [("49", False), ("50", True)])
def test_doctor_doubts_a_time_limit_that_others_are_not_made_for_and_goes_on(
    timeout: str, doubted: bool, tmp_path: Path
) -> None:
    environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    done = run("doctor", tmp_path=tmp_path, GATEWAY_TIMEOUT=timeout, **environ)
    lines = done.stdout.splitlines()
    found = [line for line in lines if line.startswith("doubt ") and "BRIDGE_TIMEOUT" in line]
    assert bool(found) == doubted
    assert any(line.startswith("wrong ") for line in lines)


def test_the_limits_that_doctor_knows_are_the_real_ones() -> None:
    assert BridgeSettings().timeout == config.LONGEST
    table = (ROOT / "docs" / "deployment.md").read_text().partition("## Time limits")[2]
    limits = dict(re.findall(r"\| (\d+) \| `?([\w.]+)", table))
    stop, nginx = (
        next(int(seconds) for seconds, where in limits.items() if where == name)
        for name in ("gunicorn.conf.py", "proxy_read_timeout")
    )
    assert nginx - stop == config.LONGEST - Settings.timeout


def test_the_bridge_s_settings_have_a_command_of_their_own_that_shows_no_secret() -> None:
    environ = {
        "PATH": "/usr/bin:/bin",
        "BRIDGE_REST_TOKEN": KEY,
        "BRIDGE_REST_URL": f"http://user:{KEY}@127.0.0.1:1",
        "BRIDGE_PORT": "1234",
    }
    done = processes.run([sys.executable, "-m", "mcp_bridge.settings"], environ)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["BRIDGE_PORT"].split()[1:] == ["1234", "(environment)"]
    assert lines["BRIDGE_TIMEOUT"].split()[1:] == ["50", "(default)"]
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]"])
def test_the_gateway_listens_where_its_host_says_and_healthcheck_finds_it(
    host: str, tmp_path: Path
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as chosen:
        try:
            chosen.bind((host.strip("[]"), 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = chosen.getsockname()[1]
    settings = {"GATEWAY_HOST": host, "GATEWAY_PORT": str(port), "MISTRAL_AI_API_KEY": KEY}
    store = tmp_path / "served.sqlite3"
    environ = gateway_environment("http://127.0.0.1:9/v1", GATEWAY_STORE=store, WEB_CONCURRENCY=1)
    process = start(command("--log-level", "info"), {**environ, **settings})
    try:
        wait_for_line(process, re.compile(r"(ASGI server listening)"), [])
        address = {name: settings[name] for name in ("GATEWAY_HOST", "GATEWAY_PORT")}
        done = run("healthcheck", tmp_path=tmp_path, GATEWAY_TIMEOUT="soon", **address)
        assert done.returncode == 0, done.stderr
    finally:
        stop(process)


def test_healthcheck_fails_when_nobody_answers(tmp_path: Path) -> None:
    done = run("healthcheck", tmp_path=tmp_path, MISTRAL_AI_API_KEY=KEY, GATEWAY_PORT="9")
    assert done.returncode == 1
