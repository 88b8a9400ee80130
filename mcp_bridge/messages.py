"""A JSON-RPC message as it came, over HTTP or standard input: checked before the SDK sees it, which drops some without a word.

The SDK makes objects of all of a message before a tool is looked at, up to a hundred times its size. So the arguments of all but
small calls are taken out as the text that they are (`take_apart`): the SDK sees a small message, and the call finds them in its
`edge.RequestContext`.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Any

import msgspec
from mcp.types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from msgspec import UNSET, Raw, UnsetType

from mcp_bridge.canonical import LARGE
from openapi.json_text import check_utf8, legible

PATH = "/mcp"
"""Where messages are sent over HTTP."""

SMALL = 16 << 10
"""Bytes of a message that the SDK may read; as objects they are some 1.3 MB at worst."""

Id = str | int | None


def media_type(_method: str, path: str) -> str:
    """That of a body that is sent to `path`; empty where none is taken."""
    return "application/json" if path == PATH else ""


TOO_LARGE = (
    "the message is larger than the gateway takes. Send less in one call; its operator can raise"
    " GATEWAY_MAX_BODY."
)


class Refused(Exception):
    """The message is not for the SDK: a JSON-RPC error's code and sentence, the message's id, and a status for HTTP."""

    def __init__(self, code: int, sentence: str, id: Id = None, *, status: int = 400) -> None:
        super().__init__(code, sentence)
        self.status = status
        self.answer = {
            "jsonrpc": "2.0",
            "id": id,
            "error": {"code": code, "message": f"Nothing was sent: {sentence}"},
        }


class Message(msgspec.Struct, omit_defaults=True):
    """A request, a notification, which has no id, or an answer of the client's."""

    jsonrpc: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    method: Raw | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Params(msgspec.Struct, omit_defaults=True):
    """The parameters of tools/call that have a use here."""

    name: Raw | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    meta: Raw | UnsetType = msgspec.field(name="_meta", default=UNSET)


def take_apart(content: bytearray) -> tuple[Message, bytes, Raw | None]:
    """The message in `content`, its text for the SDK, and the arguments that the SDK is not to read. Raises Refused."""
    message, text = read(content)
    if len(text) < SMALL:
        return message, text, None
    del text
    small, taken = take_arguments(message)
    if len(small) >= SMALL:
        sentence = "only the arguments of a tool's call may be large."
        id = None if message.method is UNSET else value(message.id)
        raise Refused(INVALID_REQUEST, sentence, id, status=413)
    return message, small, taken


def read(content: bytearray) -> tuple[Message, bytes]:
    """The message in `content`, from which a BOM is taken, and its text.

    Raises Refused, with the message's id where it has one that is good. In a large one halves of surrogate pairs are not looked
    for, which takes a second for some megabytes of them.
    """
    if content.startswith(BOM_UTF8):
        del content[: len(BOM_UTF8)]
    half = False
    try:
        check_utf8(content)
        try:
            message = msgspec.json.decode(content, type=Message)
        except msgspec.DecodeError as error:  # also for half of a surrogate pair
            if len(content) >= LARGE or isinstance(error, msgspec.ValidationError):
                raise
            message = msgspec.json.decode(legible(content), type=Message)
            half = True
    except msgspec.ValidationError:
        raise Refused(INVALID_REQUEST, "the message is not one JSON-RPC request.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        or_half = ", or has half of a surrogate pair in it" if len(content) >= LARGE else ""
        raise Refused(PARSE_ERROR, f"the message is not JSON in UTF-8{or_half}.") from None
    except RecursionError:
        raise Refused(PARSE_ERROR, "the message is nested too deeply.") from None
    id, method = value(message.id), value(message.method)
    good_id = id if isinstance(id, str | int) and not isinstance(id, bool) else None
    if half:
        sentence = "the message has half of a surrogate pair in it, which is no character."
        raise Refused(PARSE_ERROR, sentence, None if "\ufffd" in str(id) else good_id)
    # JSON-RPC 1.0 wrote a notification's lack of an id as null, and some clients still do.
    note = isinstance(method, str) and method.startswith("notifications/") and id is None
    if message.id is not UNSET and len(message.id) > _SHORT:
        raise Refused(INVALID_REQUEST, f"a request's id has at most {_SHORT} bytes.")
    if message.id is not UNSET and good_id is None and not (note or message.error is not UNSET):
        raise Refused(INVALID_REQUEST, "a request's id is a text or an integer.")
    if value(message.jsonrpc) != "2.0":
        raise Refused(INVALID_REQUEST, 'the message has no "jsonrpc": "2.0".', good_id)
    answers = message.result is not UNSET or message.error is not UNSET
    if message.method is UNSET and not answers:
        raise Refused(INVALID_REQUEST, "the message has no method.", good_id)
    if message.method is not UNSET and answers:
        raise Refused(INVALID_REQUEST, "the message is a request and an answer at once.", good_id)
    if message.method is not UNSET and not isinstance(method, str):
        raise Refused(INVALID_REQUEST, "the method is not a text.", good_id)
    if message.params is not UNSET and bytes(memoryview(message.params)[:1]) not in (b"{", b"n"):
        raise Refused(INVALID_PARAMS, "the parameters are not an object.", good_id)
    if note and message.id is not UNSET:
        message.id = UNSET
        return message, msgspec.json.encode(message)
    return message, bytes(content)


def take_arguments(message: Message) -> tuple[bytes, Raw | None]:
    """The message without the arguments of its call, and these."""
    taken = None
    if value(message.method) == "tools/call" and message.params is not UNSET:
        try:
            params = msgspec.json.decode(message.params, type=_Params)
        except msgspec.ValidationError:
            params = _Params()
        if params.arguments is not UNSET:
            taken, params.arguments = params.arguments, Raw(b"{}")
        message.params = Raw(msgspec.json.encode(params))
    return msgspec.json.encode(message), taken


_SHORT = 1024
"""Bytes of a text that can be an id or the name of a method."""


def value(text: Raw | UnsetType) -> Any:
    """What JSON text says; None when it is not there, too long, or not readable."""
    if text is UNSET or len(text) > _SHORT:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
