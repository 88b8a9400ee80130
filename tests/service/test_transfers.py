"""Uploads and downloads against real sockets: what breaks on one side breaks on the other, and nothing is sent twice."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import requests
from starlette.testclient import TestClient

from service import streams, upstream_connection
from service.app import create_app
from service.batch_file import BatchFile
from service.config import Settings
from tests.conftest import KEY
from tests.support.asgi import call
from tests.support.gateway import Gateway
from tests.support.upstreams import Behaviour, read_head, upstream

FILES = "/v1/files"
FILE_ID = "4f0c8f44-2f4a-4d0b-8a3e-55d2f6a1c9e7"
CONTENT = f"{FILES}/{FILE_ID}/content"
FILE = json.dumps({"id": FILE_ID, "object": "file", "purpose": "batch"}).encode()
LINE = b'{"custom_id": "%d", "body": {}}\n'
JSON = b"Content-Type: application/json\r\n"
REJECTED = (
    b"HTTP/1.1 413 Content Too Large\r\n" + JSON + b'Content-Length: 20\r\n\r\n{"detail":"too big"}'
)


def lines(count: int) -> bytes:
    return b"".join(LINE % number for number in range(count))


def form(content: bytes) -> dict[str, Any]:
    return {"files": {"file": ("a.jsonl", content)}, "data": {"purpose": "batch"}}


def upload(client: TestClient, content: bytes) -> tuple[int, dict[str, Any]]:
    """Status and answer of an upload that comes in pieces, as it does over a network."""
    request = client.build_request("POST", FILES, **form(content))
    body = request.read()
    headers = {"Host": "127.0.0.1:8080", "Content-Length": str(len(body))}
    headers["Content-Type"] = request.headers["content-type"]
    ends = range(50_000, len(body) + 50_000, 50_000)
    messages = [
        {"type": "http.request", "body": body[end - 50_000 : end], "more_body": end < len(body)}
        for end in ends
    ]

    async def receive() -> Any:
        return messages.pop(0)

    status, answer = client.portal.call(
        partial(call, client.app, "POST", FILES, headers, receive=receive)
    )
    return status, json.loads(answer)


def whole(status: bytes, head: bytes, content: bytes) -> bytes:
    length = b"Content-Length: %d\r\n\r\n" % len(content)
    return b"HTTP/1.1 " + status + b"\r\n" + head + length + content


@pytest.fixture
def gateway(settings: Settings) -> Callable[[str], TestClient]:
    def make(url: str, **changes: object) -> TestClient:
        app = create_app(replace(settings, upstream_url=url, **changes))  # type: ignore[arg-type]
        return TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)

    return make


@pytest.fixture
def running() -> Iterator[Callable[[int], Gateway]]:
    """Starts a gateway of its own process before a port."""
    started: list[Gateway] = []

    def make(port: int) -> Gateway:
        started.append(Gateway(f"http://127.0.0.1:{port}/v1"))
        started[-1].start()
        return started[-1]

    yield make
    for each in started:
        each.end()


def content_of(*answers: bytes) -> Behaviour:
    """Says what the file is, then gives the answers that its content is asked for with."""

    def behave(peer: socket.socket, nth: int) -> None:
        peer.sendall(whole(b"200 OK", JSON, FILE) if nth == 1 else answers[nth - 2])

    return behave


# ------------------------------------------------------------------------------------------------------------- uploads
def early(peer: socket.socket, _nth: int) -> None:
    peer.sendall(REJECTED)


def early_and_hold(peer: socket.socket, _nth: int) -> None:
    """Answers, reads nothing more, and does not end the connection before its client does."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.sendall(REJECTED)
    done.wait(10)


def early_and_drain(peer: socket.socket, _nth: int) -> None:
    peer.sendall(REJECTED)
    while peer.recv(1 << 20):
        pass


done = threading.Event()


@pytest.mark.parametrize("behave", [early, early_and_hold, early_and_drain])
def test_an_upload_that_is_refused_before_its_end_is_told_so(
    behave: Behaviour, gateway: Callable[..., TestClient]
) -> None:
    done.clear()
    with upstream(behave, whole=False) as (port, received):
        try:
            status, problem = upload(gateway(f"http://127.0.0.1:{port}/v1"), lines(400_000))
        finally:
            done.set()
        assert (status, problem["type"]) == (413, "/problems#upstream-rejected")
        assert len(received) == 1


