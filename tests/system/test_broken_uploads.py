"""However an upload breaks, on whichever side and wherever, it was sent upstream once, and a file is there only if Mistral made one."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import Stack, gateway_process
from tests.support.processes import sandbox_process, wait_until

FILES = "/v1/files"
LINE = b'{"custom_id": "%d", "body": {"input": "' + b"x" * 1000 + b'"}}\n'
CONTENT = b"".join(LINE % number for number in range(2000))
HEAD = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
END = b"\r\n--b--\r\n"
# Of a large one some has left before the rest has come.
LARGE = b"".join(LINE % number for number in range(30_000))
MIDDLE = len(CONTENT) // 2
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}

# what the upstream does -> the status that the caller gets, and the files that there are then
BROKEN: dict[str, tuple[dict[str, Any], int, int]] = {
    "drops it": ({"fault": "drop-before"}, 502, 0),
    "resets it": ({"fault": "drop-before", "reset": True}, 502, 0),
    "drops its answer": ({"fault": "drop-after"}, 502, 1),
    "resets its answer": ({"fault": "drop-after", "reset": True}, 502, 1),
    "cuts its answer": ({"fault": "truncated"}, 502, 1),
    "answers what is not HTTP": ({"fault": "garbage"}, 502, 0),
    "answers half of its JSON": ({"fault": "invalid-json"}, 502, 1),
    "answers too late": ({"fault": "latency", "seconds": 30, "processed": True}, 504, 1),
    "never answers": ({"fault": "hang", "seconds": 30}, 504, 0),
    "fails": ({"fault": "status", "status": 500}, 500, 0),
    "is overloaded": ({"fault": "status", "status": 503}, 503, 0),
    "limits the rate": ({"fault": "rate-limited"}, 429, 0),
    "refuses the key": ({"fault": "unauthorized"}, 502, 0),
    "redirects": ({"fault": "redirect"}, 502, 0),
    "ends in its head": ({"fault": "upload-cut"}, 502, 0),
    "ends in its middle": ({"fault": "upload-cut", "after": MIDDLE}, 502, 0),
    "resets in its middle": ({"fault": "upload-cut", "after": MIDDLE, "reset": True}, 502, 0),
    "refuses it early and reads on": ({"fault": "early", "after": MIDDLE}, 413, 0),
    "refuses it early and closes": ({"fault": "early", "rest": "close"}, 413, 0),
    "refuses it early and resets": ({"fault": "early", "rest": "reset"}, 413, 0),
    "has no place early": ({"fault": "early", "status": 503, "rest": "close"}, 502, 0),
}


@pytest.fixture(scope="module")
def waiting_stack() -> Iterator[Stack]:
    """A REST service that waits for its upstream for a moment only, and a sandbox."""
    limits = {"GATEWAY_CONNECT_TIMEOUT": 1, "GATEWAY_READ_TIMEOUT": 1, "GATEWAY_TIMEOUT": 2}
    with (
        sandbox_process(speed=0) as sandbox,
        gateway_process(f"{sandbox.url}/v1", **limits) as gateway,
    ):
        yield Stack(gateway, sandbox)


@pytest.fixture
def broken(waiting_stack: Stack) -> Stack:
    """The stack as new."""
    waiting_stack.sandbox.reset()
    return waiting_stack


def sent(stack: Stack) -> int:
    """How often an upload arrived upstream."""
    return len(stack.sandbox.ledger(method="POST", path=FILES))


def made(stack: Stack) -> int:
    """How many files there are."""
    count: int = stack.sandbox.admin("GET", "/sandbox/state")["files"]
    return count


@pytest.mark.parametrize("what", BROKEN)
def test_an_upload_that_the_upstream_breaks_is_sent_once(broken: Stack, what: str) -> None:
    rule, status, files = BROKEN[what]
    broken.sandbox.faults({**rule, "match": {"method": "POST"}, "times": None})
    answer = broken.gateway.post(FILES, data=HEAD + CONTENT + END, headers=MULTIPART)
    assert (answer.status_code, sent(broken), made(broken)) == (status, 1, files)


# what the caller sends before it leaves
LEFT = {
    "in the form's head": HEAD[:40],
    "in the file": HEAD + LARGE[: len(LARGE) // 2],
    "before the form's end": HEAD + LARGE,
    "within the form's end": HEAD + LARGE + END[:-3],
}


def upload_head(stack: Stack) -> bytes:
    return (
        f"POST {FILES} HTTP/1.1\r\nHost: {stack.gateway.address}\r\nContent-Type: {MULTIPART['Content-Type']}\r\n"
        f"Content-Length: {len(HEAD + LARGE + END)}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("where", LEFT)
def test_an_upload_whose_caller_leaves_makes_no_file(broken: Stack, where: str) -> None:
    with socket.create_connection(("127.0.0.1", broken.gateway.port), 10) as caller:
        caller.sendall(upload_head(broken) + LEFT[where])
        if where != "in the form's head":  # of which nothing leaves before more has come
            wait_until(lambda: sent(broken))
        wait_until(lambda: broken.gateway.inflight() == 2)
    wait_until(lambda: broken.gateway.inflight() == 1)
    wait_until(lambda: all(row["outcome"] != "open" for row in broken.sandbox.ledger()))
    assert (sent(broken), made(broken)) == (int(where != "in the form's head"), 0)


def test_an_upload_whose_worker_is_killed_makes_no_file(broken: Stack) -> None:
    with socket.create_connection(("127.0.0.1", broken.gateway.port), 10) as caller:
        caller.sendall(upload_head(broken) + LEFT["in the file"])
        wait_until(lambda: sent(broken))
        (worker,) = broken.gateway.workers
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: broken.gateway.said("ASGI server listening") == 2)
    wait_until(lambda: all(row["outcome"] != "open" for row in broken.sandbox.ledger()))
    assert (sent(broken), made(broken)) == (1, 0)


# what is wrong with an upload -> its body
REFUSED = {
    "another purpose": HEAD.replace(b"batch", b"fine-tune") + CONTENT + END,
    "another purpose after the file": HEAD[HEAD.index(b"\r\n--b") + 2 :]
    + CONTENT
    + b"\r\n"
    + HEAD[: HEAD.index(b"\r\n--b")].replace(b"batch", b"ocr")
    + END,
    "no purpose": HEAD[HEAD.index(b"\r\n--b") + 2 :] + CONTENT + END,
    "no file": HEAD[: HEAD.index(b"\r\n--b")] + END,
    "two files": HEAD + CONTENT + HEAD[HEAD.index(b"\r\n--b") :] + CONTENT + END,
    "no end": HEAD + CONTENT,
    "a bad line": HEAD + CONTENT + b"{}" + END,
    "a repeated id": HEAD + CONTENT + LINE % 1 + END,
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_upload_that_is_refused_makes_no_file(broken: Stack, what: str) -> None:
    answer = broken.gateway.post(FILES, data=REFUSED[what], headers=MULTIPART)
    wait_until(lambda: all(row["outcome"] != "open" for row in broken.sandbox.ledger()))
    assert answer.json()["source"] == "gateway"
    assert (answer.status_code in (400, 422), sent(broken) <= 1, made(broken)) == (True, True, 0)
