"""Files through deploy/nginx.conf: they pass in pieces, both ways, and what happens to them at one end is seen at the other."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from openapi.contract import DEFAULT_DOCUMENT, Operation, load
from service.config import MEBIBYTE
from tests.support.file_upstream import CONTENT, FILES, FORM, FileUpstream, Lines, file_upstream
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import wait_until
from tests.support.tools_available import needed
from tests.system.front import CONFIGURATION, Front, front, small

SIZE = 72 * MEBIBYTE
LIMIT = 80 * MEBIBYTE
"""The gateway's, less than nginx's."""

TEMPORARY = "1m"
"""What nginx's folders for bodies and answers have room for."""

OPERATIONS = load(DEFAULT_DOCUMENT).operations


@pytest.fixture(scope="module")
def running_upstream() -> Iterator[FileUpstream]:
    with file_upstream() as running:
        yield running


@pytest.fixture
def upstream(running_upstream: FileUpstream) -> FileUpstream:
    """As new, with a file."""
    new = FileUpstream(running_upstream.port, SIZE)
    vars(running_upstream).update(vars(new))
    return running_upstream


@pytest.fixture(scope="module")
def gateway(running_upstream: FileUpstream) -> Iterator[Gateway]:
    with gateway_process(running_upstream.url, GATEWAY_MAX_FILE=LIMIT) as running:
        yield running