def test_an_upload_over_tls_is_told_of_a_refusal_once_no_more_bytes_are_taken(
    certificate: tuple[str, str],
    gateway: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_connection, "SECONDS", 0.2)
    done.clear()
    with upstream(early_and_hold, certificate, whole=False) as (port, received):
        client = gateway(f"https://localhost:{port}/v1", ca_file=certificate[0])
        try:
            status, problem = upload(client, lines(400_000))
        finally:
            done.set()
        assert (status, problem["type"]) == (413, "/problems#upstream-rejected")
        assert len(received) == 1


def test_an_upstream_that_takes_no_more_of_an_upload_has_created_nothing(
    gateway: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_connection, "SECONDS", 0.2)
    done.clear()
    with upstream(lambda _peer, _nth: done.wait(10), whole=False) as (port, received):
        client = gateway(f"http://127.0.0.1:{port}/v1", read_timeout=0.2)
        try:
            _, problem = upload(client, lines(400_000))
        finally:
            done.set()
        assert problem["detail"].endswith("nothing was created.")
        assert (problem["retryable"], len(received)) == (True, 1)


def test_an_upload_whose_connection_ends_has_created_nothing(
    gateway: Callable[..., TestClient],
) -> None:
    with upstream(lambda _peer, _nth: None, whole=False) as (port, received):
        _, problem = upload(gateway(f"http://127.0.0.1:{port}/v1"), lines(400_000))
        assert problem["detail"].endswith("nothing was created.")
        assert (problem["retryable"], len(received)) == (True, 1)


def test_an_upload_whose_answer_is_lost_is_not_sent_again_and_may_have_been_carried_out(
    gateway: Callable[..., TestClient],
) -> None:
    with upstream(lambda _peer, _nth: None) as (port, received):
        problem = gateway(f"http://127.0.0.1:{port}/v1").post(FILES, **form(lines(3))).json()
        assert "may have been carried out" in problem["detail"]
        assert (problem["retryable"], len(received)) == (False, 1)


def test_a_success_before_the_whole_file_was_sent_is_none(
    gateway: Callable[..., TestClient],
) -> None:
    def behave(peer: socket.socket, _nth: int) -> None:
        peer.sendall(whole(b"200 OK", JSON, FILE))

    with upstream(behave, whole=False) as (port, _):
        status, problem = upload(gateway(f"http://127.0.0.1:{port}/v1"), lines(400_000))
        assert (status, problem["type"]) == (502, "/problems#upstream-bad-response")


