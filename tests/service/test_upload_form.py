"""The form of an upload is read while it passes, whatever the order of its parts and the size of the pieces."""

from __future__ import annotations

import pytest
import requests

from service.problems import Problem
from service.upload_form import MAX_FIELD, MAX_PARTS, UploadForm

FILE = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: application/jsonl'
LINES = b'{"custom_id":"a","body":{}}\n--XX is no boundary here\r\n-'


def field(name: str, value: bytes) -> tuple[bytes, bytes]:
    return f'Content-Disposition: form-data; name="{name}"'.encode(), value


PURPOSE = field("purpose", b"batch")


def form(*parts: tuple[bytes, bytes]) -> bytes:
    written = b"".join(b"--XX\r\n%s\r\n\r\n%s\r\n" % part for part in parts)
    return written + b"--XX--\r\n"


def read(
    content: bytes, size: int = 1 << 16, content_type: str = "multipart/form-data; boundary=XX"
) -> tuple[str | None, bytes]:
    """The purpose and the file's bytes."""
    file: list[bytes] = []
    upload = UploadForm(content_type, frozenset({"batch", "ocr"}), file.append)
    for start in range(0, len(content), size):
        upload.feed(content[start : start + size])
    upload.end()
    return upload.purpose, b"".join(file)


def refusal(*arguments: str | bytes | int) -> tuple[str, str]:
    with pytest.raises(Problem) as refused:
        read(*arguments)  # type: ignore[arg-type]
    return refused.value.slug, refused.value.detail


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
@pytest.mark.parametrize("parts", [(PURPOSE, (FILE, LINES)), ((FILE, LINES), PURPOSE)])
def test_the_file_and_its_purpose_are_found_in_any_order(
    parts: list[tuple[bytes, bytes]], size: int
) -> None:
    assert read(form(*parts), size) == ("batch", LINES)


def test_a_form_of_requests_is_read() -> None:
    prepared = requests.Request(
        "POST", "http://x", data={"purpose": "ocr"}, files={"file": ("größe.jsonl", LINES)}
    ).prepare()
    assert isinstance(prepared.body, bytes)
    assert read(prepared.body, 10, prepared.headers["Content-Type"]) == ("ocr", LINES)


@pytest.mark.parametrize("size", [1, 1 << 16])
@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (form((FILE, LINES)), "/body/purpose is missing; it must be batch or ocr"),
        (form(PURPOSE), "/body/file is missing; send the file as a part of this name"),
        (form(PURPOSE, (FILE, b"a"), (FILE, b"b")), "/body/file must not be repeated"),
        (form(PURPOSE, PURPOSE, (FILE, b"a")), "/body/purpose must not be repeated"),
        (
            form(field("purpose", b"fine-tune"), (FILE, b"a")),
            "/body/purpose must be batch or ocr (GATEWAY_FILE_PURPOSES)",
        ),
        (
            form(field("expiry", b"9" * MAX_FIELD + b"9")),
            f"/body/expiry is longer than {MAX_FIELD} bytes",
        ),
    ],
)
def test_what_is_wrong_in_a_form_is_told_by_its_part(
    content: bytes, detail: str, size: int
) -> None:
    assert refusal(content, size) == ("validation-failed", detail)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (form(PURPOSE, (FILE, LINES))[:-6], "The form ends before its last boundary."),
        (b"{}", "The form cannot be read: "),
        (form((b"X-Other: y", b"")), "Each part of the form needs Content-Disposition: "),
        (form(*(field(str(n), b"") for n in range(MAX_PARTS + 1))), "The form has more than 16 "),
        (form((b"X" * 9000, b"")), "The form cannot be read: "),
    ],
)
def test_a_form_that_cannot_be_read_is_malformed(content: bytes, detail: str) -> None:
    slug, told = refusal(content)
    assert slug == "malformed-request" and told.startswith(detail)


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="purpose"; name="file"',
        b"form-data; name*=utf-8''purpose",
        b'form-data; name=purpose; filename="x"',
        b'form-data; filename="x"; name="purpose"',
        b'attachment; name="purpose"',
        b'form-data; name="pur\\pose"',
    ],
)
def test_a_part_whose_name_could_be_read_in_another_way_is_refused(disposition: bytes) -> None:
    slug, _ = refusal(form((b"Content-Disposition: " + disposition, b"fine-tune"), (FILE, b"a")))
    assert slug == "malformed-request"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/mixed; boundary=XX",
        "multipart/form-data",
        'multipart/form-data; boundary=""',
        f"multipart/form-data; boundary={'x' * 71}",
        "multipart/form-data; boundary=ä",
    ],
)
def test_what_is_no_form_with_a_boundary_is_an_unsupported_media_type(content_type: str) -> None:
    assert refusal(form(PURPOSE), 9, content_type)[0] == "unsupported-media-type"
