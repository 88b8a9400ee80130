"""What the MCP bridge tells of its calls."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from environment import SettingsError
from mcp_bridge.app import create_app
from mcp_bridge.config import Settings, log_to_stderr
from telemetry import logs
from tests.support.processes import ROOT, sandbox_process
from tests.telemetry.gateway import eventually, gateway, upstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def call(name: str, arguments: dict[str, Any], number: int) -> dict[str, Any]:
    meta = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": f"call-{number}"}
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments, "_meta": meta},
    }


HELLO = [
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
]


def test_a_call_has_a_line_in_bridge_and_service_with_one_id_and_trace_and_audits_when_it_changes_something(
    tmp_path: Path,
) -> None:
    create = {
        "endpoint": "/v1/chat/completions",
        "model": "mistral-small-latest",
        "requests": [
            {"custom_id": "1", "body": {"messages": [{"role": "user", "content": "CANARY"}]}}
        ],
    }
    with sandbox_process() as sandbox, gateway(tmp_path, f"{sandbox.url}/v1") as rest:
        environ = {
            **os.environ,
            "BRIDGE_REST_URL": f"http://127.0.0.1:{rest.port}",
            "BRIDGE_REST_TOKEN": "token-CANARY",
            "BRIDGE_LOG_LEVEL": "debug",
        }
        with subprocess.Popen(
            [sys.executable, "-m", "mcp_bridge", "--stdio"],
            cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as bridge:  # fmt: skip
            assert bridge.stdin and bridge.stdout and bridge.stderr
            calls = [call("list-batch-jobs", {}, 1), call("create-batch-job", create, 2)]
            for message in [*HELLO, *calls]:
                bridge.stdin.write(json.dumps(message) + "\n")
                bridge.stdin.flush()
            answers = {
                answer["id"]: answer
                for answer in (json.loads(bridge.stdout.readline()) for _ in range(3))
            }
            bridge.stdin.close()
            written = bridge.stderr.read()
        job = answers[2]["result"]["structuredContent"]["id"]
        eventually(lambda: sum(bool(line["operation"]) for line in rest.requests) == 2)
        told = {line["request_id"]: line for line in rest.requests if line["operation"]}
        audited = eventually(lambda: rest.audit)
    lines = [json.loads(line) for line in written.splitlines()]
    events = [line for line in lines if "tool" in line]
    assert sorted(
        (line["logger"], line["tool"], line["outcome"], line.get("id", "")) for line in events
    ) == [
        ("gateway.audit", "create-batch-job", "done", job),
        ("mcp_bridge", "create-batch-job", "done", ""),
        ("mcp_bridge", "list-batch-jobs", "done", ""),
    ]
    assert {line["trace_id"] for line in [*events, *told.values()]} == {TRACE}
    assert {"call-1", "call-2"} <= told.keys()
    assert [(line["id"], line["request_id"]) for line in audited] == [(job, "call-2")]
    assert "CANARY" not in written


def test_a_call_without_a_trace_begins_one_that_the_rest_service_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcp_bridge")
    meta: list[dict[str, Any]] = [{}, {"traceparent": "broken"}, {"traceparent": 5}]
    with upstream() as mistral, gateway(tmp_path, f"{mistral.url}/v1") as rest:
        app = create_app(Settings.from_env({"BRIDGE_REST_URL": f"http://127.0.0.1:{rest.port}"}))
        with TestClient(app, base_url="http://127.0.0.1:9090") as client:
            for number, given in enumerate(meta):
                message = call("list-batch-jobs", {}, number)
                message["params"]["_meta"] = given
                answer = client.post("/mcp", json=message)
                assert answer.status_code == 200, answer.text
        lines = [record.fields for record in caplog.records if hasattr(record, "fields")]
        told = eventually(
            lambda: (
                (found := [line for line in rest.requests if line["operation"]])
                and len(found) == len(meta)
                and found
            )
        )
    ours = {line["request_id"]: line["trace_id"] for line in lines}
    assert ours == {line["request_id"]: line["trace_id"] for line in told}
    assert len(set(ours.values())) == len(meta)
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in ours.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("AUDIT_LOG", "stdout"),
        ("AUDIT_LOG", "/nowhere/file"),
    ],
)
def test_a_log_setting_of_the_bridge_that_cannot_be_used_is_named(name: str, value: str) -> None:
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    try:
        with pytest.raises(SettingsError, match=re.escape(f"BRIDGE_{name}")):
            log_to_stderr(Settings.from_env({f"BRIDGE_{name}": value}))
    finally:
        root.handlers[:], root.level = kept
        logging.captureWarnings(False)


def test_the_bridge_says_that_it_loses_audit_lines_until_it_writes_them_again(
    tmp_path: Path,
) -> None:
    (file := tmp_path / "audit").symlink_to("/dev/full")
    audit = logs.audit_log
    kept = audit.handlers[:], audit.propagate
    logs.start_audit(str(file))
    try:
        with upstream() as rest:
            app = create_app(Settings.from_env({"BRIDGE_REST_URL": rest.url}))
            client = TestClient(app, base_url="http://127.0.0.1:9090")
            for status in ("ready, but audit lines are lost", "ready"):
                audit.info("told")
                audit.handlers[0].flush()
                answer = client.get("/readyz")
                assert (answer.status_code, answer.json()) == (200, {"status": status})
                file.unlink()
    finally:
        audit.handlers[:], audit.propagate = kept
