"""Mistral's Batch and Files APIs, at the gateway or at Mistral itself: a call and what it gave, or an exception that says what to do.

A call that may be repeated is, until it is answered: one that only reads, and a create at the gateway, which knows it by its key.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from .errors import BatchError, OverLimit

Job = dict[str, Any]
"""As Mistral describes a job."""

CONNECT = 10.0
"""Seconds for a connection to stand."""

SILENCE = 120.0
"""Seconds without a byte after which an answer is given up."""

WAIT = 45
"""Seconds that the gateway is asked to wait for a job's end."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between repeats where the answer names none; the last stands for all further ones."""

FIRST = 5.0
"""Seconds for which the first call of all is repeated: more likely than in trouble, the API is not there."""

SOON = 5.0
"""Seconds at most between repeats of a call that another one with its key holds up."""

NEVER = ("upstream-refused-key", "upstream-redirected", "upstream-answer-too-large")
"""A gateway's problems, of status 5xx, that a repeat does not clear up. Others it may, also where the gateway says that only what is
safe to do twice may be repeated: it is.
"""

PAGE = 100
"""Jobs or files a page of a list."""


class APIError(BatchError):
    """The API did not do what it was asked; the text says what it said, and what can be done."""


class Refused(APIError):
    """Not done, and the same call would be refused again. `status` is HTTP's; `body` the answer as JSON, None when it is none."""

    def __init__(self, sentence: str, status: int = 0, body: Any = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.body = body

    @property
    def kind(self) -> str:
        """Which of a gateway's problems it is; empty when it is none."""
        return _kind(self.body)


class NoMoney(Refused, OverLimit):
    """Not done, since the account may not: every further create would be refused as well."""


class Unreachable(APIError):
    """Not answered, however often it was asked."""


class Unclear(APIError):
    """Perhaps done: no answer came, and the call could not be repeated."""


@dataclass(frozen=True)
class Trouble:
    """Why a call is repeated, and in how many seconds."""

    sentence: str
    pause: float


class FilesRefused(Refused):
    """The Files API, which every run of more than one inline job needs, is not open to the caller."""


class BatchAPI:
    """The API at `url`, with `/v1` or without, called with `token` when there is one; for one thread at a time, except `sibling`s.

    A call is repeated for `patience` seconds at most, or FIRST as long as nothing has answered at all; `report` is told of each
    repeat, by whichever thread it is.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        patience: float = 900.0,
        report: Callable[[Trouble], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.token = token
        self.patience = patience
        self.report = report
        self.sleep = sleep
        self.answered = False
        self.is_gateway: bool | None = None  # until a call was a success
        self.session = requests.Session()
        self.session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
        self.session.auth = self._authorized

    def _authorized(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Shows the token. As `auth`, since without one `requests` would take what .netrc has for the host."""
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    @property
    def keeps_keys(self) -> bool:
        """True at a gateway, which carries out a create with one key once. Mistral itself knows no keys."""
        if self.is_gateway is None:
            self._json("GET", "/v1/batch/jobs", "data", params={"page_size": "1"})
        return bool(self.is_gateway)

    def sibling(self) -> BatchAPI:
        """The same API for another thread."""
        sibling = BatchAPI(
            self.url, self.token, patience=self.patience, report=self.report, sleep=self.sleep
        )
        sibling.answered, sibling.is_gateway = self.answered, self.is_gateway
        return sibling

    def check_files(self) -> None:
        """FilesRefused when files cannot be uploaded or read, as a gateway decides it before anything is sent."""
        try:
            self._json("GET", "/v1/files", "data", params={"purpose": "batch", "page_size": "1"})
            if self.keeps_keys:
                form = {"purpose": (None, "batch")}  # without a file: refused, but for that
                self._json("POST", "/v1/files", "id", files=form, repeat=True)
        except Refused as error:
            if error.status in (403, 404, 405) or "purpose" in str(error):
                raise FilesRefused(
                    f"files are not open to you, and so many requests can only be sent in files; nothing was sent: {error}",
                    error.status,
                    error.body,
                ) from error
            if error.status != 422:
                raise

    def create_job(self, body: Mapping[str, Any], key: str) -> Job:
        """The job that was made, or at a gateway the one that `key` had made before."""
        headers = {"Idempotency-Key": key}
        return self._json(
            "POST", "/v1/batch/jobs", "id", json=body, headers=headers, repeat=self.keeps_keys
        )

    def get_job(self, job_id: str, *, wait: int = 0, inline: bool = False) -> Job:
        """The job; with `wait`, when it is final or so many seconds are over, where the API waits at all."""
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        query = {"inline": "true"} if inline else {}
        return self._json("GET", f"/v1/batch/jobs/{job_id}", "id", params=query, headers=headers)

    def find_jobs(self, metadata: Mapping[str, str]) -> Iterator[Job]:
        """The jobs with all of this metadata, newest first."""
        page = 0
        while True:
            query = {"page": str(page), "page_size": str(PAGE), **metadata}
            found = self._json("GET", "/v1/batch/jobs", "data", params=query)
            # A place that does not know the filter would give any job.
            yield from (
                job
                for job in found["data"]
                if metadata.items() <= (job.get("metadata") or {}).items()
            )
            page += 1
            if not found["data"] or page * PAGE >= (found.get("total") or 0):
                return

    def cancel_job(self, job_id: str) -> Job:
        """The job after it was asked to stop."""
        return self._json("POST", f"/v1/batch/jobs/{job_id}/cancel", "id", repeat=True)

    def upload(self, path: Path, name: str) -> str:
        """The id of a file for batch jobs with the content of `path`."""
        found: list[str] = []

        def once() -> Trouble | None:
            with path.open("rb") as content:
                form = FileForm({"purpose": "batch"}, name, content)
                headers = {"Content-Type": form.content_type}
                return self._once(
                    "POST", "/v1/files", lambda r: found.append(str(_object(r, "id")["id"])), True,
                    {"data": form, "headers": headers},
                )  # fmt: skip

        self._until(once)  # a second upload is another file, which costs nothing
        return found[-1]

    def find_file(self, name: str, size: int) -> str:
        """The id of a file with exactly this name and size; empty when there is none."""
        query = {"search": name, "purpose": "batch", "page_size": str(PAGE)}
        files = self._json("GET", "/v1/files", "data", params=query)["data"]
        same = (each for each in files if (each["filename"], each["bytes"]) == (name, size))
        return next((str(each["id"]) for each in same), "")

    def download(self, file_id: str, target: BinaryIO) -> None:
        """Writes the content of a file to `target`, which is empty."""

        def save(response: requests.Response) -> None:
            if target.tell():  # it did not come whole
                target.seek(0)
                target.truncate()
            for piece in response.iter_content(1 << 20):
                target.write(piece)

        self._call("GET", f"/v1/files/{file_id}/content", use=save, repeat=True)

    def _json(
        self, method: str, path: str, member: str, *, repeat: bool | None = None, **given: Any
    ) -> Job:
        """The object that is answered, which has this member."""
        answer: list[Job] = []

        def read(response: requests.Response) -> None:
            answer.append(_object(response, member))

        self._call(
            method, path, use=read, repeat=method == "GET" if repeat is None else repeat, **given
        )
        return answer[-1]

    def _call(
        self,
        method: str,
        path: str,
        *,
        use: Callable[[requests.Response], None],
        repeat: bool,
        **given: Any,
    ) -> None:
        """Has `use` read a success; with `repeat` also after others, as long as one can still come."""
        self._until(lambda: self._once(method, path, use, repeat, given))

    def _until(self, once: Callable[[], Trouble | None]) -> None:
        """Calls `once` until there is no trouble; Unreachable when there still is when patience is over."""
        begin = time.monotonic()
        pauses = iter(PAUSES)
        while trouble := once():
            patience = self.patience if self.answered else min(FIRST, self.patience)
            pause = trouble.pause or next(pauses, PAUSES[-1])
            if time.monotonic() + pause > begin + patience:
                raise Unreachable(f"{trouble.sentence}; given up after {patience:g} seconds")
            self.report(Trouble(trouble.sentence, pause))
            self.sleep(pause)

    def _once(
        self,
        method: str,
        path: str,
        use: Callable[[requests.Response], None],
        repeat: bool,
        given: Mapping[str, Any],
    ) -> Trouble | None:
        """None for a success; why to repeat the call. Raises APIError when it is not to be."""
        try:
            with self.session.request(
                method,
                self.url + path,
                timeout=(CONNECT, SILENCE),
                stream=True,
                allow_redirects=False,
                **given,
            ) as response:
                self.answered = True
                if response.status_code != 200:
                    return _judge(response, repeat)
                use(response)
                # service/edge.py: what a gateway says of each call, and Mistral of none.
                self.is_gateway = "gateway;dur=" in response.headers.get("Server-Timing", "")
                return None
        except requests.exceptions.SSLError as error:
            raise Unreachable(
                f"{self.url} has no certificate that is trusted here: {error}"
            ) from error
        except requests.ConnectionError as error:
            if repeat or isinstance(error, requests.ConnectTimeout) or _was_refused(error):
                return Trouble(f"{self.url} does not answer", 0)
            raise Unclear(f"{self.url} closed the connection before it answered") from error
        except (requests.Timeout, requests.exceptions.ChunkedEncodingError, ValueError) as error:
            if repeat:
                return Trouble(f"{self.url} gave no whole answer", 0)
            raise Unclear(f"{self.url} gave no whole answer") from error


class FileForm:
    """A form with a file as its last part, read while it is sent: `requests` itself would hold all of it in memory."""

    def __init__(self, fields: Mapping[str, str], name: str, content: BinaryIO) -> None:
        mark = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={mark}"
        lines = [
            f'--{mark}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields.items()
        ]
        lines.append(
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        )
        head, tail = "".join(lines).encode(), f"\r\n--{mark}--\r\n".encode()
        self.parts: list[BinaryIO] = [BytesIO(head), content, BytesIO(tail)]
        self.size = len(head) + os.fstat(content.fileno()).st_size + len(tail)

    def __len__(self) -> int:
        return self.size

    def read(self, most: int = -1) -> bytes:
        """The next bytes, at most so many; empty at the end."""
        while self.parts:
            if piece := self.parts[0].read(most):
                return piece
            self.parts.pop(0)
        return b""


def _object(response: requests.Response, member: str) -> Job:
    answer = response.json()
    if not isinstance(answer, dict) or member not in answer:
        raise ValueError(f"an answer without {member}")
    return answer


def _was_refused(error: requests.ConnectionError) -> bool:
    """True when there was no connection, so that nothing was sent."""
    return "NewConnectionError" in repr(error) or "NameResolutionError" in repr(error)


def _judge(response: requests.Response, repeat: bool) -> Trouble | None:
    """Why a call that failed so is to be repeated; raises APIError when it is not."""
    try:
        body = response.json()
    except ValueError:
        body = None
    status = response.status_code
    sentence = f"{_words(body) or response.reason} (HTTP {status})"
    problem = body if isinstance(body, dict) else {}
    retryable = problem.get("retryable")  # a gateway's word; Mistral has none
    # Mistral: a limit of 0 a minute is no rate but a plan without the right.
    never = response.headers.get("x-ratelimit-limit-req-minute") == "0" or retryable is False
    if status == 402 or (status == 429 and never):
        raise NoMoney(sentence, status, body)
    nothing_done = status in (408, 429) or retryable is True
    again = status >= 500 and _kind(body) not in NEVER
    if nothing_done or (again and repeat):
        return Trouble(sentence, _retry_after(response))
    if again:
        raise Unclear(sentence)
    if status == 401:
        sentence += "; MISTRAL_BATCH_TOKEN has the token"
    raise Refused(sentence, status, body)


def _kind(body: Any) -> str:
    return str(body.get("type", "")).rpartition("#")[2] if isinstance(body, dict) else ""


def _retry_after(response: requests.Response) -> float:
    """Seconds; 0 when it does not say."""
    try:
        after = Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0
    # A call with the same key that is under way: it may well end before the time that it has.
    return min(after, SOON) if response.status_code == 409 else after


def _words(body: Any) -> str:
    """What an answer says went wrong: of a problem document, or in one of Mistral's forms."""
    if isinstance(body, str):
        return body[:500]
    if isinstance(body, list):
        return "; ".join(filter(None, map(_words, body[:10])))
    if not isinstance(body, dict):
        return ""
    faults = body.get("errors")
    if isinstance(faults, list) and faults and isinstance(faults[0], dict):
        listed = [f"{each.get('pointer', '')} {each.get('detail', '')}".strip() for each in faults]
        return f"{body.get('title', 'refused')}: {'; '.join(listed[:10])}"
    if "msg" in body:
        place = ".".join(map(str, body.get("loc") or []))
        return f"{place}: {body['msg']}".removeprefix(": ")
    said = next((body[n] for n in ("detail", "message", "title", "error") if body.get(n)), "")
    return _words(said)
