"""Files on their way, in pieces and on real connections: what breaks in the middle, and what the ledger says of it."""

from __future__ import annotations

import hashlib
import http.client
import io
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.sandbox.api import JOBS, Api, body
from tests.support.memory import MEBIBYTE, Memory
from tests.support.processes import Sandbox, children, sandbox_process, wait_until

AUTH = {"Authorization": "Bearer k"}
FILES = "/v1/files"
LINE = (
    b'{"custom_id":"%09d","body":{"messages":[{"role":"user","content":"' + b"x" * 435 + b'"}]}}\n'
)
HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
)
TAIL = b"\r\n--b--\r\n"


def lines(count: int) -> bytes:
    """A batch file of so many lines of 512 bytes."""
    return b"".join(LINE % number for number in range(count))


CONTENT = lines(8192)  # 4 MiB: more than the buffers of a connection


def send(
    server: Sandbox, content: bytes = CONTENT, *, fault: str = "", key: str = "k"
) -> requests.Response:
    """The answer to an upload under a fault."""
    headers = {"Authorization": f"Bearer {key}"} | ({"X-Sandbox-Fault": fault} if fault else {})
    headers["Content-Type"] = "multipart/form-data; boundary=b"
    form = HEAD + content + TAIL
    return requests.post(
        server.url + FILES, io.BytesIO(form), headers=headers, timeout=20, allow_redirects=False
    )


def get(server: Sandbox, file_id: str, *, fault: str = "", **options: Any) -> requests.Response:
    """The answer to a download under a fault."""
    headers = AUTH | ({"X-Sandbox-Fault": fault} if fault else {})
    url = f"{server.url}{FILES}/{file_id}/content"
    return requests.get(url, headers=headers, timeout=20, allow_redirects=False, **options)


def listed(server: Sandbox) -> list[str]:
    """The ids of all files."""
    page = requests.get(server.url + FILES, headers=AUTH, timeout=20).json()
    return [file["id"] for file in page["data"]]


def upload_entry(server: Sandbox) -> dict[str, Any]:
    """The ledger's entry of the one upload, when it is over."""
    wait_until(lambda: server.ledger(method="POST", path=FILES)[0]["outcome"] != "open")
    [entry] = server.ledger(method="POST", path=FILES)
    return entry


@pytest.fixture
def uploaded(server: Sandbox) -> str:
    """The id of a file with CONTENT."""
    file_id: str = send(server).json()["id"]
    server.admin("DELETE", "/sandbox/ledger")
    return file_id


def test_the_ledger_tells_of_an_upload_without_keeping_it(server: Sandbox) -> None:
    file = send(server).json()
    entry = upload_entry(server)
    form = HEAD + CONTENT + TAIL
    assert (entry["body"], entry["body_bytes"]) == (None, len(form))
    assert entry["body_sha256"] == hashlib.sha256(form).hexdigest()
    assert entry["upload"] == {
        "outcome": "kept",
        "file_id": file["id"],
        "filename": "in.jsonl",
        "purpose": "batch",
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }


@pytest.mark.parametrize("reset", ["false", "true"])
@pytest.mark.parametrize("after", [0, 1_000_000, len(HEAD + CONTENT + TAIL)])
def test_an_upload_that_is_cut_is_incomplete_and_never_a_file(
    server: Sandbox, after: int, reset: str
) -> None:
    with pytest.raises(requests.ConnectionError):
        send(server, fault=f"upload-cut; after={after}; reset={reset}")
    entry = upload_entry(server)
    assert (entry["outcome"], entry["status"]) == ("cut", None)
    assert (entry["upload"]["outcome"], entry["upload"]["file_id"]) == ("incomplete", None)
    assert entry["body_bytes"] == after
    assert listed(server) == []


def test_an_upload_whose_client_leaves_is_incomplete_and_never_a_file(server: Sandbox) -> None:
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc)) as client:
        client.putrequest("POST", FILES)
        for name, text in (
            AUTH | {"Content-Length": "9999999", "Content-Type": "multipart/form-data; boundary=b"}
        ).items():
            client.putheader(name, text)
        # Whole for who goes by the boundary alone.
        client.endheaders(HEAD + CONTENT + TAIL)
    entry = upload_entry(server)
    assert (entry["outcome"], entry["status"]) == ("client left", None)
    assert entry["upload"]["outcome"] == "incomplete"
    assert entry["client_closed_at"] is not None
    assert listed(server) == []


@pytest.mark.parametrize("ending", [b"", b"5\r\nabc", b"5\r\nabcdefgh\r\n0\r\n\r\n"])
def test_a_chunked_upload_that_does_not_end_well_is_incomplete(
    server: Sandbox, ending: bytes
) -> None:
    form = HEAD + CONTENT + TAIL
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port)) as s:
        s.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n%x\r\n%b\r\n%b"
            % (len(form), form, ending)
        )
    assert upload_entry(server)["upload"]["outcome"] == "incomplete"
    assert listed(server) == []


