"""A create opens a connection of its own, so that it never meets one that its server is about to close; reads keep theirs.

So does each look for a lost create, so that nothing but its own answer can come over it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.idempotency.conftest import Clock, MakeGateway
from tests.support.api import CREATE, JOB_ID, JOBS, keyed
from tests.support.upstreams import KEEP, Upstream, echo_upstream


@pytest.mark.parametrize("key", [None, "key"])
def test_every_create_has_a_connection_of_its_own_and_reads_share_one(
    gateway: MakeGateway, key: str | None
) -> None:
    with echo_upstream() as upstream:
        upstream.answer = lambda _: (200, "application/json", b'{"id":"new"}')
        client = gateway(f"http://127.0.0.1:{upstream.port}/v1")
        for number in range(3):
            client.get(JOBS)
            client.post(JOBS, json=CREATE, headers=keyed(f"{key}-{number}") if key else {})
    ports = {
        method: [request.peer for request in upstream.received if request.method == method]
        for method in ("GET", "POST")
    }
    assert len(set(ports["POST"])) == 3
    assert len(set(ports["GET"])) == 1
    assert not set(ports["GET"]) & set(ports["POST"])


class Forgetful(Upstream):
    """Carries out every POST and answers none; says `interim` before any other answer, and lists nothing while it is `late`."""

    interim = b""
    late = False

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[dict[str, Any]] = []
        self.behave(self.serve)

    def serve(self, peer: socket.socket, _nth: int) -> object:
        head, _, body = self.received[-1].partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            self.jobs = [{"id": JOB_ID, **json.loads(body or b"{}")}]
            return None
        listed = [] if self.late else self.jobs
        listing = {"data": listed, "total": len(listed)}
        content = json.dumps(listing).encode()
        peer.sendall(self.interim)
        time.sleep(0.1 if self.interim else 0)  # so that it comes by itself
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        peer.sendall(answer % len(content) + content)
        return KEEP

    def asked(self, method: bytes) -> list[int]:
        """The connections of the requests of a method."""
        pairs = zip(self.received, self.connections, strict=True)
        return [connection for request, connection in pairs if request.startswith(method)]


@pytest.fixture
def forgetful() -> Iterator[Forgetful]:
    running = Forgetful()
    yield running
    running.close()


def test_every_look_for_a_lost_answer_has_a_connection_of_its_own(
    gateway: MakeGateway, forgetful: Forgetful, clock: Clock
) -> None:
    client = gateway(f"http://127.0.0.1:{forgetful.port}/v1")
    client.get(JOBS)
    answer = client.post(JOBS, json=CREATE, headers=keyed())
    client.get(JOBS)
    assert answer.headers["Gateway-Reconciled"] == "true"
    first, *looks, last = forgetful.asked(b"GET")
    assert first == last == 0
    assert looks and not {0, *forgetful.asked(b"POST")} & set(looks)


def test_a_lost_create_is_found_and_not_bought_again_though_lists_come_after_a_hint(
    gateway: MakeGateway, forgetful: Forgetful, clock: Clock
) -> None:
    client = gateway(f"http://127.0.0.1:{forgetful.port}/v1")
    forgetful.late = True
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 504
    forgetful.interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    client.get(JOBS)  # a list in which it is not
    forgetful.late = False
    clock.advance(3600)
    answer = client.post(JOBS, json=CREATE, headers=keyed())
    assert (answer.status_code, answer.json()["id"]) == (200, JOB_ID)
    assert len(forgetful.asked(b"POST")) == 1