@pytest.fixture(scope="module")
def nginx(
    gateway: Gateway,
    certificate: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    """nginx with little room for temporary files."""
    folder = tmp_path_factory.mktemp("nginx")
    within = [*small(folder / "body", TEMPORARY), *small(folder / "proxy", TEMPORARY)]
    with front(folder, certificate, gateway.address, within=within) as running:
        yield running


def curl(nginx: Front, path: str, *options: str | Path) -> subprocess.CompletedProcess[bytes]:
    """What curl says of a call, with the answer's status at the end."""
    command = [needed("curl", "apt-get install curl"), "-sS", "-w", "%{http_code}"]
    return subprocess.run(
        [*command, "--cacert", nginx.authority, *options, nginx.url + path],
        capture_output=True,
        timeout=60,
        check=False,
    )


def opened(nginx: Front) -> requests.Response:
    """A download that has begun."""
    return nginx.request("GET", CONTENT, stream=True)


def size(answer: requests.Response) -> int:
    """Of the content, which is read."""
    return sum(map(len, answer.iter_content(MEBIBYTE)))


# -- which routes


def location(path: str) -> str:
    """What nginx.conf says of a path of the REST service, as nginx chooses among its locations."""
    text = CONFIGURATION.read_text().rpartition("limit_req zone")[2]
    found = re.findall(
        r"^ {8}location (= |~ |)(\S+) \{\n(.*?)^ {8}\}", text, re.DOTALL | re.MULTILINE
    )
    exact = [body for kind, name, body in found if kind == "= " and name == path]
    matched = [body for kind, name, body in found if kind == "~ " and re.search(name, path)]
    (other,) = (body for kind, name, body in found if not kind)
    return [*exact, *matched, other][0]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_bodies_and_answers_pass_in_pieces_on_the_routes_of_files_alone(
    operation: Operation,
) -> None:
    path = re.sub(r"\{[^}]*\}", "x", operation.path)
    same = [each for each in OPERATIONS.values() if each.path == operation.path]
    body = any(each.body and each.body.streamed for each in same)
    text = location(path)
    assert ("client_max_body_size    513m;" in text) is body
    assert ("proxy_request_buffering off;" in text) is body
    assert ("proxy_max_temp_file_size 0;" in text) is operation.answer_streamed


# -- both ways


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunks"])
def test_an_upload_passes_without_a_temporary_file(
    nginx: Front, upstream: FileUpstream, announced: bool
) -> None:
    form = Lines(SIZE)
    answer = nginx.request("POST", FILES, data=form if announced else iter(form), headers=FORM)
    assert answer.status_code == 200, answer.text
    assert upstream.received == [len(form)]
    assert "temporary file" not in nginx.errors()


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunks"])
def test_a_download_to_a_slow_reader_waits_without_a_temporary_file(
    nginx: Front, upstream: FileUpstream, announced: bool
) -> None:
    upstream.announced = announced
    with opened(nginx) as answer:
        wait_until(lambda: 0 < upstream.sent == sent_a_moment_later(upstream))
        assert upstream.sent < SIZE
        assert size(answer) == SIZE
    assert "temporary file" not in nginx.errors()


def sent_a_moment_later(upstream: FileUpstream) -> int:
    threading.Event().wait(0.2)
    return upstream.sent


def test_a_form_as_curl_sends_it_passes(nginx: Front, upstream: FileUpstream, folder: Path) -> None:
    """It waits for 100 Continue."""
    folder.write_bytes(b"".join(Lines(2 * MEBIBYTE).file()))
    done = curl(nginx, FILES, "-F", "purpose=batch", "-F", f"file=@{folder}")
    assert done.stdout.endswith(b"200"), done
    assert len(upstream.received) == 1


def test_an_upload_goes_to_the_gateway_that_is_left(
    folder: Path,
    certificate: tuple[str, str],
    closed_port: int,
    gateway: Gateway,
    upstream: FileUpstream,
) -> None:
    with front(folder, certificate, f"127.0.0.1:{closed_port}", gateway.address) as nginx:
        answers = [
            nginx.request("POST", FILES, data=Lines(MEBIBYTE), headers=FORM) for _ in range(4)
        ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(upstream.received) == 4


# -- refusals


@pytest.mark.parametrize(
    ("form", "announced", "status", "slug"),
    [
        (Lines(LIMIT), True, 413, "content-too-large"),
        (Lines(LIMIT), False, 413, "content-too-large"),
        (Lines(SIZE, purpose=b"fine-tune"), True, 422, "validation-failed"),
    ],
    ids=["announced too large", "grows too large", "another purpose"],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(
    nginx: Front, upstream: FileUpstream, form: Lines, announced: bool, status: int, slug: str
) -> None:
    answer = nginx.request("POST", FILES, data=form if announced else iter(form), headers=FORM)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems#{slug}")
    assert upstream.received == []


def test_a_file_larger_than_nginx_takes_is_refused_as_a_problem(
    nginx: Front, upstream: FileUpstream
) -> None:
    head = f"POST {FILES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {513 * MEBIBYTE + 1}\r\n"
    with nginx.connect() as connection:
        connection.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"/problems#content-too-large"' in answer


# -- what breaks off


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunks"])
def test_a_download_that_breaks_off_is_seen_to_be_broken(
    nginx: Front, upstream: FileUpstream, announced: bool
) -> None:
    upstream.announced, upstream.breaks_at = announced, 8 * MEBIBYTE
    done = curl(nginx, CONTENT, "-o", "/dev/null")
    assert done.returncode == 18, done  # curl(1): "Partial file"


def test_an_upload_whose_sender_leaves_is_broken_off_upstream(
    nginx: Front, upstream: FileUpstream
) -> None:
    form = Lines(SIZE)
    pieces = iter(form)
    head = f"POST {FILES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(form)}\r\n"
    with nginx.connect() as connection:
        connection.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode())
        connection.sendall(next(pieces) + next(pieces) + next(pieces))
        wait_until(lambda: upstream.begun)
    wait_until(lambda: upstream.broken)
    assert upstream.received == []


def test_a_download_whose_reader_leaves_is_ended_upstream(
    nginx: Front, gateway: Gateway, upstream: FileUpstream
) -> None:
    with opened(nginx) as answer:
        next(answer.iter_content(1))
    wait_until(lambda: gateway.inflight() == 1)
    assert upstream.sent < SIZE