def test_a_chunked_upload_is_taken(server: Sandbox) -> None:
    headers = AUTH | {"Content-Type": "multipart/form-data; boundary=b"}
    parts = iter([HEAD, CONTENT, TAIL])
    answer = requests.post(server.url + FILES, parts, headers=headers, timeout=20)
    assert answer.json()["bytes"] == len(CONTENT)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("upload-slow; piece=1000000; interval=0", "kept"),
        ("upload-stalled; after=1000; seconds=0", "kept"),
        ("drop-after", "kept"),
        ("truncated", "kept"),
        ("drop-before", "refused"),
        ("status; status=503", "refused"),
        ("early; after=1000", "refused"),
    ],
)
def test_only_what_the_ledger_calls_kept_is_a_file(
    server: Sandbox, fault: str, outcome: str
) -> None:
    with suppress(requests.RequestException):
        send(server, fault=fault)
    wait_until(lambda: server.uploads()[0]["outcome"] != "open")
    [upload] = server.uploads()
    assert upload["outcome"] == outcome
    assert listed(server) == ([upload["file_id"]] if outcome == "kept" else [])


def test_an_upload_that_is_sent_again_is_seen_twice_whatever_became_of_it(server: Sandbox) -> None:
    server.faults({"fault": "upload-cut", "after": 10}, {"fault": "status", "status": 503})
    with suppress(requests.ConnectionError):
        send(server)
    send(server)
    send(server)
    assert [upload["outcome"] for upload in server.uploads()] == ["incomplete", "refused", "kept"]


def begin(server: Sandbox, sent: bytes) -> socket.socket:
    """A connection on which an upload of 500 MB has begun with these bytes."""
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), 10)
    connection.sendall(
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 500000000\r\n\r\n" + sent
    )
    return connection


def test_a_stalled_upload_is_read_no_further_and_ends_when_its_client_leaves(
    server: Sandbox,
) -> None:
    server.faults({"fault": "upload-stalled", "after": 1000, "seconds": 60})
    # More than the server takes in with the head: the system still has some when the client leaves.
    with begin(server, HEAD + b"x" * 40_000):
        wait_until(lambda: [row for row in server.ledger() if row["body_bytes"] == 1000])
    assert upload_entry(server)["outcome"] == "client left"


@pytest.mark.parametrize("rest", ["read", "close", "ignore", "reset"])
def test_an_answer_can_come_while_the_client_still_sends(server: Sandbox, rest: str) -> None:
    server.faults({"fault": "early", "status": 507, "after": 2000, "rest": rest})
    with begin(server, HEAD + b"x" * 2000) as connection:
        answer = connection.recv(1 << 16)
        while b"</html>" not in answer:
            answer += connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 507 ")
        assert b"\r\nConnection: close\r\n" in answer
        if rest == "reset":
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    entry = upload_entry(server)
    assert (entry["status"], entry["body_bytes"]) == (507, 2000)


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_above_the_limit_is_refused_while_it_is_sent_and_the_answer_arrives(
    announced: bool,
) -> None:
    with sandbox_process(max_file_bytes=1 << 20) as server:
        content = lines(1 << 16)  # 32 MiB: no buffer holds what is left when the answer is sent
        headers = AUTH | {"Content-Type": "multipart/form-data; boundary=b"}
        form = HEAD + content + TAIL
        data = io.BytesIO(form) if announced else iter([HEAD, content, TAIL])
        answer = requests.post(server.url + FILES, data, headers=headers, timeout=20)
        assert answer.status_code == 413
        assert answer.headers["Content-Type"].startswith("text/html")
        entry = upload_entry(server)
        assert (entry["status"], entry["upload"]["outcome"]) == (413, "refused")
        assert entry["body_bytes"] < 4 * MEBIBYTE
        assert listed(server) == []


def test_a_client_that_sends_all_before_it_reads_gets_its_refusal_too() -> None:
    with sandbox_process(max_file_bytes=1 << 20) as server, begin(server, HEAD) as connection:
        for _ in range(32):
            connection.sendall(b"x" * MEBIBYTE)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_a_refusal_of_any_kind_does_not_wait_for_the_body(server: Sandbox) -> None:
    assert send(server, key="demo-revoked").status_code == 401
    assert upload_entry(server)["body_bytes"] < MEBIBYTE
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)) as client:
        headers = AUTH | {"Content-Type": "application/json", "Content-Length": str(100 << 20)}
        client.putrequest("POST", JOBS)
        for name, text in headers.items():
            client.putheader(name, text)
        client.endheaders(b"{")
        assert client.getresponse().status == 413


