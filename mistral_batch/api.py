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
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from .errors import BatchError, OverLimit

T = TypeVar("T")
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


class FilesRefused(Refused):
    """The Files API, which every run of more than one inline job needs, is not open to the caller."""


class Unreachable(APIError):
    """Not answered, however often it was asked."""


class Unclear(APIError):
    """Perhaps done: no answer came, and the call could not be repeated."""


@dataclass(frozen=True)
class Trouble:
    """Why a call is repeated, and in how many seconds."""

    sentence: str
    pause: float


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

    def cancel_job(self, job_id: str) -> None:
        """Asks for a job's end; nothing when it has ended already, or is gone."""
        try:
            self._json("POST", f"/v1/batch/jobs/{job_id}/cancel", "id", repeat=True)
        except Refused as error:
            if error.status not in (400, 404, 409):
                raise

    def upload(self, path: Path, name: str) -> str:
        """The id of a file for batch jobs with the content of `path`. When it is lost, another one is made, which costs nothing."""
        with path.open("rb") as content:
            form = FileForm(name, content)
            headers = {"Content-Type": form.content_type}
            file = self._json("POST", "/v1/files", "id", data=form, headers=headers, repeat=True)
        return str(file["id"])

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

        self._call("GET", f"/v1/files/{file_id}/content", save, repeat=True)

    def _json(
        self, method: str, path: str, member: str, *, repeat: bool | None = None, **given: Any
    ) -> Job:
        """The object that is answered, which has this member."""

        def read(response: requests.Response) -> Job:
            answer = response.json()
            if not isinstance(answer, dict) or member not in answer:
                raise ValueError(f"an answer without {member}")
            return answer

        return self._call(method, path, read, method == "GET" if repeat is None else repeat, given)

    def _call(
        self,
        method: str,
        path: str,
        use: Callable[[requests.Response], T],
        repeat: bool,
        given: Mapping[str, Any] = {},
    ) -> T:
        """What `use` makes of a success; with `repeat` also after other answers and none, as long as one can still come."""
        begin, pauses = time.monotonic(), iter(PAUSES)
        while True:
            try:
                with self.session.request(
                    method, self.url + path, stream=True, allow_redirects=False,
                    timeout=(CONNECT, SILENCE), **given,
                ) as response:  # fmt: skip
                    self.answered = True
                    if response.status_code == 200:
                        used = use(response)
                        # service/edge.py: what a gateway says of each call, and Mistral of none.
                        if self.is_gateway is None:
                            timings = response.headers.get("Server-Timing", "").split(",")
                            names = {timing.partition(";")[0].strip() for timing in timings}
                            self.is_gateway = "gateway" in names
                        return used
                    sentence, pause = _judge(response, repeat)
            except requests.exceptions.SSLError as error:
                raise Unreachable(
                    f"{self.url} has no certificate that is trusted: {error}"
                ) from error
            except (requests.RequestException, ValueError) as error:
                sentence, pause = f"{self.url} gave no whole answer", 0.0
                if _was_not_sent(error):
                    sentence = f"{self.url} cannot be reached (MISTRAL_BATCH_URL or --url names it)"
                elif not repeat:
                    raise Unclear(sentence) from error
            patience = self.patience if self.answered else min(FIRST, self.patience)
            pause = pause or next(pauses, PAUSES[-1])
            if time.monotonic() + pause > begin + patience:
                raise Unreachable(f"{sentence}; given up after {patience:g} seconds")
            self.report(Trouble(sentence, pause))
            self.sleep(pause)


class FileForm:
    """The form of an upload, whose file is read while it is sent: `requests` itself would hold all of it in memory."""

    def __init__(self, name: str, content: BinaryIO) -> None:
        mark = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={mark}"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        )
        self.parts = (BytesIO(head.encode()), content, BytesIO(f"\r\n--{mark}--\r\n".encode()))

    def __iter__(self) -> Iterator[bytes]:
        """From the beginning, as often as it is sent."""
        for part in self.parts:
            part.seek(0)
            while piece := part.read(1 << 16):
                yield piece

    def __len__(self) -> int:
        return sum(part.seek(0, os.SEEK_END) for part in self.parts)


def _was_not_sent(error: Exception) -> bool:
    """True when there was no connection."""
    causes = ("ConnectTimeout", "NewConnectionError", "NameResolutionError", "ProxyError")
    return any(cause in repr(error) for cause in causes)


def _judge(response: requests.Response, repeat: bool) -> tuple[str, float]:
    """Why a call that failed so is to be repeated, and in how many seconds, 0 for any; raises APIError when it is not to be."""
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
        return sentence, _retry_after(response)
    if again:
        raise Unclear(sentence)
    if status == 401:
        sentence += "; the token is taken from MISTRAL_BATCH_TOKEN"
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
    if isinstance(body, list):
        return "; ".join(filter(None, map(_words, body[:10])))
    if not isinstance(body, dict):
        return str(body or "")[:500]
    if "msg" in body:
        place = ".".join(map(str, body.get("loc") or []))
        return f"{place}: {body['msg']}".removeprefix(": ")
    return next(
        filter(None, (_words(body.get(n)) for n in ("detail", "message", "title", "error"))), ""
    )