@pytest.mark.parametrize("size", [60_000, 300_000, 3_000_000])
def test_the_closing_boundary_of_a_bad_file_never_leaves(
    size: int, gateway: Callable[..., TestClient]
) -> None:
    content = lines(size // len(LINE)) + b"[]"
    seen: list[bytes] = []

    def behave(peer: socket.socket, _nth: int) -> None:
        seen.append(received[-1])
        while piece := peer.recv(1 << 16):
            seen.append(piece)

    with upstream(behave, whole=False) as (port, received):
        client = gateway(f"http://127.0.0.1:{port}/v1")
        status, problem = upload(client, content)
        assert (status, len(problem["errors"])) == (422, 1)
    assert b"[]\r\n--" not in b"".join(seen)


def test_the_bytes_of_an_upload_pass_as_they_came(gateway: Callable[..., TestClient]) -> None:
    def behave(peer: socket.socket, _nth: int) -> None:
        peer.sendall(whole(b"200 OK", JSON, FILE))

    with upstream(behave) as (port, received):
        client = gateway(f"http://127.0.0.1:{port}/v1")
        sent = client.post(FILES, **form(lines(3000)))
        assert (sent.status_code, sent.content) == (200, FILE)
        assert received[0].partition(b"\r\n\r\n")[2] == sent.request.content


@pytest.mark.parametrize("content", [lines(10), lines(9) + b"no request\n"], ids=["good", "bad"])
def test_nothing_of_an_upload_stays_in_memory_until_cycles_are_collected(
    gateway: Callable[..., TestClient], content: bytes
) -> None:
    def behave(peer: socket.socket, _nth: int) -> None:
        peer.sendall(whole(b"200 OK", JSON, FILE))

    with upstream(behave) as (port, _):
        client = gateway(f"http://127.0.0.1:{port}/v1")
        gc.collect()
        gc.disable()
        try:
            assert client.post(FILES, **form(content)).status_code in (200, 422)
            assert [each for each in gc.get_objects() if isinstance(each, BatchFile)] == []
        finally:
            gc.enable()


def test_a_client_that_leaves_in_an_upload_ends_it_upstream_without_an_end(
    running: Callable[[int], Gateway],
) -> None:
    ended: list[BaseException] = []
    over = threading.Event()

    def behave(peer: socket.socket, _nth: int) -> None:
        try:
            while peer.recv(1 << 16):
                pass
        except OSError as error:
            ended.append(error)
        over.set()

    with upstream(behave, whole=False) as (port, received):
        gateway = running(port)
        body = lines(1000)
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            head = (
                f"POST {FILES} HTTP/1.1\r\nHost: {gateway.address}\r\nContent-Length: {1 << 28}\r\n"
            )
            disposition = "--x\r\nContent-Disposition: form-data; name="
            head += f'Content-Type: multipart/form-data; boundary=x\r\n\r\n{disposition}"purpose"\r\n\r\nbatch\r\n'
            head += f'{disposition}"file"; filename="a"\r\n\r\n'
            client.sendall(head.encode())
            while not received:
                client.sendall(body)
        assert over.wait(10)
        assert len(received) == 1
        assert gateway.get(FILES + "?page=x").status_code == 422  # it goes on


def test_interim_answers_in_an_upload_are_passed_over(gateway: Callable[..., TestClient]) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"

    def behave(peer: socket.socket, _nth: int) -> None:
        peer.sendall(interim)
        head, _, body = received[-1].partition(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length: ")[2].split()[0]) - len(body)
        while left:
            left -= len(peer.recv(left))
        peer.sendall(whole(b"200 OK", JSON, FILE))

    with upstream(behave, whole=False) as (port, received):
        status, answer = upload(gateway(f"http://127.0.0.1:{port}/v1"), lines(40_000))
        assert (status, answer["id"], len(received)) == (200, FILE_ID, 1)


def trickle(peer: socket.socket, data: bytes) -> None:
    """Sends it again and again, some bytes at a time, as long as anybody is there."""
    while True:
        for begin in range(0, len(data), 20):
            peer.sendall(data[begin : begin + 20])
            time.sleep(0.02)


INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
ENDLESS = b"HTTP/1.1 500 E\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n"


@pytest.mark.parametrize("data", [INTERIM, ENDLESS], ids=["interim answers", "an error's body"])
@pytest.mark.parametrize("up", [True, False], ids=["upload", "download"])
def test_an_upstream_that_trickles_holds_a_place_for_no_longer_than_the_limit(
    data: bytes, up: bool, gateway: Callable[..., TestClient]
) -> None:
    def behave(peer: socket.socket, nth: int) -> None:
        if nth == 1 and not up:
            peer.sendall(whole(b"200 OK", JSON, FILE))
        else:
            trickle(peer, data)

    with upstream(behave) as (port, _):
        client = gateway(f"http://127.0.0.1:{port}/v1", timeout=0.5)
        answer = client.post(FILES, **form(lines(3))) if up else client.get(CONTENT)
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems#upstream-timeout")


# ----------------------------------------------------------------------------------------------------------- downloads
def test_a_download_that_trickles_is_broken_off(
    gateway: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SECONDS", 0.5)
    ended = threading.Event()

    def behave(peer: socket.socket, nth: int) -> None:
        if nth == 1:
            peer.sendall(whole(b"200 OK", JSON, FILE))
            return
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        try:
            trickle(peer, b"line")
        finally:
            ended.set()

    with upstream(behave) as (port, _):
        client = gateway(f"http://127.0.0.1:{port}/v1")
        with pytest.raises(CancelledError):
            client.portal.call(
                partial(call, client.app, "GET", CONTENT, {"Host": "127.0.0.1:8080"})
            )
        assert ended.wait(10)


def test_a_download_that_does_not_say_where_it_ends_is_refused(
    gateway: Callable[..., TestClient],
) -> None:
    with upstream(content_of(b"HTTP/1.1 200 OK\r\n\r\nsome of it")) as (port, _):
        answer = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT)
        assert (answer.status_code, "where it ends" in answer.json()["detail"]) == (502, True)


def test_a_part_of_a_download_that_was_not_asked_for_is_refused(
    gateway: Callable[..., TestClient],
) -> None:
    head = b"Content-Range: bytes 0-3/10\r\n"
    with upstream(content_of(whole(b"206 Partial Content", head, b"some"))) as (port, _):
        answer = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT)
        assert (answer.status_code, "a part" in answer.json()["detail"]) == (502, True)


ODD_HEADS = {
    "a length twice": b"Content-Length: 4\r\n",
    "no type": b"",
    "an inline disposition": b"Content-Disposition: inline; filename=evil.html\r\n",
    "a disposition that only begins right": b"Content-Disposition: ATTACHMENTx; filename=evil.html\r\n",
    "ranges": b"Accept-Ranges: bytes\r\n",
    "our key": b"ETag: " + KEY.encode() + b"\r\n",
}


@pytest.mark.parametrize("what", ODD_HEADS)
def test_the_head_of_a_download_is_what_a_caller_can_rely_on(
    what: str, gateway: Callable[..., TestClient]
) -> None:
    with upstream(content_of(whole(b"200 OK", ODD_HEADS[what], b"some"))) as (port, _):
        passed = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT).headers
        assert (passed["content-length"], passed["content-disposition"]) == ("4", "attachment")
        assert passed["content-type"] == "application/octet-stream"
        assert not {"accept-ranges", "etag"} & {*passed}


