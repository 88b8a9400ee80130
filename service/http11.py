"""An answer as it is read off its connection, strictly: http.client takes much for an answer that is none, or two.

What is not an answer by RFC 9112 is an HTTPException, after which nobody uses the connection again. A connection on which
more came than one answer is ended too. What no HTTP/1.1 client can see is a second answer that arrives only after the
next request has left: nothing in it says to which of the two it belongs.
"""

from __future__ import annotations

import re
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead
from io import BufferedReader, BytesIO, RawIOBase

# RFC 9112 sections 4 and 5, with a line feed for a line's end also where it stands alone (section 2.2). Folded lines are
# not taken: a gateway may refuse them (section 5.2).
_FIELD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\r\n\0]*+\r?\n"
_HEAD = re.compile(rb"HTTP/1\.[0-9] [1-9][0-9]{2}(?: [^\r\n\0]*+)?\r?\n(?:" + _FIELD + rb")*+\r?\n")
_STATUS = slice(9, 12)
_EMPTY = (b"\r\n", b"\n")
_MAX_LINE = 1 << 16
_MAX_LINES = 102  # http.client's hundred fields, and what is around them

# RFC 9112 section 7.1. After the last chunk nothing is missing from a body, though its connection end there (section 8).
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n\0]*)?\r\n")
_CHUNK_END = re.compile(rb"\r\n")
_TRAILER = re.compile(_FIELD + rb"|\r?\n|")

_LENGTH = re.compile(r"[0-9]{1,18}")


def has_unread(sock: socket.socket, read: Callable[[int], bytes | None]) -> bool:
    """Whether `read` gets anything from `sock` without waiting: a byte, or the connection's end."""
    limit = sock.gettimeout()
    sock.settimeout(0)
    try:
        return read(1) is not None
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except OSError:  # it was reset
        return True
    finally:
        sock.settimeout(limit)


def has_answer(sock: socket.socket) -> bool:
    """Whether an answer has begun to come over `sock`, which is left there, or it has ended; interim answers are passed over."""
    limit = sock.gettimeout()
    sock.settimeout(0)
    try:
        while begun := sock.recv(_MAX_LINE, socket.MSG_PEEK):
            interim = begun[_STATUS].startswith(b"1") and begun[_STATUS] != b"101"
            end = begun.find(b"\r\n\r\n") + 4
            if (len(begun) > _STATUS.start and not interim) or len(begun) == _MAX_LINE:
                return True
            if end < 4:
                return False
            sock.recv(end)
    except BlockingIOError:
        return False
    except OSError:  # it was reset
        return True
    finally:
        sock.settimeout(limit)
    return True


class Response(HTTPResponse):
    """For `response_class` of an `http.client.HTTPConnection`, of which it asks more than is documented, but nothing private."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.stream = self.fp = _Stream(self.fp.detach(), sock)
        self.left = 0  # bytes of the present chunk

    def begin(self) -> None:
        """Reads the head of the answer, and passes over those of interim answers before it (RFC 9110 section 15.2).

        However many come: whoever wants to wait no longer shuts the socket. http.client passes over 100 alone.
        """
        head = self.stream.head()
        while head[_STATUS].startswith(b"1"):
            if head[_STATUS] == b"101":
                raise HTTPException("another protocol, which was not asked for")
            head = self.stream.head()
        self.fp = BytesIO(head)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = self.stream
        codings = self.headers.get_all("Transfer-Encoding", [])
        lengths = {value.strip(" \t") for value in self.headers.get_all("Content-Length", [])}
        if codings:
            framed = self.version == 11 and not lengths
            framed = framed and [value.strip(" \t").lower() for value in codings] == ["chunked"]
        else:
            framed = len(lengths) < 2 and all(map(_LENGTH.fullmatch, lengths))
        if not framed:
            raise HTTPException("an answer that does not say clearly where it ends")
        # 0 where no body follows whatever is said of it: RFC 9112 section 6.3, numbers 1 and 2.
        self.chunked = bool(codings) and self.length != 0

    def read(self, amt: int | None = None) -> bytes:
        """As http.client's, which takes `-5` and `0x5` for the length of a chunk, and any two bytes for its end."""
        if self.fp is None or not self.chunked:
            return super().read(amt)
        wanted = sys.maxsize if amt is None else amt
        pieces = []
        while wanted and (size := min(wanted, self._chunk())):
            piece = self.stream.read(size)
            if len(piece) < size:
                raise IncompleteRead(piece, size - len(piece))
            pieces.append(piece)
            wanted -= size
            self.left -= size
            if not self.left:
                self.stream.line(_CHUNK_END)
        return b"".join(pieces)

    def _chunk(self) -> int:
        """What is left of the present chunk, or the size of the next; 0 after the last one, when all is read."""
        if not self.left:
            self.left = int(self.stream.line(_CHUNK)[1], 16)
            if not self.left:
                while self.stream.line(_TRAILER)[0].strip():
                    pass
                self.close()
        return self.left


class _Stream(BufferedReader):
    """What comes over a connection from one request to the end of its answer."""

    def __init__(self, raw: RawIOBase, sock: socket.socket) -> None:
        super().__init__(raw)
        self.sock = sock

    def head(self) -> bytes:
        """The next head; nothing at the connection's end. Raises HTTPException when it is none, or breaks off."""
        lines: list[bytes] = []
        while len(lines) < _MAX_LINES and (line := self.readline(_MAX_LINE)):
            lines.append(line)
            if line in _EMPTY:
                break
        head = b"".join(lines)
        if head and not _HEAD.fullmatch(head):
            raise HTTPException("a head that is not of HTTP/1.1")
        return head

    def line(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """The next line, which matches `pattern`; HTTPException when it does not."""
        found = pattern.fullmatch(self.readline(_MAX_LINE))
        if not found:
            raise HTTPException("a line that is not of HTTP/1.1")
        return found

    def close(self) -> None:
        """Ends the connection when there is more to read: what comes unasked is no request's answer (RFC 9112 section 9.2).

        Here since only here is seen what was read ahead. The pool finds the connection ended, and does not use it again.
        """
        with suppress(OSError):  # it is closed already
            if not self.closed and has_unread(self.sock, self.read):
                self.sock.shutdown(socket.SHUT_RDWR)
        super().close()