def test_a_small_body_that_nobody_wants_does_not_end_the_connection(server: Sandbox) -> None:
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)) as client:
        for _ in range(2):
            client.request("POST", FILES, HEAD, {"Authorization": "Bearer demo-revoked"})
            answer = client.getresponse()
            assert (answer.status, answer.read() != b"") == (401, True)
        assert client.sock is not None


@pytest.mark.parametrize("reset", ["false", "true"])
@pytest.mark.parametrize(("after", "sent"), [(-1, len(CONTENT) // 2), (1_500_000, 1_500_000)])
def test_a_download_can_break_off_at_any_byte(
    server: Sandbox, uploaded: str, after: int, sent: int, reset: str
) -> None:
    fault = f"truncated; after={after}; reset={reset}"
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        get(server, uploaded, fault=fault)
    [entry] = server.ledger()
    assert (entry["outcome"], entry["answer_bytes"]) == ("cut", sent)


def test_a_download_can_fall_silent_and_go_on(server: Sandbox, uploaded: str) -> None:
    server.faults({"fault": "stalled", "after": 1000, "seconds": 60})
    with get(server, uploaded, stream=True) as answer:
        assert len(answer.raw.read(1000)) == 1000
        # Counted once they have been sent, which may be after they were read.
        wait_until(lambda: server.ledger()[0]["answer_bytes"] == 1000)
    wait_until(lambda: server.ledger()[0]["outcome"] == "client left")
    assert get(server, uploaded, fault="stalled; seconds=0").content == CONTENT


@pytest.mark.parametrize(
    "fault", ["slow; interval=0; piece=100000", "slow; interval=0; piece=99999; after=4000000"]
)
def test_a_slow_download_is_whole(server: Sandbox, uploaded: str, fault: str) -> None:
    assert get(server, uploaded, fault=fault).content == CONTENT


def test_a_part_can_come_that_nobody_asked_for(server: Sandbox, uploaded: str) -> None:
    answer = get(server, uploaded, fault="partial")
    half = len(CONTENT) // 2
    assert (answer.status_code, answer.content) == (206, CONTENT[:half])
    assert answer.headers["Content-Range"] == f"bytes 0-{half - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("status", [302, 307])
def test_a_download_can_be_redirected_to_where_no_key_is_needed(
    server: Sandbox, uploaded: str, status: int
) -> None:
    answer = get(server, uploaded, fault=f"content-redirect; status={status}")
    assert answer.status_code == status
    assert requests.get(answer.headers["Location"], timeout=20).content == CONTENT
    # Who follows a redirect is found out.
    assert server.ledger()[1]["path"].startswith("/blob/")


def test_a_client_that_leaves_a_download_is_noted_with_what_it_was_sent(
    server: Sandbox,
) -> None:
    file_id = send(server, lines(1 << 16)).json()["id"]
    server.admin("DELETE", "/sandbox/ledger")
    with get(server, file_id, stream=True) as answer:
        assert answer.raw.read(1000)
    wait_until(lambda: server.ledger()[0]["outcome"] == "client left")
    assert server.ledger()[0]["answer_bytes"] < 32 * MEBIBYTE


def test_upload_faults_work_on_other_bodies_too(server: Sandbox) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.post(
            server.url + JOBS,
            json=body(),
            headers=AUTH | {"X-Sandbox-Fault": "upload-cut; after=10"},
            timeout=20,
        )
    assert server.ledger()[0]["body_bytes"] == 10
    assert server.admin("GET", "/sandbox/state")["jobs"] == {}


class Form(io.RawIOBase):
    """An upload of `size` bytes of lines, made while it is read."""

    def __init__(self, size: int) -> None:
        self.length = len(HEAD) + size + len(TAIL)
        self._parts = self._made(size)
        self._rest = b""

    def __len__(self) -> int:
        return self.length

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def _made(self, size: int) -> Iterator[bytes]:
        yield HEAD
        block = LINE % 1 * 2048
        for _ in range(size // len(block)):
            yield block
        yield TAIL


def test_a_large_file_goes_both_ways_in_little_memory() -> None:
    size = 128 * MEBIBYTE
    with sandbox_process() as server:
        memory = Memory([server.process.pid, *children(server.process.pid)])
        headers = AUTH | {"Content-Type": "multipart/form-data; boundary=b"}
        file = requests.post(server.url + FILES, Form(size), headers=headers, timeout=120).json()
        assert (file["bytes"], file["num_lines"]) == (size, size // 512)
        with get(server, file["id"], stream=True) as answer:
            assert sum(map(len, answer.iter_content(MEBIBYTE))) == size
        assert memory.peak - memory.start < 40 * MEBIBYTE


def test_no_room_on_the_disk_is_a_507(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sandbox.content.TemporaryFile", full)
    api = Api()
    assert api.upload(lines(200))[0] == 507
    assert api.json("GET", FILES)[1]["data"] == []
