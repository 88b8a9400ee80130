"""MCP over standard input and output: one message a line.

In place of mcp 2.3.0's `stdio_server`, which drops what it cannot read without an answer, puts U+FFFD for what is no UTF-8, and
with the end of the input cancels the calls under way.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server import Server
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)

from mcp_bridge.canonical import LARGE
from mcp_bridge.edge import RequestContext
from mcp_bridge.messages import TOO_LARGE, Refused, take_apart, value
from mcp_bridge.rest_client import RestClient

Sent = MemoryObjectSendStream[SessionMessage]
Received = MemoryObjectReceiveStream[SessionMessage]


async def serve(server: Server[RestClient], max_line: int, reading: ThreadPoolExecutor) -> None:
    """Answers the messages on standard input, of at most `max_line` bytes, and returns when it has ended and all are answered.

    The thread of `reading` reads large ones. Meanwhile, what anything else prints goes to standard error. OSError when there is
    no such input or output.
    """
    if sys.stdin is None or sys.stdout is None:  # closed before Python began
        raise OSError("standard input or output is closed")
    wire = os.dup(1)
    os.dup2(2, 1)
    await Exchange(0, wire, max_line, reading).run(server)


class Exchange:
    """The messages of one client over two file descriptors, counted until they are answered."""

    def __init__(self, lines: int, wire: int, max_line: int, reading: ThreadPoolExecutor) -> None:
        self.lines = lines
        self.wire = wire
        self.max_line = max_line
        self.reading = reading
        self.unanswered = 0
        self.settled = anyio.Event()
        self.listening = anyio.CancelScope()
        """Ended when the client reads no more."""

    async def run(self, server: Server[RestClient]) -> None:
        """Returns when the input has ended and all that came was answered, or the client reads no more."""
        loop, coming = asyncio.get_running_loop(), asyncio.Queue[bytearray | None](1)

        def receive() -> None:
            for line in lines(self.lines, self.max_line):
                asyncio.run_coroutine_threadsafe(coming.put(line), loop).result()
            asyncio.run_coroutine_threadsafe(coming.put(None), loop).result()

        # Of its own, since nobody can end a thread that waits for input, and Python waits for others at its end.
        Thread(target=receive, name="stdin", daemon=True).start()
        to_server, incoming = anyio.create_memory_object_stream[SessionMessage]()
        outgoing, from_server = anyio.create_memory_object_stream[SessionMessage]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, coming, to_server, outgoing.clone())
            tasks.start_soon(self._write, from_server)
            await server.run(incoming, outgoing, server.create_initialization_options())

    async def _read(
        self, coming: asyncio.Queue[bytearray | None], to_server: Sent, refusals: Sent
    ) -> None:
        async with to_server, refusals:
            with self.listening:
                await self._listen(coming, to_server, refusals)

    async def _listen(
        self, coming: asyncio.Queue[bytearray | None], to_server: Sent, refusals: Sent
    ) -> None:
        while (line := await coming.get()) is not None:
            if not line.strip():
                continue
            try:
                message, context = await self._message(line)
            except Refused as refused:
                answer = JSONRPCError.model_validate(refused.answer)
                self.unanswered += answer.id is not None
                await refusals.send(SessionMessage(answer))
                continue
            asked = isinstance(message, JSONRPCRequest)
            self.unanswered += asked
            # One that the client cancels is never answered.
            metadata = ServerMessageMetadata(
                request_context=context, on_request_unanswered=self._settle
            )
            await to_server.send(SessionMessage(message, metadata if asked else None))
        while self.unanswered:
            self.settled = anyio.Event()
            await self.settled.wait()

    async def _message(self, line: bytearray) -> tuple[JSONRPCMessage, RequestContext]:
        if len(line) > self.max_line:
            raise Refused(INVALID_REQUEST, TOO_LARGE)
        if len(line) < LARGE:
            message, text, taken = take_apart(line)
        else:
            loop = asyncio.get_running_loop()
            message, text, taken = await loop.run_in_executor(self.reading, take_apart, line)
        context = RequestContext(arguments=taken)
        try:
            made = jsonrpc_message_adapter.validate_python(json.loads(text), by_name=False)
        except (ValueError, RecursionError):
            sentence = "the message is nested too deeply, or has a number that is too long."
            raise Refused(PARSE_ERROR, sentence, value(message.id)) from None
        return made, context

    async def _write(self, from_server: Received) -> None:
        async with from_server:
            async for item in from_server:
                answer = item.message
                try:
                    await to_thread.run_sync(partial(_write_all, self.wire, _text(answer) + b"\n"))
                except OSError:
                    self.listening.cancel()
                if isinstance(answer, JSONRPCResponse | JSONRPCError) and answer.id is not None:
                    await self._settle()

    async def _settle(self) -> None:
        self.unanswered -= 1
        self.settled.set()


def lines(descriptor: int, longest: int) -> Iterator[bytearray]:
    """The lines that can be read from `descriptor`, the last one also without an end; of one with more than `longest` bytes
    only the first.
    """
    line = bytearray()
    while piece := os.read(descriptor, 1 << 16):
        for part in piece.splitlines(keepends=True):
            line += part[: longest + 1 - len(line)]
            if part.endswith(b"\n"):
                yield line
                line = bytearray()
    yield line


def _text(message: JSONRPCMessage) -> bytes:
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except ValueError:  # half of a surrogate pair, in a part of the request that the answer repeats
        return json.dumps(message.model_dump(by_alias=True, exclude_unset=True)).encode()


def _write_all(descriptor: int, content: bytes) -> None:
    with memoryview(content) as view:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written:])
