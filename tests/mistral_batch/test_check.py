"""What `check` says of requests before anything is sent; what an upload to the gateway refuses is among it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistral_batch.check import Checked, check
from mistral_batch.lines import Form, Lines
from mistral_batch.sources import open_source
from service.batch_file import BatchFile

BODY = b'{"messages":[{"role":"user","content":"Good?"}]}'
GOOD = b'{"custom_id":"a","body":%b}' % BODY


def of(table: Any, **form: Any) -> Checked:
    return check(Lines(open_source(table), Form(**form)))


@pytest.fixture
def checked(tmp_path: Path) -> Any:
    """Checks lines as a file."""

    def one(content: bytes, **form: Any) -> Checked:
        path = tmp_path / "reviews.jsonl"
        path.write_bytes(content)
        return of(path, **form)

    return one


BAD = {
    "no JSON": b"{custom_id}",
    "half an object": GOOD[:-1],
    "two objects": GOOD + b" " + GOOD,
    "an array": b"[]",
    "a text": b'"a"',
    "null": b"null",
    "no body": b'{"custom_id":"a"}',
    "a text as body": b'{"custom_id":"a","body":"x"}',
    "an array as body": b'{"custom_id":"a","body":[]}',
    "null as body": b'{"custom_id":"a","body":null}',
    "a number as id": b'{"custom_id":1,"body":%b}' % BODY,
    "null as id": b'{"custom_id":null,"body":%b}' % BODY,
    "NaN": b'{"custom_id":"a","body":{"messages":[{}],"temperature":NaN}}',
    "Infinity": b'{"custom_id":"a","body":{"messages":[{}],"temperature":-Infinity}}',
    "not UTF-8": b'{"custom_id":"a","body":{"messages":[{"content":"\xff"}]}}',
    "not UTF-8 in a name": b'{"custom_id":"a","\xe9":1,"body":%b}' % BODY,
    "a control character": b'{"custom_id":"a","body":{"messages":[{"content":"\x01"}]}}',
    "an odd escape": b'{"custom_id":"a","body":{"messages":[{"content":"\\x"}]}}',
    "too deep": b'{"custom_id":"a","body":{"messages":[%b]}}' % (b"[" * 5000 + b"]" * 5000),
    "too long": b'{"custom_id":"a","body":{"messages":[{"content":"%b"}]}}' % (b"x" * (17 << 20)),
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
@pytest.mark.parametrize("before", [0, 3], ids=["first", "fourth"])
def test_what_an_upload_refuses_is_a_fault_here_too(checked: Any, line: bytes, before: int) -> None:
    lines = [GOOD.replace(b'"a"', b'"%d"' % number) for number in range(before)]
    content = b"\n".join([*lines, line, b""])
    upload = BatchFile()
    for start in range(0, len(content), 1 << 16):
        upload.feed(content[start : start + (1 << 16)])
    assert [fault.line for fault in upload.end()] == [before + 1]
    found = checked(content)
    assert [(fault.number, fault.place) for fault in found.faults] == [
        (before + 1, f"line {before + 1}")
    ]
    assert found.requests == before
