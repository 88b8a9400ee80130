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


class BatchAPI:
    """The API at `url`, with `/v1` or without, called with `token` when there is one; for one thread at a time, except `sibling`s.

    A call is repeated for `patience` seconds at most; `report` is told of each repeat.
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
        self.session = requests.Session()
        self.session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    @property
    def keeps_keys(self) -> bool:
        """True at a gateway, which carries out a create with one key once. Mistral itself knows no keys."""
        host = urlsplit(self.url).hostname or ""
        return not (host == "mistral.ai" or host.endswith(".mistral.ai"))

    def sibling(self) -> BatchAPI:
        """The same API for another thread."""
        return BatchAPI(
            self.url, self.token, patience=self.patience, report=self.report, sleep=self.sleep
        )

    def create_job(self, body: Mapping[str, Any], key: str) -> Job:
        """The job that was made, or that `key` had made before."""
        headers = {"Idempotency-Key": key} if self.keeps_keys else {}
        return self._json(
            "POST", "/v1/batch/jobs", json=body, headers=headers, repeat=self.keeps_keys
        )

    def get_job(self, job_id: str, *, wait: int = 0, inline: bool = False) -> Job:
        """The job; with `wait`, when it is final or so many seconds are over, where the API waits at all."""
        headers = {"Prefer": f"wait={wait}"} if wait and self.keeps_keys else {}
        query = {"inline": "true"} if inline else {}
        return self._json("GET", f"/v1/batch/jobs/{job_id}", params=query, headers=headers)

    def find_jobs(self, metadata: Mapping[str, str]) -> Iterator[Job]:
        """The jobs with all of this metadata, newest first."""
        page = 0
        while True:
            query = {"page": str(page), "page_size": str(PAGE), **metadata}
            found = self._json("GET", "/v1/batch/jobs", params=query)
            yield from found.get("data") or []
            page += 1
            if page * PAGE >= (found.get("total") or 0):
                return

    def cancel_job(self, job_id: str) -> Job:
        """The job after it was asked to stop."""
        return self._json("POST", f"/v1/batch/jobs/{job_id}/cancel", repeat=True)

    def upload(self, path: Path, name: str) -> str:
        """The id of a file for batch jobs with the content of `path`."""
        found: list[str] = []

        def once() -> Trouble | None:
            with path.open("rb") as content:
                form = FileForm({"purpose": "batch"}, name, content)
                headers = {"Content-Type": form.content_type}
                return self._once(
                    "POST", "/v1/files", lambda r: found.append(str(r.json()["id"])), True,
                    {"data": form, "headers": headers},
                )  # fmt: skip

        self._until(once)  # a second upload is another file, which costs nothing
        return found[-1]

    def find_file(self, name: str) -> str:
        """The id of a file with exactly this name; empty when there is none."""
        query = {"search": name, "purpose": "batch", "page_size": str(PAGE)}
        found = self._json("GET", "/v1/files", params=query)
        files = found.get("data") or []
        return next((str(each["id"]) for each in files if each.get("filename") == name), "")

    def download(self, file_id: str, path: Path) -> None:
        """Writes the content of a file to `path`, whole or not at all."""
        part = path.with_name(f"{path.name}.part")

        def save(response: requests.Response) -> None:
            with part.open("wb") as target:
                for piece in response.iter_content(1 << 20):
                    target.write(piece)

        self._call("GET", f"/v1/files/{file_id}/content", use=save, repeat=True)
        part.replace(path)

    def delete_file(self, file_id: str) -> None:
        """Deletes a file; nothing when it is gone already."""
        try:
            self._json("DELETE", f"/v1/files/{file_id}", repeat=True)
        except Refused as error:
            if error.status != 404:
                raise

    def _json(self, method: str, path: str, *, repeat: bool | None = None, **given: Any) -> Job:
        answer: list[Job] = []

        def read(response: requests.Response) -> None:
            answer.append(response.json())

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
        """Calls `once` until there is no trouble; Unreachable when there still is after `patience`."""
        end = time.monotonic() + self.patience
        pauses = iter(PAUSES)
        while trouble := once():
            pause = trouble.pause or next(pauses, PAUSES[-1])
            if time.monotonic() + pause > end:
                raise Unreachable(f"{trouble.sentence}, for {self.patience:g} seconds")
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
                if response.ok and response.status_code < 300:
                    use(response)
                    return None
                return _judge(response, repeat)
        except requests.exceptions.ConnectTimeout as error:
            return _not_there(self.url, error)
        except requests.ConnectionError as error:
            if repeat or _was_refused(error):
                return _not_there(self.url, error)
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


def _not_there(url: str, _: Exception) -> Trouble:
    return Trouble(f"nothing answers at {url}", 0)


def _was_refused(error: requests.ConnectionError) -> bool:
    return "refused" in str(error) or "NewConnectionError" in str(error)


def _judge(response: requests.Response, repeat: bool) -> Trouble:
    """Why a call that failed so is to be repeated; raises APIError when it is not."""
    try:
        body = response.json()
    except ValueError:
        body = None
    status = response.status_code
    sentence = f"{_words(body) or response.reason} (HTTP {status})"
    problem = body if isinstance(body, dict) else {}
    # Mistral: a limit of 0 a minute is no rate but a plan without the right.
    never = response.headers.get("x-ratelimit-limit-req-minute") == "0"
    if status == 402 or (status == 429 and (never or problem.get("retryable") is False)):
        raise NoMoney(sentence, status, body)
    again = problem.get("retryable", status in (408, 429, 502, 503, 504) or status >= 500)
    nothing_done = status in (408, 429) or problem.get("retryable") is True
    lost = str(problem.get("type", "")).endswith("#create-outcome-unknown")
    if (again or lost) and (repeat or nothing_done):
        after = response.headers.get("Retry-After", "")
        return Trouble(sentence, float(after) if after.isdecimal() else 0)
    if status >= 500 and not repeat:
        raise Unclear(sentence)
    raise Refused(sentence, status, body)


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
