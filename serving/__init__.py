"""How REST service and MCP bridge speak HTTP/1.1: what gunicorn and uvicorn leave open, closed in one place.

`gunicorn_worker` serves the REST service, and the bridge when it has several workers, and `gunicorn_start` has what both
say at the start; `uvicorn_protocol` serves the bridge of one process. `lingering` is how both end a connection whose
request was not read to its end, `body_buffer` how both receive a body, within its size, its time and the memory for all,
and `places` how many may wait for something.
Imports neither of them.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable

RESET = "gateway.reset"
"""The ASGI extension by which an application ends a connection in the middle of an answer."""


STOPPING = "gateway.stopping"
"""The ASGI extension that is a future, done when the process is to stop: who only waits is then to be answered."""


def raise_descriptors() -> None:
    """Lets this process, and those it starts, have as many descriptors as the system grants: a request may need two. The soft limit of
    many systems, 1024, is one for programs that use select(2).
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def knows_codings(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """True unless the body has a transfer coding beside `chunked`: nobody here would take it off (RFC 9112 section 6.1: 501)."""
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    return all(value.strip().lower() == b"chunked" for value in codings)