def test_a_download_passes_as_it_came_and_is_an_attachment(
    gateway: Callable[..., TestClient],
) -> None:
    head = b'Content-Type: application/octet-stream\r\nETag: "x"\r\nSet-Cookie: a=b\r\n'
    answer = whole(b"200 OK", head, b'{"custom_id": "\xff')
    with upstream(content_of(answer)) as (port, _):
        passed = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT)
        assert (passed.status_code, passed.content) == (200, b'{"custom_id": "\xff')
        assert passed.headers["content-length"] == "16"
        assert passed.headers["content-type"] == "application/octet-stream"
        assert passed.headers["content-disposition"] == "attachment"
        assert passed.headers["x-content-type-options"] == "nosniff"
        assert (passed.headers["etag"], "set-cookie" in passed.headers) == ('"x"', False)


def test_json_that_is_a_files_content_passes_unchanged(gateway: Callable[..., TestClient]) -> None:
    answer = whole(b"200 OK", JSON, b'{"message": "Unauthorized"}')
    with upstream(content_of(answer)) as (port, _):
        passed = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT)
        assert (passed.status_code, passed.content) == (200, b'{"message": "Unauthorized"}')


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect"])
def test_a_redirected_download_is_its_own_problem_and_not_followed(
    status: bytes, gateway: Callable[..., TestClient]
) -> None:
    with upstream(lambda _peer, _nth: None) as (elsewhere, asked):
        location = b"Location: http://127.0.0.1:%d/secret\r\n" % elsewhere
        with upstream(content_of(whole(status, location, b""))) as (port, _):
            answer = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT)
        assert (answer.status_code, answer.json()["type"]) == (502, "/problems#upstream-redirected")
        assert (asked, "secret" in answer.text) == ([], False)


def test_a_compressed_download_is_refused(gateway: Callable[..., TestClient]) -> None:
    answer = whole(b"200 OK", JSON + b"Content-Encoding: gzip\r\n", b"\x1f\x8b")
    with upstream(content_of(answer)) as (port, _):
        refused = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT)
        assert (refused.status_code, "compressed" in refused.json()["detail"]) == (502, True)


