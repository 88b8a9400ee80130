"""How much memory processes take, and how much the shipped containers have; bodies that would take much. Not a test module."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.support.processes import ROOT

MEBIBYTE = 1 << 20
SIZE = 28 * MEBIBYTE
"""Bytes of a hostile body: nearly as many as are taken."""


class Memory:
    """The memory of `processes` in bytes: at the start, the most of each since then, now."""

    def __init__(self, processes: list[int]) -> None:
        self.processes = processes
        for pid in processes:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the peak begins anew
        self.start = self.now

    @property
    def now(self) -> int:
        return sum(_status(pid, "VmRSS") for pid in self.processes)

    @property
    def peak(self) -> int:
        return sum(_status(pid, "VmHWM") for pid in self.processes)


def _status(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def container_limit(container: str) -> int:
    """Bytes that the container of this name may take in Kubernetes, as it is shipped."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    (limit,) = (
        each["resources"]["limits"]["memory"]
        for document in documents
        if document and document["kind"] == "Deployment"
        for each in document["spec"]["template"]["spec"]["containers"]
        if each["name"] == container
    )
    units = {"Mi": 20, "Gi": 30}
    return int(limit[:-2]) << units[limit[-2:]]


def repeated(piece: bytes, size: int) -> bytes:
    """`piece` again and again, with commas between, in about `size` bytes."""
    return b",".join([piece] * (size // (len(piece) + 1)))


def numbered(template: bytes, size: int) -> bytes:
    """`template` with ever other numbers in it, with commas between, in about `size` bytes."""
    return b",".join([template % number for number in range(size // (len(template) + 6))])


def create(requests: bytes) -> bytes:
    """A create with these items of `requests`."""
    return b'{"endpoint": "/v1/ocr", "model": "m", "requests": [%b]}' % requests


def with_member(name: bytes, value: bytes) -> bytes:
    """A create with this member."""
    return b'{"endpoint": "/v1/ocr", "%b": %b}' % (name, value)


Kind = tuple[Callable[[int], bytes], str, str]

HOSTILE: dict[str, Kind] = {
    "objects": (lambda size: create(repeated(b'{"x":1}', size)), "/requests", "must have at most 10000 items"),
    "empty objects": (lambda size: create(repeated(b"{ }", size)), "/requests", "must have at most 10000 items"),
    "numbers for objects": (lambda size: create(repeated(b"1", size)), "/requests/0", "must be an object"),
    "members": (lambda size: b'{"endpoint": "/v1/ocr", %b}' % numbered(b'"k%d":1', size), "", "has too many members"),
    "members of one item": (lambda size: create(b"{%b}" % numbered(b'"k%d":1', size)), "/requests", "has too many members"),
    "metadata": (lambda size: with_member(b"metadata", b"{%b}" % numbered(b'"k%d":""', size)), "/metadata", "has too many members"),
    "objects for a text": (lambda size: with_member(b"model", b"[%b]" % repeated(b"{}", size)), "/model", "must be null or text"),
    "objects for texts": (lambda size: with_member(b"input_files", b"[%b]" % repeated(b"{}", size)), "/input_files", "has more than"),
    "short texts": (lambda size: with_member(b"input_files", b"[%b]" % repeated(b'"a"', size)), "/input_files", "has more than"),
    "a long text": (lambda size: with_member(b"model", b'"%b\xf0\x9f\x98\x80"' % (b"a" * size)), "/model", "must have at most 1024 characters"),
    "an array": (lambda size: b"[%b]" % repeated(b"{}", size), "", "must be an object"),
}  # fmt: skip
"""Bodies that take up to a hundred times their size as objects: how one of so many bytes is made, the place in it, the fault."""
