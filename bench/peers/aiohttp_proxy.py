"""aiohttp as server and client on uvloop: about what Python can do at all. `python -m bench.peers.aiohttp_proxy PORT`."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

import aiohttp  # type: ignore[import-not-found,unused-ignore]
import uvloop  # type: ignore[import-not-found,unused-ignore]
from aiohttp import web

UPSTREAM = os.environ["UPSTREAM"]
HEADERS = {"Authorization": "Bearer made-up", "Accept": "application/json"}
SESSION = web.AppKey("session", aiohttp.ClientSession)


async def session(app: web.Application) -> AsyncIterator[None]:
    """The client, open while the server runs."""
    connector = aiohttp.TCPConnector(limit=int(os.environ["POOL"]))
    async with aiohttp.ClientSession(
        UPSTREAM, headers=HEADERS, connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as app[SESSION]:
        yield


async def proxy(request: web.Request) -> web.Response:
    """Passes one request on, and its answer back as it is."""
    body = await request.read() if request.method == "POST" else None
    headers = {"Content-Type": "application/json"} if body else None
    async with request.app[SESSION].request(
        request.method, request.path, data=body, headers=headers
    ) as answer:
        return web.Response(
            body=await answer.read(), status=answer.status, content_type=answer.content_type
        )


def main() -> None:
    """Serves on the port that the command line names."""
    app = web.Application(client_max_size=32 << 20)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", proxy)
    web.run_app(
        app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None,
        loop=uvloop.new_event_loop(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