def test_an_error_in_place_of_a_download_is_a_problem(gateway: Callable[..., TestClient]) -> None:
    with upstream(content_of(whole(b"503 Unavailable", JSON, b'{"message": "busy"}'))) as (port, _):
        answer = gateway(f"http://127.0.0.1:{port}/v1").get(CONTENT)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems#upstream-failed")


def test_the_head_of_a_download_fetches_nothing(gateway: Callable[..., TestClient]) -> None:
    def behave(peer: socket.socket, nth: int) -> None:
        answer = whole(b"200 OK", JSON, FILE)
        peer.sendall(answer if nth == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")

    with upstream(behave) as (port, received):
        answer = gateway(f"http://127.0.0.1:{port}/v1").head(CONTENT)
        assert (answer.status_code, answer.headers["content-length"]) == (200, "500")
        assert received[1].startswith(b"HEAD ")


BROKEN = [
    pytest.param(b"Content-Length: 100000\r\n\r\n" + bytes(50_000), id="short of its length"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", id="without its last chunk"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nxx\r\n", id="no chunks"),
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_download_that_breaks_upstream_breaks_for_its_caller_and_is_logged_as_failed(
    content: bytes, running: Callable[[int], Gateway]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    with upstream(content_of(head + content)) as (port, received):
        gateway = running(port)
        with pytest.raises(requests.RequestException):
            gateway.get(CONTENT)
        assert gateway.get("/livez").status_code == 200
        assert len(received) == 2
    gateway.end()
    row = next(json.loads(line) for line in gateway.output if '"downloadfile"' in line)
    assert (row["status"], row["outcome"], row["problem"]) == (
        200,
        "failed",
        "upstream-bad-response",
    )
    assert not gateway.said("Traceback") and not gateway.said("Error in ASGI")


def test_a_client_that_closes_when_it_has_everything_is_not_one_that_left(
    running: Callable[[int], Gateway],
) -> None:
    def behave(peer: socket.socket, _nth: int) -> None:
        content = received[-1].startswith(b"GET /v1/files/") and b"/content " in received[-1]
        peer.sendall(whole(b"200 OK", JSON, FILE * 10_000 if content else FILE))

    with upstream(behave) as (port, received):
        gateway = running(port)
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.sendall(
                    f"GET {CONTENT} HTTP/1.1\r\nHost: {gateway.address}\r\n\r\n".encode()
                )
                _, _, body = read_head(client).partition(b"\r\n\r\n")
                left = 10_000 * len(FILE) - len(body)
                while left:
                    left -= len(client.recv(left))
    gateway.end()
    rows = [json.loads(line) for line in gateway.output if '"downloadfile"' in line]
    assert [row["outcome"] for row in rows if row["logger"] == "gateway.requests"] == ["done"] * 10


def test_a_broken_download_is_seen_by_a_client_of_http_1_0(
    running: Callable[[int], Gateway],
) -> None:
    content = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    with upstream(content_of(content)) as (port, _):
        gateway = running(port)
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(f"GET {CONTENT} HTTP/1.0\r\nHost: {gateway.address}\r\n\r\n".encode())
            with pytest.raises(ConnectionResetError):
                while client.recv(1 << 16):
                    pass


def test_a_client_that_leaves_in_a_download_ends_it_upstream(
    running: Callable[[int], Gateway],
) -> None:
    over = threading.Event()

    def behave(peer: socket.socket, nth: int) -> None:
        if nth == 1:
            peer.sendall(whole(b"200 OK", JSON, FILE))
            return
        try:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                peer.sendall(bytes(1 << 16))
        finally:
            over.set()

    with upstream(behave) as (port, _):
        gateway = running(port)
        with gateway.get(CONTENT, stream=True) as answer:
            answer.raw.read(1)
        assert over.wait(10)
        assert gateway.get("/livez").status_code == 200
    gateway.end()
    row = next(json.loads(line) for line in gateway.output if '"downloadfile"' in line)
    assert row["outcome"] == "client-left"
    assert not gateway.said("Traceback") and not gateway.said("Error in ASGI")
