"""The form of an upload is read while it passes, whatever the order of its parts and the size of the pieces."""

from __future__ import annotations

import pytest
import requests

from service.problems import Problem
from service.upload_form import MAX_FIELD, MAX_PARTS, UploadForm

FILE = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: application/jsonl'
LINES = b'{"custom_id":"a","body":{}}\n:--XX is no boundary here\r\n-'


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


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
@pytest.mark.parametrize(
    "boundary",
    [
        b"\n--XX\r\n",
        b"\r--XX\r\n",
        b"\n--XX\n",
        b"\r\n--XX \r\n",
        b"\r\n--XX\x0b\r\n",
        b"\r\n--XX\r\r\n",
    ],
)
def test_a_boundary_that_only_another_reader_would_see_is_refused(
    boundary: bytes, size: int
) -> None:
    hidden = LINES + boundary + b"%s\r\n\r\n%s" % field("visibility", b"ocr")
    assert refusal(form(PURPOSE, (FILE, hidden)), size)[0] == "malformed-request"


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
@pytest.mark.parametrize("before", [b"x", b"\n", b"\r\n\r\n", b"\r\njunk--XX\r\n", b"--XX--x\r\n"])
def test_nothing_may_be_before_a_form(before: bytes, size: int) -> None:
    assert refusal(before + form(PURPOSE, (FILE, LINES)), size)[0] == "malformed-request"


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
@pytest.mark.parametrize("after", [b"x", b"\r\n", b"--XX\r\n", b"\0" * 70_000])
def test_nothing_may_be_after_a_form(after: bytes, size: int) -> None:
    content = form(PURPOSE, (FILE, LINES)) + after
    assert refusal(content, max(size, len(content) // 100))[0] == "malformed-request"


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
def test_a_form_may_begin_with_a_line_end_or_end_without_one(size: int) -> None:
    content = form(PURPOSE, (FILE, LINES))
    assert read(content[:-2], size) == read(b"\r\n" + content, size) == ("batch", LINES)


def test_names_without_quotation_marks_are_read() -> None:
    file = b"Content-Disposition: form-data; name=file; filename=a.jsonl; filename*=utf-8''a.jsonl"
    purpose = (b"Content-Disposition: form-data; name=purpose", b"batch")
    assert read(form(purpose, (file, LINES))) == ("batch", LINES)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=XX; boundary*=utf-8''A",
        "multipart/form-data; boundary=XX; boundary=A",
        "multipart/form-data; boundary*0=A; boundary=XX",
        "multipart/form-data; boundary=XX; charset=utf-16",
        "multipart/form-data; boundary=X X",
        "multipart/form-data; boundary=",
        "multipart/form-data",
        "multipart/mixed; boundary=XX",
    ],
)
def test_a_content_type_that_can_be_read_in_two_ways_is_refused(content_type: str) -> None:
    assert refusal(form(PURPOSE, (FILE, LINES)), 1 << 16, content_type)[0] == (
        "unsupported-media-type"
    )


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="XX"',
        "multipart/form-data;boundary=XX",
        "Multipart/Form-Data; charset=utf-8; boundary=XX",
        "multipart/form-data; boundary=XX; charset=UTF-8",
    ],
)
def test_what_clients_write_for_a_content_type_is_read(content_type: str) -> None:
    assert read(form(PURPOSE, (FILE, LINES)), 1 << 16, content_type) == ("batch", LINES)


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="purpose"; filename="p"',
        b'Content-Disposition: form-data; name="purpose"\r\nContent-Disposition: form-data; name="x"',
        b'Content-Disposition: form-data; name="purpose"\r\nContent-Type: text/plain; charset=utf-16',
        b'Content-Disposition: form-data; name="purpose"\r\nContent-Transfer-Encoding: base64',
        b'Content-Disposition: form-data; name="purpose"\r\nX-Other: y',
        b'Content-Disposition: form-data; name="_charset_"',
        b'Content-Disposition: form-data; name="file"',
        b'Content-Disposition: form-data; name="x"; filename*=x;name=purpose',
        b'X-A: a\nContent-Disposition: form-data; name="x"',
        b'Content-Type: text/plain\0\r\nContent-Disposition: form-data; name="x"',
    ],
)
def test_a_part_that_can_be_read_in_two_ways_is_refused(head: bytes) -> None:
    assert refusal(form((head, b"batch"), PURPOSE, (FILE, LINES)))[0] == "malformed-request"


@pytest.mark.parametrize("name", ["Purpose", "purpose[]", "FILE", "file."])
def test_a_name_that_another_reader_could_take_for_ours_is_refused(name: str) -> None:
    slug, detail = refusal(form(field(name, b"ocr"), PURPOSE, (FILE, LINES)))
    assert (slug, "did you mean" in detail) == ("validation-failed", True)


@pytest.mark.parametrize(
    "head",
    [
        b"\r\nContent-Type: text/plain; charset=utf-8",
        b"\r\nContent-Type: text/plain",
        b"\r\nContent-Length: 5",
        b"\r\nContent-Transfer-Encoding: 8bit",
    ],
)
def test_what_clients_write_for_a_field_is_read(head: bytes) -> None:
    purpose = (PURPOSE[0] + head, b"batch")
    assert read(form(purpose, (FILE, LINES))) == ("batch", LINES)


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
        (
            form((b"Content-Type: text/plain", b"")),
            "Each part of the form needs Content-Disposition: ",
        ),
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
