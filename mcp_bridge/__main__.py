"""Starts the bridge: `python -m mcp_bridge` for HTTP, `--stdio` for standard input and output."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import anyio
import uvicorn

from access.listen import check_free, in_brackets
from environment import SettingsError, dotenv_note
from mcp_bridge import stdio
from mcp_bridge.app import create_served_app
from mcp_bridge.config import Settings, log_to_stderr
from mcp_bridge.messages import PATH
from mcp_bridge.server import build_server
from openapi.contract import ContractError
from serving import raise_descriptors
from serving.uvicorn_protocol import Protocol

log = logging.getLogger("mcp_bridge")


def main(arguments: list[str] | None = None, prog: str = "python -m mcp_bridge") -> int:
    """Serves until told to stop; 2 when it cannot start, with the reason on standard error. `prog` is what people typed."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Serves the MCP bridge, over HTTP unless --stdio is given."
    )
    parser.add_argument("--stdio", action="store_true", help="serve standard input and output")
    over_stdio = parser.parse_args(arguments).stdio
    try:
        settings = Settings.from_env()
        log_to_stderr(settings)
        if note := dotenv_note():
            log.warning(note)
        if over_stdio:
            anyio.run(_serve_stdio, settings)
        else:
            _serve_http(settings)
    except (SettingsError, ContractError, OSError) as error:
        print(f"mcp_bridge: cannot start: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


async def _serve_stdio(settings: Settings) -> None:
    reading = ThreadPoolExecutor(1, "reading")
    await stdio.serve(
        build_server(settings.contract, settings, reading), settings.max_body, reading
    )


def _serve_http(settings: Settings) -> None:
    config = uvicorn.Config(
        create_served_app(settings),
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_graceful_shutdown=int(settings.timeout)
        + 5,  # calls in flight reach their own limit
    )
    # uvicorn drains, then raises the signal again for whoever was there before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    raise_descriptors()
    check_free(settings.host, settings.port, prefix="BRIDGE_")
    listening = listen(config)
    host, port = listening.getsockname()[:2]
    log.info("serving MCP at http://%s:%s%s", in_brackets(host), port, PATH)
    uvicorn.Server(config).run(sockets=[listening])


def listen(config: uvicorn.Config) -> socket.socket:
    """The listening socket, so that who reads the next line can connect."""
    listening = config.bind_socket()
    # asyncio turns Nagle's algorithm off only for sockets of its own making; accepted ones take this over. With it, each
    # answer waits 40 ms for the client's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.listen(config.backlog)
    return listening


if __name__ == "__main__":
    sys.exit(main())
