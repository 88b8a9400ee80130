"""What files cost the worker that passes them on, as the operating system counts it: the same for any size."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.file_upstream import CONTENT, FILES, FORM, FileUpstream, Lines, file_upstream
from tests.support.gateway import Gateway, gateway_process
from tests.support.memory import MEBIBYTE, Memory

LARGEST = 512 * MEBIBYTE


@pytest.fixture(scope="module")
def upstream() -> Iterator[FileUpstream]:
    with file_upstream() as running:
        yield running


@pytest.fixture
def gateway(upstream: FileUpstream) -> Iterator[Gateway]:
    """One worker, which has done nothing before."""
    with gateway_process(upstream.url, anew=True) as running:
        yield running


def upload(gateway: Gateway, form: Lines) -> None:
    answer = gateway.post(FILES, data=form, headers=FORM)
    assert answer.status_code == 200, answer.text


def download(gateway: Gateway, size: int) -> None:
    with gateway.get(CONTENT, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        assert sum(map(len, answer.iter_content(MEBIBYTE))) == size


def test_the_largest_file_of_two_million_checked_lines_passes_both_ways_in_100_mebibytes(
    gateway: Gateway, upstream: FileUpstream
) -> None:
    form, upstream.size = Lines(LARGEST), LARGEST
    memory = Memory(gateway.workers)
    upload(gateway, form)
    download(gateway, LARGEST)
    assert upstream.received.pop() == len(form)
    assert memory.peak < 100 * MEBIBYTE


def test_eight_files_each_way_at_once_pass_in_150_mebibytes(
    gateway: Gateway, upstream: FileUpstream
) -> None:
    form, upstream.size = Lines(32 * MEBIBYTE), 32 * MEBIBYTE
    memory = Memory(gateway.workers)
    with ThreadPoolExecutor(16) as clients:
        done = [clients.submit(upload, gateway, form) for _ in range(8)]
        done += [clients.submit(download, gateway, upstream.size) for _ in range(8)]
    for each in done:
        each.result()
    assert len(upstream.received) == 8
    assert memory.peak < 150 * MEBIBYTE
